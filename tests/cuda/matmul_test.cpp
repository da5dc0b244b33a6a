// Products on CUDA are the CPU's: every type, transpose and store, odd shapes and addresses, empty operands; and
// cublasLt is asked once a shape.
#include <yoke/cpu/matmul.hpp>
#include <yoke/cuda/matmul.cuh>

#include "cuda/twins.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace twins;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using yoke::transpose;

namespace {

shape<2> stored_shape(transpose t, extent_t rows, extent_t columns) {
  return t == transpose::yes ? shape<2>{{columns, rows}} : shape<2>{{rows, columns}};
}

/// The sums of k terms near 1.
double size_of(extent_t k) {
  return 4 + 2 * std::sqrt(static_cast<double>(k));
}

template <class T, class X, class Y>
void check_product(extent_t m, extent_t n, extent_t k, transpose ta, transpose tb, store how) {
  INFO("m n k " << m << " " << n << " " << k << ", transposed " << int(ta) << int(tb) << ", " << int(how));
  auto& c = card<T>();
  tensor<X, 2> const a{stored_shape(ta, m, k), 1}, b{stored_shape(tb, k, n), 2};
  tensor<Y, 2> const before{{{m, n}}, 3};
  auto expected = before;
  gemm(device<T>(), ta, tb, a.read(), b.read(), expected.view(), how);
  on<X, 2> const there_a{c, a}, there_b{c, b};
  on<Y, 2> const d{c, before};
  gemm(c, ta, tb, there_a.read(), there_b.read(), d.view(), how);
  same(d.back(c), expected, size_of(k));
}

template <class T>
void check_all(extent_t m, extent_t n, extent_t k) {
  using A = accumulator_t<T>;
  for (auto ta : {transpose::no, transpose::yes})
    for (auto tb : {transpose::no, transpose::yes})
      for (auto how : {store::overwrite, store::accumulate}) {
        check_product<T, T, T>(m, n, k, ta, tb, how);
        check_product<T, T, A>(m, n, k, ta, tb, how);
        check_product<T, A, A>(m, n, k, ta, tb, how);
      }
}

/// Numbers that bf16 has as well, because a bias comes to a bf16 result as one.
template <class T, class A>
void round_to_element(tensor<A, 1>& v) {
  for (auto& x : v.data) x = static_cast<A>(static_cast<T>(x));
}

template <class T>
void check_linear(extent_t rows, extent_t in, extent_t out, bool with_bias, extent_t bias_offset = 0) {
  using A = accumulator_t<T>;
  INFO("rows, in, out " << rows << " " << in << " " << out << ", bias " << with_bias << " at "
                        << bias_offset);
  auto& c = card<T>();
  tensor<T, 2> const x{{{rows, in}}, 1}, w{{{out, in}}, 2};
  tensor<A, 1> bias{{{out + bias_offset}}, 3};
  round_to_element<T>(bias);
  auto const part = [&](view<A const, 1> all) { return slice(all, bias_offset, with_bias ? out : 0); };
  tensor<T, 2> const before{{{rows, out}}, 4};
  auto expected = before;
  linear_forward(device<T>(), x.read(), w.read(), part(bias.read()), expected.view());
  on<T, 2> const there_x{c, x}, there_w{c, w}, y{c, before};
  on<A, 1> const there_bias{c, bias};
  linear_forward(c, there_x.read(), there_w.read(), part(there_bias.read()), y.view());
  same(y.back(c), expected, size_of(in));
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA: gemm", "", double, float, bf16) {
  auto const m = GENERATE(as<extent_t>{}, 1, 3, 64), n = GENERATE(as<extent_t>{}, 1, 7, 40),
             k = GENERATE(as<extent_t>{}, 1, 5, 96);
  check_all<TestType>(m, n, k);
}

TEMPLATE_TEST_CASE("CUDA: gemm of random shapes", "", double, float, bf16) {
  yoke::random_sequence draw{7};
  auto const extent = [&] { return static_cast<extent_t>(1 + draw.below(90)); };
  for (int i = 0; i < 12; ++i) {
    auto const m = extent(), n = extent(), k = extent();
    check_product<TestType, TestType, TestType>(m, n, k, transpose::no, transpose::yes, store::overwrite);
    check_product<TestType, TestType, TestType>(m, n, k, transpose::no, transpose::no, store::accumulate);
    check_product<TestType, TestType, accumulator_t<TestType>>(m, n, k, transpose::yes, transpose::no,
                                                               store::accumulate);
  }
}

TEMPLATE_TEST_CASE("CUDA: gemm of nothing", "", double, float, bf16) {
  check_all<TestType>(0, 3, 4);
  check_all<TestType>(3, 0, 4);
  check_all<TestType>(3, 4, 0);
  check_all<TestType>(100, 40, 0);
}

TEMPLATE_TEST_CASE("CUDA: gemm of operands that begin anywhere", "", double, float, bf16) {
  auto& c = card<TestType>();
  for (extent_t first : {1, 2, 4, 9}) {
    extent_t const m = 24, n = 16, k = 40;
    tensor<TestType, 1> const a{{{first + m * k}}, 1}, b{{{first + k * n}}, 2}, before{{{first + m * n}}, 3};
    auto const part = [&](auto all, extent_t rows, extent_t columns) {
      return view<std::remove_pointer_t<decltype(all.data)>, 2>{all.data + first, {{rows, columns}}};
    };
    auto expected = before;
    gemm(device<TestType>(), transpose::no, transpose::no, part(a.read(), m, k), part(b.read(), k, n),
         part(expected.view(), m, n), store::accumulate);
    on<TestType, 1> const there_a{c, a}, there_b{c, b}, d{c, before};
    gemm(c, transpose::no, transpose::no, part(there_a.read(), m, k), part(there_b.read(), k, n),
         part(d.view(), m, n), store::accumulate);
    same(d.back(c), expected, size_of(k));
  }
}

TEMPLATE_TEST_CASE("CUDA: linear_forward", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 9, 70), in = GENERATE(as<extent_t>{}, 0, 3, 96),
             out = GENERATE(as<extent_t>{}, 0, 5, 80);
  for (bool with_bias : {true, false}) check_linear<TestType>(rows, in, out, with_bias);
}

