// The ranks of a run of yoke-train: who started them, and how they talk to each other.
#pragma once
#include <yoke/parallel/any.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/solo.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace yoke::parallel {
class rendezvous;
}

namespace train_tool {

using namespace yoke;

/// This process among those that were started together: by torchrun's or Slurm's variables, over sockets; by mpirun, over
/// MPI where the program was built with it; alone otherwise.
class launched_ranks {
 public:
  launched_ranks() = default;
  launched_ranks(launched_ranks const&) = delete;
  launched_ranks& operator=(launched_ranks const&) = delete;
  virtual ~launched_ranks() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// The number of the card that this process takes.
  virtual int local_rank() const = 0;
  /// All ranks, for tensors in the host's memory.
  virtual parallel::any& on_host() = 0;
  /// For ranks with cards, all of which call it: where they meet. Null for one rank.
  virtual parallel::rendezvous* meeting() = 0;
  /// How long ranks wait for one that does not come.
  virtual std::chrono::milliseconds timeout() const = 0;
  /// Returns when every rank has called it, however long one works alone.
  virtual void wait_for_all() = 0;
  /// Tells the others why this rank stops; what follows is that they stop too.
  virtual void announce(std::string const& why) noexcept = 0;
};

/// A process without others.
class one_rank final : public launched_ranks {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  parallel::any& on_host() override { return any_; }
  parallel::rendezvous* meeting() override { return nullptr; }
  std::chrono::milliseconds timeout() const override { return {}; }
  void wait_for_all() override {}
  void announce(std::string const&) noexcept override {}

 private:
  parallel::solo solo_;
  parallel::any any_{solo_};
};

/// Meets the others; throws parallel::error, and says who is missing or, over sockets, has another configuration.
/// `timeout`: seconds that ranks wait for each other.
std::unique_ptr<launched_ranks> meet(std::uint64_t configuration, double timeout);

/// Throws parallel::error on every rank, and says who differs, where a number that all must have in common (a hash, a
/// count) is not the same on all.
inline void expect_common(std::string const& what, std::uint64_t number, launched_ranks& ranks) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(ranks.size()));
  all_gather(ranks.on_host(), view<std::uint64_t const, 1>{&number, {{1}}},
             view<std::uint64_t, 1>{all.data(), {{ranks.size()}}});
  for (std::size_t r = 1; r < all.size(); ++r)
    if (all[r] != all[0])
      throw parallel::error("rank " + std::to_string(r) + " has " + what + " other than rank 0");
}

/// This process's number among those that the environment names; 0 alone.
inline int rank_in_environment() {
  for (auto const* const variable : {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (auto const* const text = std::getenv(variable); text != nullptr)
      return std::atoi(text);
  return 0;
}

}  // namespace train_tool
