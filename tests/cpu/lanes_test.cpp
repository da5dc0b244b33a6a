// Vectors of the processor's width: conversions to the bit, exponential and logarithm to the last places,
// transposes, and the small products that are built of them.
#include <yoke/core/random.hpp>
#include <yoke/cpu/small_matmul.hpp>

#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cmath>
#include <limits>
#include <vector>

using namespace yoke::cpu::detail;
using yoke::bf16;
using yoke::extent_t;

namespace {

constexpr int floats = lanes<float>::count;

#if defined(__FAST_MATH__)  // sums are regrouped; neither subnormal numbers nor NaN are kept
constexpr double accuracy = 5e-6, smallest = -87.3;
constexpr bool keeps_nan = false;
#else
constexpr double accuracy = 2.4e-7, smallest = -87.6;
constexpr bool keeps_nan = true;
#endif

/// f of one number, in every lane; all lanes agree.
template <class F>
float one(F const& f, float x) {
  auto const v = f(broadcast(x));
  for (int i = 1; i < floats; ++i)
    CHECK(std::bit_cast<std::uint32_t>(v[i]) == std::bit_cast<std::uint32_t>(v[0]));
  return v[0];
}
float exp_of(float x) {
  return one([](lanes_t<float> v) { return exponential(v); }, x);
}

}  // namespace

TEST_CASE("lanes of bf16 are those of the scalar type", "[lanes]") {
  std::vector<float> values{0.0f,
                            -0.0f,
                            1.0f,
                            1.00390625f,
                            1.01171875f,
                            -3.3895e38f,
                            1e-40f,  // ties, subnormal
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN(),
                            3.4e38f};
  yoke::random_sequence random{1};
  while (values.size() < 64) values.push_back(std::bit_cast<float>(random.bits()));
  for (std::size_t i = 0; i + floats <= values.size(); i += floats) {
    bf16 stored[floats];
    save(stored, load(&values[i]));
    auto const back = load(stored);
    for (int k = 0; k < floats; ++k) {
      CHECK(stored[k].bits == bf16{values[i + static_cast<std::size_t>(k)]}.bits);
      CHECK(std::bit_cast<std::uint32_t>(static_cast<float>(back[k])) == std::uint32_t{stored[k].bits} << 16);
    }
  }
}

TEST_CASE("exponential", "[lanes]") {
  for (double x = smallest; x < 88; x += 0.0173) {
    auto const expected = std::exp(static_cast<double>(static_cast<float>(x)));
    CHECK(std::abs(static_cast<double>(exp_of(static_cast<float>(x))) / expected - 1) < accuracy);
  }
  CHECK(exp_of(0.0f) == 1.0f);
  for (float const x : {-88.0f, -89.0f, -1e4f, -1e30f, -3e38f, -std::numeric_limits<float>::infinity()})
    CHECK(exp_of(x) == 0.0f);
  auto const nan = exp_of(std::numeric_limits<float>::quiet_NaN());
  CHECK((!keeps_nan || (std::bit_cast<std::uint32_t>(nan) & 0x7fffffffu) > 0x7f800000u));
}

TEST_CASE("logarithm", "[lanes]") {
  for (double x = 1.2e-38; x < 1e38; x *= 1.0371) {
    auto const f = static_cast<float>(x);
    auto const expected = std::log(static_cast<double>(f));
    auto const got = one([](lanes_t<float> v) { return logarithm(v); }, f);
    CHECK(std::abs(static_cast<double>(got) - expected) <= accuracy * std::abs(expected));
  }
  CHECK(one([](lanes_t<float> v) { return logarithm(v); }, 1.0f) == 0.0f);
}

TEMPLATE_TEST_CASE("a square is transposed", "[lanes]", float, double) {
  constexpr int n = lanes<TestType>::count;
  lanes_t<TestType> rows[n];
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) rows[i][j] = static_cast<TestType>(100 * i + j);
  transpose_square<TestType>(rows);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) CHECK(rows[i][j] == static_cast<TestType>(100 * j + i));
}

TEMPLATE_TEST_CASE("small products", "[small_matmul]", float, double) {
  constexpr extent_t n = lanes<TestType>::count;
  auto const rows = GENERATE(range(extent_t{1}, extent_t{15}));
  auto const vectors = GENERATE(range(extent_t{1}, extent_t{8}));
  auto const depth = GENERATE(extent_t{0}, 1, 5, 33);
  auto const columns = vectors * n, step = columns + n;
  yoke::random_sequence random{static_cast<std::uint64_t>(rows + 100 * vectors + 10000 * depth)};
  auto const some = [&](extent_t size) {
    std::vector<TestType> v(static_cast<std::size_t>(size));
    for (auto& x : v) x = static_cast<TestType>(static_cast<int>(random.below(17)) - 8);  // sums are exact
    return v;
  };
  auto const a = some(rows * depth), b = some(depth * step), before = some(rows * step);
  needed const all{0, depth, 0}, less{1, depth, 1};
  for (bool const turned : {false, true})
    for (bool const accumulate : {false, true})
      for (auto const& part : {all, less}) {
        if (part.first > depth)
          continue;
        auto c = before;
        multiply(
            rows, vectors,
            turned ? left_operand<TestType>{a.data(), 1, rows} : left_operand<TestType>{a.data(), depth, 1},
            block<TestType const>{b.data(), step}, block<TestType>{c.data(), step}, accumulate,
            [&](extent_t, extent_t) { return part; });
        for (extent_t r = 0; r < rows; ++r)
          for (extent_t j = 0; j < step; ++j) {
            auto const old = before[static_cast<std::size_t>(r * step + j)];
            auto expected = accumulate ? old : TestType{0};
            for (auto k = part.first; k < part.last; ++k)
              expected += a[static_cast<std::size_t>(turned ? k * rows + r : r * depth + k)] *
                          b[static_cast<std::size_t>(k * step + j)];
            bool const written = j < columns && j >= part.skip * n;
            if (c[static_cast<std::size_t>(r * step + j)] != (written ? expected : old))
              FAIL("row " << r << ", column " << j << " of " << rows << " x " << columns << ", depth "
                          << depth);
          }
      }
}
