// A step that fits a budget of memory: how much to keep, and in how large micro-batches.
#pragma once
#include <yoke/train/plan.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace yoke::train {

/// No way of taking a step fits the budget. The message gives both figures.
struct budget_too_small : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr std::array<rematerialize, 4> every_policy{rematerialize::nothing, rematerialize::cheap,
                                                           rematerialize::blocks, rematerialize::everything};

/// "nothing", "cheap", "blocks" or "everything".
constexpr std::string_view name_of(rematerialize policy) {
  constexpr std::array<std::string_view, 4> names{"nothing", "cheap", "blocks", "everything"};
  return names[static_cast<std::size_t>(policy)];
}

/// "1.25 GiB", "640.00 MiB", "12 bytes".
inline std::string readable_bytes(double bytes) {
  constexpr std::array<char const*, 4> units{"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024)
    return std::to_string(static_cast<long long>(bytes)) + " bytes";
  std::size_t unit = 0;
  for (bytes /= 1024; bytes >= 1024 && unit + 1 < units.size(); bytes /= 1024) ++unit;
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.2f %s", bytes, units[unit]);
  return text.data();
}

/// One way of taking a step.
struct fitted_step {
  rematerialize remat = rematerialize::nothing;
  extent_t micro_batch = 0;
  step_plan plan{};
};

/// Divisors of the batch, the batch first.
inline std::vector<extent_t> possible_micro_batches(extent_t batch) {
  std::vector<extent_t> found;
  for (extent_t d = 1; d * d <= batch; ++d)
    if (batch % d == 0) {
      found.push_back(d);
      if (d * d != batch)
        found.push_back(batch / d);
    }
  std::sort(found.rbegin(), found.rend());
  return found;
}

/// The cheapest way whose total fits `budget` bytes: with the fewest multiply-adds, of those the one that recomputes
/// least, of those the one with the largest micro-batch. What is given of `policy` and of s.step.micro_batch (not 0) is
/// not tried otherwise. T: as of plan_step. Throws budget_too_small, and says what is the least that a step takes.
template <class T, class Model>
fitted_step fit_step(Model const& model, parameter_list const& list, planned_step s, std::size_t budget,
                     std::optional<rematerialize> policy = {}) {
  auto const micro_batches =
      s.step.micro_batch > 0 ? std::vector<extent_t>{s.step.micro_batch} : possible_micro_batches(s.batch);
  std::optional<fitted_step> best, least;
  for (auto const remat : every_policy) {
    if (policy && *policy != remat)
      continue;
    for (auto const micro : micro_batches) {
      s.step.micro_batch = micro;
      s.step.remat = remat;
      fitted_step const way{remat, micro, plan_step<T>(model, list, s)};
      if (!least || way.plan.total() < least->plan.total())
        least = way;
      if (way.plan.total() > budget)
        continue;
      if (!best || way.plan.multiply_adds < best->plan.multiply_adds)
        best = way;
      break;  // smaller micro-batches multiply no less
    }
  }
  if (best)
    return *best;
  throw budget_too_small(
      "a budget of " + readable_bytes(static_cast<double>(budget)) + " holds no step of batch " +
      std::to_string(s.batch) + ": the least is " + readable_bytes(static_cast<double>(least->plan.total())) +
      ", in micro-batches of " + std::to_string(least->micro_batch) + ", rematerialising " +
      std::string(name_of(least->remat)) + "; parameters, their gradients and the optimiser alone take " +
      readable_bytes(static_cast<double>(least->plan.persistent)));
}

}  // namespace yoke::train
