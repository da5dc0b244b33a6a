// A communicator of NCCL's that never blocks and is looked after: it ends, on every rank and with all that were split
// from it, when a peer is gone, when NCCL finds an error, or when a collective takes too long.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/mark.cuh>
#include <yoke/parallel/call.hpp>
#include <yoke/parallel/rendezvous.hpp>

#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace yoke::cuda {

/// Of a communicator and those that are split from it; the same on every rank.
struct nccl_options {
  /// How long ranks may have to wait for each other in a collective, and for NCCL to start, connect and end.
  std::chrono::milliseconds timeout{25'000};
};

namespace detail {

/// Waits, but not for ever, until the stream has done all that it was given, or has failed.
inline bool drained(device& d, std::chrono::milliseconds patience) {
  for (auto const until = std::chrono::steady_clock::now() + patience;
       cudaStreamQuery(d.stream()) == cudaErrorNotReady; std::this_thread::yield())
    if (std::chrono::steady_clock::now() > until)
      return false;
  return true;
}

/// A call as messages name it.
struct collective_call {
  char const* name;
  std::size_t elements = 0, element_size = 0;

  std::string text() const { return parallel::detail::text_of_call(name, elements, element_size); }
};

class nccl_handle;

/// A communicator and those that were split from it, of one thread: one that fails takes the others with it.
struct nccl_family {
  std::vector<nccl_handle*> members;
  std::string failure;
  bool left_alone = false;  // NCCL may not be through with what failed
};

class nccl_handle final : public watcher {
 public:
  nccl_handle(device& d, parallel::rendezvous& meeting, nccl_options const& options)
      : device_{d},
        meeting_{meeting},
        timeout_{options.timeout},
        rank_{meeting.rank()},
        names_(static_cast<std::size_t>(meeting.size())),
        family_{std::make_shared<nccl_family>()} {
    std::iota(names_.begin(), names_.end(), 0);
    expects(options.timeout.count() > 0, "nccl: the timeout is positive");
    d.make_current();
    ncclUniqueId id{};
    if (rank() == 0)
      settle(ncclGetUniqueId(&id), {"the start of NCCL"});
    meeting.broadcast_bytes(std::as_writable_bytes(std::span{id.internal}));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(ncclCommInitRankConfig(&communicator_, size(), id, rank(), &config), {"the start of NCCL"});
    join_family();
  }
  /// These ranks of `whole`, in their order, which alone give this color, of 0 or more. The stream has done all that
  /// `whole` was given.
  nccl_handle(nccl_handle& whole, int color, std::span<int const> ranks)
      : device_{whole.device_}, meeting_{whole.meeting_}, timeout_{whole.timeout_}, family_{whole.family_} {
    for (auto const r : ranks) {
      if (r == whole.rank())
        rank_ = static_cast<int>(names_.size());
      names_.push_back(whole.names_[static_cast<std::size_t>(r)]);
    }
    whole.look_at_deadline();
    whole.expect_alive();
    auto made = std::make_unique<ncclComm_t>();
    try {
      whole.settle(ncclCommSplit(whole.communicator_, color, rank_, made.get(), nullptr), {"split"});
    } catch (parallel::error const&) {
      if (family_->left_alone)
        static_cast<void>(made.release());  // NCCL may still write it
      throw;
    }
    communicator_ = *made;
    join_family();
  }
  nccl_handle(nccl_handle const&) = delete;
  nccl_handle& operator=(nccl_handle const&) = delete;

  ~nccl_handle() {
    device_.forget(*this);
    std::erase(family_->members, this);
    if (communicator_ != nullptr && std::uncaught_exceptions() > exceptions_) {
      meeting_.announce("it left with an exception");
      end({std::exchange(communicator_, nullptr)}, ncclCommAbort, timeout_);
    }
    try {
      while (communicator_ != nullptr && !begun_.empty()) {
        poll();
        std::this_thread::yield();
      }
      if (communicator_ != nullptr) {
        settle(ncclCommFinalize(communicator_), {"the end of NCCL"});
        end({std::exchange(communicator_, nullptr)}, ncclCommDestroy, timeout_);
      }
    } catch (std::exception const&) {  // nobody is left to tell
      if (communicator_ != nullptr)
        end({std::exchange(communicator_, nullptr)}, ncclCommAbort, timeout_);
    }
  }

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(names_.size()); }
  std::chrono::milliseconds timeout() const { return timeout_; }
  void set_timeout(std::chrono::milliseconds t) { timeout_ = t; }

