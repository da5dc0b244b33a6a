// The small vocabulary that kernels of every backend share.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/core/tensor.hpp>

namespace yoke {

/// Gaussian error linear units (Hendrycks & Gimpel, arXiv 1606.08415): x·Φ(x) exactly, its tanh
/// form, and OpenAI's x·sigmoid(1.702 x).
enum class gelu_kind { erf, tanh, quick };

/// One embedding for each segment: the mean of its rows, its first row (class token), its last (end of text), or the
/// mean of all rows but the first (patches that a class token attended to).
enum class pool_kind { mean, first, last, mean_rest };

/// Multi-head self-attention over segments; logits are scaled by 1 / sqrt(head width).
struct attention_shape {
  extent_t heads = 1;
  bool causal = false;
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

}  // namespace yoke
