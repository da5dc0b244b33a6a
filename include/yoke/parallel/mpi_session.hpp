// MPI, begun and ended; and how a rank that fails ends all.
#pragma once
#include <yoke/parallel/mpi_roll.hpp>

#include <atomic>
#include <cstdio>
#include <exception>
#include <optional>
#include <utility>

namespace yoke::parallel {

/// Begins MPI, for several threads, and ends it. The first thing in main, and outside of what catches, so that a
/// failure is printed before all ranks end:
///
///     parallel::mpi_session session{argc, argv};
///     try {
///       parallel::mpi ranks{session};
///       …
///     } catch (std::exception const& e) {
///       std::fprintf(stderr, "%s\n", e.what());
///       session.give_up();
///       return 1;
///     }
///
/// A rank that gives up, by that call, by a communicator's failure, or because an exception passes a communicator or
/// the session, ends all others in the session's destructor (MPI_Abort); the launcher says which one it was. Where a
/// program has begun MPI itself, the session leaves its end, good or bad, to the program. There is one session in a
/// process, and every process has one.
class mpi_session {
 public:
  /// Throws parallel::error where MPI does not serve threads.
  mpi_session(int& argc, char**& argv) { begin(&argc, &argv); }
  mpi_session() { begin(nullptr, nullptr); }
  mpi_session(mpi_session const&) = delete;
  mpi_session& operator=(mpi_session const&) = delete;

  ~mpi_session() {
    if (!owns_ || detail::mpi_has_ended())
      return;
    if (std::uncaught_exceptions() > exceptions_ || has_failed()) {
      std::fflush(nullptr);  // what the program has said is not lost
      MPI_Abort(MPI_COMM_WORLD, 1);
    } else {
      roll_.reset();
      MPI_Finalize();
    }
  }

  /// Of this process among those of its machine: the number of its card.
  int local_rank() const { return local_rank_; }

  /// This rank takes no further part: its collectives throw parallel::error, and the others end with it. The first
  /// reason counts.
  void give_up(std::string why = "this rank has given up") noexcept {
    std::lock_guard const lock{mutex_};
    if (has_failed())
      return;
    failure_.swap(why);
    failed_.store(true, std::memory_order_release);
  }

  /// Throws parallel::error, always the same, once this rank has given up.
  void expect_alive() const {
    if (has_failed())
      throw error(failure_);
  }
  bool has_failed() const { return failed_.load(std::memory_order_acquire); }

  /// For communicators: what ranks wait for, and a name for the next communicator.
  detail::mpi_roll& roll() { return *roll_; }
  std::int64_t next_name() { return ++names_; }

 private:
  void begin(int* argc, char*** argv) {
    int begun = 0, level = 0;
    MPI_Initialized(&begun);
    owns_ = begun == 0;
    if (owns_)
      detail::check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &level), "the start of MPI");
    else
      MPI_Query_thread(&level);
    if (level < MPI_THREAD_MULTIPLE) {
      if (owns_)
        MPI_Finalize();
      throw error("the start of MPI: it does not serve several threads at once (MPI_THREAD_MULTIPLE)");
    }
    auto neighbours = MPI_COMM_NULL;
    detail::check_mpi(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours),
        "the ranks of this machine");
    MPI_Comm_rank(neighbours, &local_rank_);
    MPI_Comm_free(&neighbours);
    roll_.emplace();
  }

  int exceptions_ = std::uncaught_exceptions();
  bool owns_ = false;
  int local_rank_ = 0;
  std::optional<detail::mpi_roll> roll_;
  std::int64_t names_ = 0;
  std::mutex mutex_;
  std::string failure_;  // written once, before failed_
  std::atomic<bool> failed_ = false;
};

}  // namespace yoke::parallel
