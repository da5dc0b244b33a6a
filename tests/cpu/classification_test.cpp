// Softmax cross-entropy against the formula in double precision; the same bits for any number of threads.
#include <yoke/cpu/classification.hpp>

#include "checks.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace checks;

namespace {

template <class T>
struct labelled {
  using A = accumulator_t<T>;
  tensor<T, 2> logits, dlogits;
  std::vector<std::int32_t> labels;
  tensor<A, 1> totals{{{2}}, 9};

  labelled(extent_t rows, extent_t classes, double deviation = 2)
      : logits{{{rows, classes}}, 1, deviation}, dlogits{{{rows, classes}}, 2} {
    yoke::random_sequence draw{3};
    for (extent_t r = 0; r < rows; ++r)
      labels.push_back(static_cast<std::int32_t>(draw.below(static_cast<std::uint64_t>(classes))));
  }
  void run(double smoothing = 0, double scale = 1) {
    softmax_cross_entropy(device<T>(), smoothing, scale, logits.read(),
                          view<std::int32_t const, 1>{labels.data(), {{logits.shape[0]}}}, dlogits.view(),
                          totals.view());
  }
};

}  // namespace

TEMPLATE_TEST_CASE("softmax_cross_entropy", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 7, 300),
             classes = GENERATE(as<extent_t>{}, 1, 2, 16, 37, 1000);
  auto const smoothing = GENERATE(0.0, 0.1), scale = GENERATE(1.0, 0.125);
  labelled<TestType> p{rows, classes};
  p.run(smoothing, scale);
  double loss = 0, hits = 0;
  std::vector<double> e;
  for (extent_t r = 0; r < rows; ++r) {
    double sum = 0;
    extent_t most = 0;
    for (extent_t j = 0; j < classes; ++j) {
      sum += std::exp(p.logits(r, j));
      most = p.logits(r, j) > p.logits(r, most) ? j : most;
    }
    auto const label = p.labels[at(r)];
    hits += most == label ? 1 : 0;
    for (extent_t j = 0; j < classes; ++j) {
      auto const q = (j == label ? 1 - smoothing : 0) + smoothing / static_cast<double>(classes);
      loss -= q * (p.logits(r, j) - std::log(sum));
      e.push_back(scale * (std::exp(p.logits(r, j)) / sum - q));
    }
  }
  near(p.dlogits, e);
  near(p.totals, {loss, hits}, 1 + loss);
}

TEMPLATE_TEST_CASE("cross-entropy of logits far apart is stable", "", double, float, bf16) {
  labelled<TestType> p{3, 20};
  p.labels = {0, 1, 2};
  for (auto& v : p.logits.data) v = static_cast<TestType>(-1e4f);
  p.logits.data[0] = static_cast<TestType>(1e4f);   // right
  p.logits.data[20] = static_cast<TestType>(1e4f);  // wrong; in the last row all are alike
  p.run();
  auto const large = 2 * static_cast<double>(static_cast<TestType>(1e4f));
  CHECK(std::abs(p.totals[0] / (large + std::log(20)) - 1) < 1e-6);
  CHECK(p.totals[1] == 1);
  std::vector<double> e(60, 0.0);
  e[20] = 1, e[21] = -1;
  for (std::size_t j = 40; j < 60; ++j) e[j] = j == 42 ? 0.05 - 1 : 0.05;
  near(p.dlogits, e);
}

TEMPLATE_TEST_CASE("a hit: the label is the first of the largest", "", double, float, bf16) {
  labelled<TestType> p{3, 40};
  for (auto& v : p.logits.data) v = static_cast<TestType>(0.0f);
  for (std::size_t k : {3u, 40u + 9u, 40u + 30u, 80u + 39u}) p.logits.data[k] = static_cast<TestType>(1.0f);
  p.labels = {3, 30, 39};
  p.run();
  CHECK(p.totals[1] == 2);
  p.labels = {3, 9, 39};
  p.run();
  CHECK(p.totals[1] == 3);
}

TEST_CASE("a label that is no class is named, and nothing is written") {
  labelled<float> p{4, 10};
  auto const before = p.dlogits.data;
  p.labels = {0, 9, 10, 3};
  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_WITH(p.run(), ContainsSubstring("row 2 has the label 10, the classes are 0 to 9"));
  p.labels = {-1, 9, 1, 3};
  CHECK_THROWS_WITH(p.run(), ContainsSubstring("row 0 has the label -1"));
  CHECK(same_bits(before, p.dlogits.data));
}

TEMPLATE_TEST_CASE("cross-entropy gives the same bits for any number of threads", "", double, float, bf16) {
  labelled<TestType> p{300, 101};
  same_with_any_threads([&] { return p.run(0.1), p.dlogits.data; });
  same_with_any_threads([&] { return p.run(0.1), p.totals.data; });
}
