// Where ranks that are threads meet: they show each other their memory, and learn who is missing or wants something else.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/parallel/call.hpp>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace yoke::parallel::detail {

/// What one rank brings to a collective.
struct contribution {
  call what{};
  void const* source = nullptr;
  void* target = nullptr;
  exchange_peers peers{};
};

/// The sentence that says who differs; empty when all agree.
inline std::string disagreement(std::vector<contribution> const& ranks, std::vector<int> const& names) {
  auto const problem = disagreement(names, [&](std::size_t r) { return &ranks[r].what; });
  if (!problem.empty() || !ranks.front().what.is(collective::exchange))
    return problem;
  return exchange_disagreement(names, [&](std::size_t r) { return &ranks[r].peers; });
}

/// A rank that takes no further part: those that wait for it learn it at once, and all others when somebody has waited in
/// vain. So ranks that all find the same fault, and leave one after the other, each give their own sentence.
struct departure {
  int rank;  // its number in the whole group
  std::string because;
  std::exception_ptr thrown{};
  bool felt = false;  // somebody has waited in vain
};

/// Who of a group has left, and the lock of all its rooms.
struct threads_fate {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<departure> left;  // the first one first; those who wait hold references

  void leaves(departure who) {
    std::lock_guard const lock{mutex};
    left.push_back(std::move(who));
    changed.notify_all();
  }
};

/// Where some ranks of a group meet: all of them, or those of a split.
class threads_room {
 public:
  /// names: the ranks' numbers in the whole group.
  threads_room(std::shared_ptr<threads_fate> fate, std::vector<int> names)
      : fate_{std::move(fate)}, names_{std::move(names)}, ranks_(names_.size()) {}

  std::size_t size() const { return names_.size(); }
  int name(std::size_t rank) const { return names_[rank]; }
  std::shared_ptr<threads_fate> const& fate() const { return fate_; }

  /// Publishes what this rank brings, lets `work`, which does not throw, read all contributions once every rank has
  /// arrived, and returns when every rank is through. Disagreement throws on every rank.
  template <class Work>
  void collective(int rank, contribution const& mine, Work const& work) {
    ranks_[static_cast<std::size_t>(rank)] = mine;
    arrive();
    auto const problem = disagreement(ranks_, names_);
    if (problem.empty())
      work(ranks_);
    part();
    if (!problem.empty())
      throw error(problem);
  }

 private:
  /// Waits until all ranks are here, or somebody will not come.
  void arrive() {
    std::unique_lock lock{fate_->mutex};
    departure* missing = nullptr;
    auto const somebody_is_missing = [&] { return (missing = first_missing()) != nullptr; };
    if (!somebody_is_missing()) {
      auto const round = round_;
      if (completes_round())
        return;
      fate_->changed.wait(lock, [&] { return round_ != round || somebody_is_missing(); });
      if (round_ != round)
        return;
    }
    missing->felt = true;
    fate_->changed.notify_all();
    throw error("rank " + std::to_string(missing->rank) + " takes no further part: " + missing->because);
  }

  /// Waits until all ranks are through. They all come, whatever becomes of others: nobody leaves while his memory is read.
  void part() {
    std::unique_lock lock{fate_->mutex};
    auto const round = round_;
    if (!completes_round())
      fate_->changed.wait(lock, [&] { return round_ != round; });
  }

  bool completes_round() {
    if (++arrived_ < size())
      return false;
    arrived_ = 0;
    ++round_;
    fate_->changed.notify_all();
    return true;
  }

  departure* first_missing() {
    for (auto& d : fate_->left)
      if (d.felt || std::ranges::find(names_, d.rank) != names_.end())
        return &d;
    return nullptr;
  }

  std::shared_ptr<threads_fate> fate_;
  std::vector<int> names_;
  std::size_t arrived_ = 0;  // guarded by the fate's mutex, as is round_
  std::size_t round_ = 0;
  std::vector<contribution> ranks_;
};

}  // namespace yoke::parallel::detail
