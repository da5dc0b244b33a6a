// What an MPI rank does while it waits: it leaves the core to others, and learns which ranks are not there.
#pragma once
#include <yoke/parallel/mpi_session.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace yoke::parallel::detail {

/// Between two questions whether something has come: soon the first time, later only now and then, because a rank of
/// this machine that still computes needs the core.
class mpi_pause {
 public:
  using clock = std::chrono::steady_clock;

  void operator()() {
    auto const waited = this->waited();
    if (waited < std::chrono::milliseconds{1})
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(waited < std::chrono::seconds{1} ? std::chrono::microseconds{50}
                                                                   : std::chrono::microseconds{1000});
  }
  clock::duration waited() const { return clock::now() - since_; }

 private:
  clock::time_point since_ = clock::now();
};

/// MPI does not say who is missing. Ranks that have waited for some time tell all others which collective they are in;
/// those that say nothing until the deadline have not come to it.
class mpi_roll {
 public:
  mpi_roll(MPI_Comm ranks, int rank, int size)
      : ranks_{ranks},
        rank_{rank},
        seen_(static_cast<std::size_t>(size), -1),
        sent_(static_cast<std::size_t>(size), MPI_REQUEST_NULL) {}
  mpi_roll(mpi_roll const&) = delete;
  mpi_roll& operator=(mpi_roll const&) = delete;

  /// This rank waits in collective `number`.
  void answer(std::int64_t number) {
    int free = 0;
    if (said_ == number ||
        MPI_Testall(static_cast<int>(sent_.size()), sent_.data(), &free, MPI_STATUSES_IGNORE) !=
            MPI_SUCCESS ||
        free == 0)
      return;
    said_ = number;
    for (int r = 0; r < static_cast<int>(sent_.size()); ++r)
      if (r != rank_)
        MPI_Isend(&said_, 1, MPI_INT64_T, r, tag, ranks_, &sent_[static_cast<std::size_t>(r)]);
  }

  /// Reads what the others have said.
  void listen() {
    int there = 0;
    MPI_Status from;
    while (MPI_Iprobe(MPI_ANY_SOURCE, tag, ranks_, &there, &from) == MPI_SUCCESS && there != 0) {
      std::int64_t number = 0;
      if (MPI_Recv(&number, 1, MPI_INT64_T, from.MPI_SOURCE, tag, ranks_, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        return;
      auto& seen = seen_[static_cast<std::size_t>(from.MPI_SOURCE)];
      seen = std::max(seen, number);
    }
  }

  /// The ranks that have not been heard of in collective `number`, by the names given: "rank 2 does not come", "ranks
  /// 2, 3 do not come".
  std::string absent(std::int64_t number, std::vector<int> const& names) const {
    std::string list;
    int count = 0;
    for (std::size_t r = 0; r < seen_.size(); ++r) {
      if (static_cast<int>(r) == rank_ || seen_[r] >= number)
        continue;
      if (++count <= 8)
        list += (count > 1 ? ", " : "") + std::to_string(names[r]);
    }
    if (count == 0)
      return "all ranks have come, but MPI does not end it";
    if (count > 8)
      list += " and " + std::to_string(count - 8) + " more";
    return count == 1 ? "rank " + list + " does not come" : "ranks " + list + " do not come";
  }

 private:
  static constexpr int tag = 1;

  MPI_Comm ranks_;
  int rank_;
  std::int64_t said_ = -1;
  std::vector<std::int64_t> seen_;  // the collective in which each rank was last heard of
  std::vector<MPI_Request> sent_;
};

}  // namespace yoke::parallel::detail
