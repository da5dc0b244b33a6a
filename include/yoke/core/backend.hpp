// What a backend must offer: a context type, and kernels as overloads in its namespace, found by
// ADL. Order of arguments: context, settings, sources, destination, store. An optional tensor is
// absent when its first extent is 0 (data is null for every tensor of the dry backend). E is the
// element type, A its accumulator.
#pragma once
#include <yoke/core/arena.hpp>
#include <yoke/core/kernels.hpp>
#include <yoke/core/numeric.hpp>
#include <yoke/core/random.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/core/tensor.hpp>

#include <array>
#include <concepts>
#include <vector>

namespace yoke {

/// What generic code must know of a device. A dry context has those of the device that it stands for.
struct device_traits {
  bool separate_memory = false;  // kernels do not see the host's memory: inputs are copied to the arena first
  extent_t logit_rows = 512;     // a tile of the contrastive loss, unless its options say otherwise
  extent_t logit_columns = 2048;
};

/// A context: the device, its arenas, its library handles. One thread uses it at a time.
template <class C>
concept context = requires(C& c) {
  typename C::element;
  typename C::accumulator;
  { c.memory } -> std::same_as<stack_arena&>;
  { c.gradient_memory } -> std::same_as<pool_arena&>;
  { c.host } -> std::same_as<host_stack&>;
  { c.traits } -> std::convertible_to<device_traits>;
  typename C::template buffer<float>;  // owns device memory: buffer<T>(context, elements), zeroed;
                                       // view()
};

namespace detail {

template <class C>
struct sample_arguments {
  using E = typename C::element;
  using A = typename C::accumulator;
  C& c;
  view<E const, 1> e1;
  view<E const, 2> e2;
  view<E const, 3> e3;
  view<E const, 4> e4;
  view<E, 1> m1;
  view<E, 2> m2;
  view<E, 3> m3;
  view<E, 4> m4;
  view<A const, 1> a1;
  view<A const, 2> a2;
  view<A, 1> s1;
  view<A, 2> s2;
  view<A, 3> s3;
  view<std::int32_t const, 1> ids;
  view<std::uint8_t const, 2> bytes;
  segments seg;
  random_key key;
  extent_t n;
  A real;
};

template <class C>
concept matrix_kernels = requires(sample_arguments<C> x, transpose t, store how) {
  gemm(x.c, t, t, x.e2, x.e2, x.m2, how);       // d (+)= op(a) op(b); elements in, elements out
  gemm(x.c, t, t, x.e2, x.e2, x.s2, how);       // elements in, accumulators out: weight gradients
  gemm(x.c, t, t, x.a2, x.a2, x.s2, how);       // accumulators in and out: losses
  linear_forward(x.c, x.e2, x.e2, x.a1, x.m2);  // y = x w^T + bias; w (out, in); bias optional
  sum_rows(x.c, x.e2, x.s1, how);               // (rows, width) -> (width): bias gradients
};

template <class C>
concept pointwise_kernels = requires(sample_arguments<C> x, activation f, std::array<float, 3> p, store how) {
  activation_forward(x.c, f, x.e1, x.m1);
  activation_backward(x.c, f, x.e1, x.e1, x.m1, how);  // x, dy -> dx
  add(x.c, x.e1, x.e1, x.m1);
  convert(x.c, x.e1, x.m1, how);  // copies, or accumulates, between any two of E and A
  convert(x.c, x.e1, x.s1, how);
  convert(x.c, x.a1, x.m1, how);
  convert(x.c, x.a1, x.s1, how);
  fill(x.c, x.m1, 0.0);
  fill(x.c, x.s1, 0.0);
  normalize_pixels(x.c, p, p, x.bytes,
                   x.m2);  // mean, deviation, (pixels, 3): (byte/255 - mean)/deviation
  dropout(x.c, x.key, std::uint64_t{}, 0.1f, x.seg, x.e2, x.m2,
          how);  // kept elements times 1/(1 - rate)
  drop_path(x.c, x.key, std::uint64_t{}, 0.1f, x.seg, x.e2, x.m2,
            how);  // the same for whole segments
};

template <class C>
concept normalization_kernels = requires(sample_arguments<C> x, store how) {
  layer_norm_forward(x.c, x.e2, x.a1, x.a1, x.real, x.m2, x.s1,
                     x.s1);  // x, gain, bias, epsilon -> y, mean, 1/deviation
  // x, gain, mean, 1/deviation, dy -> dx (optional) with `how`; dgain and dbias accumulate
  layer_norm_backward(x.c, x.e2, x.a1, x.a1, x.a1, x.e2, x.m2, how, x.s1, x.s1);
  l2_normalize_forward(x.c, x.e2, x.m2, x.s1);  // x -> y, 1/norm of each row
  l2_normalize_forward(x.c, x.e2, x.s2, x.s1);
  l2_normalize_backward(x.c, x.e2, x.a1, x.e2, x.m2, how);  // y, 1/norm, dy -> dx
  l2_normalize_backward(x.c, x.a2, x.a1, x.a2, x.m2, how);
};

template <class C>
concept token_kernels = requires(sample_arguments<C> x, attention_shape a, pool_kind p, store how) {
  // qkv (rows, 3 width), bias (heads, longest, longest) optional -> out (rows, width), log-sum-exp
  // (heads, rows)
  attention_forward(x.c, a, x.seg, x.e2, x.e3, x.m2, x.s2);
  // qkv, bias, out, log-sum-exp, dout -> dqkv with `how`, dbias (optional) with a `how` of its own
  attention_backward(x.c, a, x.seg, x.e2, x.e3, x.e2, x.a2, x.e2, x.m2, how, x.m3, how);
  embed_tokens(x.c, x.seg, x.ids, x.e2, x.e2, x.m2);  // ids, table, positions (optional) -> rows
  embed_tokens_backward(x.c, x.seg, x.ids, x.e2, x.s2,
                        x.s2);  // ids, dy -> dtable, dpositions accumulate
  extract_patches(x.c, x.n, x.e4,
                  x.m2);                    // (batch, height, width, channels) -> rows (y, x, channel)
  fold_patches(x.c, x.n, x.e2, x.m4, how);  // its adjoint
  // patch rows, class token (optional), positions -> (batch (1 +) patches, width)
  assemble_tokens(x.c, x.n, x.e2, x.a1, x.e2, x.m2);
  assemble_tokens_backward(x.c, x.n, x.e2, x.m2, how, x.s1,
                           x.s2);  // batch, dy -> dx (optional), dclass, dpositions
  pool_forward(x.c, p, x.seg, x.e2, x.m2);
  pool_backward(x.c, p, x.seg, x.e2, x.m2,
                how);  // overwrite also zeroes the rows that were not pooled
};

template <class C>
concept image_kernels = requires(sample_arguments<C> x, window w, window_pool_kind p, grid g, store how) {
  // images are (batch, height, width, channels), y's extents those that the window gives
  convolution_forward(x.c, w, x.e4, x.e2, x.a1,
                      x.m4);  // x, weights (out, size size in), bias (optional) -> y
  convolution_backward_input(x.c, w, x.e2, x.e4, x.m4, how);    // weights, dy -> dx
  convolution_backward_weights(x.c, w, x.e4, x.e4, x.s2, how);  // x, dy -> dweights
  depthwise_forward(x.c, w, x.e4, x.e2, x.m4);                  // x, weights (size size, channels) -> y
  depthwise_backward_input(x.c, w, x.e2, x.e4, x.m4, how);
  depthwise_backward_weights(x.c, w, x.e4, x.e4, x.s2, how);
  window_pool_forward(x.c, p, w, x.e4, x.m4);
  window_pool_backward(x.c, p, w, x.e4, x.e4, x.m4, how);  // x, dy -> dx
  // rows, one line of logits a segment -> rows times the logits' sigmoid
  gate_forward(x.c, x.seg, x.e2, x.e2, x.m2);
  gate_backward(x.c, x.seg, x.e2, x.e2, x.e2, x.m2, how, x.m2, how);  // x, z, dy -> dx, dz (each optional)
  // table (heads, 2 height - 1, 2 width - 1) -> (heads, tokens, tokens): the entry at query - key
  relative_bias_forward(x.c, g, x.e3, x.m3);
  relative_bias_backward(x.c, g, x.e3, x.s3, how);
};

template <class C>
concept activated_norm_kernels = requires(sample_arguments<C> x, activation f, store how) {
  // as layer_norm, and f after it
  layer_norm_activation_forward(x.c, f, x.e2, x.a1, x.a1, x.real, x.m2, x.s1, x.s1);
  layer_norm_activation_backward(x.c, f, x.e2, x.a1, x.a1, x.a1, x.a1, x.e2, x.m2, how, x.s1, x.s1);
  batch_statistics(x.c, x.e2, x.s1, x.s1);  // (rows, width) -> mean, biased variance of each column
  // x, mean, variance, gain, bias, epsilon -> f(y)
  batch_norm_forward(x.c, f, x.e2, x.a1, x.a1, x.a1, x.a1, x.real, x.m2);
  // x, mean, variance, gain, bias, epsilon, dy -> dx (optional) with `how`; dgain and dbias accumulate.
  // true: mean and variance are x's own; false: constants
  batch_norm_backward(x.c, f, true, x.e2, x.a1, x.a1, x.a1, x.a1, x.real, x.e2, x.m2, how, x.s1, x.s1);
};

template <class C>
concept classification_kernels = requires(sample_arguments<C> x) {
  // label smoothing, factor of the gradient, logits (rows, classes), labels (rows) -> dlogits, and the sums over rows
  // of the loss and of hits (2)
  softmax_cross_entropy(x.c, 0.1, 1.0, x.e2, x.ids, x.m2, x.s1);
};

template <class C>
concept host_copies = requires(sample_arguments<C> x) {
  upload(x.c, x.a1, x.s1);    // from the host's memory to the device's
  download(x.c, x.a1, x.s1);  // from the device's memory to the host's, done when it returns
};

template <class C>
concept optimizer_kernels = requires(sample_arguments<C> x, adam_w_coefficients w) {
  { scalar(x.c, x.a1) } -> std::same_as<double>;        // the only element, read by the host
  add_scalar(x.c, 0.0, x.s1);                           // added to the only element
  { squared_norm(x.c, x.a1) } -> std::same_as<double>;  // the same for any number of threads
  // momentum, observations and their number behind them (zeroed behind the read), running values: value += momentum
  // (mean of the observations - value), unless there were none
  absorb_statistic(x.c, 0.1f, x.s1, x.s1);
  // gradient (zeroed behind the read), moments and master updated, compute copy (optional)
  // refreshed
  adam_w_update(x.c, w, x.s1, x.s1, x.s1, x.s1,
                x.m1);  // gradient, first, second moment, master, compute
};

template <class C>
concept adafactor_kernels = requires(sample_arguments<C> x, adafactor_coefficients w,
                                     view<first_moment_t<typename C::accumulator>, 1> f1,
                                     view<first_moment_t<typename C::accumulator>, 2> f2, view<bf16, 2> b2) {
  // gradient (zeroed behind the read), means of rows and of columns, first moment, master, compute copy (optional)
  adafactor_update(x.c, w, x.s2, x.s1, x.s1, f2, x.s2, x.m2);
  // gradient, second moment, first moment, master, compute copy (optional)
  adafactor_update(x.c, w, x.s1, x.s1, f1, x.s1, x.m1);
  // gradients as elements, and master values in bf16, rounded at random
  adafactor_update(x.c, w, x.m2, x.s1, x.s1, f2, b2, x.m2);
  adafactor_update(x.c, w, x.m1, x.s1, f1, as_flat(b2), x.m1);
  { squared_norm(x.c, x.e1) } -> std::same_as<double>;
};

}  // namespace detail

/// A context with every kernel that the library's ops, losses and optimisers call.
template <class C>
concept backend = context<C> && detail::matrix_kernels<C> && detail::pointwise_kernels<C> &&
    detail::normalization_kernels<C> && detail::activated_norm_kernels<C> && detail::token_kernels<C> &&
    detail::image_kernels<C> && detail::classification_kernels<C> && detail::optimizer_kernels<C> &&
    detail::adafactor_kernels<C> && detail::host_copies<C>;

/// A tensor on the context's activation stack, uninitialised.
template <class T, int Rank, class C>
view<T, Rank> make(C& c, shape<Rank> s) {
  return {reinterpret_cast<T*>(c.memory.allocate(static_cast<std::size_t>(s.size()) * sizeof(T))), s};
}

/// Gives a device a piece of work: f() calls kernels and neither waits for them nor reads what they make. Devices for
/// which that is an advantage have a submit_piece, such as CUDA, which takes the pieces of one name as one command; others
/// call f as it is.
template <context C, class F>
void submit(C& c, char const* name, F const& f) {
  if constexpr (requires { submit_piece(c, name, f); })
    submit_piece(c, name, f);
  else
    f();
}

/// Calls f(v) on the host, where v holds the tensor's values: the tensor itself, or a copy of it.
template <context C, class T, class F>
void read_on_host(C& c, view<T const, 1> from, F const& f) {
  device_traits const traits = c.traits;
  if (!traits.separate_memory)
    return f(from);
  std::vector<T> copy(static_cast<std::size_t>(from.size()));
  view<T, 1> const host{copy.data(), from.shape};
  download(c, from, host);
  f(view<T const, 1>{host});
}
/// Calls f(v) on the host, which fills v: the tensor itself, or a copy that then becomes its values.
template <context C, class T, class F>
void write_from_host(C& c, view<T, 1> to, F const& f) {
  device_traits const traits = c.traits;
  if (!traits.separate_memory)
    return f(to);
  std::vector<T> copy(static_cast<std::size_t>(to.size()));
  view<T, 1> const host{copy.data(), to.shape};
  f(host);
  upload(c, view<T const, 1>{host}, to);
}

/// A tensor of the host where the context's kernels can read it: itself, or a copy on the activation stack.
template <context C, class T, int Rank>
view<T const, Rank> resident(C& c, view<T const, Rank> v) {
  device_traits const traits = c.traits;
  if (!traits.separate_memory)
    return v;
  auto const copy = make<T>(c, v.shape);
  upload(c, v, copy);
  return copy;
}

}  // namespace yoke
