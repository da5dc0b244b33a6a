// Ranks that are processes of their own find each other, and keep an eye on each other while they work.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/parallel/lifeline.hpp>

#include <exception>
#include <span>

namespace yoke::parallel {

/// A 64-bit hash (FNV-1a) of whatever all ranks must have in common, written out.
constexpr std::uint64_t configuration_hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (auto const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// How ranks find each other, and when one counts as gone; the same on every rank.
struct rendezvous_options {
  std::chrono::milliseconds timeout{60'000};  // how long to wait for all ranks to start
  std::uint64_t configuration = 0;            // all ranks must have the same: configuration_hash
  std::chrono::milliseconds heartbeat{
      2'000};  // so often each rank says that it lives, whatever its program does
  std::chrono::milliseconds silence{15'000};  // a rank that says nothing for that long is gone
};

/// The meeting of all ranks of a program: whoever constructs it has met all the others, or gets parallel::error, which
/// names the ranks that are missing, came twice or disagree about the number of ranks or the configuration.
///
///     rendezvous meeting{read_environment(), {.configuration = configuration_hash(settings)}};
///
/// Rank 0 listens at the port that launch_environment names until all have come; after that nobody does. Strangers are
/// refused, but whoever can reach the port and knows how ranks greet may pass for one: use it within a network that is
/// trusted, as NCCL must be. The connections stay open as a lifeline. A rank that is destroyed while an exception is on
/// its way, ends without a word, loses its connection, or is not heard for `silence` because it was stopped or cut off,
/// is gone for the others; one that is destroyed in peace is not. A rank that does not hear rank 0 is itself the one that
/// is cut off: it stops as the others do. Rank 0 passes on what the others say: once it has left in peace, they hear of
/// each other no more. Processes forked from a rank must not outlive it. Meeting and gathering is for one thread at a
/// time, the rest for any.
class rendezvous {
 public:
  explicit rendezvous(launch_environment const& here, rendezvous_options const& options = {})
      : here_{here}, timeout_{options.timeout}, exceptions_{std::uncaught_exceptions()} {
    expects(here.size > 0 && here.rank >= 0 && here.rank < here.size,
            "rendezvous: a rank is below the number of ranks");
    expects(options.heartbeat.count() > 0 && options.silence > options.heartbeat,
            "rendezvous: a rank's silence lasts longer than the pause between its heartbeats");
    if (here.size == 1)
      return;
    std::vector<detail::connection> links;
    if (here.rank == 0)
      links = detail::reception{here, options.configuration}.open(options.timeout);
    else
      links.push_back(detail::visitor{here, options.configuration}.enter(options.timeout));
    lifeline_.emplace(here.rank, here.size, std::move(links), options.heartbeat, options.silence);
  }
  rendezvous(rendezvous const&) = delete;
  rendezvous& operator=(rendezvous const&) = delete;
  ~rendezvous() {
    if (std::uncaught_exceptions() > exceptions_)
      announce("it left with an exception");
  }

  int rank() const { return here_.rank; }
  int size() const { return here_.size; }
  int local_rank() const { return here_.local_rank; }

  /// The bytes become those of rank 0; as many on every rank, at most 65536. Throws parallel::error when rank 0 is gone.
  void broadcast_bytes(std::span<std::byte> bytes) {
    expects(bytes.size() <= detail::longest_body, "broadcast_bytes: at most 65536 bytes");
    if (!lifeline_)
      return;
    if (here_.rank == 0) {
      lifeline_->give({reinterpret_cast<char const*>(bytes.data()), bytes.size()});
      return;
    }
    auto const given = lifeline_->take(timeout_);
    if (given.size() != bytes.size())
      throw error("ranks disagree: rank 0 broadcasts " + std::to_string(given.size()) + " bytes, rank " +
                  std::to_string(here_.rank) + " waits for " + std::to_string(bytes.size()));
    std::copy(given.begin(), given.end(), reinterpret_cast<char*>(bytes.data()));
  }

  /// For communicators: what every rank gives, by rank, and the address at which this one finds it: the one from which
  /// rank 0 saw it come, and of rank 0 the one at which this rank reached it. At most 60,000 bytes of each.
  std::vector<detail::contact> gather(std::string card, std::chrono::milliseconds timeout) {
    expects(card.size() <= 60'000, "gather: at most 60000 bytes of each rank");
    if (!lifeline_)
      return {{detail::loopback(), std::move(card)}};
    return lifeline_->gather(std::move(card), timeout);
  }

  /// Whether all ranks are on this machine, by the name that rank 0 has.
  bool on_loopback() const { return detail::names_loopback(here_.host); }

  /// Throws parallel::error("rank 3 is gone: …") when a rank has failed: the first one that did, with what it announced.
  /// Costs next to nothing, and never waits.
  void poll() const {
    if (lifeline_)
      lifeline_->poll();
  }

  /// Tells the others why this rank takes no further part; they learn it at their next poll(). Only the first counts.
  void announce(std::string_view why) noexcept {
    if (lifeline_)
      lifeline_->announce(why);
  }

  /// For communicators: tells all ranks which ones this one is waiting for; an empty list: it waits no longer.
  void wait_for(std::vector<int> const& ranks) {
    if (lifeline_)
      lifeline_->wait_for(ranks);
  }
  /// For communicators: follows "waits for" from these ranks on, and returns those at the end, which wait for nobody, in
  /// order. Empty when all of them wait for each other.
  std::vector<int> behind(std::vector<int> const& ranks) const {
    return lifeline_ ? lifeline_->behind(ranks) : ranks;
  }

 private:
  launch_environment here_;
  std::chrono::milliseconds timeout_;
  int exceptions_;
  std::optional<detail::lifeline> lifeline_;
};

}  // namespace yoke::parallel
