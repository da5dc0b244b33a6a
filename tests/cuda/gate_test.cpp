// Gates on the card against the CPU's: packed and uniform segments, each gradient wanted or not.
#include <yoke/cpu/gate.hpp>
#include <yoke/cuda/gate.cuh>

#include "cuda/twins.hpp"

using namespace twins;
using yoke::segments;

namespace {

template <class T>
void check(segments const& host, segments const& there, extent_t width, extent_t offset) {
  auto& c = card<T>();
  INFO(host.count << " segments of " << host.rows << " rows, width " << width << ", offset " << offset);
  tensor<T, 2> const x{{{host.rows, width}}, 1}, z{{{host.count, width}}, 2, 2}, dy{x.shape, 3};
  on const d_x{c, x, offset}, d_z{c, z}, d_dy{c, dy};
  tensor<T, 2> y{x.shape};
  on const d_y{c, y};
  gate_forward(device<T>(), host, x.read(), z.read(), y.view());
  gate_forward(c, there, d_x.read(), d_z.read(), d_y.view());
  same(d_y.back(c), y);
  tensor<T, 2> const dx_before{x.shape, 4}, dz_before{z.shape, 5};
  for (int wanted = 0; wanted < 4; ++wanted)
    for (auto dx_how : {store::overwrite, store::accumulate})
      for (auto dz_how : {store::overwrite, store::accumulate}) {
        auto dx = dx_before, dz = dz_before;
        on const d_dx{c, dx}, d_dz{c, dz, offset};
        auto const run = [&](auto& on_what, segments const& s, auto v, auto logits, auto up, auto to,
                             auto logits_to) {
          gate_backward(on_what, s, v, logits, up, wanted & 1 ? to : view<T, 2>{}, dx_how,
                        wanted & 2 ? logits_to : view<T, 2>{}, dz_how);
        };
        run(device<T>(), host, x.read(), z.read(), dy.read(), dx.view(), dz.view());
        run(c, there, d_x.read(), d_z.read(), d_dy.read(), d_dx.view(), d_dz.view());
        same(d_dx.back(c), dx, 3);
        same(d_dz.back(c), dz, 100);
      }
}

}  // namespace

TEMPLATE_TEST_CASE("gate and its gradients on the card", "", double, float, bf16) {
  auto const lengths =
      GENERATE(std::vector<extent_t>{0}, std::vector<extent_t>{3, 0, 5},
               std::vector<extent_t>{0, 1, 40, 2, 0, 0, 33, 0}, std::vector<extent_t>{700, 5, 1900});
  packed const host{lengths};
  packed_on<TestType> const there{card<TestType>(), host};
  for (extent_t width : {1, 16, 45}) check<TestType>(host.segments(), there.segments(), width, width == 16);
  check<TestType>(host.segments(), there.segments(), 24, 0);
  auto const part = host.segments().slice(0, 1), part_there = there.segments().slice(0, 1);
  check<TestType>(part, part_there, 24, 0);
}

TEMPLATE_TEST_CASE("gates of images on the card", "", double, float, bf16) {
  for (extent_t width : {24, 264, 2100}) {
    auto const images = segments::uniform(3, 49);
    check<TestType>(images, images, width, 0);
  }
}

TEST_CASE("gates on the card give the same bits each time") {
  auto& c = card<bf16>();
  auto const images = segments::uniform(2, 1200);
  tensor<bf16, 2> const x{{{2400, 40}}, 1}, z{{{2, 40}}, 2}, dy{x.shape, 3};
  on const d_x{c, x}, d_z{c, z}, d_dy{c, dy}, d_dx{c, x}, d_dz{c, z};
  same_each_time([&] {
    gate_backward(c, images, d_x.read(), d_z.read(), d_dy.read(), d_dx.view(), store::overwrite, d_dz.view(),
                  store::overwrite);
    auto all = d_dx.back(c).doubles();
    auto const part = d_dz.back(c);
    all.insert(all.end(), part.data.begin(), part.data.end());
    return all;
  });
}
