// Attention of one head over one segment, and its gradient, on one thread. Beyond the head's own values in
// accumulators it takes 64 logits a key (twice that for the gradient), however long the segment.
#pragma once
#include <yoke/cpu/attention_softmax.hpp>
#include <yoke/cpu/scratch.hpp>

#include <algorithm>
#include <cmath>

namespace yoke::cpu::detail {

/// Elements of scratch memory that attend and attend_backward take.
template <class A>
extent_t attend_elements(extent_t length, extent_t width) {
  auto const wide = whole_vectors<A>(width), most = panel_queries;
  return 2 * length * wide + 3 * most * wide + length * most + 2 * most;
}
template <class A>
extent_t attend_backward_elements(extent_t length, extent_t width) {
  auto const wide = whole_vectors<A>(width), most = panel_queries;
  return 4 * length * wide + 5 * most * wide + 2 * length * most + most;
}

/// out (length, width) with rows `out_step` apart, lse (length).
template <class A, class T>
void attend(head<T> const& x, T* out, extent_t out_step, A* lse) {
  static_assert(panel_queries % lanes<A>::count == 0, "a panel is whole vectors");
  // with keys <= length, lanes <= 64, wide = width rounded up to vectors:
  // k, v (length, wide); q, y (count, wide); queries (wide, lanes); logits (keys, lanes)
  auto const wide = whole_vectors<A>(x.width), most = panel_queries;
  scratch<A> memory{attend_elements<A>(x.length, x.width)};
  block<A> const k{memory.take(x.length * wide), wide}, v{memory.take(x.length * wide), wide};
  block<A> const q{memory.take(most * wide), wide}, y{memory.take(most * wide), wide};
  auto *const turned = memory.take(most * wide), *const logit = memory.take(x.length * most);
  auto *const inverse = memory.take(most), *const sums = memory.take(most);
  load_rows(x.k, x.step, x.length, x.width, A{1}, k);
  load_rows(x.v, x.step, x.length, x.width, A{1}, v);
  auto const scale = A{1} / std::sqrt(static_cast<A>(x.width));
  for_each_panel<A>(x, [&](panel const& p) {
    block<A> const queries{turned, p.lanes}, logits{logit, p.lanes};
    load_rows(x.q + p.begin * x.step, x.step, p.count, x.width, scale, q);
    transpose_block(q, p.count, wide, queries);
    against_keys(p, x.causal, x.width, k, queries, logits);
    if (x.bias != nullptr)
      add_bias(x, p, logits);
    softmax(p, x.causal, logits, inverse, sums);
    over_keys(p, x.causal, logits, v, y);
    store_rows(
        y, p.count, x.width, [&](extent_t r) { return inverse[r]; }, out + p.begin * out_step, out_step,
        store::overwrite);
    std::copy_n(sums, p.count, lse + p.begin);
  });
}

/// dq, dk, dv like q, k, v of x; dbias (length, length; optional) accumulates, rows as in bias.
template <class A, class T>
void attend_backward(head<T> const& x, A const* lse, T const* dout, extent_t out_step, T* dq, T* dk, T* dv,
                     store how, A* dbias) {
  static_assert(panel_queries % lanes<A>::count == 0, "a panel is whole vectors");
  // k, v, sum_k, sum_v (length, wide); q, dy, sum_q (count, wide); queries, douts (wide, lanes);
  // logits, dlogits (keys, lanes)
  auto const wide = whole_vectors<A>(x.width), most = panel_queries, n = x.length;
  scratch<A> memory{attend_backward_elements<A>(n, x.width)};
  block<A> const k{memory.take(n * wide), wide}, v{memory.take(n * wide), wide};
  block<A> const sum_k{memory.take(n * wide), wide}, sum_v{memory.take(n * wide), wide};
  block<A> const q{memory.take(most * wide), wide}, dy{memory.take(most * wide), wide};
  block<A> const sum_q{memory.take(most * wide), wide};
  auto *const turned = memory.take(most * wide), *const dturned = memory.take(most * wide);
  auto *const logit = memory.take(n * most), *const dlogit = memory.take(n * most);
  auto* const sums = memory.take(most);
  load_rows(x.k, x.step, n, x.width, A{1}, k);
  load_rows(x.v, x.step, n, x.width, A{1}, v);
  auto const scale = A{1} / std::sqrt(static_cast<A>(x.width));
  for_each_panel<A>(x, [&](panel const& p) {
    block<A> const queries{turned, p.lanes}, douts{dturned, p.lanes};
    block<A> const logits{logit, p.lanes}, dlogits{dlogit, p.lanes};
    if (p.begin == 0)  // keys that the first panel does not see
      for (auto const& sum : {sum_k, sum_v}) std::fill_n(sum.data + p.keys * wide, (n - p.keys) * wide, A{0});
    load_rows(x.q + p.begin * x.step, x.step, p.count, x.width, scale, q);
    load_rows(dout + p.begin * out_step, out_step, p.count, x.width, A{1}, dy);
    std::fill(std::copy_n(lse + p.begin, p.count, sums), sums + p.lanes, A{0});
    transpose_block(q, p.count, wide, queries);
    transpose_block(dy, p.count, wide, douts);
    against_keys(p, x.causal, x.width, k, queries, logits);
    against_keys(p, x.causal, x.width, v, douts, dlogits);
    if (x.bias != nullptr)
      add_bias(x, p, logits);
    softmax_backward(p, x.causal, sums, logits, dlogits);
    if (dbias != nullptr)
      add_bias_gradient(x, p, dlogits, dbias);
    over_queries(p, x.causal, logits, dy, sum_v);
    over_queries(p, x.causal, dlogits, q, sum_k);  // q bears the scale
    over_keys(p, x.causal, dlogits, k, sum_q);
    store_rows(
        sum_q, p.count, x.width, [=](extent_t) { return scale; }, dq + p.begin * x.step, x.step, how);
  });
  auto const one = [](extent_t) { return A{1}; };
  store_rows(sum_k, n, x.width, one, dk, x.step, how);
  store_rows(sum_v, n, x.width, one, dv, x.step, how);
}

}  // namespace yoke::cpu::detail
