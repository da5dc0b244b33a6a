// Depthwise convolutions against plain loops in double precision, for windows with loops of their own and for others;
// the same bits for any number of threads and past the caches.
#include <yoke/cpu/depthwise.hpp>

#include "images.hpp"

using namespace checks;

namespace {

template <class T>
struct depthwise_case {
  images s;
  tensor<T, 4> x, dy;
  tensor<T, 2> weights;

  depthwise_case(images const& of, extent_t channels)
      : s{of},
        x{s.input(channels), 1},
        dy{s.output(channels), 2},
        weights{{{s.w.size * s.w.size, channels}}, 3} {}
  extent_t channels() const { return x.shape[3]; }

  tensor<T, 4> forward() const {
    tensor<T, 4> y{dy.shape};
    depthwise_forward(device<T>(), s.w, x.read(), weights.read(), y.view());
    return y;
  }
  tensor<T, 4> backward_input(store how, tensor<T, 4> dx) const {
    depthwise_backward_input(device<T>(), s.w, weights.read(), dy.read(), dx.view(), how);
    return dx;
  }
  template <class W>
  tensor<W, 2> backward_weights(store how, tensor<W, 2> dweights) const {
    depthwise_backward_weights(device<T>(), s.w, x.read(), dy.read(), dweights.view(), how);
    return dweights;
  }

