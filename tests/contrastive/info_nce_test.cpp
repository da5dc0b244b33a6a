// The streamed loss against the dense one, PyTorch's, finite differences, and itself on several
// ranks; its limits, and what it takes of the arena.
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "contrastive/pairs.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <cmath>
#include <string>
#include <vector>

using namespace yoke;
using namespace paired;
using contrastive::info_nce;
using contrastive::info_nce_options;
using contrastive::text_exchange;

namespace {

/// By the definition, with all logits at once.
outcome dense(pairs const& p) {
  auto const n = static_cast<std::size_t>(p.rows), d = static_cast<std::size_t>(p.width);
  numbers product(n * n), row(n), column(n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t k = 0; k < d; ++k) product[i * n + j] += p.image[i * d + k] * p.text[j * d + k];
  auto const lse = [&](std::size_t first, std::size_t step) {
    auto top = -std::numeric_limits<double>::infinity();
    for (std::size_t k = 0; k < n; ++k) top = std::max(top, p.scale * product[first + k * step]);
    double sum = 0;
    for (std::size_t k = 0; k < n; ++k) sum += std::exp(p.scale * product[first + k * step] - top);
    return top + std::log(sum);
  };
  outcome o{.d_image = numbers(n * d), .d_text = numbers(n * d)};
  for (std::size_t i = 0; i < n; ++i) {
    row[i] = lse(i * n, 1);
    column[i] = lse(i, n);
  }
  auto const size = static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) {
    auto const own = p.scale * product[i * n + i];
    o.loss += ((row[i] - own) + (column[i] - own)) / (2 * size);
    bool most = true;
    for (std::size_t j = 0; j < n; ++j) {
      auto const x = product[i * n + j], logit = p.scale * x;
      most = most && own >= logit;
      auto const g = (std::exp(logit - row[i]) + std::exp(logit - column[j]) - (i == j ? 2 : 0)) / (2 * size);
      o.d_scale += g * x;
      for (std::size_t k = 0; k < d; ++k) {
        o.d_image[i * d + k] += p.scale * g * p.text[j * d + k];
        o.d_text[j * d + k] += p.scale * g * p.image[i * d + k];
      }
    }
    o.accuracy += most ? 1 / size : 0;
  }
  return o;
}

/// The library's loss with elements of T over n ranks; n = 0: solo.
template <class T>
outcome streamed(pairs const& p, info_nce_options const& options = {}, int n = 0) {
  auto const loss = [&](auto& c, auto& ranks, auto image, auto text, auto d_image, auto d_text) {
    return info_nce(c, ranks, image, text, static_cast<accumulator_t<T>>(p.scale), d_image, d_text, options);
  };
  auto [o, results] = on_ranks<T>(p, n, loss);
  o.accuracy = results[0].accuracy;
  for (auto const& r : results) {
    expects(r.accuracy == o.accuracy, "every rank reports the global accuracy");
    o.d_scale += r.d_scale;
  }
  return o;
}

void check_same(outcome const& a, outcome const& b, double tolerance) {
  CHECK(difference({a.loss}, {b.loss}) < tolerance);
  CHECK(difference({a.d_scale}, {b.d_scale}) < tolerance);
  CHECK(difference(a.d_image, b.d_image) < tolerance);
  CHECK(difference(a.d_text, b.d_text) < tolerance);
  CHECK(a.accuracy == Catch::Approx(b.accuracy).epsilon(1e-12));
}

}  // namespace

TEST_CASE("the streamed loss is the dense loss", "[info_nce]") {
  auto const [rows, width] =
      GENERATE(table<extent_t, extent_t>({{1, 1}, {2, 3}, {37, 20}, {64, 5}, {100, 1}, {300, 7}, {530, 3}}));
  auto const tile = GENERATE(info_nce_options{}, info_nce_options{.tile_rows = 5, .tile_columns = 3},
                             info_nce_options{.tile_rows = 33, .tile_columns = 290},
                             info_nce_options{.tile_rows = 1, .tile_columns = 1024});
  CAPTURE(rows, width, tile.tile_rows, tile.tile_columns);
  auto const p = random_pairs(rows, width, 0.7);
  check_same(streamed<double>(p, tile), dense(p), 1e-12);
}

