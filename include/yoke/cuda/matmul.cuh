// Matrix products, by cublasLt. Transposes are flags, never copies. Biases go with the product; GELU does not, because
// cublasLt's is the tanh form and models are trained with the other one.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/numeric.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Every row of d (rows, columns) = bias, or zeros where there is none.
template <class Y, class A>
static __global__ void fill_rows_kernel(extent_t elements, extent_t columns, A const* bias, Y* d) {
  auto const stride = static_cast<extent_t>(gridDim.x) * blockDim.x;
  for (auto i = static_cast<extent_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += stride)
    d[i] = narrow<Y>(bias == nullptr ? A(0) : bias[i % columns]);
}

template <class Y, class A>
void fill_rows(device& c, A const* bias, view<Y, 2> d) {
  launch(c, blocks_for(c, d.size(), 256), 256, 0, fill_rows_kernel<Y, A>, d.size(), d.extent(1), bias,
         d.data);
}

/// The bias as cublasLt wants it, which is of the result's type and aligned: itself, or a copy where there is room for
/// it. A bf16 result's bias is rounded to bf16 therefore, where the CPU adds it in float.
template <class Y, class A>
Y const* bias_for_product(device& c, view<A const, 1> bias, Y* room) {
  if constexpr (std::is_same_v<Y, A>)
    if (alignment_of(bias.data) >= 16)
      return bias.data;
  fill_rows(c, bias.data, view<Y, 2>{room, {{1, bias.extent(0)}}});
  return room;
}

template <class X>
operand as_operand(view<X, 2> v, yoke::transpose t = yoke::transpose::no) {
  return {v.extent(0), v.extent(1), v.extent(1), t == yoke::transpose::yes,
          alignment_of(v.data, v.extent(1) * static_cast<extent_t>(sizeof(X)))};
}

/// d = or += op(a) op(b) + bias, where bias (columns of d) may be null and is as bias_for_product has it. No extent
/// is 0.
template <class T, class X, class Y>
void multiply(context<T>& c, transpose ta, transpose tb, view<X const, 2> a, view<X const, 2> b,
              Y const* bias, view<Y, 2> d, bool accumulate) {
  product const p{.a = as_operand(a, ta),
                  .b = as_operand(b, tb),
                  .d = as_operand(d),
                  .in = number_type<X>,
                  .out = number_type<Y>,
                  .accumulate = accumulate,
                  .bias = bias != nullptr,
                  .tf32 = std::is_same_v<X, float> && c.options().tf32,
                  .bias_alignment = bias == nullptr ? 0 : alignment_of(bias)};
  c.products.run(c.library(), c.stream(), c.library_memory(), p, a.data, b.data, bias, d.data);
}

}  // namespace detail

/// d (m, n) = or += op(a) (m, k) op(b) (k, n). Sums are in accumulators and rounded once.
template <class T, class X, class Y>
void gemm(context<T>& c, transpose ta, transpose tb, view<X const, 2> a, view<X const, 2> b, view<Y, 2> d,
          store how) {
  if (d.size() == 0)
    return;
  if (a.size() > 0)
    detail::multiply(c, ta, tb, a, b, static_cast<Y const*>(nullptr), d, how == store::accumulate);
  else if (how == store::overwrite)
    detail::fill_rows(c, static_cast<accumulator_t<T> const*>(nullptr), d);
}

namespace detail {

/// linear_forward, with room for a copy of the bias.
template <class T, class A = accumulator_t<T>>
void linear_with_room(context<T>& c, view<T const, 2> x, view<T const, 2> w, view<A const, 1> bias,
                      view<T, 2> y, T* room) {
  if (y.size() == 0)
    return;
  // cublasLt promises no bias with sums in double: there the product is added to it.
  constexpr bool bias_first = std::is_same_v<T, double>;
  bool const absent = bias.extent(0) == 0;
  if (x.size() == 0 || (bias_first && !absent))
    fill_rows(c, absent ? nullptr : bias.data, y);
  if (x.size() == 0)
    return;
  T const* with = nullptr;
  if constexpr (!bias_first)
    if (!absent)
      with = bias_for_product(c, bias, room);
  multiply(c, transpose::no, transpose::yes, x, w, with, y, bias_first && !absent);
}

}  // namespace detail

/// y (rows, out) = x (rows, in) w^T + bias; w (out, in), bias (out) or absent.
template <class T>
void linear_forward(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                    view<std::type_identity_t<T> const, 2> w,
                    view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                    view<std::type_identity_t<T>, 2> y) {
  detail::linear_with_room<T>(c, x, w, bias, y, c.template scratch<T>(bias.extent(0)));
}

}  // namespace yoke::cuda
