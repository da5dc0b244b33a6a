// y = x W^T + b over the last axis, by one rank or by the ranks of a model axis together.
#pragma once
#include <yoke/autograd/tape.hpp>
#include <yoke/parallel/any.hpp>

#include <string>
#include <vector>

namespace yoke {

/// How the ranks of a model axis share a matrix (Shoeybi et al., "Megatron-LM", arXiv 1909.08053, for the first two; the
/// third is the weight-gathered product of BASIC, arXiv 2111.10050, section 5):
///
///   none      every rank has the whole matrix and does the whole product
///   column    some outputs each: x is whole, y is a rank's part
///   row       some inputs each: x is a rank's part, y is whole, the sum of the ranks' products
///   gathered  some outputs' weights each, gathered just before use; each rank multiplies some rows of x; x and y are
///             whole
enum class matmul_split { none, column, row, gathered };

namespace ops {

namespace detail {

/// The ranks of the model axis; null for one rank.
template <class C>
parallel::any* model_axis(tape<C> const& t) {
  auto* const axis = t.options().model_axis;
  return axis != nullptr && axis->size() > 1 ? axis : nullptr;
}

/// The rows of a matrix that one rank multiplies for all.
struct row_share {
  extent_t first, count;

  row_share(extent_t rows, parallel::any const& ranks) : row_share{rows, ranks.rank(), ranks.size()} {}
  row_share(extent_t rows, int rank, int ranks)
      : first{rows * rank / ranks}, count{rows * (rank + 1) / ranks - first} {}
};

/// Calls product(the rank's rows, where their results go), then brings all ranks' results to `to` (rows, width), which
/// the results replace or are added to. Scratch memory is the same whether or not the ranks divide the rows.
template <class C, class E, class Product>
void multiply_rows_together(C& c, parallel::any& ranks, view<E, 2> to, store how, Product const& product) {
  arena_scope const scratch{c.memory};
  auto const rows = to.extent(0), width = to.extent(1);
  auto const all = how == store::overwrite ? to : make<E>(c, to.shape);
  row_share const mine{rows, ranks};
  if (mine.count > 0)
    product(mine, slice(all, mine.first, mine.count));
  std::vector<extent_t> begins;
  for (int r = 0; r <= ranks.size(); ++r) begins.push_back(rows * r / ranks.size() * width);
  all_gather_parts(ranks, as_flat(all), begins);
  if (how == store::accumulate)
    convert(c, view<E const, 1>{as_flat(all)}, as_flat(to), how);
}

/// The whole of a matrix of which every rank has some rows: on the activation stack.
template <class C, class E>
view<E const, 2> gather_rows(C& c, parallel::any& ranks, view<E const, 2> part) {
  auto const whole = make<E>(c, shape{part.extent(0) * ranks.size(), part.extent(1)});
  all_gather(ranks, part, whole);
  return whole;
}

}  // namespace detail

/// y = x W^T + b, whole or by the ranks of the model axis.
struct linear_op {
  static constexpr bool expensive = true;
  matmul_split kind = matmul_split::none;

  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& x, parameter<2> const& w, parameter<1> const& bias) const {
    using E = typename C::element;
    using A = typename C::accumulator;
    auto& c = t.context();
    auto* const ranks = detail::model_axis(t);
    auto const gathers = kind == matmul_split::gathered && ranks != nullptr;
    auto s = x.shape;
    s[R - 1] = w.shape[0] * (gathers ? ranks->size() : 1);
    auto y = make<E>(c, s);
    if (gathers) {
      arena_scope const scratch{c.memory};
      auto const whole = detail::gather_rows(c, *ranks, t(w));
      detail::multiply_rows_together(c, *ranks, as_rows(y), store::overwrite, [&](auto const& rows, auto to) {
        linear_forward(c, slice(as_rows(t(x)), rows.first, rows.count), whole, t(bias), to);
      });
    } else if (kind == matmul_split::row && ranks != nullptr) {
      auto const once = ranks->rank() == 0 ? t(bias) : view<A const, 1>{};  // the sum has it once
      linear_forward(c, as_rows(t(x)), t(w), once, as_rows(y));
      all_reduce(*ranks, as_flat(y));
    } else {
      linear_forward(c, as_rows(t(x)), t(w), t(bias), as_rows(y));
    }
    return std::pair{y, nothing_saved{}};
  }

