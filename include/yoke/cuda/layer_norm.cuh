// Layer normalisation, alone or with an activation behind it: the normalised values are never stored.
#pragma once
#include <yoke/cuda/activation.cuh>
#include <yoke/cuda/rows.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

// Elements that a thread holds of a row in the backward pass.
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

/// F: the activation.
template <int N, int Team, class F, class T>
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
    for (int k = 0; k < N; ++k) v.at[k] = F::value((v.at[k] - mean) * s * gain.at[k] + bias.at[k]);
    save<N>(p.y + r * p.width + i, v, store::overwrite);
  });
}

template <class T, class A = accumulator_t<T>>
struct layer_norm_gradients {
  T const* x;
  A const *gain, *bias, *mean, *reciprocal_deviation;  // bias: of an activation's argument
  T const* dy;
  T* dx;  // null: not wanted
  store how;
  A *dgain, *dbias;     // a line for each team; null: not wanted
  extent_t rows, each;  // each: rows of a team
  int width;
  A share;  // 1 / width
};

template <int N, int Team, class F, class T>
static __global__ void __launch_bounds__(team_block<Team>)
    layer_norm_backward_kernel(layer_norm_gradients<T> p) {
  using A = accumulator_t<T>;
  constexpr int slots = backward_elements<Team> / N;
  constexpr bool plain = std::is_same_v<F, identity>;
  auto const team = team_number<Team>(), first = team * p.each,
             last = first + p.each < p.rows ? first + p.each : p.rows;
  if (first >= p.rows)
    return;
  pack<A, N> dgain[slots] = {}, dbias[slots] = {};
  row_share<T, N, Team, slots> x, dy;
  pack<A, N> held[plain ? 1 : slots];  // the gradient before the activation, dear to compute twice
  for (auto r = first; r < last; ++r) {
    x.load(p.x + r * p.width, p.width);
    dy.load(p.dy + r * p.width, p.width);
    auto const mean = p.mean[r], s = p.reciprocal_deviation[r];
    auto const before_activation = [&](int slot, int i) {
      auto u = dy(slot, i);
      auto const v = x(slot, i), gain = load<N>(p.gain + i), bias = load<N>(p.bias + i);
#pragma unroll
      for (int k = 0; k < N; ++k) u.at[k] *= F::slope((v.at[k] - mean) * s * gain.at[k] + bias.at[k]);
      return u;
    };
    auto const up = [&](int slot, int i) {
      if constexpr (plain)
        return dy(slot, i);
      else
        return slot < slots ? held[slot] : before_activation(slot, i);
    };
    if constexpr (!plain)
      for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
        if (slot < slots)
          held[slot] = before_activation(slot, i);
      });
    if (p.dgain != nullptr)
      for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
        auto v = x(slot, i), u = up(slot, i);
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
    A sums[2] = {0, 0};  // of gradients times gain, and of that times x - mean
    for_packs<N, Team, slots>(p.width, [&](int slot, int i) {
      auto const v = x(slot, i), u = up(slot, i), gain = load<N>(p.gain + i);
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
      auto const u = up(slot, i), gain = load<N>(p.gain + i);
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

template <class F, class T, class A = accumulator_t<T>>
void run_layer_norm(device& c, view<T const, 2> x, view<A const, 1> gain, view<A const, 1> bias, A epsilon,
                    view<T, 2> y, view<A, 1> mean, view<A, 1> reciprocal_deviation) {
  constexpr int N = wide<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  layer_norm_arguments<T> const arguments{.x = x.data,
                                          .gain = gain.data,
                                          .bias = bias.data,
                                          .epsilon = epsilon,
                                          .share = 1 / static_cast<A>(width),
                                          .y = y.data,
                                          .mean = mean.data,
                                          .reciprocal_deviation = reciprocal_deviation.data,
                                          .rows = rows,
                                          .width = static_cast<int>(width)};
  auto const whole = width % N == 0 && packs_are_aligned<N>(x.data, gain.data, bias.data, y.data);
  auto const run = [&]<int Team>(team_of<Team>) {
    launch(c, team_blocks<Team>(rows), team_block<Team>, 0,
           whole ? layer_norm_kernel<N, Team, F, T> : layer_norm_kernel<1, Team, F, T>, arguments);
  };
  if (width <= 32 * forward_elements)
    run(team_of<32>{});
  else
    run(team_of<128>{});
}

/// dx, dgain and dbias may each be absent.
template <class F, class T, class A = accumulator_t<T>>
void run_layer_norm_backward(device& c, view<T const, 2> x, view<A const, 1> gain, view<A const, 1> bias,
                             view<A const, 1> mean, view<A const, 1> reciprocal_deviation,
                             view<T const, 2> dy, view<T, 2> dx, store how, view<A, 1> dgain,
                             view<A, 1> dbias) {
  constexpr int N = wide<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  auto const has_dx = dx.extent(0) != 0, has_sums = dgain.extent(0) != 0 || dbias.extent(0) != 0;
  if (rows == 0 || width == 0 || (!has_dx && !has_sums))
    return;
  auto const run = [&]<int Team>(team_of<Team>) {
    // A team has at least 4 rows, and all make at most 512 blocks: their lines of sums depend on the shape alone.
    constexpr extent_t least = 4, most = 512 * (team_block<Team> / Team);
    auto const each = std::max(least, (rows + most - 1) / most), teams = (rows + each - 1) / each;
    auto* const sums = has_sums ? c.scratch<A>(2 * teams * width) : nullptr;
    auto* const bias_sums = has_sums ? sums + teams * width : nullptr;
    layer_norm_gradients<T> const arguments{.x = x.data,
                                            .gain = gain.data,
                                            .bias = bias.data,
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
                                            .share = 1 / static_cast<A>(width)};
    auto const whole = width % N == 0 && packs_are_aligned<N>(x.data, gain.data, bias.data, dy.data, dx.data);
    launch(c, team_blocks<Team>(teams), team_block<Team>, 0,
           whole ? layer_norm_backward_kernel<N, Team, F, T> : layer_norm_backward_kernel<1, Team, F, T>,
           arguments);
    if (dgain.extent(0) != 0)
      sum_columns(c, sums, teams, width, 1, teams, dgain.data, store::accumulate);
    if (dbias.extent(0) != 0)
      sum_columns(c, bias_sums, teams, width, 1, teams, dbias.data, store::accumulate);
  };
  if (width <= 32 * backward_elements<32>)
    run(team_of<32>{});
  else if (width <= 128 * backward_elements<128>)
    run(team_of<128>{});
  else
    run(team_of<256>{});
}

}  // namespace detail

/// y = (x - mean) / sqrt(variance + epsilon) * gain + bias for each row, mean and 1 / deviation (rows) kept for the
/// backward pass.
template <class T>
void layer_norm_forward(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                        accumulator_t<std::type_identity_t<T>> epsilon, view<std::type_identity_t<T>, 2> y,
                        view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                        view<accumulator_t<std::type_identity_t<T>>, 1> reciprocal_deviation) {
  detail::run_layer_norm<detail::identity, T>(c, x, gain, bias, epsilon, y, mean, reciprocal_deviation);
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
  detail::run_layer_norm_backward<detail::identity, T>(c, x, gain, view<accumulator_t<T> const, 1>{}, mean,
                                                       reciprocal_deviation, dy, dx, how, dgain, dbias);
}

/// y = f(layer_norm(x)) for each row, mean and 1 / deviation (rows) kept for the backward pass, which computes the rest
/// again from x.
template <class T>
void layer_norm_activation_forward(context<T>& c, activation kind, view<std::type_identity_t<T> const, 2> x,
                                   view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                                   view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                                   accumulator_t<std::type_identity_t<T>> epsilon,
                                   view<std::type_identity_t<T>, 2> y,
                                   view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                                   view<accumulator_t<std::type_identity_t<T>>, 1> reciprocal_deviation) {
  detail::with_activation(kind, [&]<class F>(F) {
    detail::run_layer_norm<F, T>(c, x, gain, bias, epsilon, y, mean, reciprocal_deviation);
  });
}

/// The gradient of layer_norm_activation_forward: x, gain, bias, mean, 1 / deviation, dy -> dx with `how`; dgain and
/// dbias (width) accumulate. Each of the three may be absent.
template <class T>
void layer_norm_activation_backward(
    context<T>& c, activation kind, view<std::type_identity_t<T> const, 2> x,
    view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
    view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
    view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
    view<accumulator_t<std::type_identity_t<T>> const, 1> reciprocal_deviation,
    view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx, store how,
    view<accumulator_t<std::type_identity_t<T>>, 1> dgain,
    view<accumulator_t<std::type_identity_t<T>>, 1> dbias) {
  detail::with_activation(kind, [&]<class F>(F) {
    detail::run_layer_norm_backward<F, T>(c, x, gain, bias, mean, reciprocal_deviation, dy, dx, how, dgain,
                                          dbias);
  });
}

}  // namespace yoke::cuda