  std::vector<double> expected_forward() const {
    std::vector<double> sums(dy.data.size());
    for_each([&](extent_t from, extent_t to, extent_t tap) { sums[at(to)] += x[from] * weights[tap]; });
    return sums;
  }
  std::vector<double> expected_input() const {
    std::vector<double> sums(x.data.size());
    for_each([&](extent_t from, extent_t to, extent_t tap) { sums[at(from)] += dy[to] * weights[tap]; });
    return sums;
  }
  std::vector<double> expected_weights() const {
    std::vector<double> sums(weights.data.size());
    for_each([&](extent_t from, extent_t to, extent_t tap) { sums[at(tap)] += dy[to] * x[from]; });
    return sums;
  }
  /// f(element of x, of y, of the weights)
  template <class F>
  void for_each(F const& f) const {
    s.for_each_meeting([&](extent_t from, extent_t to, extent_t tap) {
      for (extent_t c = 0; c < channels(); ++c)
        f(from * channels() + c, to * channels() + c, tap * channels() + c);
    });
  }
};

template <class T>
void check(depthwise_case<T> const& p) {
  INFO(name(p.s) << ", " << p.channels() << " channels");
  near(p.forward(), p.expected_forward(), 20);
  tensor<T, 4> const dx{p.x.shape, 4};
  tensor<accumulator_t<T>, 2> const dweights{p.weights.shape, 5};
  tensor<T, 2> const narrow{p.weights.shape, 6};
  auto const pixels = static_cast<double>(p.s.batch * p.s.height * p.s.width);
  for (auto how : {store::overwrite, store::accumulate}) {
    near(p.backward_input(how, dx), stored(how, dx, p.expected_input()), 20);
    near(p.backward_weights(how, dweights), stored(how, dweights, p.expected_weights()), 20 + pixels);
    near(p.backward_weights(how, narrow), stored(how, narrow, p.expected_weights()), 20 + pixels);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("depthwise 3 x 3 of stride 1 and 2", "", double, float, bf16) {
  auto const channels = GENERATE(as<extent_t>{}, 1, 8, 32, 33, 96, 100);
  for (extent_t stride : {1, 2})
    for (extent_t height : {1, 2, 3, 6, 7})
      for (extent_t width : {1, 2, 3, 8, 9})
        check(depthwise_case<TestType>{{2, height, width, {.size = 3, .stride = stride, .padding = 1}},
                                       channels});
}

TEMPLATE_TEST_CASE("depthwise with any window", "", double, float, bf16) {
  auto const channels = GENERATE(as<extent_t>{}, 5, 64);
  for (window w : {window{1, 1, 0},
                   {2, 2, 0},
                   {3, 1, 0},
                   {3, 2, 0},
                   {3, 1, 2},
                   {3, 3, 1},
                   {5, 1, 2},
                   {5, 2, 2},
                   {7, 1, 3},
                   {1, 2, 0},
                   {2, 3, 1}})
    for (extent_t height : {1, 4, 7})
      for (extent_t width : {2, 5, 8}) {
        images const s{2, height, width, w};
        if (s.possible())
          check(depthwise_case<TestType>{s, channels});
      }
}

TEMPLATE_TEST_CASE("depthwise of no images", "", double, float, bf16) {
  for (extent_t stride : {1, 2}) check(depthwise_case<TestType>{{0, 4, 4, {.stride = stride}}, 64});
}

TEMPLATE_TEST_CASE("depthwise with any number of threads", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  for (window w : {window{3, 1, 1}, {3, 2, 1}, {5, 1, 2}}) {
    depthwise_case<TestType> const p{{3, 30, 20, w}, 96};
    INFO(name(p.s));
    same_with_any_threads([&] { return p.forward().data; });
    same_with_any_threads([&] { return p.backward_input(store::accumulate, p.x).data; });
    tensor<A, 2> const before{p.weights.shape, 4};
    same_with_any_threads([&] { return p.backward_weights(store::accumulate, before).data; });
  }
}

TEST_CASE("a large batch, whose results go past the caches, and its images one by one give the same bits") {
  images const s{3, 112, 112, {}};
  extent_t const channels = 512;
  auto const size = s.input(channels).size();
  REQUIRE(size * extent_t{sizeof(bf16)} >= yoke::cpu::detail::streamed_bytes);
  auto& c = device<bf16>();
  yoke::cpu::buffer<bf16> const x(c, size), together(c, size), single(c, size);
  tensor<bf16, 1> const some{{{8191}}, 1};
  for (extent_t i = 0; i < size; ++i) x.view().data[i] = some.data[at(i % 8191)];
  tensor<bf16, 2> const weights{{{9, channels}}, 2};
  auto const as_images = [&](yoke::cpu::buffer<bf16> const& b) {
    return view<bf16, 4>{b.view().data, s.input(channels)};
  };
  auto const equal = [&] {
    return std::memcmp(static_cast<void const*>(together.view().data), single.view().data,
                       at(size) * sizeof(bf16)) == 0;
  };
  depthwise_forward(c, s.w, as_images(x), weights.read(), as_images(together));
  for (extent_t n = 0; n < s.batch; ++n)
    depthwise_forward(c, s.w, slice(as_images(x), n, 1), weights.read(), slice(as_images(single), n, 1));
  CHECK(equal());
  yoke::window const w{.stride = 2};
  view<bf16 const, 4> const dy{x.view().data, {{3, 56, 56, channels}}};
  depthwise_backward_input(c, w, weights.read(), dy, as_images(together), store::overwrite);
  for (extent_t n = 0; n < s.batch; ++n)
    depthwise_backward_input(c, w, weights.read(), slice(dy, n, 1), slice(as_images(single), n, 1),
                             store::overwrite);
  CHECK(equal());
}

TEST_CASE("what is no number in bf16 stays so in depthwise") {
  depthwise_case<bf16> p{{1, 1, 1, {}}, 64};
  std::fill(p.weights.data.begin(), p.weights.data.end(), bf16{1.0f});
  for (int bits : {0x7f81, 0x7fff, 0x7fc0, 0xff81, 0xffff}) {
    for (auto& v : p.x.data) v.bits = static_cast<std::uint16_t>(bits);
    p.dy.data = p.x.data;
    auto const y = p.forward(), dx = p.backward_input(store::overwrite, p.x);
    for (extent_t i = 0; i < 64; ++i) CHECK((is_nan(y[i]) && is_nan(dx[i])));
  }
}
