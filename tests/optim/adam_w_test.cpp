// AdamW and the schedules against PyTorch's and OpenCLIP's: tests/golden/make_adamw.py, make_schedule.py.
#include <yoke/cpu/context.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/optim/adam_w.hpp>
#include <yoke/optim/schedule.hpp>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <string>
#include <vector>

using namespace yoke;

namespace {

io::safetensors_file golden(std::string const& name) {
  return io::safetensors_file{std::string(YOKE_GOLDEN_DIR) + "/" + name + ".safetensors"};
}

}  // namespace

TEST_CASE("twenty steps of AdamW are PyTorch's, clipped and not") {
  for (std::string const name : {"adamw/steps", "adamw/clipped"}) {
    auto const file = golden(name);
    bool const clipped = name == "adamw/clipped";
    using context_type = cpu::context<float>;
    context_type c{mebibytes(1), mebibytes(1)};
    parameter_list list;
    scope const s{list};
    auto const matrix = s.weight("matrix", shape{5, 7}, 1.f);
    auto const vector = s.weight("vector", shape{7}, 1.f);
    parameter_store<context_type> store{c, list};
    auto const copy_in = [&](std::vector<float> const& from, std::size_t first, extent_t n, float* to) {
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(first), n, to);
    };
    copy_in(file.read<float>("input/matrix"), 0, 35, store.master().data + matrix.offset);
    copy_in(file.read<float>("input/vector"), 0, 7, store.master().data + vector.offset);
    auto const rates = file.read<float>("input/rate");
    auto const gm = file.read<float>("input/gradient/matrix"), gv = file.read<float>("input/gradient/vector");
    auto const am = file.read<float>("after/matrix"), av = file.read<float>("after/vector");
    optim::adam_w<context_type> optimizer{
        c, list, {.beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.2}};
    for (std::size_t step = 0; step < rates.size(); ++step) {
      copy_in(gm, step * 35, 35, store.gradients().data + matrix.offset);
      copy_in(gv, step * 7, 7, store.gradients().data + vector.offset);
      double scale = 1;
      if (clipped) {
        auto const norm = std::sqrt(squared_norm(c, view<float const, 1>{store.gradients()}));
        auto const wanted = file.read<float>("output/norm")[step];
        CHECK(std::abs(norm - wanted) < 1e-5 * wanted);
        scale = std::min(1.0, 1.0 / (norm + 1e-6));
      }
      optimizer.update(c, store, rates[step], static_cast<std::int64_t>(step) + 1, scale);
      double worst = 0;
      for (std::size_t i = 0; i < 35; ++i)
        worst = std::max<double>(
            worst,
            std::abs(store.master().data[matrix.offset + static_cast<extent_t>(i)] - am[step * 35 + i]));
      for (std::size_t i = 0; i < 7; ++i)
        worst = std::max<double>(
            worst,
            std::abs(store.master().data[vector.offset + static_cast<extent_t>(i)] - av[step * 7 + i]));
      INFO(name << " step " << step);
      CHECK(worst < 4e-6);
      for (extent_t i = 0; i < store.gradients().size(); ++i) REQUIRE(store.gradients().data[i] == 0);
    }
  }
}

TEST_CASE("schedules are OpenCLIP's") {
  auto const file = golden("schedule/rates");
  auto const base = file.read<double>("input/base")[0];
  struct kind {
    char const* name;
    optim::decay decay;
  };
  struct length {
    std::int64_t warmup, steps;
  };
  for (auto const& k : {kind{"constant", optim::decay::constant}, kind{"cosine", optim::decay::cosine},
                        kind{"linear", optim::decay::linear}})
    for (auto const& n : {length{10, 50}, length{0, 20}, length{1, 7}, length{12, 12}}) {
      auto const key = std::string(k.name) + "/" + std::to_string(n.warmup) + "/" + std::to_string(n.steps);
      auto const wanted = file.read<double>(key);
      optim::schedule const rate{.peak = base, .warmup = n.warmup, .steps = n.steps, .decay = k.decay};
      for (std::size_t step = 0; step < wanted.size(); ++step) {
        INFO(key << " step " << step);
        CHECK(std::abs(rate(static_cast<std::int64_t>(step)) - wanted[step]) < 1e-14);
      }
    }
}

TEST_CASE("the rate ends at its floor") {
  optim::schedule const rate{
      .peak = 1, .warmup = 2, .steps = 10, .decay = optim::decay::cosine, .floor = 0.1};
  CHECK(std::abs(rate(10) - 0.1) < 1e-15);
  CHECK(std::abs(rate(1000) - 0.1) < 1e-15);
  CHECK_THROWS_AS(rate(-1), precondition_error);
}
