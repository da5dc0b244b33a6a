// Running values of what was observed, such as BatchNorm's means and variances.
#pragma once
#include <yoke/cpu/device.hpp>

#include <algorithm>
#include <type_traits>

namespace yoke::cpu {

/// values (n) += momentum (observations (n) / their number - values), their number being the element behind them; both
/// are zeroed behind the read. Without observations nothing changes.
template <class T>
void absorb_statistic(context<T>&, float momentum,
                      view<accumulator_t<std::type_identity_t<T>>, 1> observations,
                      view<accumulator_t<std::type_identity_t<T>>, 1> values) {
  using A = accumulator_t<T>;
  auto const n = values.size();
  auto const count = observations.data[n];
  if (count > 0)
    for (extent_t i = 0; i < n; ++i)
      values.data[i] += static_cast<A>(momentum) * (observations.data[i] / count - values.data[i]);
  std::fill_n(observations.data, n + 1, A{0});
}

}  // namespace yoke::cpu
