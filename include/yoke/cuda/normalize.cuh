// Rows made comparable: layer normalisation and division by the norm; and the sums over rows that gradients of biases
// are.
#pragma once
#include <yoke/cuda/rows.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

// Elements that a thread holds of a row; what is wider is read again.
inline constexpr int forward_elements = 32;
template <int Team>
inline constexpr int backward_elements = Team == 256 ? 16 : 8;  // and as many sums of each kind

template <class T, class A = accumulator_t<T>>
struct layer_norm_arguments {
  T const* x;
  A const *gain, *bias;
  A epsilon, share;  // share: 1 / width
  T* y;
  A *mean, *reciprocal_deviation;
  extent_t rows;
  int width;
};

template <int N, int Team, class T>
static __global__ void __launch_bounds__(team_block<Team>) layer_norm_kernel(layer_norm_arguments<T> p) {
  using A = accumulator_t<T>;
  constexpr int slots = forward_elements / N;
  auto const r = team_number<Team>();
  if (r >= p.rows)
    return;
  row_share<T, N, Team, slots> x;
  x.load(p.x + r * p.width, p.width);
  A sum = 0;
  for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
    auto const v = x(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += v.at[k];
  });
  auto const mean = p.share * team_sum<Team>(sum);
  A squares = 0;
  for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
    auto const v = x(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += (v.at[k] - mean) * (v.at[k] - mean);
  });
  auto const s = 1 / square_root(team_sum<Team>(squares) * p.share + p.epsilon);
  if (team_lane<Team>() == 0) {
    p.mean[r] = mean;
    p.reciprocal_deviation[r] = s;
  }
  for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
    auto v = x(slot, i);
    auto const gain = load<N>(p.gain + i), bias = load<N>(p.bias + i);
#pragma unroll
    for (int k = 0; k < N; ++k) v.at[k] = (v.at[k] - mean) * s * gain.at[k] + bias.at[k];
    save<N>(p.y + r * p.width + i, v, store::overwrite);
  });
}

template <class T, class A = accumulator_t<T>>
struct layer_norm_gradients {
  T const* x;
  A const *gain, *mean, *reciprocal_deviation;
  T const* dy;
  T* dx;  // null: not wanted
  store how;
  A *dgain, *dbias;     // a line for each team; null: not wanted
  extent_t rows, each;  // each: rows of a team
  int width;
  A share;  // 1 / width
};

template <int N, int Team, class T>
static __global__ void __launch_bounds__(team_block<Team>)
    layer_norm_backward_kernel(layer_norm_gradients<T> p) {
  using A = accumulator_t<T>;
  constexpr int slots = backward_elements<Team> / N;
  auto const team = team_number<Team>(), first = team * p.each,
             last = first + p.each < p.rows ? first + p.each : p.rows;
  if (first >= p.rows)
    return;
  pack<A, N> dgain[slots] = {}, dbias[slots] = {};
  row_share<T, N, Team, slots> x, dy;
  for (auto r = first; r < last; ++r) {
    x.load(p.x + r * p.width, p.width);
    dy.load(p.dy + r * p.width, p.width);
    auto const mean = p.mean[r], s = p.reciprocal_deviation[r];
    if (p.dgain != nullptr)
      for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
        auto v = x(slot, i), u = dy(slot, i);
#pragma unroll
        for (int k = 0; k < N; ++k) v.at[k] = (v.at[k] - mean) * s * u.at[k];
        if (slot < slots) {
#pragma unroll
          for (int k = 0; k < N; ++k) {
            dgain[slot].at[k] += v.at[k];
            dbias[slot].at[k] += u.at[k];
          }
        } else {
          auto const how = r == first ? store::overwrite : store::accumulate;
          save<N>(p.dgain + team * p.width + i, v, how);
          save<N>(p.dbias + team * p.width + i, u, how);
        }
      });
    if (p.dx == nullptr)
      continue;
    A sums[2] = {0, 0};  // of dy gain, and of that times x - mean
    for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
      auto const v = x(slot, i), u = dy(slot, i), gain = load<N>(p.gain + i);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        auto const g = u.at[k] * gain.at[k];
        sums[0] += g;
        sums[1] += g * (v.at[k] - mean);
      }
    });
    team_sums<Team>(sums);
    auto const a = p.share * s * sums[0], b = p.share * s * s * s * sums[1];
    for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
      auto v = x(slot, i);
      auto const u = dy(slot, i), gain = load<N>(p.gain + i);
