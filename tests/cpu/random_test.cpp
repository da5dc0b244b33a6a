// Dropout: which elements are kept is exactly what the counters say, however the batch is cut.
#include <yoke/cpu/random.hpp>

#include "checks.hpp"

using namespace checks;

namespace {

bool kept(yoke::random_key key, std::uint64_t stream, extent_t sample, extent_t element, float rate) {
  auto const words =
      key.draw(stream, static_cast<std::uint64_t>(sample), static_cast<std::uint64_t>(element / 4));
  return yoke::uniform(words[at(element % 4)]) >= rate;
}

}  // namespace

TEMPLATE_TEST_CASE("dropout keeps what the draws say", "", double, float, bf16) {
  auto const width = GENERATE(as<extent_t>{}, 1, 3, 16, 50, 301);
  auto const rate = GENERATE(0.0f, 0.1f, 0.75f);
  packed const lengths{{2, 0, 9, 1, 30}};
  auto const s = lengths.segments();
  yoke::random_key const key{.seed = 7, .step = 3, .first_sample = 0xfffffffeu};
  tensor<TestType, 2> const x{{{s.rows, width}}, 1}, before{{{s.rows, width}}, 2};
  for (auto how : {store::overwrite, store::accumulate}) {
    auto y = before;
    dropout(device<TestType>(), key, 5, rate, s, x.read(), y.view(), how);
    std::vector<double> e;
    for (extent_t i = 0; i < s.count; ++i)
      for (extent_t n = 0; n < s.length(i) * width; ++n) {
        auto const k = s.begin(i) * width + n;
        auto const v = kept(key, 5, i, n, rate) ? x[k] / (1 - static_cast<double>(rate)) : 0;
        e.push_back(stored(how, before[k], v));
      }
    near(y, e);
  }
}

TEST_CASE("dropout of a micro-batch is that of the whole batch") {
  auto const whole = yoke::segments::uniform(6, 5), part = yoke::segments::uniform(2, 5);
  tensor<float, 2> const x{{{30, 33}}, 1};
  tensor<float, 2> y{x.shape}, z{{{10, 33}}};
  dropout(device<float>(), {.seed = 1, .step = 2, .first_sample = 40}, 9, 0.5f, whole, x.read(), y.view(),
          store::overwrite);
  dropout(device<float>(), {.seed = 1, .step = 2, .first_sample = 43}, 9, 0.5f, part,
          yoke::slice(x.read(), 15, 10), z.view(), store::overwrite);
  CHECK(same_bits(z.data, std::vector<float>(y.data.begin() + 15 * 33, y.data.begin() + 25 * 33)));
}

TEST_CASE("dropout drops the given share") {
  auto const s = yoke::segments::uniform(4, 100);
  tensor<float, 2> x{{{400, 500}}}, y{x.shape};
  std::fill(x.data.begin(), x.data.end(), 1.0f);
  dropout(device<float>(), {.seed = 11}, 1, 0.3f, s, x.read(), y.view(), store::overwrite);
  auto const zeros = static_cast<double>(std::count(y.data.begin(), y.data.end(), 0.0f)) / 200000;
  CHECK(std::abs(zeros - 0.3) < 0.005);
}

TEMPLATE_TEST_CASE("drop_path keeps or drops whole segments", "", double, float, bf16) {
  packed const lengths{{2, 0, 9, 1, 30, 4, 4, 4, 4, 4, 4}};
  auto const s = lengths.segments();
  yoke::random_key const key{.seed = 7, .step = 3, .first_sample = 12};
  tensor<TestType, 2> const x{{{s.rows, 21}}, 1}, before{{{s.rows, 21}}, 2};
  extent_t dropped = 0;
  for (auto how : {store::overwrite, store::accumulate}) {
    auto y = before;
    drop_path(device<TestType>(), key, 5, 0.4f, s, x.read(), y.view(), how);
    std::vector<double> e;
    for (extent_t i = 0; i < s.count; ++i) {
      auto const keep = kept(key, 5, i, 0, 0.4f);
      dropped += !keep;
      for (auto k = s.begin(i) * 21; k < s.end(i) * 21; ++k)
        e.push_back(stored(how, before[k], keep ? x[k] / (1 - static_cast<double>(0.4f)) : 0));
    }
    near(y, e);
  }
  CHECK(dropped > 0);
  CHECK(dropped < 2 * s.count);
}

TEMPLATE_TEST_CASE("a NaN that is dropped is gone", "", double, float, bf16) {
  auto const s = yoke::segments::uniform(1, 40);
  tensor<TestType, 2> x{{{40, 16}}}, y{x.shape};
  std::fill(x.data.begin(), x.data.end(), static_cast<TestType>(std::nanf("")));
  dropout(device<TestType>(), {.seed = 1}, 1, 0.5f, s, x.read(), y.view(), store::overwrite);
  for (extent_t i = 0; i < 640; ++i) REQUIRE(is_nan(y[i]) == kept({.seed = 1}, 1, 0, i, 0.5f));
}
