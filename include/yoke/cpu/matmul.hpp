// Matrix products: Eigen for doubles and for what is small, oneDNN for the rest. Transposes are
// strides, never copies.
#pragma once
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/parallel.hpp>

#include <array>
#include <type_traits>

#if defined(__GNUC__) && !defined(__clang__)  // g++ 12 takes AVX-512's undefined registers for mistakes
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace yoke::cpu {

namespace detail {

/// A matrix as it lies in memory, rows `row_stride` elements apart; `transposed` when its transpose
/// is meant.
template <class T>
struct matrix {
  T* data;
  extent_t rows, columns, row_stride;
  bool transposed = false;
};

/// Up to so many multiply-adds Eigen's product of floats is the faster one.
inline constexpr extent_t small_product = 32 * 32 * 32;

template <class X>
auto as_eigen(matrix<X const> a) {
  using plain = Eigen::Matrix<X, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<plain const, Eigen::Unaligned, Eigen::OuterStride<>>(a.data, a.rows, a.columns,
                                                                         Eigen::OuterStride<>(a.row_stride));
}

template <class X>
std::array<extent_t, 2> strides_of(matrix<X const> a) {
  return a.transposed ? std::array{extent_t{1}, a.row_stride} : std::array{a.row_stride, extent_t{1}};
}

/// Rows, columns and depth together from which on Eigen multiplies by blocks. Below, it takes several elements at a time
/// from where a row of d is aligned, and adds up the terms of those in another order than those of the others: sums that
/// depend on where d lies.
inline constexpr extent_t tiny_product = 20;

template <class X>
void matmul_tiny(matrix<X const> a, matrix<X const> b, X const* bias, matrix<X> d, bool accumulate) {
  auto const depth = a.transposed ? a.rows : a.columns;
  auto const [a_row, a_column] = strides_of(a);
  auto const [b_row, b_column] = strides_of(b);
  for (extent_t i = 0; i < d.rows; ++i) {
    X sums[tiny_product]{};
    for (extent_t k = 0; k < depth; ++k) {
      auto const x = a.data[i * a_row + k * a_column];
      auto const* const y = b.data + k * b_row;
      for (extent_t j = 0; j < d.columns; ++j) sums[j] += x * y[j * b_column];
    }
    auto* const to = d.data + i * d.row_stride;
    for (extent_t j = 0; j < d.columns; ++j)
      to[j] = (accumulate ? to[j] : X{}) + (bias == nullptr ? X{} : bias[j]) + sums[j];
  }
}

template <class X>
void matmul_by_eigen(matrix<X const> a, matrix<X const> b, X const* bias, matrix<X> d, bool accumulate) {
  if (d.rows + d.columns + (a.transposed ? a.rows : a.columns) < tiny_product)
    return matmul_tiny(a, b, bias, d, accumulate);
  auto const x = as_eigen(a), y = as_eigen(b);
  using plain = Eigen::Matrix<X, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<plain, Eigen::Unaligned, Eigen::OuterStride<>> z(d.data, d.rows, d.columns,
                                                              Eigen::OuterStride<>(d.row_stride));
  if (!accumulate)
    z.setZero();
  if (bias != nullptr)
    z.rowwise() += Eigen::Map<Eigen::Matrix<X, 1, Eigen::Dynamic> const>(bias, d.columns);
  if (a.transposed && b.transposed)
    z.noalias() += x.transpose() * y.transpose();
  else if (a.transposed)
    z.noalias() += x.transpose() * y;
  else if (b.transposed)
    z.noalias() += x * y.transpose();
  else
    z.noalias() += x * y;
}

template <class X, class Y>
bool matmul_by_onednn(matmul_cache& cache, matrix<X const> a, matrix<X const> b, float const* bias,
                      matrix<Y> d, bool accumulate) {
  product const p{.m = d.rows,
                  .n = d.columns,
                  .k = a.transposed ? a.rows : a.columns,
                  .a_strides = strides_of(a),
                  .b_strides = strides_of(b),
                  .d_stride = d.row_stride,
                  .in = number_type<X>,
                  .out = number_type<Y>,
                  .accumulate = accumulate,
                  .bias = bias != nullptr,
                  .sums_rows = a.transposed,
                  .threads = thread_count()};
  return cache.run(p, a.data, b.data, bias, d.data);
}

/// A copy of a as floats, without gaps between its rows.
inline matrix<float const> widened(matrix<bf16 const> a, float* copy) {
  for (extent_t i = 0; i < a.rows; ++i)
    for (extent_t j = 0; j < a.columns; ++j) copy[i * a.columns + j] = a.data[i * a.row_stride + j];
  return {copy, a.rows, a.columns, a.columns, a.transposed};
}

/// For processors on which oneDNN does not know bf16: the product of copies in float.
template <class Y>
void matmul_widened(matmul_cache& cache, matrix<bf16 const> a, matrix<bf16 const> b, float const* bias,
                    matrix<Y> d, bool accumulate) {
  auto const a_size = a.rows * a.columns, b_size = b.rows * b.columns;
  buffer<float> copies(cache, a_size + b_size + d.rows * d.columns);
  auto* const first = copies.view().data;
  matrix<float> const sum{first + a_size + b_size, d.rows, d.columns, d.columns};
  matmul_by_onednn(cache, widened(a, first), widened(b, first + a_size), bias, sum, false);
  for (extent_t i = 0; i < d.rows; ++i)
    for (extent_t j = 0; j < d.columns; ++j) {
      auto& to = d.data[i * d.row_stride + j];
      auto const value = sum.data[i * d.columns + j];
      to = static_cast<Y>(accumulate ? static_cast<float>(to) + value : value);
    }
}

/// d = or += op(a) op(b) + bias, where bias (columns of d) may be null. Also from inside a parallel
/// region, on one thread, with primitives that are this thread's own.
template <class T, class X, class Y>
void matmul_strided(context<T>& c, matrix<X const> a, matrix<X const> b, matrix<Y> d, bool accumulate,
                    accumulator_t<X> const* bias = nullptr) {
  auto const depth = a.transposed ? a.rows : a.columns;
  if (d.rows == 0 || d.columns == 0)
    return;
  if constexpr (std::is_same_v<X, double>) {
    matmul_by_eigen(a, b, bias, d, accumulate);
  } else {
    if constexpr (std::is_same_v<X, float>)
      if (d.rows * d.columns * depth <= small_product)
        return matmul_by_eigen(a, b, bias, d, accumulate);
    if (depth == 0) {  // not a shape for oneDNN
      for (extent_t i = 0; i < d.rows && !accumulate; ++i)
        for (extent_t j = 0; j < d.columns; ++j)
          d.data[i * d.row_stride + j] = static_cast<Y>(bias == nullptr ? 0.0f : bias[j]);
      return;
    }
    auto* cache = &c.products;
    if (omp_in_parallel() != 0) {
      thread_local matmul_cache own;
      cache = &own;
    }
    auto const done = matmul_by_onednn(*cache, a, b, bias, d, accumulate);
    if constexpr (std::is_same_v<X, bf16>)
      if (!done)
        matmul_widened(*cache, a, b, bias, d, accumulate);
  }
}

template <class X>
matrix<X> as_matrix(view<X, 2> v, yoke::transpose t = yoke::transpose::no) {
  return {v.data, v.extent(0), v.extent(1), v.extent(1), t == yoke::transpose::yes};
}

}  // namespace detail

/// d (m, n) = or += op(a) (m, k) op(b) (k, n). Sums are in accumulators and rounded once.
template <class T, class X, class Y>
void gemm(context<T>& c, transpose ta, transpose tb, view<X const, 2> a, view<X const, 2> b, view<Y, 2> d,
          store how) {
  detail::matmul_strided(c, detail::as_matrix(a, ta), detail::as_matrix(b, tb), detail::as_matrix(d),
                         how == store::accumulate);
}

/// y (rows, out) = x (rows, in) w^T + bias; w (out, in), bias (out) or absent.
template <class T>
void linear_forward(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                    view<std::type_identity_t<T> const, 2> w,
                    view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                    view<std::type_identity_t<T>, 2> y) {
  detail::matmul_strided(c, detail::as_matrix(x), detail::as_matrix(w, transpose::yes), detail::as_matrix(y),
                         false, bias.extent(0) == 0 ? nullptr : bias.data);
}

}  // namespace yoke::cpu