TEST_CASE("the loss and its gradients are PyTorch's", "[info_nce]") {
  auto const name = GENERATE("random", "sharp");
  io::safetensors_file const file{std::string(YOKE_GOLDEN_DIR "/loss/") + name + ".safetensors"};
  auto const rows = [&](char const* tensor) { return file.read<double>(tensor); };
  auto const& shape = file.at("input/image").shape;
  auto const scale = std::exp(rows("input/log_scale").at(0));
  pairs const p{shape.at(0), shape.at(1), scale, rows("input/image"), rows("input/text")};
  auto const o = streamed<double>(p, {.tile_rows = 8, .tile_columns = 16});
  CHECK(difference({o.loss}, rows("output/loss")) < 1e-12);
  CHECK(difference({o.d_scale * scale}, rows("gradient/log_scale")) < 1e-12);
  CHECK(difference(o.d_image, rows("gradient/image")) < 1e-12);
  CHECK(difference(o.d_text, rows("gradient/text")) < 1e-12);
}

TEST_CASE("four ranks are one, by gather and by ring", "[info_nce][ranks]") {
  auto const ranks = GENERATE(1, 2, 3, 4);
  auto const exchange = GENERATE(text_exchange::gather, text_exchange::ring);
  auto const tile = GENERATE(extent_t{4}, extent_t{1000});
  CAPTURE(ranks, static_cast<int>(exchange), tile);
  auto const p = random_pairs(36, 11, 0.9);
  info_nce_options const options{exchange, tile, tile + 1};
  auto const o = streamed<double>(p, options, ranks);
  check_same(o, streamed<double>(p), 1e-12);
  check_same(o, dense(p), 1e-12);

  auto const again = streamed<double>(p, options, ranks);
  CHECK(again.loss == o.loss);
  CHECK(again.d_scale == o.d_scale);
  CHECK(again.d_image == o.d_image);
  CHECK(again.d_text == o.d_text);
}

TEST_CASE("the loss's derivatives are those of finite differences", "[info_nce]") {
  auto p = random_pairs(6, 4, 1.3);
  info_nce_options const options{.tile_rows = 4, .tile_columns = 5};
  auto const o = streamed<double>(p, options);
  auto const slope = [&](double& x) {
    auto const at = [&, middle = x](double step) {
      x = middle + step;
      auto const loss = streamed<double>(p, options).loss;
      x = middle;
      return loss;
    };
    constexpr double h = 1e-3;  // fourth order
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  };
  CHECK(o.d_scale == Catch::Approx(slope(p.scale)).epsilon(1e-8));
  for (std::size_t i = 0; i < p.image.size(); ++i) {
    CHECK(o.d_image[i] == Catch::Approx(slope(p.image[i])).epsilon(1e-8).margin(1e-9));
    CHECK(o.d_text[i] == Catch::Approx(slope(p.text[i])).epsilon(1e-8).margin(1e-9));
  }
}

TEMPLATE_TEST_CASE("single precision comes close", "[info_nce]", float, bf16) {
  auto const p = unit_rows(random_pairs(700, 33, 14.0));
  check_same(streamed<TestType>(p), dense(p), 2e-5);
  check_same(streamed<TestType>(p, {.exchange = text_exchange::ring}, 2), dense(p), 2e-5);
}

TEST_CASE("scales and norms that overflow an exponential", "[info_nce]") {
  SECTION("float, whole numbers: logits up to 100,000 are exact") {
    auto p = random_pairs(60, 8, 64.0);
    for (auto* v : {&p.image, &p.text})
      for (auto& x : *v) x = std::round(5 * x);
    auto const o = streamed<float>(p, {.tile_rows = 7, .tile_columns = 11}), d = dense(p);
    check_same(o, d, 1e-2);  // log-sum-exp of 100,000 has a step of 0.008 in single precision
  }
  SECTION("float, unit rows") {
    auto const scale = GENERATE(1e-6, 1.0, 100.0, 1000.0);
    auto const p = unit_rows(random_pairs(300, 16, scale));
    check_same(streamed<float>(p), dense(p), 2e-6 * std::max(10.0, scale));
  }
  SECTION("double, beyond what exp can hold") {
    auto const p = random_pairs(40, 6, 1e4);
    check_same(streamed<double>(p, {.tile_rows = 7, .tile_columns = 11}), dense(p), 1e-10);
  }
  SECTION("rows far below others in one tile keep their own sums") {
    auto p = random_pairs(40, 6, 1.0);
    for (std::size_t i = 0; i < 6 * 20; ++i) p.image[i] *= 1000, p.text[i] *= 1e-3;
    check_same(streamed<double>(p), dense(p), 1e-12);
    check_same(streamed<float>(p), dense(p), 1e-3);
  }
  SECTION("a negative and a zero scale") {
    for (auto scale : {-2.0, 0.0}) {
      auto const p = random_pairs(20, 6, scale);
      check_same(streamed<double>(p), dense(p), 1e-12);
    }
  }
  SECTION("all embeddings the same: every pair ties") {
    pairs const p{50, 3, 10, numbers(150, 0.5), numbers(150, 0.5)};
    auto const o = streamed<float>(p);
    CHECK(o.loss == Catch::Approx(std::log(50.0)).epsilon(1e-6));
    CHECK(o.accuracy == 1);
    CHECK(difference(o.d_image, numbers(150)) < 1e-6);
  }
  SECTION("what is not a number does not look like a loss") {
    auto p = random_pairs(20, 6, 1.0);
    p.image[31] = std::numeric_limits<double>::quiet_NaN();
    CHECK(std::isnan(streamed<float>(p).loss));
    CHECK(std::isnan(streamed<double>(p, {}, 2).loss));
    p.image[31] = std::numeric_limits<double>::infinity();
    CHECK_FALSE(std::isfinite(streamed<float>(p).loss));
  }
}

