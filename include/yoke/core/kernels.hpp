// The small vocabulary that kernels of every backend share.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/numeric.hpp>
#include <yoke/core/rounding.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/core/tensor.hpp>

#include <type_traits>

namespace yoke {

/// Element by element. Gaussian error linear units (Hendrycks & Gimpel, arXiv 1606.08415): x·Φ(x) exactly, its tanh
/// form, and OpenAI's x·sigmoid(1.702 x); SiLU, x·sigmoid(x) (the same paper); the hyperbolic tangent.
enum class activation { identity, gelu, gelu_tanh, gelu_quick, silu, tanh };

/// One embedding for each segment: the mean of its rows, its first row (class token), its last (end of text), or the
/// mean of all rows but the first (patches that a class token attended to).
enum class pool_kind { mean, first, last, mean_rest };

/// Multi-head self-attention over segments; logits are scaled by 1 / sqrt(head width).
struct attention_shape {
  extent_t heads = 1;
  bool causal = false;
};

/// A square window that moves over the height and width of images, zeros (for a maximum: nothing) beyond their edges.
struct window {
  extent_t size = 3;
  extent_t stride = 1;
  extent_t padding = 1;  // on each of the four sides

  constexpr extent_t output(extent_t input) const { return (input + 2 * padding - size) / stride + 1; }
};

/// What becomes of the pixels under a window. The mean of a window that covers edges is over all its places.
enum class window_pool_kind { max, mean };

/// The height and width of a grid of tokens.
struct grid {
  extent_t height, width;

  constexpr extent_t tokens() const { return height * width; }
};

/// What every backend's attention demands of its arguments' shapes.
inline void expect_attention(attention_shape s, segments const& runs, shape<2> qkv, shape<3> bias,
                             shape<2> out, shape<2> lse) {
  expects(s.heads > 0 && out[1] % s.heads == 0, "attention: the width is a multiple of the heads");
  expects(qkv[1] == 3 * out[1], "attention: qkv is (rows, 3 width)");
  expects(qkv[0] == runs.rows && out[0] == runs.rows, "attention: as many rows as the segments");
  expects(lse[0] == s.heads && lse[1] == runs.rows, "attention: log-sum-exp is (heads, rows)");
  expects(bias[0] == 0 || (bias[0] == s.heads && bias[1] == bias[2] && bias[1] >= runs.longest),
          "attention: bias is (heads, longest, longest)");
}

/// One step of AdamW for a run of parameters (Loshchilov & Hutter, arXiv 1711.05101).
struct adam_w_coefficients {
  double rate = 0;  // of this step
  double beta1 = 0.9;
  double beta2 = 0.98;
  double epsilon = 1e-6;
  double decay = 0;           // decoupled: the parameter shrinks by rate * decay
  double correction1 = 1;     // 1 - beta1^t
  double correction2 = 1;     // 1 - beta2^t
  double gradient_scale = 1;  // from clipping by global norm
};

/// One step of AdafactorW for one parameter: the second moment of Adafactor (Shazeer & Stern, arXiv 1804.04235,
/// algorithm 4), whole or as means of rows and columns, a first moment of the scaled gradients, decoupled decay.
struct adafactor_coefficients {
  double rate = 0;  // of this step
  double beta1 = 0.9;
  double beta2 = 0;        // of this step; 0 in the first
  double epsilon = 1e-30;  // added to each squared gradient
  double decay = 0;        // decoupled: the parameter shrinks by rate * decay
  double gradient_scale = 1;
  rounding_key rounding{};  // where the master values are bf16
  // Of the whole matrix, where the one at hand is a share of it; 0: the one at hand.
  extent_t whole_rows = 0, whole_columns = 0;
};

/// For matrices that are whole: there are no other shares whose squares are to be added.
struct nothing_to_sum {
  void operator()(auto const&, auto const&) const {}
};

/// How AdafactorW keeps a first moment whose arithmetic is in A: in bf16, and in double, where nothing else is rounded
/// either, as it is.
template <class A>
using first_moment_t = std::conditional_t<std::is_same_v<A, double>, double, bf16>;

}  // namespace yoke
