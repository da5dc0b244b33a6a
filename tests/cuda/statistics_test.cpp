// Running values of statistics on the card are the CPU's.
#include <yoke/cpu/statistics.hpp>
#include <yoke/cuda/statistics.cuh>

#include "cuda/twins.hpp"

using namespace twins;

TEMPLATE_TEST_CASE("absorb_statistic on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const n = GENERATE(as<extent_t>{}, 1, 7, 256, 1000);
  auto const number = GENERATE(0, 1, 3);
  tensor<A, 1> observations{{{n + 1}}, 1}, values{{{n}}, 2};
  observations.data.back() = static_cast<A>(number);
  on const there_observations{c, observations}, there_values{c, values};
  absorb_statistic(device<TestType>(), 0.1f, observations.view(), values.view());
  absorb_statistic(c, 0.1f, there_observations.view(), there_values.view());
  same(there_values.back(c), values);
  CHECK(same_bits(there_observations.back(c).data, std::vector<A>(at(n + 1))));
}