  /// Throws parallel::error when something is wrong, from then on always the same.
  void poll() override {
    expect_alive();
    auto state = ncclSuccess;
    auto const asked = ncclCommGetAsyncError(communicator_, &state);
    if (asked != ncclSuccess || (state != ncclSuccess && state != ncclInProgress))
      fail_with(asked != ncclSuccess ? asked : state,
                begun_.empty() ? collective_call{"between collectives"} : begun_.front().call);
    look_at_deadline();
  }

  /// Enqueues what `start(communicator, stream)` enqueues, and returns when NCCL has taken it. No thread of Yoke's is
  /// inside of NCCL while the host waits for anything.
  template <class Start>
  void enqueue(collective_call const& call, Start const& start) {
    expect_alive();
    auto capture = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(device_.stream(), &capture), "cudaStreamIsCapturing");
    expects(capture == cudaStreamCaptureStatusNone,
            "nccl: collectives are no part of a graph, nobody could watch them");
    while (begun_.size() >= most_begun) {
      poll();
      std::this_thread::yield();
    }
    look_at_deadline();
    begun_.push_back({call, ++count_, next_mark(), next_mark(), {}});
    auto& mine = begun_.back();
    if (beside_) {
      beside_->before.set(device_.stream());
      beside_->before.hold(beside_->stream);
    }
    mine.reached.set(stream());
    settle(start(communicator_, stream()), call);
    mine.done.set(stream());
  }

  /// From now on what is enqueued begins when the device's stream has done what it was given before, and goes on beside
  /// what that is given later, until join().
  void leave_stream() { beside_ = std::make_unique<stream_beside>(); }
  bool is_beside() const { return beside_ != nullptr; }
  /// What the device's stream is given from now on waits for all that was enqueued.
  void join() {
    expect_alive();
    if (!begun_.empty())
      begun_.back().done.hold(device_.stream());
  }

 private:
  using moment = std::chrono::steady_clock::time_point;
  static constexpr std::size_t most_begun = 64;
  static constexpr std::chrono::seconds abort_patience{4};

  /// A collective that the stream has not been seen to finish.
  struct begun {
    collective_call call;
    std::uint64_t number;
    mark reached, done;           // before and after it in the stream
    std::optional<moment> since;  // when the stream was seen to have reached it
  };

  struct stream_beside {
    own_stream stream;
    mark before;  // in the device's stream
  };
  cudaStream_t stream() const {
    return beside_ ? static_cast<cudaStream_t>(beside_->stream) : device_.stream();
  }

  void join_family() {
    family_->members.push_back(this);
    device_.watch(*this);
  }

  void expect_alive() {
    if (!family_->failure.empty())
      throw parallel::error(family_->failure);
    try {
      meeting_.poll();
    } catch (parallel::error const& e) {
      fail(e.what());
    }
  }

  /// What the stream does before a collective takes as long as it likes; from when the stream has reached it, the peers
  /// have `timeout` to come.
  void look_at_deadline() {
    while (!begun_.empty()) {
      auto& oldest = begun_.front();
      if (!oldest.since && !oldest.reached.passed())
        return;
      auto const now = std::chrono::steady_clock::now();
      if (!oldest.since)
        oldest.since = now;
      if (!oldest.done.passed()) {
        auto const waited = now - *oldest.since;
        if (!told_ &&
            waited > std::min<std::chrono::milliseconds>(timeout_ * 3 / 4, std::chrono::seconds{10}))
          tell(others());
        if (waited > timeout_)
          fail(waited_in_vain(oldest));
        return;
      }
      if (told_)
        tell({});
      spare_.push_back(std::move(oldest.reached));
      spare_.push_back(std::move(oldest.done));
      begun_.pop_front();
    }
  }

  /// NCCL does not say who is missing: it is among those that wait for nobody, here or in another communicator.
  void tell(std::vector<int> const& ranks) {
    meeting_.wait_for(ranks);
    told_ = !ranks.empty();
  }
  std::vector<int> others() const {
    std::vector<int> ranks = names_;
    std::erase(ranks, meeting_.rank());
    return ranks;
  }
  std::string waited_in_vain(begun const& what) const {
    auto const text = "rank " + std::to_string(meeting_.rank()) + " has waited " +
                      parallel::detail::text_of(timeout_) + " in " + what.call.text() +
                      ", its collective number " + std::to_string(what.number) +
                      ": a rank does not come, or calls something else";
    auto const behind = meeting_.behind(others());
    return behind.empty() ? text
                          : text + "; in the end all wait for " + parallel::detail::text_of_ranks(behind);
  }

