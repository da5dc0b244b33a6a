// MPI's own header, what its calls return in words, and how a rank waits for them.
#pragma once
#include <yoke/core/errors.hpp>

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1  // the C++ bindings that MPI has given up
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <chrono>
#include <string>
#include <thread>

namespace yoke::parallel::detail {

/// MPI's words for what a call has returned.
inline std::string mpi_words(int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS)
    return "error " + std::to_string(code);
  return {text, static_cast<std::size_t>(length)};
}

/// For calls that no deadline is needed for.
inline void check_mpi(int code, char const* what) {
  if (code != MPI_SUCCESS)
    throw error(std::string(what) + ": MPI says " + mpi_words(code));
}

inline bool mpi_has_ended() {
  int ended = 0;
  MPI_Finalized(&ended);
  return ended != 0;
}

/// Between two questions whether something has come: soon the first time, later only now and then, because a rank of
/// this machine that still computes needs the core.
class mpi_pause {
 public:
  using clock = std::chrono::steady_clock;

  void operator()() const {
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

}  // namespace yoke::parallel::detail
