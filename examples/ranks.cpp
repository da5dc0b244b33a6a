// How yoke-train's ranks meet: over sockets, over MPI, or not at all.
#include "ranks.hpp"

#include <yoke/parallel/launch.hpp>
#include <yoke/parallel/tcp.hpp>
#ifdef TRAIN_WITH_MPI
#include <yoke/parallel/mpi.hpp>
#endif

#include <chrono>
#include <optional>
#include <utility>

namespace train_tool {

namespace {

/// What one rank may do alone, such as an evaluation, while the others wait.
constexpr std::chrono::hours patience{12};

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds{static_cast<std::int64_t>(1000 * seconds)};
}

class over_sockets final : public launched_ranks {
 public:
  over_sockets(parallel::launch_environment const& here, std::uint64_t configuration, double timeout)
      : timeout_{milliseconds_of(timeout)},
        meeting_{here, {.configuration = configuration}},
        ranks_{meeting_, {.timeout = timeout_}} {}

  int rank() const override { return meeting_.rank(); }
  int size() const override { return meeting_.size(); }
  int local_rank() const override { return meeting_.local_rank(); }
  parallel::any& on_host() override { return any_; }
  parallel::rendezvous* meeting() override { return &meeting_; }
  std::chrono::milliseconds timeout() const override { return timeout_; }
  void wait_for_all() override { parallel::wait_for_all(ranks_, patience); }
  void announce(std::string const& why) noexcept override { meeting_.announce(why); }

 private:
  std::chrono::milliseconds timeout_;
  parallel::rendezvous meeting_;
  parallel::tcp ranks_;
  parallel::any any_{ranks_};
};

#ifdef TRAIN_WITH_MPI
class over_mpi final : public launched_ranks {
 public:
  explicit over_mpi(double timeout) : timeout_{milliseconds_of(timeout)}, ranks_{join()} {}

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  int local_rank() const override { return session_.local_rank(); }
  parallel::any& on_host() override { return any_; }
  parallel::rendezvous* meeting() override {
    if (!meeting_)
      meeting_.emplace(parallel::environment_of(ranks_));
    return &*meeting_;
  }
  std::chrono::milliseconds timeout() const override { return timeout_; }
  void wait_for_all() override { parallel::wait_for_all(ranks_, patience); }
  /// The session ends all ranks when an exception leaves this one, and nobody hears of it later.
  void announce(std::string const& why) noexcept override {
    if (!std::exchange(announced_, true))
      std::fprintf(stderr, "yoke-train: rank %d: %s\n", rank_in_environment(), why.c_str());
  }

 private:
  /// All ranks. Why they do not come together is said before the session ends them.
  parallel::mpi join() {
    try {
      return parallel::mpi{session_, {.timeout = timeout_}};
    } catch (std::exception const& e) {
      announce(e.what());
      throw;
    }
  }

  bool announced_ = false;
  std::chrono::milliseconds timeout_;
  parallel::mpi_session session_;
  parallel::mpi ranks_;
  parallel::any any_{ranks_};
  std::optional<parallel::rendezvous> meeting_;  // of ranks with cards, when they want one
};
#endif

}  // namespace

std::unique_ptr<launched_ranks> meet(std::uint64_t configuration, double timeout) {
  auto const here = parallel::find_environment();
  if (here && here->size > 1)
    return std::make_unique<over_sockets>(*here, configuration, timeout);
  if (!here && parallel::ranks_of_mpi_launcher() > 1) {
#ifdef TRAIN_WITH_MPI
    return std::make_unique<over_mpi>(timeout);
#else
    throw parallel::error(
        "mpirun started several ranks, and this program was built without MPI: set MASTER_ADDR and "
        "MASTER_PORT for "
        "all of them (mpirun -x), and they meet over sockets");
#endif
  }
  return std::make_unique<one_rank>();
}

}  // namespace train_tool
