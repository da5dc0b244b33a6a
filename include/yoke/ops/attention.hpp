// Softmax self-attention over segments: packed captions and batches of images alike, no work on
// padding.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// Softmax attention of packed queries, keys and values; keeps the output and a number a row, and computes probabilities again.
struct attention_op {
  static constexpr bool expensive = true;
  attention_shape settings;

  template <class A, class E>
  struct saved {
    view<E, 2> out;
    view<A, 2> log_sum_exp;  // (heads, rows): all that is kept of the probabilities
  };

  template <class C>
  auto forward(tape<C>& t, value<2> const& qkv, segments const& s, value<3> const& bias) const {
    using A = typename C::accumulator;
    auto& c = t.context();
    auto out = make<typename C::element>(c, shape{qkv.shape[0], qkv.shape[1] / 3});
    saved<A, typename C::element> kept{out, make<A>(c, shape{settings.heads, qkv.shape[0]})};
    attention_forward(c, settings, s, t(qkv), t(bias), out, kept.log_sum_exp);
    return std::pair{out, kept};
  }

  template <class C>
  void backward(tape<C>& t, saved<typename C::accumulator, typename C::element> const& kept,
                view<typename C::element const, 2> dout, value<2> const& qkv, segments const& s,
                value<3> const& bias) const {
    using A = typename C::accumulator;
    using E = typename C::element;
    auto dbias = t.gradient_of(bias);
    auto const to = dbias ? dbias.data : view<E, 3>{};
    if (auto dqkv = t.gradient_of(qkv))
      attention_backward(t.context(), settings, s, t(qkv), t(bias), view<E const, 2>{kept.out},
                         view<A const, 2>{kept.log_sum_exp}, dout, dqkv.data, dqkv.how, to, dbias.how);
  }
};

/// qkv (rows, 3 width): queries, keys and values of all heads side by side. -> (rows, width).
/// `bias` (heads, longest, longest) is added to the logits, by position within the segment; absent
/// by default.
template <class C>
value<2> attention(tape<C>& t, value<2> qkv, segments const& s, attention_shape settings,
                   value<3> bias = {}) {
  expects(settings.heads > 0 && qkv.shape[1] % (3 * settings.heads) == 0,
          "attention: the width of qkv is 3 * heads * head width");
  expects(qkv.shape[0] == s.rows, "attention: the segments cover the rows");
  expects(bias.shape[0] == 0 || bias.shape == shape{settings.heads, s.longest, s.longest},
          "attention: the bias is (heads, longest segment, longest segment)");
  return t.apply(attention_op{settings}, qkv, s, bias);
}

}  // namespace yoke::ops
