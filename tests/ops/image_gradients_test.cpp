// The ops of convolutional towers on the CPU: against central differences; what batch norm takes and observes; what is
// refused.
#include <yoke/cpu/batch_norm.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/cpu/gate.hpp>
#include <yoke/cpu/normalize_activation.hpp>
#include <yoke/cpu/relative_bias.hpp>
#include <yoke/cpu/window_pool.hpp>

using device_context = yoke::cpu::context<double>;
#include "ops/image_gradients.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <vector>

using Catch::Matchers::ContainsSubstring;

namespace {

/// A batch norm of three columns, and rows to normalise.
struct batch_norm_fixture {
  parameter_list list;
  scope s{list};
  parameter<1> gain = s.constant("gain", shape{3}, 1), bias = s.constant("bias", shape{3}, 0);
  statistic<1> mean = s.statistic("mean", shape{3}, 0, 0.25f),
               variance = s.statistic("variance", shape{3}, 1, 0.25f);
  device_context c{mebibytes(1), mebibytes(1)};
  parameter_store<device_context> store{c, list};
  static constexpr extent_t rows = 6;
  view<double, 2> x = make<double>(c, shape{rows, 3}), dy = make<double>(c, shape{rows, 3});

  batch_norm_fixture() {
    initialize(c, list, 1, store);
    store.zero_gradients(c);
    draw(2);
  }
  void draw(std::uint64_t seed) {
    random_sequence random{seed};
    for (extent_t i = 0; i < x.size(); ++i) x.data[i] = random.normal(), dy.data[i] = random.normal();
  }
  /// The output, after backward where that is wanted.
  std::vector<double> run(bool training, bool differentiate = true) {
    auto views = store.views();
    views.differentiate = differentiate;
    tape<device_context> t{c, views, {.training = training}};
    auto const y = ops::batch_norm(t, t.variable(x), gain, bias, mean, variance, activation::silu, 1e-3);
    t.backward(y, view<double const, 2>{dy});
    return {t(y).data, t(y).data + y.shape.size()};
  }
  double column_mean(extent_t j) const {
    double sum = 0;
    for (extent_t r = 0; r < rows; ++r) sum += x.data[3 * r + j] / rows;
    return sum;
  }
  double unbiased_variance(extent_t j) const {
    double sum = 0;
    for (extent_t r = 0; r < rows; ++r) sum += std::pow(x.data[3 * r + j] - column_mean(j), 2) / (rows - 1);
    return sum;
  }
  double running(statistic<1> const& which, extent_t j) const {
    return store.statistics().data[which.offset + j];
  }
};

}  // namespace

TEST_CASE("batch norm observes mean and unbiased variance in training, once for each backward pass") {
  batch_norm_fixture f;
  double means[3], variances[3];
  for (auto seed : {2u, 3u}) {
    f.draw(seed);
    f.run(true);
    for (extent_t j = 0; j < 3; ++j) {
      means[j] = (seed == 2 ? 0 : means[j]) + f.column_mean(j) / 2;
      variances[j] = (seed == 2 ? 0 : variances[j]) + f.unbiased_variance(j) / 2;
    }
  }
  f.run(true, false);  // frozen: nothing is observed
  f.run(false);
  f.store.absorb_observations(f.c);
  for (extent_t j = 0; j < 3; ++j) {
    CHECK(std::abs(f.running(f.mean, j) - 0.25 * means[j]) < 1e-14);
    CHECK(std::abs(f.running(f.variance, j) - (0.75 + 0.25 * variances[j])) < 1e-14);
  }
}

TEST_CASE("batch norm outside of training takes the running values, and they are constants to its gradient") {
  batch_norm_fixture f;
  double const mean[] = {0.5, -1, 2}, variance[] = {2, 0.5, 3};
  for (extent_t j = 0; j < 3; ++j) {
    f.store.statistics().data[f.mean.offset + j] = mean[j];
    f.store.statistics().data[f.variance.offset + j] = variance[j];
  }
  auto const y = f.run(false);
  auto const silu = [](double v) { return v / (1 + std::exp(-v)); };
  auto const slope = [](double v) {
    auto const p = 1 / (1 + std::exp(-v));
    return p + v * p * (1 - p);
  };
  double dbias[3]{};
  for (std::size_t i = 0; i < y.size(); ++i) {
    auto const n = (f.x.data[i] - mean[i % 3]) / std::sqrt(variance[i % 3] + 1e-3);
    CHECK(std::abs(y[i] - silu(n)) < 1e-14);
    dbias[i % 3] += slope(n) * f.dy.data[i];
  }
  for (extent_t j = 0; j < 3; ++j) CHECK(std::abs(f.store.gradient_of(f.bias).data[j] - dbias[j]) < 1e-13);
}

TEST_CASE("what the ops of images refuse, in words") {
  parameter_list list;
  scope const s{list};
  auto const table = s.weight("table", shape{2, 3, 5}, 1.f);
  auto const three = s.constant("three", shape{3}, 1), four = s.constant("four", shape{4}, 1);
  auto const mean = s.statistic("mean", shape{4}, 0);
  device_context c{mebibytes(1), mebibytes(1)};
  parameter_store<device_context> store{c, list};
  tape<device_context> t{c, store.views()};
  auto const images = t.constant(make<double>(c, shape{1, 4, 4, 4}));
  auto const rows = t.constant(make<double>(c, shape{6, 4})), two = t.constant(make<double>(c, shape{2, 4}));
  CHECK_THROWS_WITH(ops::relative_bias(t, table, grid{2, 4}),
                    ContainsSubstring("a grid of 2 x 4 tokens has a table of 3 x 7, not 3 x 5"));
  CHECK_THROWS_WITH(ops::window_pool(t, images, window_pool_kind::max, {3, 2, 3}),
                    ContainsSubstring("the padding is less than the size"));
  CHECK_THROWS_WITH(ops::window_pool(t, images, window_pool_kind::max, {5, 1, 0}),
                    ContainsSubstring("the window fits into the padded image"));
  CHECK_THROWS_WITH(ops::gate(t, rows, two, segments::uniform(3, 2)),
                    ContainsSubstring("the logits are (segments, width)"));
  CHECK_THROWS_WITH(ops::gate(t, rows, two, segments::uniform(2, 2)), ContainsSubstring("cover the rows"));
  CHECK_THROWS_WITH(ops::layer_norm_activation(t, rows, three, three),
                    ContainsSubstring("have the input's width"));
  CHECK_THROWS_WITH(ops::batch_norm(t, rows, four, three, mean, mean),
                    ContainsSubstring("have the input's width"));
}
