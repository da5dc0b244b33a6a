// Where ranks that are threads meet: they show each other their memory, and learn who is missing or wants something else.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::parallel::detail {

/// What one rank brings to a collective.
struct contribution {
  std::string_view call{};       // a collective, or split
  std::size_t elements = 0;      // of the buffer below
  std::size_t element_size = 0;  // bytes
  void const* source = nullptr;
  void* target = nullptr;
  int to = 0, from = 0;  // peers of an exchange; `from` is the root of a broadcast
  reduction how = reduction::sum;
  std::span<extent_t const> begins{};  // of all_gather_parts

  bool is(collective c) const { return call == collective_names[static_cast<std::size_t>(c)]; }
};

/// The sentence that says who differs; empty when all agree. Ranks are called by `names`.
inline std::string disagreement(std::vector<contribution> const& ranks, std::vector<int> const& names) {
  auto const name = [&](std::size_t r) { return "rank " + std::to_string(names[r]); };
  auto const peer = [&](int r) { return name(static_cast<std::size_t>(r)); };
  auto const said = [&](std::size_t r) {
    return name(r) + " calls " + std::string(ranks[r].call) + " with " + std::to_string(ranks[r].elements) +
           " elements of " + std::to_string(ranks[r].element_size) + " bytes";
  };
  auto const& first = ranks.front();
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    auto const& other = ranks[r];
    auto const both = [&] { return "ranks disagree: " + said(0) + ", " + said(r); };
    if (other.call != first.call || other.elements != first.elements ||
        other.element_size != first.element_size)
      return both();
    if (other.how != first.how)
      return both() + ": one sums, one takes the maximum";
    if (!std::ranges::equal(other.begins, first.begins))
      return both() + ": their parts differ";
    if (first.is(collective::broadcast) && other.from != first.from)
      return "ranks disagree: " + name(0) + " names root " + std::to_string(first.from) + ", " + name(r) +
             " root " + std::to_string(other.from);
  }
  if (first.is(collective::exchange))
    for (std::size_t r = 0; r < ranks.size(); ++r)
      if (auto const from = static_cast<std::size_t>(ranks[r].from); ranks[from].to != static_cast<int>(r))
        return "ranks disagree: " + name(r) + " waits for " + name(from) + ", which sends to " +
               peer(ranks[from].to);
  return {};
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
