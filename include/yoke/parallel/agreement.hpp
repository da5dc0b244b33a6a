// Numbers that ranks must have in common before they begin something together.
#pragma once
#include <yoke/parallel/any.hpp>
#include <yoke/parallel/communicator.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <string>

namespace yoke::parallel {

/// A number and what messages call it.
struct common_number {
  char const* name;
  double value;
};

/// Throws parallel::error, on every rank and with the same sentence, unless each of `mine` is the same on all of them:
/// on the ranks of one communicator, or on those of a mesh, where `ranks` is its data axis. One rank agrees with itself,
/// and NaN with NaN.
template <std::size_t N, class Ranks>
void expect_agreement(char const* place, common_number const (&mine)[N], Ranks& ranks,
                      any* model_axis = nullptr) {
  // The largest of each number and of its negative; and whether any rank's is NaN, or is not.
  std::array<double, 4 * N> bounds{};
  for (std::size_t i = 0; i < N; ++i) {
    auto const nan = std::isnan(mine[i].value);
    bounds[2 * i] = nan ? 0 : mine[i].value;
    bounds[2 * i + 1] = -bounds[2 * i];
    bounds[2 * (N + i)] = nan ? 1 : 0;
    bounds[2 * (N + i) + 1] = nan ? 0 : 1;
  }
  auto const widen = [&](auto& axis) {
    if (axis.size() > 1)
      all_reduce(axis, view<double, 1>{bounds.data(), {{static_cast<extent_t>(bounds.size())}}},
                 reduction::maximum);
  };
  widen(ranks);
  if (model_axis != nullptr)
    widen(*model_axis);
  auto const readable = [](double v) {
    return std::floor(v) == v && std::abs(v) < 1e15 ? std::to_string(static_cast<long long>(v))
                                                    : std::to_string(v);
  };
  for (std::size_t i = 0; i < N; ++i)
    if (bounds[2 * (N + i)] + bounds[2 * (N + i) + 1] > 1)
      throw error(std::string(place) + ": the ranks disagree about " + mine[i].name +
                  ": it is NaN on some alone");
    else if (auto const least = -bounds[2 * i + 1], most = bounds[2 * i]; most > least)
      throw error(std::string(place) + ": the ranks disagree about " + mine[i].name + ": " + readable(least) +
                  " to " + readable(most));
}

}  // namespace yoke::parallel
