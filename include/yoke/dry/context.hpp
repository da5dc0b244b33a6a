// A backend without memory: it runs the same code and counts bytes and multiply-adds, so that a
// plan can be made, and tested, on any machine.
#pragma once
#include <yoke/core/backend.hpp>

#include <cstddef>
#include <string_view>
#include <vector>

namespace yoke::dry {

/// Bytes in use while a kernel runs.
struct memory_sample {
  std::size_t activations = 0, gradients = 0;

  bool operator==(memory_sample const&) const = default;
};

/// Who counts something else than a context does, such as bytes that are sent: a piece of work is run once and counted
/// as often as a device would run it.
class piece_watch {
 public:
  piece_watch() = default;
  piece_watch(piece_watch const&) = delete;
  piece_watch& operator=(piece_watch const&) = delete;
  virtual ~piece_watch() = default;

  virtual void begins() = 0;
  virtual void ends() = 0;
  /// The piece that ended last is done again.
  virtual void repeats() = 0;
};

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
  extent_t multiply_adds = 0;  // of matmuls, attention and convolutions
  std::vector<memory_sample>* timeline =
      nullptr;  // gets a sample at each kernel that finds another use of memory

  void sample() {
    if (timeline == nullptr)
      return;
    memory_sample const now{memory.used(), gradient_memory.used()};
    if (timeline->empty() || !(timeline->back() == now))
      timeline->push_back(now);
  }

  /// Stands for a device of these traits.
  explicit context(device_traits const& of = {}) : traits{of} {}
  context(context const&) = delete;
  context& operator=(context const&) = delete;

  /// The last piece of work and what it took: a step's micro-batches are alike, so one is run for all.
  std::string_view last_piece{};
  extent_t last_multiply_adds = 0;
  piece_watch* pieces = nullptr;  // who counts something else
};

/// Runs f unless it is the piece that was run last, again: then it is counted as that one was.
template <class T, class F>
void submit_piece(context<T>& c, char const* name, F const& f) {
  if (c.last_piece != name) {
    auto const before = c.multiply_adds;
    if (c.pieces != nullptr)
      c.pieces->begins();
    f();
    if (c.pieces != nullptr)
      c.pieces->ends();
    c.last_piece = name;
    c.last_multiply_adds = c.multiply_adds - before;
  } else {
    c.multiply_adds += c.last_multiply_adds;
    if (c.pieces != nullptr)
      c.pieces->repeats();
  }
}

template <class T, class X, class Y>
void gemm(context<T>& c, transpose ta, transpose, view<X const, 2> a, view<X const, 2>, view<Y, 2> d, store) {
  c.sample();
  c.multiply_adds += d.size() * a.extent(ta == transpose::no ? 1 : 0);
}
template <class T>
void linear_forward(context<T>& c, view<T const, 2> x, view<T const, 2>, view<accumulator_t<T> const, 1>,
                    view<T, 2> y) {
  c.sample();
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
  c.sample();
  c.multiply_adds += 2 * detail::attention_pairs(shape, s) * qkv.extent(1) / 3;
}
template <class T, class... Rest>
void attention_backward(context<T>& c, attention_shape shape, segments s, view<T const, 2> qkv, Rest&&...) {
  c.sample();
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
  c.sample();
  c.multiply_adds += detail::convolution_multiply_adds(w, y.shape, x.extent(3));
}
template <class T>
void convolution_backward_input(context<T>& c, window w, view<T const, 2>, view<T const, 4> dy, view<T, 4> dx,
                                store) {
  c.sample();
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, dx.extent(3));
}
template <class T, class W>
void convolution_backward_weights(context<T>& c, window w, view<T const, 4> x, view<T const, 4> dy,
                                  view<W, 2>, store) {
  c.sample();
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, x.extent(3));
}
template <class T>
void depthwise_forward(context<T>& c, window w, view<T const, 4>, view<T const, 2>, view<T, 4> y) {
  c.sample();
  c.multiply_adds += detail::convolution_multiply_adds(w, y.shape, 1);
}
template <class T>
void depthwise_backward_input(context<T>& c, window w, view<T const, 2>, view<T const, 4> dy, view<T, 4>,
                              store) {
  c.sample();
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, 1);
}
template <class T, class W>
void depthwise_backward_weights(context<T>& c, window w, view<T const, 4>, view<T const, 4> dy, view<W, 2>,
                                store) {
  c.sample();
  c.multiply_adds += detail::convolution_multiply_adds(w, dy.shape, 1);
}

// Kernels that cost neither memory nor multiply-adds worth counting.
template <class T, class... Rest>
void sum_rows(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void activation_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void activation_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void add(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void convert(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void fill(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void normalize_pixels(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void dropout(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void drop_path(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void layer_norm_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void layer_norm_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void l2_normalize_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void l2_normalize_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void embed_tokens(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void embed_tokens_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void extract_patches(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void fold_patches(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void assemble_tokens(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void assemble_tokens_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void pool_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void pool_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void window_pool_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void window_pool_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void gate_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void gate_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void relative_bias_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void relative_bias_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void layer_norm_activation_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void layer_norm_activation_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void batch_statistics(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void batch_norm_forward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void batch_norm_backward(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void softmax_cross_entropy(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void upload(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void download(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
double scalar(context<T>& c, Rest&&...) {
  c.sample();
  return 0;
}
template <class T, class... Rest>
void add_scalar(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
double squared_norm(context<T>& c, Rest&&...) {
  c.sample();
  return 0;
}
template <class T, class... Rest>
void absorb_statistic(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void adam_w_update(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void adafactor_update(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class G, class M, class SumShares>
void adafactor_update(context<T>& c, adafactor_coefficients, view<G, 2>,
                      view<accumulator_t<std::type_identity_t<T>>, 1> row_means,
                      view<accumulator_t<std::type_identity_t<T>>, 1> column_means,
                      view<first_moment_t<accumulator_t<std::type_identity_t<T>>>, 2>, view<M, 2>,
                      view<std::type_identity_t<T>, 2>, SumShares const& sum_shares) {
  c.sample();
  sum_shares(row_means, column_means);
}

// The streamed losses.
template <class T, class... Rest>
void logit_statistics(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void rescale_sums(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void log_sum_exp(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void logit_gradient(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
void sigmoid_logits(context<T>& c, Rest&&...) {
  c.sample();
}
template <class T, class... Rest>
std::array<double, 3> logit_totals(context<T>& c, Rest&&...) {
  c.sample();
  return {};
}

static_assert(backend<context<double>> && backend<context<float>> && backend<context<bf16>>);

}  // namespace yoke::dry
