// The softmax cross-entropy of labelled rows, its gradient and the number of hits in one kernel.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/cpu/lines.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// What the softmax of a line is made of: its largest number, the sum of exponentials relative to that, and how far all
/// numbers together are below it.
template <class A>
struct softmax_sums {
  A most, exponentials, below;
};
template <class T, class A = accumulator_t<T>>
softmax_sums<A> softmax_of(extent_t n, T const* x) {
  constexpr extent_t step = lanes<A>::count;
  auto const whole = n / step * step;
  auto const first = static_cast<A>(x[0]);
  auto largest = broadcast(first);
  for (extent_t i = 0; i < whole; i += step) largest = larger<A>(load(x + i), largest);
  auto most = first;
  for (int k = 0; k < lanes<A>::count; ++k) most = std::max<A>(most, largest[k]);
  for (auto i = whole; i < n; ++i) most = std::max(most, static_cast<A>(x[i]));

  lanes_t<A> sum{}, below{};
  for (extent_t i = 0; i < whole; i += step) {
    auto const v = load(x + i) - most;
    sum += exponential(v);
    below -= v;
  }
  softmax_sums<A> result{most, sum_of_lanes<A>(sum), sum_of_lanes<A>(below)};
  for (auto i = whole; i < n; ++i) {
    auto const v = static_cast<A>(x[i]) - most;
    result.exponentials += std::exp(v);
    result.below -= v;
  }
  return result;
}

}  // namespace detail

/// Of logits (rows, classes) and labels (rows): the loss of a row is -sum of q log p, p the softmax, q = 1 - smoothing
/// at the label plus smoothing / classes everywhere (Szegedy et al., arXiv 1512.00567). dlogits = scale (p - q); totals
/// (2) = the sum over rows of the loss, and the number of rows whose first largest logit is the label's. Stable for
/// logits of any size. Labels are within the classes.
template <class T>
void softmax_cross_entropy(context<T>& c, double smoothing, double scale,
                           view<std::type_identity_t<T> const, 2> logits, view<std::int32_t const, 1> labels,
                           view<std::type_identity_t<T>, 2> dlogits,
                           view<accumulator_t<std::type_identity_t<T>>, 1> totals) {
  using A = accumulator_t<T>;
  auto const rows = logits.extent(0), classes = logits.extent(1);
  for (extent_t r = 0; r < rows; ++r)
    expects(labels.data[r] >= 0 && labels.data[r] < classes, [&] {
      return "softmax_cross_entropy: row " + std::to_string(r) + " has the label " +
             std::to_string(labels.data[r]) + ", the classes are 0 to " + std::to_string(classes - 1);
    });
  auto const share = static_cast<A>(smoothing / static_cast<double>(classes)),
             peak = static_cast<A>(1 - smoothing);
  auto const factor = static_cast<A>(scale);
  auto* const losses = c.template scratch<double>(2 * rows);  // and hits
  parallel_for(rows, detail::least_rows(classes), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const* const row = logits.data + r * classes;
      auto* const to = dlogits.data + r * classes;
      auto const label = labels.data[r];
      auto const at_label = static_cast<A>(row[label]);
      auto const [most, sum, below] = detail::softmax_of(classes, row);
      losses[2 * r] = std::log(static_cast<double>(sum)) +
                      (1 - smoothing) * (static_cast<double>(most) - static_cast<double>(at_label)) +
                      static_cast<double>(share) * static_cast<double>(below);
      losses[2 * r + 1] = at_label == most && std::find(row, row + label, row[label]) == row + label ? 1 : 0;
      detail::map_line(
          classes, store::overwrite,
          [=, most = most, part = 1 / sum](auto v) {
            return factor * (detail::exponential(v - most) * part - share);
          },
          to, row);
      to[label] = static_cast<T>(factor * (std::exp(at_label - most) / sum - share - peak));
    }
  });
  double loss = 0, hits = 0;
  for (extent_t r = 0; r < rows; ++r) loss += losses[2 * r], hits += losses[2 * r + 1];
  totals.data[0] = static_cast<A>(loss);
  totals.data[1] = static_cast<A>(hits);
}

}  // namespace yoke::cpu