TEST_CASE("the loss alone needs no gradients", "[info_nce]") {
  auto const p = random_pairs(12, 5, 0.8);
  for (auto exchange : {text_exchange::gather, text_exchange::ring}) {
    parallel::threads_group{2}.run([&](parallel::threads& ranks) {
      cpu::context<double> c{mebibytes(1), mebibytes(1)};
      auto const mine = [&](numbers const& v) {
        return slice(view<double const, 2>{v.data(), {{12, 5}}}, 6 * ranks.rank(), 6);
      };
      auto const r = info_nce(c, ranks, mine(p.image), mine(p.text), p.scale, {}, {}, {exchange});
      expects(std::abs(r.loss - dense(p).loss) < 1e-12 && r.d_scale == 0, "the loss alone");
    });
  }
}

TEST_CASE("wrong shapes are refused, on every rank", "[info_nce][ranks]") {
  parallel::solo alone;
  cpu::context<float> c{mebibytes(1), mebibytes(1)};
  std::vector<float> v(60);
  auto const rows = [&](extent_t n, extent_t width) { return view<float, 2>{v.data(), {{n, width}}}; };
  auto const call = [&](view<float, 2> image, view<float, 2> text, view<float, 2> d_image,
                        view<float, 2> d_text, info_nce_options const& options = {}) {
    return info_nce(c, alone, image, text, 1.0f, d_image, d_text, options);
  };
  CHECK_NOTHROW(call(rows(4, 3), rows(4, 3), rows(4, 3), rows(4, 3)));
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 2), rows(4, 3), rows(4, 2)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(5, 3), rows(4, 3), rows(5, 3)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 3), rows(4, 3), rows(0, 3)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 3), rows(3, 4), rows(4, 3)), precondition_error);
  CHECK_THROWS_AS(call(rows(0, 3), rows(0, 3), rows(0, 3), rows(0, 3)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 0), rows(4, 0), rows(4, 0), rows(4, 0)), precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 3), rows(4, 3), rows(4, 3), {.tile_rows = -1}),
                  precondition_error);
  CHECK_THROWS_AS(call(rows(4, 3), rows(4, 3), rows(4, 3), rows(4, 3), {.tile_columns = -1}),
                  precondition_error);

  struct problem {
    extent_t rows, width;
    float scale;
    text_exchange exchange;
  };
  auto const said = [](problem usual, problem odd) {
    std::vector<std::string> what(3);
    CHECK_THROWS_AS(parallel::threads_group{3}.run([&](parallel::threads& ranks) {
      auto const& p = ranks.rank() == 1 ? odd : usual;
      cpu::context<float> device{mebibytes(1), mebibytes(1)};
      std::vector<float> x(60, 0.1f), dx(60), dy(60);
      auto const m = [&](std::vector<float>& values) {
        return view<float, 2>{values.data(), {{p.rows, p.width}}};
      };
      try {
        info_nce(device, ranks, m(x), m(x), p.scale, m(dx), m(dy), {p.exchange});
      } catch (parallel::error const& e) {
        what[static_cast<std::size_t>(ranks.rank())] = e.what();
        throw;
      }
    }),
                    parallel::error);
    CHECK(what[1] == what[0]);
    CHECK(what[2] == what[0]);
    return what[0];
  };
  problem const usual{4, 3, 2.0f, text_exchange::gather};
  CHECK(said(usual, {5, 3, 2.0f, text_exchange::gather})
            .find("info_nce: the ranks disagree about rows: 4 to 5") != std::string::npos);
  CHECK(said(usual, {3, 4, 2.0f, text_exchange::gather}).find("about rows") != std::string::npos);
  CHECK(said(usual, {4, 5, 2.0f, text_exchange::gather}).find("about width") != std::string::npos);
  CHECK(said(usual, {4, 3, 2.5f, text_exchange::gather}).find("about scale") != std::string::npos);
  CHECK(said(usual, {4, 3, 2.0f, text_exchange::ring}).find("about exchange") != std::string::npos);
}

