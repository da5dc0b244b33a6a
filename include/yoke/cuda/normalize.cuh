// Rows made comparable: layer normalisation (layer_norm.cuh) and division by the norm; and the sums over rows that
// gradients of biases are.
#pragma once
#include <yoke/cuda/layer_norm.cuh>
#include <yoke/cuda/rows.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

template <int N, class X, class Y>
static __global__ void __launch_bounds__(team_block<32>)
    l2_normalize_kernel(X const* x, Y* y, accumulator_t<X>* inverse_norm, extent_t rows, int width) {
  using A = accumulator_t<X>;
  constexpr int slots = forward_elements / N;
  auto const r = team_number<32>();
  if (r >= rows)
    return;
  row_share<X, N, 32, slots> from;
  from.load(x + r * width, width);
  A squares = 0;
  for_packs<N, 32, slots>(width, [&](int slot, int i) {
    auto const v = from(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += v.at[k] * v.at[k];
  });
  auto const s = 1 / larger(square_root(warp_sum(squares)), A(1e-12));
  if (team_lane<32>() == 0)
    inverse_norm[r] = s;
  for_packs<N, 32, slots>(width, [&](int slot, int i) {
    auto v = from(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) v.at[k] *= s;
    save<N>(y + r * width + i, v, store::overwrite);
  });
}

template <int N, class X, class Y>
static __global__ void __launch_bounds__(team_block<32>)
    l2_normalize_backward_kernel(X const* y, accumulator_t<X> const* inverse_norm, X const* dy, Y* dx,
                                 store how, extent_t rows, int width) {
  using A = accumulator_t<X>;
  constexpr int slots = 16 / N;
  auto const r = team_number<32>();
  if (r >= rows)
    return;
  row_share<X, N, 32, slots> unit, up;
  unit.load(y + r * width, width);
  up.load(dy + r * width, width);
  A along = 0;
  for_packs<N, 32, slots>(width, [&](int slot, int i) {
    auto const v = unit(slot, i), u = up(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) along += v.at[k] * u.at[k];
  });
  along = warp_sum(along);
  auto const s = inverse_norm[r];
  if (s >= 1 / A(1e-12))  // only scaled
    along = 0;
  for_packs<N, 32, slots>(width, [&](int slot, int i) {
    auto v = unit(slot, i);
    auto const u = up(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) v.at[k] = (u.at[k] - v.at[k] * along) * s;
    save<N>(dx + r * width + i, v, how);
  });
}

}  // namespace detail

/// to (width) = or += the sum of x's rows (rows, width).
template <class T>
void sum_rows(context<T>& c, view<std::type_identity_t<T> const, 2> x,
              view<accumulator_t<std::type_identity_t<T>>, 1> to, store how) {
  auto const rows = x.extent(0), width = x.extent(1);
  constexpr extent_t least = 64, most_blocks = 1024;
  auto const across = (width + 32 * detail::wide<T> - 1) / (32 * detail::wide<T>);
  auto const wanted = std::min((rows + least - 1) / least, most_blocks / std::max<extent_t>(across, 1));
  if (wanted <= 1) {
    detail::sum_columns(c, x.data, rows, width, 1, rows, to.data, how);
    return;
  }
  auto const each = (rows + wanted - 1) / wanted, parts = (rows + each - 1) / each;
  auto* const sums = c.template scratch<accumulator_t<T>>(parts * width);
  detail::sum_columns(c, x.data, rows, width, parts, each, sums, store::overwrite);
  detail::sum_columns(c, sums, parts, width, 1, parts, to.data, how);
}

/// y = x / |x| for each row, the norm taken as at least 1e-12; and 1 / norm (rows).
template <class T, class X, class Y>
void l2_normalize_forward(context<T>& c, view<X const, 2> x, view<Y, 2> y,
                          view<accumulator_t<std::type_identity_t<T>>, 1> inverse_norm) {
  constexpr int N = detail::neighbours<X, Y>;
  auto const rows = x.extent(0), width = x.extent(1);
  auto const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, y.data);
  detail::launch(c, detail::team_blocks<32>(rows), detail::team_block<32>, 0,
                 whole ? detail::l2_normalize_kernel<N, X, Y> : detail::l2_normalize_kernel<1, X, Y>, x.data,
                 y.data, inverse_norm.data, rows, static_cast<int>(width));
}

/// The gradient of l2_normalize_forward: y, 1 / norm, dy -> dx with `how`. Rows whose norm was below 1e-12 were only
/// scaled.
template <class T, class X, class Y>
void l2_normalize_backward(context<T>& c, view<X const, 2> y,
                           view<accumulator_t<std::type_identity_t<T>> const, 1> inverse_norm,
                           view<std::type_identity_t<X> const, 2> dy, view<Y, 2> dx, store how) {
  constexpr int N = detail::neighbours<X, Y>;
  auto const rows = y.extent(0), width = y.extent(1);
  auto const whole = width % N == 0 && detail::packs_are_aligned<N>(y.data, dy.data, dx.data);
  detail::launch(
      c, detail::team_blocks<32>(rows), detail::team_block<32>, 0,
      whole ? detail::l2_normalize_backward_kernel<N, X, Y> : detail::l2_normalize_backward_kernel<1, X, Y>,
      y.data, inverse_norm.data, dy.data, dx.data, how, rows, static_cast<int>(width));
}

}  // namespace yoke::cuda