  mark next_mark() {
    if (spare_.empty())
      return {};
    auto m = std::move(spare_.back());
    spare_.pop_back();
    return m;
  }

  /// Returns when NCCL is through with a call that gave `state`.
  void settle(ncclResult_t state, collective_call const& call) {
    auto const until = std::chrono::steady_clock::now() + timeout_;
    while (state == ncclInProgress) {
      expect_alive();
      if (std::chrono::steady_clock::now() > until)
        fail("rank " + std::to_string(meeting_.rank()) + " has waited " +
             parallel::detail::text_of(timeout_) + " for NCCL to take up " + call.text());
      std::this_thread::yield();
      if (auto const asked = ncclCommGetAsyncError(communicator_, &state); asked != ncclSuccess)
        state = asked;
    }
    if (state != ncclSuccess)
      fail_with(state, call);
  }

  /// NCCL's own error. When a peer died that is its consequence, and the lifeline soon knows the cause.
  [[noreturn]] void fail_with(ncclResult_t state, collective_call const& call) {
    auto const text = "rank " + std::to_string(meeting_.rank()) + " of " + std::to_string(meeting_.size()) +
                      ": " + call.text() + ": NCCL says " + ncclGetErrorString(state) + " (" +
                      ncclGetLastError(communicator_) + ")";
    for (auto const until = std::chrono::steady_clock::now() + std::chrono::milliseconds{200};
         std::chrono::steady_clock::now() < until; std::this_thread::sleep_for(std::chrono::milliseconds{5}))
      expect_alive();
    fail(text);
  }

  /// The others hear it first: all must abort for any to come through it.
  [[noreturn]] void fail(std::string text) {
    family_->failure = std::move(text);
    meeting_.announce(family_->failure);
    std::vector<ncclComm_t> all;
    auto const give_up = [&](nccl_handle& h) {
      if (auto* const c = std::exchange(h.communicator_, nullptr); c != nullptr)
        all.push_back(c);
    };
    give_up(*this);  // it may be no member yet, or no more
    for (auto* const h : family_->members) give_up(*h);
    family_->left_alone =
        !end(all, ncclCommAbort, std::min<std::chrono::milliseconds>(timeout_, abort_patience));
    throw parallel::error(family_->failure);
  }

  /// Ends communicators side by side. NCCL may wait for peers in there, so that it is left alone when it takes too
  /// long: false then.
  static bool end(std::vector<ncclComm_t> const& communicators, ncclResult_t (*way)(ncclComm_t),
                  std::chrono::milliseconds timeout) noexcept {
    struct helper {
      std::future<void> ended;
      std::thread thread;
    };
    std::vector<helper> helpers;
    auto const until = std::chrono::steady_clock::now() + timeout;
    for (auto* const c : communicators) {
      try {
        helpers.reserve(communicators.size());
        std::packaged_task<void()> task{[=] { way(c); }};
        auto ended = task.get_future();
        helpers.push_back({std::move(ended), std::thread{std::move(task)}});
      } catch (std::exception const&) {  // no thread to be had
        way(c);
      }
    }
    auto through = true;
    for (auto& h : helpers)
      if (h.ended.wait_until(until) == std::future_status::ready) {
        h.thread.join();
      } else {
        h.thread.detach();
        through = false;
      }
    return through;
  }

  device& device_;
  parallel::rendezvous& meeting_;
  std::chrono::milliseconds timeout_;
  int rank_ = 0;
  std::vector<int> names_;  // the ranks as the rendezvous has them
  std::shared_ptr<nccl_family> family_;
  int exceptions_ = std::uncaught_exceptions();
  ncclComm_t communicator_ = nullptr;
  std::unique_ptr<stream_beside> beside_;
  std::deque<begun> begun_;  // oldest first
  std::vector<mark> spare_;
  std::uint64_t count_ = 0;
  bool told_ = false;  // the others, that this rank waits
};

}  // namespace detail
}  // namespace yoke::cuda
