// Batch normalisation, and the activation behind it.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <algorithm>

namespace yoke::ops {

/// BatchNorm by the statistics of the micro-batch, and an activation.
struct batch_norm_op {
  activation kind;
  double epsilon;

  template <class A>
  struct saved {
    view<A const, 1> mean, variance;  // (width)
    view<A const, 1>
        unbiased;  // (1): the factor n / (n - 1) of n rows; absent when the two are running values
  };

  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& x, parameter<1> const& gain, parameter<1> const& bias,
               statistic<1> const& mean, statistic<1> const& variance) const {
    using A = typename C::accumulator;
    auto& c = t.context();
    auto y = make<typename C::element>(c, x.shape);
    auto const rows = as_rows(t(x));
    saved<A> s{t(mean), t(variance), {}};
    if (t.training()) {
      auto const m = make<A>(c, mean.shape), v = make<A>(c, variance.shape), factor = make<A>(c, shape{1});
      batch_statistics(c, rows, m, v);
      auto const n = static_cast<double>(rows.extent(0));
      fill(c, factor, n / std::max(n - 1, 1.0));
      s = {m, v, factor};
    }
    batch_norm_forward(c, kind, rows, s.mean, s.variance, t(gain), t(bias), static_cast<A>(epsilon),
                       as_rows(y));
    return std::pair{y, s};
  }

  template <class C, int R>
  void backward(tape<C>& t, saved<typename C::accumulator> const& s, view<typename C::element const, R> dy,
                value<R> const& x, parameter<1> const& gain, parameter<1> const& bias,
                statistic<1> const& mean, statistic<1> const& variance) const {
    using A = typename C::accumulator;
    auto& c = t.context();
    auto const dx = t.gradient_of(x);
    auto const own = s.unbiased.extent(0) != 0;
    batch_norm_backward(c, kind, own, as_rows(t(x)), s.mean, s.variance, t(gain), t(bias),
                        static_cast<A>(epsilon), as_rows(dy), as_rows(dx.or_absent()), dx.how,
                        t.gradient_of(gain).or_absent(), t.gradient_of(bias).or_absent());
    if (!own)
      return;
    if (auto observed = t.observe(mean))
      convert(c, s.mean, observed.data, observed.how);
    if (auto observed = t.observe(variance)) {  // (1, 1) times (1, width)
      auto const width = s.variance.extent(0);
      gemm(c, transpose::no, transpose::no, view<A const, 2>{s.unbiased.data, shape{1, 1}},
           view<A const, 2>{s.variance.data, shape{1, width}},
           view<A, 2>{observed.data.data, shape{1, width}}, observed.how);
    }
  }
};

/// f((x - mean) / sqrt(variance + epsilon) * gain + bias) for each column of the last axis (Ioffe & Szegedy, arXiv
/// 1502.03167). A training tape takes mean and variance of the rows at hand, and its backward pass observes them, the
/// variance times n / (n - 1), for the running values; any other tape takes the running values.
///
/// The rows at hand are those of one micro-batch on one rank, so this op alone breaks the rule that k micro-batches, or
/// N ranks, are one batch: results depend on how a batch was cut. layer_norm does not have that.
template <class C, int R>
value<R> batch_norm(tape<C>& t, value<R> x, parameter<1> gain, parameter<1> bias, statistic<1> mean,
                    statistic<1> variance, activation f = activation::identity, double epsilon = 1e-5) {
  expects(x.shape[R - 1] == gain.shape[0] && gain.shape == bias.shape && gain.shape == mean.shape &&
              gain.shape == variance.shape,
          "batch_norm: gain, bias, mean and variance have the input's width");
  return t.apply(batch_norm_op{f, epsilon}, x, gain, bias, mean, variance);
}

}  // namespace yoke::ops