#pragma unroll
      for (int k = 0; k < N; ++k) v.at[k] = u.at[k] * gain.at[k] * s - a - (v.at[k] - mean) * b;
      save<N>(p.dx + r * p.width + i, v, p.how);
    });
  }
  if (p.dgain != nullptr)
    for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
      if (slot < slots) {
        save<N>(p.dgain + team * p.width + i, dgain[slot], store::overwrite);
        save<N>(p.dbias + team * p.width + i, dbias[slot], store::overwrite);
      }
    });
}

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

/// y = (x - mean) / sqrt(variance + epsilon) * gain + bias for each row, mean and 1 / deviation (rows) kept for the
/// backward pass.
template <class T>
void layer_norm_forward(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                        accumulator_t<std::type_identity_t<T>> epsilon, view<std::type_identity_t<T>, 2> y,
                        view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                        view<accumulator_t<std::type_identity_t<T>>, 1> reciprocal_deviation) {
  constexpr int N = detail::wide<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  detail::layer_norm_arguments<T> const arguments{.x = x.data,
                                                  .gain = gain.data,
                                                  .bias = bias.data,
                                                  .epsilon = epsilon,
                                                  .share = 1 / static_cast<accumulator_t<T>>(width),
                                                  .y = y.data,
                                                  .mean = mean.data,
                                                  .reciprocal_deviation = reciprocal_deviation.data,
                                                  .rows = rows,
                                                  .width = static_cast<int>(width)};
  auto const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, gain.data, bias.data, y.data);
  auto const run = [&]<int Team>(detail::team_of<Team>) {
    detail::launch(c, detail::team_blocks<Team>(rows), detail::team_block<Team>, 0,
                   whole ? detail::layer_norm_kernel<N, Team, T> : detail::layer_norm_kernel<1, Team, T>,
                   arguments);
  };
  if (width <= 32 * detail::forward_elements)
    run(detail::team_of<32>{});
  else
    run(detail::team_of<128>{});
}

/// The gradient of layer_norm_forward: x, gain, mean, 1 / deviation, dy -> dx with `how`; dgain and dbias (width)
/// accumulate. Each of the three may be absent.
template <class T>
void layer_norm_backward(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> reciprocal_deviation,
                         view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx,
                         store how, view<accumulator_t<std::type_identity_t<T>>, 1> dgain,
                         view<accumulator_t<std::type_identity_t<T>>, 1> dbias) {
  using A = accumulator_t<T>;
  constexpr int N = detail::wide<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  auto const has_dx = dx.extent(0) != 0, has_sums = dgain.extent(0) != 0 || dbias.extent(0) != 0;
  if (rows == 0 || width == 0 || (!has_dx && !has_sums))
    return;
  auto const run = [&]<int Team>(detail::team_of<Team>) {
    // A team has at least 4 rows, and all make at most 512 blocks: their lines of sums depend on the shape alone.
    constexpr extent_t least = 4, most = 512 * (detail::team_block<Team> / Team);
    auto const each = std::max(least, (rows + most - 1) / most), teams = (rows + each - 1) / each;
    auto* const sums = has_sums ? c.template scratch<A>(2 * teams * width) : nullptr;
    auto* const bias_sums = has_sums ? sums + teams * width : nullptr;
    auto const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, gain.data, dy.data, dx.data);
    detail::launch(c, detail::team_blocks<Team>(teams), detail::team_block<Team>, 0,
                   whole ? detail::layer_norm_backward_kernel<N, Team, T>
                         : detail::layer_norm_backward_kernel<1, Team, T>,
                   {.x = x.data,
                    .gain = gain.data,
                    .mean = mean.data,
                    .reciprocal_deviation = reciprocal_deviation.data,
                    .dy = dy.data,
                    .dx = has_dx ? dx.data : nullptr,
                    .how = how,
                    .dgain = sums,
                    .dbias = bias_sums,
                    .rows = rows,
                    .each = each,
                    .width = static_cast<int>(width),
                    .share = 1 / static_cast<A>(width)});
    if (dgain.extent(0) != 0)
      detail::sum_columns(c, sums, teams, width, 1, teams, dgain.data, store::accumulate);
    if (dbias.extent(0) != 0)
      detail::sum_columns(c, bias_sums, teams, width, 1, teams, dbias.data, store::accumulate);
  };
  if (width <= 32 * detail::backward_elements<32>)
    run(detail::team_of<32>{});
  else if (width <= 128 * detail::backward_elements<128>)
    run(detail::team_of<128>{});
  else
    run(detail::team_of<256>{});
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