  template <class C, int R>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, R> dy, value<R> const& x,
                parameter<2> const& w, parameter<1> const& bias) const {
    using E = typename C::element;
    auto& c = t.context();
    auto* const ranks = detail::model_axis(t);
    auto const rows = as_rows(dy);
    if (auto db = t.gradient_of(bias); db && bias.shape[0] > 0)
      sum_rows(c, rows, db.data, db.how);
    if (kind == matmul_split::gathered && ranks != nullptr) {
      backward_gathered(t, *ranks, rows, x, w);
      return;
    }
    if (auto dw = t.gradient_of(w))
      gemm(c, transpose::yes, transpose::no, rows, as_rows(t(x)), dw.data, dw.how);
    if (auto dx = t.gradient_of(x)) {
      if (kind == matmul_split::column && ranks != nullptr) {
        arena_scope const scratch{c.memory};
        auto const part = dx.how == store::overwrite ? dx.data : make<E>(c, x.shape);
        gemm(c, transpose::no, transpose::no, rows, t(w), as_rows(part), store::overwrite);
        all_reduce(*ranks, as_flat(part));
        if (dx.how == store::accumulate)
          convert(c, view<E const, 1>{as_flat(part)}, as_flat(dx.data), store::accumulate);
      } else {
        gemm(c, transpose::no, transpose::no, rows, t(w), as_rows(dx.data), dx.how);
      }
    }
  }

 private:
  template <class C, int R>
  static void backward_gathered(tape<C>& t, parallel::any& ranks, view<typename C::element const, 2> dy,
                                value<R> const& x, parameter<2> const& w) {
    using P = typename tape<C>::P;
    auto& c = t.context();
    if (auto dw = t.gradient_of(w)) {
      detail::row_share const mine{dy.extent(0), ranks};
      arena_scope const scratch{c.memory};
      auto const whole = make<P>(c, shape{w.shape[0] * ranks.size(), w.shape[1]});
      auto const sum = make<P>(c, w.shape);
      if (mine.count > 0)
        gemm(c, transpose::yes, transpose::no, slice(dy, mine.first, mine.count),
             slice(as_rows(t(x)), mine.first, mine.count), whole, store::overwrite);
      else
        fill(c, as_flat(whole), 0.0);
      reduce_scatter(ranks, view<P const, 2>{whole}, sum);
      convert(c, view<P const, 1>{as_flat(sum)}, as_flat(dw.data), dw.how);
    }
    if (auto dx = t.gradient_of(x)) {
      arena_scope const scratch{c.memory};
      auto const whole = detail::gather_rows(c, ranks, t(w));
      detail::multiply_rows_together(c, ranks, as_rows(dx.data), dx.how, [&](auto const& rows, auto to) {
        gemm(c, transpose::no, transpose::no, slice(dy, rows.first, rows.count), whole, to, store::overwrite);
      });
    }
  }
};

/// y = x weight^T + bias, of which this rank holds, by the kind of split:
///
///              x                weight             bias          y
///   none       (…, in)          (out, in)          (out)         (…, out)
///   column     (…, in)          (out / ranks, in)  (out / ranks) (…, out / ranks)
///   row        (…, in / ranks)  (out, in / ranks)  (out)         (…, out)
///   gathered   (…, in)          (out / ranks, in)  (out)         (…, out)
///
/// A bias of extent 0 is none. Throws precondition_error where widths do not fit each other.
template <class C, int R>
value<R> linear(tape<C>& t, value<R> x, parameter<2> weight, parameter<1> bias = {},
                matmul_split kind = matmul_split::none) {
  auto const* const ranks = detail::model_axis(t);
  expects(x.shape[R - 1] == weight.shape[1], [&] {
    return "linear: the input's width " + std::to_string(x.shape[R - 1]) + " is the weight's " +
           std::to_string(weight.shape[1]);
  });
  auto const outputs =
      weight.shape[0] * (kind == matmul_split::gathered && ranks != nullptr ? ranks->size() : 1);
  expects(bias.shape[0] == 0 || bias.shape[0] == outputs, "linear: the bias has the weight's rows");
  return t.apply(linear_op{kind}, x, weight, bias);
}

}  // namespace ops
}  // namespace yoke