TEST_CASE("a rank that throws before the loss stops the others in it", "[info_nce][ranks]") {
  auto const exchange = GENERATE(text_exchange::gather, text_exchange::ring);
  CHECK_THROWS_AS(parallel::threads_group{3}.run([&](parallel::threads& ranks) {
    cpu::context<float> c{mebibytes(1), mebibytes(1)};
    std::vector<float> x(12, 0.5f), dx(12), dy(12);
    auto const m = [](std::vector<float>& v) { return view<float, 2>{v.data(), {{4, 3}}}; };
    for (int step = 0;; ++step) {
      if (ranks.rank() == 2 && step == 2)
        throw std::runtime_error("no more batches");
      info_nce(c, ranks, m(x), m(x), 1.0f, m(dx), m(dy), {exchange});
    }
  }),
                  std::runtime_error);
}

TEST_CASE("memory grows with the batch, not its square, and a dry run foretells it", "[info_nce]") {
  info_nce_options const options{.tile_rows = 16, .tile_columns = 32};
  auto const real = [&](extent_t rows) {
    cpu::context<float> c{mebibytes(64), mebibytes(1)};
    parallel::solo alone;
    std::vector<float> x(static_cast<std::size_t>(rows) * 8, 0.25f), dx(x.size()), dy(x.size());
    auto const m = [&](std::vector<float>& v) { return view<float, 2>{v.data(), {{rows, 8}}}; };
    info_nce(c, alone, m(x), m(x), 1.0f, m(dx), m(dy), options);
    return c.memory.peak();
  };
  auto const small = real(256), large = real(2048);
  CHECK(large - small <= (2048 - 256) * 8 * sizeof(float));

  dry::context<float> plan;
  parallel::solo alone;
  view<float, 2> const nothing{nullptr, {{2048, 8}}};
  info_nce(plan, alone, nothing, nothing, 1.0f, nothing, nothing, options);
  CHECK(plan.memory.peak() == large);
  CHECK(plan.multiply_adds == 4 * 2048 * 2048 * 8);
}

TEST_CASE("the kernels do not depend on the number of threads", "[info_nce]") {
  constexpr extent_t rows = 70, columns = 900;
  auto const run = [&](int threads) {
    auto const before = omp_get_max_threads();
    omp_set_num_threads(threads);
    cpu::context<float> c{mebibytes(1), mebibytes(1)};
    random_sequence r{3};
    std::vector<float> tile(rows * columns), row(2 * rows), column(2 * columns), pair(rows);
    std::vector<double> total(rows);
    for (auto& x : tile) x = static_cast<float>(r.normal());
    std::fill(row.begin(), row.end(), -10.0f);
    std::fill(column.begin(), column.end(), -10.0f);
    auto const at = [](std::vector<float>& v, extent_t first, extent_t n) {
      return view<float, 1>{v.data() + first, {{n}}};
    };
    view<float, 2> const t{tile.data(), {{rows, columns}}};
    logit_statistics(c, 3.0f, 5, view<float const, 2>{t}, at(row, 0, rows), at(row, rows, rows),
                     at(column, 0, columns), at(column, columns, columns), at(pair, 0, rows));
    logit_gradient(c, 3.0f, 5, 0.1f, view<float const, 1>{at(row, 0, rows)},
                   view<float const, 1>{at(column, 0, columns)}, t, view<double, 1>{total.data(), {{rows}}},
                   store::overwrite);
    omp_set_num_threads(before);
    for (auto* v : {&row, &column, &pair}) tile.insert(tile.end(), v->begin(), v->end());
    for (auto d : total) tile.push_back(static_cast<float>(d));
    return tile;
  };
  CHECK(run(1) == run(3));
}
