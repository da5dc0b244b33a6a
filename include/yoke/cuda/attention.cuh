// Multi-head self-attention over segments. No matrix of logits is ever written: forward and backward go through tiles of
// it, as FlashAttention does (Dao, arXiv 2307.08691). What a segment gives does not depend on its neighbours, and no sum
// on the order in which the card runs its blocks.
#pragma once
#include <yoke/cuda/attention_backward.cuh>
#include <yoke/cuda/attention_forward.cuh>
#include <yoke/cuda/attention_plain.cuh>

#include <cmath>
#include <string>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

template <class T>
attention_inputs<T> attention_of(attention_shape shape, segments const& runs, view<T const, 2> qkv,
                                 view<T const, 3> bias) {
  auto const width = qkv.extent(1) / 3, head_width = width / shape.heads;
  return {.segments = on_device(runs),
          .qkv = qkv.data,
          .bias = bias.extent(0) == 0 ? nullptr : bias.data,
          .width = width,
          .heads = static_cast<int>(shape.heads),
          .head_width = static_cast<int>(head_width),
          .side = static_cast<int>(bias.extent(1)),
          .causal = shape.causal,
          .scale = static_cast<accumulator_t<T>>(1 / std::sqrt(static_cast<double>(head_width)))};
}

inline void expect_head_width(extent_t head_width) {
  expects(head_width <= plain_width, [&] {
    return "attention: a head of " + std::to_string(head_width) + " is at most " +
           std::to_string(plain_width) + " wide on CUDA";
  });
}

}  // namespace detail

/// out = softmax(q k^T / sqrt(head width) + bias) v for each head of each segment.
/// qkv (rows, 3 width) = [q | k | v]; bias (heads, longest, longest) optional -> out (rows, width)
/// and the logarithm of each row's sum of exponentials (heads, rows). Heads are at most 256 wide; up to 128, in bf16 and
/// with rows aligned to 16 bytes, the products run on the tensor cores, probabilities rounded to bf16.
template <class T>
void attention_forward(context<T>& c, attention_shape shape, segments const& runs,
                       view<std::type_identity_t<T> const, 2> qkv,
                       view<std::type_identity_t<T> const, 3> bias, view<std::type_identity_t<T>, 2> out,
                       view<accumulator_t<std::type_identity_t<T>>, 2> lse) {
  expect_attention(shape, runs, qkv.shape, bias.shape, out.shape, lse.shape);
  if (runs.rows == 0)
    return;
  auto x = detail::attention_of<T>(shape, runs, qkv, bias);
  x.lse = lse.data;
  if constexpr (std::is_same_v<T, bf16>)
    if (detail::fits_tiles(x, qkv.data, out.data))
      return detail::tiled_attention_forward(c, x, out.data);
  detail::expect_head_width(x.head_width);
  detail::plain_attention_forward(c, x, out.data);
}

/// The gradient of attention_forward: qkv, bias, its out and log-sum-exp, dout (rows, width) ->
/// dqkv (rows, 3 width) with `how`, dbias (heads, longest, longest; optional) with `bias_how`,
/// summed over the segments in accumulators.
template <class T>
void attention_backward(context<T>& c, attention_shape shape, segments const& runs,
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
  auto x = detail::attention_of<T>(shape, runs, qkv, bias);
  x.lse = const_cast<A*>(lse.data);  // read only
  x.dout = dout.data;
  auto* const bias_gradient = dbias.extent(0) == 0 ? nullptr : dbias.data;
  if (runs.rows == 0 && bias_gradient == nullptr)
    return;
  if constexpr (std::is_same_v<T, bf16>)
    if (detail::fits_tiles(x, qkv.data, out.data, dout.data, dqkv.data))
      return detail::tiled_attention_backward(c, x, out.data, dqkv.data, how, bias_gradient, bias_how);
  detail::expect_head_width(x.head_width);
  detail::plain_attention_backward(c, x, out.data, dqkv.data, how, bias_gradient, bias_how);
}

}  // namespace yoke::cuda
