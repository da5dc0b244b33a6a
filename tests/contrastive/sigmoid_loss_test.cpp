// The streamed sigmoid loss against the dense one, OpenCLIP's, finite differences, and itself on several ranks; its
// limits, what it takes of the arena, and the step that is taken with it.
#include <yoke/contrastive/sigmoid_loss.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/parallel/dry.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "contrastive/pairs.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace yoke;
using namespace paired;
using contrastive::sigmoid_loss;
using contrastive::sigmoid_options;

namespace {

/// log(1 + e^x).
double softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

/// By the definition, with all logits at once.
outcome dense(pairs const& p, double bias) {
  auto const n = static_cast<std::size_t>(p.rows), d = static_cast<std::size_t>(p.width);
  outcome o{.d_image = numbers(n * d), .d_text = numbers(n * d)};
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double product = 0;
      for (std::size_t k = 0; k < d; ++k) product += p.image[i * d + k] * p.text[j * d + k];
      auto const z = i == j ? 1.0 : -1.0, x = z * (p.scale * product + bias), size = static_cast<double>(n);
      auto const g = -z * std::exp(-softplus(x)) / size;  // 1 / (1 + e^x)
      o.loss += softplus(-x) / size;
      o.d_bias += g;
      o.d_scale += g * product;
      for (std::size_t k = 0; k < d; ++k) {
        o.d_image[i * d + k] += p.scale * g * p.text[j * d + k];
        o.d_text[j * d + k] += p.scale * g * p.image[i * d + k];
      }
    }
  return o;
}

/// The library's loss with elements of T over n ranks; n = 0: solo.
template <class T>
outcome streamed(pairs const& p, double bias, sigmoid_options const& options = {}, int n = 0) {
  using A = accumulator_t<T>;
  auto const loss = [&](auto& c, auto& ranks, auto image, auto text, auto d_image, auto d_text) {
    return sigmoid_loss(c, ranks, image, text, static_cast<A>(p.scale), static_cast<A>(bias), d_image, d_text,
                        options);
  };
  auto [o, results] = on_ranks<T>(p, n, loss);
  for (auto const& r : results) {
    o.d_scale += r.d_scale;
    o.d_bias += r.d_bias;
  }
  return o;
}

void check_same(outcome const& a, outcome const& b, double tolerance) {
  CHECK(difference({a.loss}, {b.loss}) < tolerance);
  CHECK(difference({a.d_scale}, {b.d_scale}) < tolerance);
  CHECK(difference({a.d_bias}, {b.d_bias}) < tolerance);
  CHECK(difference(a.d_image, b.d_image) < tolerance);
  CHECK(difference(a.d_text, b.d_text) < tolerance);
}

}  // namespace

TEST_CASE("the streamed sigmoid loss is the dense one", "[sigmoid_loss]") {
  auto const [rows, width] =
      GENERATE(table<extent_t, extent_t>({{1, 1}, {2, 3}, {37, 20}, {64, 5}, {100, 1}, {300, 7}, {530, 3}}));
  auto const tile =
      GENERATE(sigmoid_options{}, sigmoid_options{5, 3}, sigmoid_options{33, 290}, sigmoid_options{1, 1024});
  CAPTURE(rows, width, tile.tile_rows, tile.tile_columns);
  auto const p = random_pairs(rows, width, 0.7);
  check_same(streamed<double>(p, -1.5, tile), dense(p, -1.5), 1e-12);
}

TEST_CASE("the sigmoid loss and its gradients are OpenCLIP's", "[sigmoid_loss]") {
  auto const name = GENERATE("sigmoid_start", "sigmoid_trained");
  io::safetensors_file const file{std::string(YOKE_GOLDEN_DIR "/loss/") + name + ".safetensors"};
  auto const rows = [&](char const* tensor) { return file.read<double>(tensor); };
  auto const& shape = file.at("input/image").shape;
  auto const scale = std::exp(rows("input/log_scale").at(0));
  pairs const p{shape.at(0), shape.at(1), scale, rows("input/image"), rows("input/text")};
  auto const o = streamed<double>(p, rows("input/bias").at(0), {.tile_rows = 8, .tile_columns = 16});
  CHECK(difference({o.loss}, rows("output/loss")) < 1e-12);
  CHECK(difference({o.d_scale * scale}, rows("gradient/log_scale")) < 1e-12);
  CHECK(difference({o.d_bias}, rows("gradient/bias")) < 1e-12);
  CHECK(difference(o.d_image, rows("gradient/image")) < 1e-12);
  CHECK(difference(o.d_text, rows("gradient/text")) < 1e-12);
}

