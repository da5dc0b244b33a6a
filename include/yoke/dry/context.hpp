// A backend without memory: it runs the same code and counts bytes and multiply-adds, so that a
// plan can be made, and tested, on any machine.
#pragma once
#include <yoke/core/backend.hpp>

namespace yoke::dry {

/// T is the element type whose bytes are counted.
template <yoke::element T = bf16>
class context {
 public:
  using element = T;
  using accumulator = accumulator_t<T>;

  /// Counts the bytes of parameters, gradients and optimiser state.
  template <class V>
  class buffer {
   public:
    buffer() = default;
    buffer(context& c, extent_t elements) : elements_{elements} {
      c.persistent_bytes += static_cast<std::size_t>(elements) * sizeof(V);
    }
    yoke::view<V, 1> view() const { return {nullptr, {{elements_}}}; }

   private:
    extent_t elements_ = 0;
  };

  stack_arena memory;
  pool_arena gradient_memory;
  host_stack host;
  device_traits traits;
  std::size_t persistent_bytes = 0;
  extent_t multiply_adds = 0;  // of matmuls and attention

  /// Stands for a device of these traits.
  explicit context(device_traits const& of = {}) : traits{of} {}
  context(context const&) = delete;
  context& operator=(context const&) = delete;
};

template <class T, class X, class Y>
void gemm(context<T>& c, transpose ta, transpose, view<X const, 2> a, view<X const, 2>, view<Y, 2> d, store) {
  c.multiply_adds += d.size() * a.extent(ta == transpose::no ? 1 : 0);
}
template <class T>
void linear_forward(context<T>& c, view<T const, 2> x, view<T const, 2>, view<accumulator_t<T> const, 1>,
                    view<T, 2> y) {
  c.multiply_adds += y.size() * x.extent(1);
}

namespace detail {
/// Products of rows of queries with rows of keys; a causal mask halves them.
inline extent_t attention_pairs(attention_shape shape, segments const& s) {
  extent_t pairs = 0;
  for (extent_t i = 0; i < s.count; ++i)
    pairs += shape.causal ? s.length(i) * (s.length(i) + 1) / 2 : s.length(i) * s.length(i);
  return pairs;
}
}  // namespace detail

template <class T, class... Rest>
void attention_forward(context<T>& c, attention_shape shape, segments s, view<T const, 2> qkv, Rest&&...) {
  c.multiply_adds += 2 * detail::attention_pairs(shape, s) * qkv.extent(1) / 3;
}
template <class T, class... Rest>
void attention_backward(context<T>& c, attention_shape shape, segments s, view<T const, 2> qkv, Rest&&...) {
  c.multiply_adds += 5 * detail::attention_pairs(shape, s) * qkv.extent(1) / 3;
}

namespace detail {
/// Multiply-adds of a convolution that gives images of this shape.
inline extent_t convolution_multiply_adds(window w, shape<4> out, extent_t inputs) {
  return out.size() * w.size * w.size * inputs;
}
}  // namespace detail

template <class T>
void convolution_forward(context<T>& c, window w, view<T const, 4> x, view<T const, 2>,
                         view<accumulator_t<T> const, 1>, view<T, 4> y) {
  c.multiply_adds += detail::convolution_multiply_adds(w, y.shape, x.extent(3));
}
template <class T>
void convolution_backward_input(context<T>& c, window w, view<T const, 2>, view<T const, 4> dy, view<T, 4> dx,
                                store) {
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, dx.extent(3));
}
template <class T, class W>
void convolution_backward_weights(context<T>& c, window w, view<T const, 4> x, view<T const, 4> dy,
                                  view<W, 2>, store) {
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, x.extent(3));
}
template <class T>
void depthwise_forward(context<T>& c, window w, view<T const, 4>, view<T const, 2>, view<T, 4> y) {
  c.multiply_adds += detail::convolution_multiply_adds(w, y.shape, 1);
}
template <class T>
void depthwise_backward_input(context<T>& c, window w, view<T const, 2>, view<T const, 4> dy, view<T, 4>,
                              store) {
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, 1);
}
template <class T, class W>
void depthwise_backward_weights(context<T>& c, window w, view<T const, 4>, view<T const, 4> dy, view<W, 2>,
                                store) {
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, 1);
}

// Kernels that cost neither memory nor multiply-adds worth counting.
template <class T, class... Rest>
void sum_rows(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void activation_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void activation_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void add(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void convert(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void fill(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void normalize_pixels(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void dropout(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void drop_path(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void layer_norm_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void layer_norm_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void l2_normalize_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void l2_normalize_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void embed_tokens(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void embed_tokens_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void extract_patches(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void fold_patches(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void assemble_tokens(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void assemble_tokens_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void pool_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void pool_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void window_pool_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void window_pool_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void gate_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void gate_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void relative_bias_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void relative_bias_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void layer_norm_activation_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void layer_norm_activation_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void batch_statistics(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void batch_norm_forward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void batch_norm_backward(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void softmax_cross_entropy(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void upload(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void download(context<T>&, Rest&&...) {}
template <class T, class... Rest>
double scalar(context<T>&, Rest&&...) {
  return 0;
}
template <class T, class... Rest>
void add_scalar(context<T>&, Rest&&...) {}
template <class T, class... Rest>
double squared_norm(context<T>&, Rest&&...) {
  return 0;
}
template <class T, class... Rest>
void absorb_statistic(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void adam_w_update(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void adafactor_update(context<T>&, Rest&&...) {}

// The streamed loss.
template <class T, class... Rest>
void logit_statistics(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void rescale_sums(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void log_sum_exp(context<T>&, Rest&&...) {}
template <class T, class... Rest>
void logit_gradient(context<T>&, Rest&&...) {}
template <class T, class... Rest>
std::array<double, 3> logit_totals(context<T>&, Rest&&...) {
  return {};
}

static_assert(backend<context<double>> && backend<context<float>> && backend<context<bf16>>);

}  // namespace yoke::dry
