// Multi-head self-attention over segments. Work is shared out by (segment, head): what a segment
// gives depends neither on its neighbours nor on the number of threads.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cpu/attention_head.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/parallel.hpp>
#include <yoke/cpu/scratch.hpp>

#include <algorithm>
#include <atomic>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// Head h of segment s.
template <class T>
head<T> head_of(attention_shape shape, segments const& runs, view<T const, 2> qkv, view<T const, 3> bias,
                extent_t s, extent_t h) {
  auto const width = qkv.extent(1) / 3, head_width = width / shape.heads, side = bias.extent(1);
  auto const* const q = qkv.data + runs.begin(s) * 3 * width + h * head_width;
  return {q,
          q + width,
          q + 2 * width,
          3 * width,
          runs.length(s),
          head_width,
          bias.extent(0) == 0 ? nullptr : bias.data + h * side * side,
          side,
          shape.causal};
}

/// Multiply-adds that are worth another thread: some ten microseconds.
inline constexpr extent_t least_attention = extent_t{1} << 20;

/// Calls f(item) once for each of `items`, which are `work` multiply-adds together; threads take the
/// next few as they become free, because segments differ in length. Each first takes `elements` of
/// scratch memory, enough for the longest segment, so that a later step finds none lacking.
template <class A, class F>
void share_out(extent_t items, extent_t work, extent_t elements, F const& f) {
  auto const threads =
      std::min({items, extent_t{thread_count()}, std::max<extent_t>(1, work / least_attention)});
  auto const few = std::max<extent_t>(1, items / (16 * std::max<extent_t>(threads, 1)));
  std::atomic<extent_t> next{0};
  parallel_for(threads, 1, [&](extent_t, extent_t) {
    scratch<A>{elements};
    for (;;) {
      auto const first = next.fetch_add(few, std::memory_order_relaxed);
      if (first >= items)
        return;
      for (auto i = first; i < std::min(items, first + few); ++i) f(i);
    }
  });
}

}  // namespace detail

/// out = softmax(q k^T / sqrt(head width) + bias) v for each head of each segment.
/// qkv (rows, 3 width) = [q | k | v]; bias (heads, longest, longest) optional -> out (rows, width)
/// and the logarithm of each row's sum of exponentials (heads, rows).
template <class T>
void attention_forward(context<T>&, attention_shape shape, segments const& runs,
                       view<std::type_identity_t<T> const, 2> qkv,
                       view<std::type_identity_t<T> const, 3> bias, view<std::type_identity_t<T>, 2> out,
                       view<accumulator_t<std::type_identity_t<T>>, 2> lse) {
  expect_attention(shape, runs, qkv.shape, bias.shape, out.shape, lse.shape);
  auto const width = out.extent(1);
  auto const work = 2 * runs.rows * runs.longest * width;
  auto const elements = detail::attend_elements<accumulator_t<T>>(runs.longest, width / shape.heads);
  detail::share_out<accumulator_t<T>>(runs.count * shape.heads, work, elements, [&](extent_t item) {
    auto const s = item / shape.heads, h = item % shape.heads, begin = runs.begin(s);
    auto const x = detail::head_of<T>(shape, runs, qkv, bias, s, h);
    detail::attend(x, out.data + begin * width + h * x.width, width, lse.data + h * runs.rows + begin);
  });
}

/// The gradient of attention_forward: qkv, bias, its out and log-sum-exp, dout (rows, width) ->
/// dqkv (rows, 3 width) with `how`, dbias (heads, longest, longest; optional) with `bias_how`,
/// summed over the segments in accumulators.
template <class T>
void attention_backward(context<T>&, attention_shape shape, segments const& runs,
                        view<std::type_identity_t<T> const, 2> qkv,
                        view<std::type_identity_t<T> const, 3> bias,
                        view<std::type_identity_t<T> const, 2> out,
                        view<accumulator_t<std::type_identity_t<T>> const, 2> lse,
                        view<std::type_identity_t<T> const, 2> dout, view<std::type_identity_t<T>, 2> dqkv,
                        store how, view<std::type_identity_t<T>, 3> dbias, store bias_how) {
  using A = accumulator_t<T>;
  expect_attention(shape, runs, qkv.shape, bias.shape, out.shape, lse.shape);
  expects(dout.shape == out.shape && dqkv.shape == qkv.shape,
          "attention_backward: gradients have the shapes of their values");
  expects(dbias.extent(0) == 0 || dbias.shape == bias.shape,
          "attention_backward: dbias has the shape of bias");
  auto const width = out.extent(1), heads = shape.heads, square = bias.extent(1) * bias.extent(1);

  // With dbias an item is one head of a group of segments, summed in order into the group's part:
  // the groups depend on the shapes alone, so the sum does not depend on the threads.
  bool const sums = dbias.extent(0) != 0;
  auto const groups =
      sums ? std::clamp<extent_t>((32 + heads - 1) / heads, 1, std::max<extent_t>(runs.count, 1))
           : runs.count;
  auto const part = [&, all = detail::scratch<A, 1>{sums ? groups * heads * square : 0}.take(0)](
                        extent_t item) { return all + item * square; };
  auto const work = 5 * runs.rows * runs.longest * width;
  auto const elements = detail::attend_backward_elements<A>(runs.longest, width / heads);
  detail::share_out<A>(groups * heads, work, elements, [&](extent_t item) {
    auto const group = item / heads, h = item % heads;
    if (sums)
      std::fill_n(part(item), square, A{0});
    for (auto s = runs.count * group / groups; s < runs.count * (group + 1) / groups; ++s) {
      auto const x = detail::head_of<T>(shape, runs, qkv, bias, s, h);
      auto const begin = runs.begin(s);
      auto* const dq = dqkv.data + begin * 3 * width + h * x.width;
      detail::attend_backward(x, lse.data + h * runs.rows + begin, dout.data + begin * width + h * x.width,
                              width, dq, dq + width, dq + 2 * width, how, sums ? part(item) : nullptr);
    }
  });
  if (sums)
    parallel_for(heads * square, 4096, [&](extent_t first, extent_t last) {
      for (auto e = first; e < last; ++e) {
        A sum = bias_how == store::overwrite ? A{0} : static_cast<A>(dbias.data[e]);
        for (extent_t group = 0; group < groups; ++group) sum += part(group * heads)[e];
        dbias.data[e] = static_cast<T>(sum);
      }
    });
}

}  // namespace yoke::cpu