TEST_CASE("the sigmoid loss of several ranks is that of one", "[sigmoid_loss][ranks]") {
  auto const ranks = GENERATE(1, 2, 3, 4);
  auto const tile = GENERATE(extent_t{4}, extent_t{1000});
  CAPTURE(ranks, tile);
  auto const p = random_pairs(36, 11, 0.9);
  sigmoid_options const options{tile, tile + 1};
  auto const o = streamed<double>(p, -3, options, ranks);
  check_same(o, streamed<double>(p, -3), 1e-12);
  check_same(o, dense(p, -3), 1e-12);

  auto const again = streamed<double>(p, -3, options, ranks);
  CHECK(again.loss == o.loss);
  CHECK(again.d_scale == o.d_scale);
  CHECK(again.d_bias == o.d_bias);
  CHECK(again.d_image == o.d_image);
  CHECK(again.d_text == o.d_text);
}

TEST_CASE("the sigmoid loss's derivatives are those of finite differences", "[sigmoid_loss]") {
  auto p = random_pairs(6, 4, 1.3);
  double bias = -0.8;
  sigmoid_options const options{.tile_rows = 4, .tile_columns = 5};
  auto const o = streamed<double>(p, bias, options);
  auto const slope = [&](double& x) {
    auto const at = [&, middle = x](double step) {
      x = middle + step;
      auto const loss = streamed<double>(p, bias, options).loss;
      x = middle;
      return loss;
    };
    constexpr double h = 1e-3;  // fourth order
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  };
  CHECK(o.d_scale == Catch::Approx(slope(p.scale)).epsilon(1e-8));
  CHECK(o.d_bias == Catch::Approx(slope(bias)).epsilon(1e-8));
  for (std::size_t i = 0; i < p.image.size(); ++i) {
    CHECK(o.d_image[i] == Catch::Approx(slope(p.image[i])).epsilon(1e-8).margin(1e-9));
    CHECK(o.d_text[i] == Catch::Approx(slope(p.text[i])).epsilon(1e-8).margin(1e-9));
  }
}

TEST_CASE("the sigmoid loss in single precision comes close", "[sigmoid_loss]") {
  auto const start = unit_rows(random_pairs(700, 33, 10.0));
  check_same(streamed<float>(start, -10), dense(start, -10), 5e-6);
  check_same(streamed<float>(start, -10, {}, 2), dense(start, -10), 5e-6);
  auto trained = start;  // pairs that are known: what is left of the loss is a small part of each logit
  trained.scale = 117;
  trained.text = trained.image;
  check_same(streamed<float>(trained, -13), dense(trained, -13), 2e-4);
  check_same(streamed<bf16>(start, -10), dense(start, -10), 5e-6);
}

TEST_CASE("logits that overflow an exponential", "[sigmoid_loss]") {
  SECTION("far beyond, on the right and on the wrong side") {
    auto const scale = GENERATE(-1e4, 1e4);
    auto const p = random_pairs(40, 6, scale);
    check_same(streamed<double>(p, 3, {.tile_rows = 7, .tile_columns = 11}), dense(p, 3), 1e-12);
    check_same(streamed<float>(p, 3, {.tile_rows = 7, .tile_columns = 11}), dense(p, 3), 1e-3);
  }
  SECTION("both tails keep their relative size") {
    pairs p{2, 1, 1, {1, -1}, {1, -1}};
    for (double const bias : {-600.0, -300.0, 300.0, 600.0})
      check_same(streamed<double>(p, bias), dense(p, bias), 1e-12);
    for (double const bias : {-80.0, -60.0, 60.0, 80.0})
      check_same(streamed<float>(p, bias), dense(p, bias), 1e-5);
  }
  SECTION("a scale of zero") {
    auto const p = random_pairs(20, 6, 0);
    check_same(streamed<double>(p, -2), dense(p, -2), 1e-12);
  }
  SECTION("what is not a number does not look like a loss") {
    auto p = random_pairs(20, 6, 1.0);
    p.image[31] = std::numeric_limits<double>::quiet_NaN();
    CHECK(std::isnan(streamed<float>(p, 0).loss));
    CHECK(std::isnan(streamed<double>(p, 0, {}, 2).loss));
    p.image[31] = std::numeric_limits<double>::infinity();
    CHECK_FALSE(std::isfinite(streamed<float>(p, 0).loss));
  }
}

TEST_CASE("the sigmoid loss alone needs no gradients", "[sigmoid_loss]") {
  auto const p = random_pairs(12, 5, 0.8);
  parallel::threads_group{2}.run([&](parallel::threads& ranks) {
    cpu::context<double> c{mebibytes(1), mebibytes(1)};
    auto const mine = [&](numbers const& v) {
      return slice(view<double const, 2>{v.data(), {{12, 5}}}, 6 * ranks.rank(), 6);
    };
    auto const r = sigmoid_loss(c, ranks, mine(p.image), mine(p.text), p.scale, -1.0, {}, {});
    expects(std::abs(r.loss - dense(p, -1).loss) < 1e-12, "the loss alone");
  });
}