TEMPLATE_TEST_CASE("CUDA: linear_forward with a bias that begins anywhere", "", double, float, bf16) {
  for (extent_t offset : {1, 2, 3, 4}) check_linear<TestType>(8, 16, 24, true, offset);
}

TEST_CASE("CUDA: products in TF32 keep ten bits of each factor") {
  yoke::cuda::context<float> c{yoke::mebibytes(1), yoke::mebibytes(1), {.tf32 = true}};
  tensor<float, 2> const a{{{20, 64}}, 1}, b{{{64, 30}}, 2};
  tensor<float, 2> sizes{{{20, 30}}}, expected{{{20, 30}}};
  gemm(device<float>(), transpose::no, transpose::no, a.read(), b.read(), expected.view(), store::overwrite);
  for (extent_t i = 0; i < 20; ++i)
    for (extent_t j = 0; j < 30; ++j)
      for (extent_t l = 0; l < 64; ++l)
        sizes.data[at(i * 30 + j)] += static_cast<float>(std::abs(a(i, l) * b(l, j)));
  on<float, 2> const there_a{c, a}, there_b{c, b}, d{c, expected};
  gemm(c, transpose::no, transpose::no, there_a.read(), there_b.read(), d.view(), store::overwrite);
  auto const found = d.back(c);
  for (extent_t i = 0; i < 600; ++i) REQUIRE(std::abs(found[i] - expected[i]) <= 0x1p-10 * sizes[i]);
}

TEST_CASE("CUDA: a shape's algorithm is chosen once") {
  yoke::cuda::context<bf16> c{yoke::mebibytes(1), yoke::mebibytes(1)};
  on<bf16, 2> const a{c, tensor<bf16, 2>{{{32, 16}}, 1}}, b{c, tensor<bf16, 2>{{{16, 32}}, 2}};
  on<bf16, 2> const d{c, tensor<bf16, 2>{{{32, 32}}}};
  auto const multiply = [&](extent_t rows, store how) {
    gemm(c, transpose::no, transpose::no, slice(a.read(), 0, rows), b.read(), slice(d.view(), 0, rows), how);
    return c.products.size();
  };
  CHECK(multiply(32, store::overwrite) == 1);
  CHECK(multiply(32, store::overwrite) == 1);
  CHECK(multiply(32, store::accumulate) == 2);
  CHECK(multiply(31, store::overwrite) == 3);
  CHECK(multiply(32, store::overwrite) == 3);
}

TEST_CASE("CUDA: more shapes than algorithms are kept") {
  using yoke::cuda::detail::matmul_cache, yoke::cuda::detail::product, yoke::cuda::detail::as_operand;
  auto& c = card<float>();
  matmul_cache cache{3};
  for (extent_t n : {32, 33, 34, 35, 32, 36, 33, 33}) {
    tensor<float, 2> const a{{{32, 32}}, 1}, b{{{32, n}}, 2};
    tensor<float, 2> expected{{{32, n}}};
    gemm(device<float>(), transpose::no, transpose::no, a.read(), b.read(), expected.view(),
         store::overwrite);
    on<float, 2> const there_a{c, a}, there_b{c, b}, d{c, expected};
    product const p{.a = as_operand(there_a.read()),
                    .b = as_operand(there_b.read()),
                    .d = as_operand(d.view()),
                    .in = CUDA_R_32F,
                    .out = CUDA_R_32F};
    cache.run(c.library(), c.stream(), c.library_memory(), p, there_a.read().data, there_b.read().data,
              nullptr, d.view().data);
    same(d.back(c), expected, size_of(32));
    CHECK(cache.size() <= 3);
  }
}

TEST_CASE("CUDA: a product that cublasLt has no algorithm for is named") {
  using yoke::cuda::detail::matmul_cache, yoke::cuda::detail::product;
  auto& c = card<double>();
  matmul_cache cache;
  product const p{.a = {3, 4, 4, false, 16},
                  .b = {5, 4, 4, true, 16},
                  .d = {3, 5, 5, false, 16},
                  .in = CUDA_R_16BF,
                  .out = CUDA_R_64F};
  on<double, 2> const any{c, tensor<double, 2>{{{8, 8}}}};
  auto* const data = any.view().data;
  CHECK_THROWS_MATCHES(
      cache.run(c.library(), c.stream(), c.library_memory(), p, data, data, nullptr, data), yoke::cuda::error,
      MessageMatches(ContainsSubstring("cublasLt has no algorithm for the product of (3, 4) bf16") &&
                     ContainsSubstring("(5, 4) bf16 transposed") && ContainsSubstring("(3, 5) double")));
}
