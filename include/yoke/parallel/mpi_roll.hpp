// Who is missing: MPI does not say it, so ranks that have waited for some time tell all others what they wait for.
#pragma once
#include <yoke/parallel/call.hpp>
#include <yoke/parallel/mpi_calls.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <utility>
#include <vector>

namespace yoke::parallel::detail {

/// A rank waits: in which collective of which communicator, and for which ranks, the first few of them.
struct mpi_wait {
  static constexpr std::size_t most = 8;

  std::int64_t communicator = 0, number = 0;  // no number: it goes on
  std::int64_t missing = 0;
  std::array<std::int64_t, most> ranks{};

  bool operator==(mpi_wait const&) const = default;
};

/// What the ranks of MPI_COMM_WORLD, which number themselves here, wait for as far as they have said. Communicators have
/// names that all their ranks know. Used by several threads.
class mpi_roll {
 public:
  using clock = mpi_pause::clock;

  /// All ranks make one.
  mpi_roll() {
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(world_, &rank_);
    MPI_Comm_size(world_, &size_);
  }
  mpi_roll(mpi_roll const&) = delete;
  mpi_roll& operator=(mpi_roll const&) = delete;
  ~mpi_roll() {
    if (mpi_has_ended())
      return;
    listen();
    for (auto const until = clock::now() + std::chrono::seconds{1};
         !letters_.empty() && clock::now() < until;)
      forget_delivered();
    if (!letters_.empty())
      new (std::nothrow) std::deque<letter>(std::move(letters_));  // MPI may still read them
    MPI_Comm_free(&world_);
  }

  /// This rank has been waiting in a collective to which the members come. All hear of it, and `now and then` again if
  /// others are missing than before.
  void wait(std::int64_t communicator, std::int64_t number, std::vector<int> const& members,
            clock::duration now_and_then) {
    std::lock_guard const lock{mutex_};
    listen();
    auto& last = said_[communicator];
    if (clock::now() < last.until)
      return;
    mpi_wait mine{.communicator = communicator, .number = number};
    for (auto const r : missing(communicator, number, members)) {
      if (mine.missing < static_cast<std::int64_t>(mpi_wait::most))
        mine.ranks[static_cast<std::size_t>(mine.missing)] = r;
      ++mine.missing;
    }
    if (last.said == mine)
      return;
    last = {mine, clock::now() + now_and_then};
    tell(mine);
  }
  /// It waits no longer.
  void go_on(std::int64_t communicator) {
    std::lock_guard const lock{mutex_};
    if (said_.erase(communicator) > 0)
      tell({.communicator = communicator});
  }

  /// "rank 2 does not come", and, where those who are missing wait for others themselves, "; in the end all wait for
  /// rank 3".
  std::string words(std::int64_t communicator, std::int64_t number, std::vector<int> const& members) {
    std::lock_guard const lock{mutex_};
    listen();
    auto const first = missing(communicator, number, members);
    if (first.empty())
      return "all ranks have come, but MPI does not end it";
    auto const text = text_of_ranks(first) + (first.size() == 1 ? " does not come" : " do not come");
    auto const last = behind(first);
    return last.empty() || last == first ? text : text + "; in the end all wait for " + text_of_ranks(last);
  }

 private:
  struct told {
    mpi_wait said;
    clock::time_point until{};
  };
  struct letter {
    mpi_wait what;
    std::vector<MPI_Request> to;
  };

  std::set<int> missing(std::int64_t communicator, std::int64_t number,
                        std::vector<int> const& members) const {
    std::set<int> ranks;
    for (auto const r : members) {
      auto const said = heard_.find({r, communicator});
      if (r != rank_ && (said == heard_.end() || said->second.number != number))
        ranks.insert(r);
    }
    return ranks;
  }
  /// Those that wait for nobody, among these and among those that these wait for.
  std::set<int> behind(std::set<int> const& ranks) const {
    std::set<int> seen = ranks, last;
    std::deque<int> ahead(ranks.begin(), ranks.end());
    for (; !ahead.empty(); ahead.pop_front()) {
      auto waits = false;
      for (auto said = heard_.lower_bound({ahead.front(), INT64_MIN});
           said != heard_.end() && said->first.first == ahead.front(); ++said) {
        auto const& wait = said->second;
        waits = true;
        for (std::size_t i = 0;
             i < std::min<std::size_t>(mpi_wait::most, static_cast<std::size_t>(wait.missing)); ++i)
          if (auto const r = static_cast<int>(wait.ranks[i]); seen.insert(r).second)
            ahead.push_back(r);
      }
      if (!waits)
        last.insert(ahead.front());
    }
    return last;
  }

  void forget_delivered() {
    while (!letters_.empty()) {
      auto& oldest = letters_.front().to;
      int done = 0;
      MPI_Testall(static_cast<int>(oldest.size()), oldest.data(), &done, MPI_STATUSES_IGNORE);
      if (done == 0)
        break;
      letters_.pop_front();
    }
  }
  void tell(mpi_wait const& what) {
    forget_delivered();
    letters_.push_back({what, {}});
    for (int r = 0; r < size_; ++r)
      if (r != rank_) {
        auto& request = letters_.back().to.emplace_back(MPI_REQUEST_NULL);
        MPI_Isend(&letters_.back().what, sizeof(mpi_wait), MPI_BYTE, r, 0, world_, &request);
      }
  }
  void listen() {
    int there = 0;
    MPI_Status from;
    while (MPI_Iprobe(MPI_ANY_SOURCE, 0, world_, &there, &from) == MPI_SUCCESS && there != 0) {
      mpi_wait what;
      if (MPI_Recv(&what, sizeof what, MPI_BYTE, from.MPI_SOURCE, 0, world_, MPI_STATUS_IGNORE) !=
          MPI_SUCCESS)
        return;
      if (what.number == 0)
        heard_.erase({from.MPI_SOURCE, what.communicator});
      else
        heard_[{from.MPI_SOURCE, what.communicator}] = what;
    }
  }

  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::mutex mutex_;
  std::map<std::pair<int, std::int64_t>, mpi_wait> heard_;  // by rank and communicator
  std::map<std::int64_t, told> said_;                       // by communicator
  std::deque<letter> letters_;                              // on their way
};

}  // namespace yoke::parallel::detail
