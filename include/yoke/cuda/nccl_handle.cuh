// A communicator of NCCL's that never blocks and is looked after: it ends, on every rank, when a peer is gone, when NCCL
// finds an error, or when a collective takes too long.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/parallel/rendezvous.hpp>

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace yoke::cuda {

struct nccl_options {
  /// How long ranks may have to wait for each other in a collective, and for NCCL to start, connect and end.
  std::chrono::milliseconds timeout{25'000};
};

namespace detail {

/// A point in a stream's work.
class mark {
 public:
  mark() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  mark(mark&& other) noexcept : event_{std::exchange(other.event_, nullptr)} {}
  mark& operator=(mark other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~mark() {
    if (event_ != nullptr)
      cudaEventDestroy(event_);
  }
  void set(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// Whether the stream's work has come to it.
  bool passed() const {
    auto const status = cudaEventQuery(event_);
    if (status != cudaErrorNotReady)
      check(status, "the device's work");
    return status == cudaSuccess;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

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

  std::string text() const {
    return element_size == 0 ? std::string(name)
                             : std::string(name) + " of " + std::to_string(elements) + " elements of " +
                                   std::to_string(element_size) + " bytes";
  }
};

class nccl_handle final : public watcher {
 public:
  nccl_handle(device& d, parallel::rendezvous& meeting, nccl_options const& options)
      : device_{d}, meeting_{meeting}, timeout_{options.timeout}, exceptions_{std::uncaught_exceptions()} {
    expects(options.timeout.count() > 0, "nccl: the timeout is positive");
    d.make_current();
    ncclUniqueId id{};
    if (rank() == 0)
      settle(ncclGetUniqueId(&id), {"the start of NCCL"});
    meeting.broadcast_bytes(std::as_writable_bytes(std::span{id.internal}));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(ncclCommInitRankConfig(&communicator_, size(), id, rank(), &config), {"the start of NCCL"});
    d.watch(*this);
  }
  nccl_handle(nccl_handle const&) = delete;
  nccl_handle& operator=(nccl_handle const&) = delete;

  ~nccl_handle() {
    device_.forget(*this);
    if (communicator_ != nullptr && std::uncaught_exceptions() > exceptions_) {
      meeting_.announce("it left with an exception");
      abort();
    }
    try {
      while (communicator_ != nullptr && !begun_.empty()) {
        poll();
        std::this_thread::yield();
      }
      if (communicator_ != nullptr) {
        settle(ncclCommFinalize(communicator_), {"the end of NCCL"});
        end(ncclCommDestroy);
      }
    } catch (std::exception const&) {  // nobody is left to tell
      abort();
    }
  }

  int rank() const { return meeting_.rank(); }
  int size() const { return meeting_.size(); }

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
    mine.reached.set(device_.stream());
    settle(start(communicator_, device_.stream()), call);
    mine.done.set(device_.stream());
  }

 private:
  using moment = std::chrono::steady_clock::time_point;
  static constexpr std::size_t most_begun = 64;

  /// A collective that the stream has not been seen to finish.
  struct begun {
    collective_call call;
    std::uint64_t number;
    mark reached, done;           // before and after it in the stream
    std::optional<moment> since;  // when the stream was seen to have reached it
  };

  void expect_alive() {
    if (!failure_.empty())
      throw parallel::error(failure_);
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
        if (now - *oldest.since > timeout_)
          fail("rank " + std::to_string(rank()) + " has waited " + parallel::detail::text_of(timeout_) +
               " in " + oldest.call.text() + ", its collective number " + std::to_string(oldest.number) +
               ": a rank does not come, or calls something else");
        return;
      }
      spare_.push_back(std::move(oldest.reached));
      spare_.push_back(std::move(oldest.done));
      begun_.pop_front();
    }
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
        fail("rank " + std::to_string(rank()) + " has waited " + parallel::detail::text_of(timeout_) +
             " for NCCL to take up " + call.text());
      std::this_thread::yield();
      if (auto const asked = ncclCommGetAsyncError(communicator_, &state); asked != ncclSuccess)
        state = asked;
    }
    if (state != ncclSuccess)
      fail_with(state, call);
  }

  /// NCCL's own error. When a peer died that is its consequence, and the lifeline soon knows the cause.
  [[noreturn]] void fail_with(ncclResult_t state, collective_call const& call) {
    auto const text = "rank " + std::to_string(rank()) + " of " + std::to_string(size()) + ": " +
                      call.text() + ": NCCL says " + ncclGetErrorString(state) + " (" +
                      ncclGetLastError(communicator_) + ")";
    for (auto const until = std::chrono::steady_clock::now() + std::chrono::milliseconds{200};
         std::chrono::steady_clock::now() < until; std::this_thread::sleep_for(std::chrono::milliseconds{5}))
      expect_alive();
    fail(text);
  }

  /// The others hear it first: all must abort for any to come through it.
  [[noreturn]] void fail(std::string text) {
    failure_ = std::move(text);
    meeting_.announce(failure_);
    abort();
    throw parallel::error(failure_);
  }

  void abort() noexcept { end(ncclCommAbort); }

  /// Gives the communicator up, once. NCCL may wait for peers in here, so that it is left alone when it takes too long.
  void end(ncclResult_t (*way)(ncclComm_t)) noexcept {
    auto* const given_up = std::exchange(communicator_, nullptr);
    if (given_up == nullptr)
      return;
    try {
      std::packaged_task<void()> task{[=] { way(given_up); }};
      auto const ended = task.get_future();
      std::thread helper{std::move(task)};
      if (ended.wait_for(timeout_) == std::future_status::ready)
        helper.join();
      else
        helper.detach();
    } catch (std::exception const&) {  // no thread to be had
      way(given_up);
    }
  }

  device& device_;
  parallel::rendezvous& meeting_;
  std::chrono::milliseconds timeout_;
  int exceptions_;
  ncclComm_t communicator_ = nullptr;
  std::deque<begun> begun_;  // oldest first
  std::vector<mark> spare_;
  std::uint64_t count_ = 0;
  std::string failure_;
};

}  // namespace detail
}  // namespace yoke::cuda