TEST_CASE("what the sigmoid loss refuses", "[sigmoid_loss]") {
  parallel::solo alone;
  cpu::context<float> c{mebibytes(1), mebibytes(1)};
  std::vector<float> v(60);
  auto const rows = [&](extent_t n, extent_t width) { return view<float, 2>{v.data(), {{n, width}}}; };
  auto const call = [&](view<float, 2> image, view<float, 2> text, view<float, 2> d_image,
                        sigmoid_options const& options = {}) {
    return sigmoid_loss(c, alone, image, text, 1.0f, 0.0f, d_image, d_image, options);
  };
  CHECK_NOTHROW(call(rows(4, 3), rows(4, 3), rows(4, 3)));
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 2), rows(4, 3)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 3), rows(3, 4)), precondition_error);
  CHECK_THROWS_AS(call(rows(0, 3), rows(0, 3), rows(0, 3)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 3), rows(4, 3), {.tile_rows = -1}), precondition_error);

  auto const said = [](extent_t odd_rows, float odd_bias) {
    std::vector<std::string> what(3);
    CHECK_THROWS_AS(parallel::threads_group{3}.run([&](parallel::threads& ranks) {
      auto const odd = ranks.rank() == 1;
      cpu::context<float> device{mebibytes(1), mebibytes(1)};
      std::vector<float> x(60, 0.1f), dx(60), dy(60);
      auto const m = [&](std::vector<float>& values) {
        return view<float, 2>{values.data(), {{odd ? odd_rows : 4, 3}}};
      };
      try {
        sigmoid_loss(device, ranks, m(x), m(x), 2.0f, odd ? odd_bias : -10.0f, m(dx), m(dy));
      } catch (parallel::error const& e) {
        what[static_cast<std::size_t>(ranks.rank())] = e.what();
        throw;
      }
    }),
                    parallel::error);
    CHECK((what[1] == what[0] && what[2] == what[0]));
    return what[0];
  };
  CHECK(said(5, -10) == "sigmoid_loss: the ranks disagree about rows: 4 to 5");
  CHECK(said(4, -9.5f) == "sigmoid_loss: the ranks disagree about bias: -10 to -9.500000");
  CHECK(said(4, std::numeric_limits<float>::quiet_NaN()) ==
        "sigmoid_loss: the ranks disagree about bias: it is NaN on some alone");
}

TEST_CASE("memory of the sigmoid loss grows with the batch, and a dry run foretells it", "[sigmoid_loss]") {
  sigmoid_options const options{.tile_rows = 16, .tile_columns = 32};
  auto const real = [&](extent_t rows, int n) {
    std::size_t peak = 0;
    parallel::threads_group{n}.run([&](parallel::threads& ranks) {
      cpu::context<float> c{mebibytes(16), mebibytes(1)};
      std::vector<float> x(static_cast<std::size_t>(rows) * 8, 0.25f), dx(x.size()), dy(x.size());
      auto const m = [&](std::vector<float>& v) { return view<float, 2>{v.data(), {{rows, 8}}}; };
      sigmoid_loss(c, ranks, m(x), m(x), 1.0f, 0.0f, m(dx), m(dy), options);
      if (ranks.rank() == 0)
        peak = c.memory.peak();
    });
    return peak;
  };
  auto const block = std::size_t{2048 * 8} * sizeof(float), tile = std::size_t{16 * 32} * sizeof(float);
  CHECK(real(2048, 1) <= tile + 1024);
  auto const three = real(2048, 3);
  CHECK(three <= 3 * block + tile + 1024);

  dry::context<float> plan;
  parallel::dry ranks{3};
  view<float, 2> const nothing{nullptr, {{2048, 8}}};
  sigmoid_loss(plan, ranks, nothing, nothing, 1.0f, 0.0f, nothing, nothing, options);
  CHECK(plan.memory.peak() == three);
  CHECK(plan.multiply_adds == 3 * 3 * 2048 * 2048 * 8);
  CHECK(ranks.traffic().calls_of(parallel::collective::exchange) ==
        2 + 3);  // texts, and their gradients home
}

TEST_CASE("the sigmoid loss's kernel does not depend on the number of threads", "[sigmoid_loss]") {
  constexpr extent_t rows = 70, columns = 900;
  auto const run = [&](int threads) {
    auto const before = omp_get_max_threads();
    omp_set_num_threads(threads);
    cpu::context<float> c{mebibytes(1), mebibytes(1)};
    random_sequence r{3};
    std::vector<float> tile(rows * columns);
    std::vector<double> totals(3);
    for (auto& x : tile) x = static_cast<float>(r.normal());
    sigmoid_logits(c, 3.0f, -1.0f, 5, 0.1f, view<float, 2>{tile.data(), {{rows, columns}}},
                   view<double, 1>{totals.data(), {{3}}}, store::overwrite);
    omp_set_num_threads(before);
    std::vector<double> all(tile.begin(), tile.end());
    all.insert(all.end(), totals.begin(), totals.end());
    return all;
  };
  CHECK(run(1) == run(3));
}
