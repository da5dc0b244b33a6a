// A matrix and, unless it is told otherwise, a bias; whole, or shared by the ranks of a model axis.
#pragma once
#include <yoke/ops/linear.hpp>

#include <cmath>

namespace yoke::nn {

/// How a tower's matrices are shared by the ranks of a model axis:
///
///   none      every rank has the whole tower
///   tensor    attention by heads and MLPs by their inner width, with no communication between their two matrices; all other
///             matrices gathered
///   gathered  all matrices gathered just before use
///
/// On every rank are, in any case, norms, positions, convolutions larger than 1 x 1 or with a stride, and a matrix
/// whose rows, or an MLP whose inner width, the ranks do not divide. Heads that they do not divide are a
/// precondition_error.
enum class model_parallel { none, tensor, gathered };

/// Of a linear layer: widths of the whole matrix, also where a rank has a part of it.
struct linear_config {
  extent_t in, out;
  bool bias = true;
  float deviation = 0;  // of the initial weights; 0: 1 / sqrt(in)
  matmul_split split = matmul_split::none;
  extent_t groups = 1;  // of outputs, each of which is shared out for itself: matmul_split::column
};

/// (…, in) -> (…, out), or a rank's part of either, as the split says. Parameters: weight (out, in), bias (out).
struct linear {
  parameter<2> weight;
  parameter<1> bias;
  matmul_split split;

  linear(scope s, linear_config c)
      : weight{s.weight("weight", shape{c.out, c.in},
                        c.deviation > 0 ? c.deviation : 1 / std::sqrt(static_cast<float>(c.in)),
                        weight_decay::yes, cut_of(c))},
        split{c.split} {
    if (c.bias)
      bias = s.constant("bias", shape{c.out}, 0, split == matmul_split::column ? cut_of(c) : cut{});
  }
  auto operator()(auto& t, auto x) const { return ops::linear(t, x, weight, bias, split); }

  static cut cut_of(linear_config const& c) {
    switch (c.split) {
      case matmul_split::column:
        return {0, c.groups};
      case matmul_split::row:
        return {1, 1};
      case matmul_split::gathered:
        return {0, 1};
      default:
        return {};
    }
  }
};

/// Gathered, if the tower is shared and its ranks can share out so many rows evenly; whole otherwise.
inline matmul_split gathered_rows(scope const& s, model_parallel how, extent_t rows) {
  return how != model_parallel::none && rows % s.model_ranks() == 0 ? matmul_split::gathered
                                                                    : matmul_split::none;
}
/// Of two matrices of which the second takes what the first gives, `between` numbers, the first: cut into columns, if
/// the ranks can share out those numbers evenly.
inline matmul_split column_or_gathered(scope const& s, model_parallel how, extent_t between) {
  return how == model_parallel::tensor && between % s.model_ranks() == 0 ? matmul_split::column
                                                                         : gathered_rows(s, how, between);
}
/// The second, which gives `outputs`: cut into rows where the first is cut into columns.
inline matmul_split row_or_gathered(scope const& s, model_parallel how, extent_t between, extent_t outputs) {
  return how == model_parallel::tensor && between % s.model_ranks() == 0 ? matmul_split::row
                                                                         : gathered_rows(s, how, outputs);
}

/// The heads that a rank has. Throws precondition_error where heads are shared out and cannot be.
inline extent_t heads_of_rank(scope const& s, model_parallel how, extent_t heads) {
  if (how != model_parallel::tensor)
    return heads;
  expects(heads % s.model_ranks() == 0, [&] {
    return "'" + s.path() + "': its " + std::to_string(heads) + " heads are shared out evenly among the " +
           std::to_string(s.model_ranks()) + " ranks of the model axis";
  });
  return heads / s.model_ranks();
}

}  // namespace yoke::nn
