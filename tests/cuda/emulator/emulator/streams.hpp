// Streams: queues of operations that run when a host call waits or
// asks, never before. Events and captures of them.
#pragma once
#include "memory.hpp"
#include "types.hpp"
#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace emulator {

enum class kind { kernel, copy, fill, free, record, wait, graph };

/// Does the operation's work and says true; or says false, "not yet", and is called again later. Runs under the
/// emulator's lock with device memory open, on whichever host thread drives the streams, and calls none of CUDA's
/// functions.
using step = std::function<bool()>;

struct operation {
  kind what;
  step run;
};

struct queue;

/// What a capture has recorded, in an order that respects all of its dependencies.
struct recording {
  std::vector<operation> nodes;
  queue* origin = nullptr;
  std::vector<std::shared_ptr<queue>> members;  // streams that record into it
  cudaStreamCaptureMode mode{};
  std::thread::id owner;
  bool invalid = false;
};
/// How much of what each stream has recorded comes before.
using history = std::map<queue*, std::size_t>;

/// What a stream has been given and has not done.
struct queue {
  int device = 0;
  bool blocking = true;  // ordered with the device's default stream
  std::deque<operation> waiting;
  std::uint64_t given = 0, done = 0;
  std::shared_ptr<recording> capture;
  std::size_t recorded = 0;  // operations that this stream has put into the capture
  history before;
};

struct moment {
  int device = 0;
  bool timing = true;
  std::uint64_t recorded = 0, done = 0;
  std::chrono::steady_clock::time_point at;
  bool captured = false;  // the latest record was in a capture
  std::weak_ptr<recording> capture;
  history before;
};

/// All cards and their streams; what several host threads share, under one lock.
class system {
 public:
  std::recursive_mutex lock;
  device_memory memory;
  pinned_memory pinned;
  std::vector<std::shared_ptr<queue>> queues;
  std::map<void const*, int> dynamic_shared;  // what kernels were allowed, in bytes

  std::shared_ptr<queue> default_queue(int device) {
    auto& q = defaults_[device];
    if (q == nullptr) {
      q = std::make_shared<queue>();
      q->device = device;
      queues.push_back(q);
    }
    return q;
  }
  bool is_default(queue const& q) const {
    auto const found = defaults_.find(q.device);
    return found != defaults_.end() && found->second.get() == &q;
  }

  /// One operation of each stream that has one is tried; true when some were done.
  bool advance() {
    device_memory::access const open{memory};
    bool moved = false;
    auto const now = queues;  // the list may change
    auto const n = now.size();
    auto const first = settings().threads == order::shuffled && n > 0 ? chance_.below(n) : 0;
    for (std::size_t i = 0; i < n; ++i) {
      auto const at = settings().threads == order::backward ? n - 1 - i : (first + i) % n;
      auto& q = *now[at];
      if (q.waiting.empty() || !q.waiting.front().run())
        continue;
      q.waiting.pop_front();
      ++q.done;
      moved = true;
    }
    std::erase_if(queues, [](auto const& q) { return q.use_count() == 2 && q->waiting.empty(); });
    return moved;
  }
  /// Runs streams until finished() says true. Gives way to other host threads while nothing can be done.
  template <class F>
  void drive(std::unique_lock<std::recursive_mutex>& held, F const& finished) {
    while (!finished()) {
      {
        device_memory::access const open{memory};
        while (advance() && !finished()) {
        }
      }
      if (finished())
        return;
      held.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      held.lock();
    }
  }
  /// Runs everything that can be run.
  void drain() {
    device_memory::access const open{memory};
    while (advance()) {
    }
  }

 private:
  std::map<int, std::shared_ptr<queue>> defaults_;
  numbers chance_{settings().seed};
};

/// It outlives static objects that use devices.
inline system& cards() {
  static system* const s = new system;
  return *s;
}
using guard = std::unique_lock<std::recursive_mutex>;

inline cudaError_t& last_error() {
  thread_local cudaError_t e = cudaSuccess;
  return e;
}
/// What every function of the runtime returns through: an error is remembered for cudaGetLastError.
inline cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess)
    last_error() = e;
  return e;
}
inline int& current_device() {
  thread_local int device = 0;
  return device;
}

}  // namespace emulator

struct CUstream_st {
  std::shared_ptr<emulator::queue> work;
};
struct CUevent_st {
  std::shared_ptr<emulator::moment> state;
};
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;

namespace emulator {

/// The queue of a stream; of the current device's default stream when it is null.
inline std::shared_ptr<queue> queue_of(cudaStream_t s) {
  return s == nullptr ? cards().default_queue(current_device()) : s->work;
}

inline cudaError_t invalidate(queue& q, cudaError_t e) {
  q.capture->invalid = true;
  return e;
}

/// Puts an operation behind those that the queue has. In a capture it is recorded instead.
inline cudaError_t enqueue(queue& q, kind what, step run) {
  auto& all = cards();
  if (q.capture != nullptr) {
    if (q.capture->invalid)
      return cudaErrorStreamCaptureInvalidated;
    q.capture->nodes.push_back({what, std::move(run)});
    q.before[&q] = ++q.recorded;
    return cudaSuccess;
  }
  // The default stream waits for all blocking streams of its device, and they for it.
  auto const push = [&q](kind k, step r) {
    q.waiting.push_back({k, std::move(r)});
    ++q.given;
  };
  if (q.blocking) {
    bool const is_default = all.is_default(q);
    for (auto const& other : all.queues) {
      if (other.get() == &q || !other->blocking || other->device != q.device ||
          (!is_default && !all.is_default(*other)))
        continue;
      if (is_default && other->capture != nullptr)
        return invalidate(*other, cudaErrorStreamCaptureImplicit);
      if (other->done < other->given)
        push(kind::wait, [other, until = other->given] { return other->done >= until; });
    }
  }
  push(what, std::move(run));
  return cudaSuccess;
}

/// The hook for libraries built on streams, such as collective communication: puts an operation on a stream that
/// may say "not yet" (false). While it does, synchronisation keeps trying it, other streams go on, and
/// cudaStreamQuery gives cudaErrorNotReady. In a capture it is recorded, and each replay calls a fresh copy of
/// `run`: what it changes in itself starts anew, what it points to is shared.
inline cudaError_t enqueue(cudaStream_t s, step run, kind what = kind::kernel) {
  guard const held{cards().lock};
  return result(enqueue(*queue_of(s), what, std::move(run)));
}

/// A stream that is being captured can be neither waited for nor asked: the attempt spoils the capture.
inline cudaError_t may_wait(queue& q) {
  return q.capture == nullptr ? cudaSuccess : invalidate(q, cudaErrorStreamCaptureUnsupported);
}
inline cudaError_t may_wait_for_device(int device) {
  auto e = cudaSuccess;
  for (auto const& q : cards().queues)
    if (q->device == device && q->capture != nullptr)
      e = may_wait(*q);
  return e;
}
/// Calls that could wait for other work are refused while a capture runs that is not relaxed: any thread's when it
/// is global, this thread's when it is thread-local.
inline cudaError_t may_be_unsafe() {
  auto e = cudaSuccess;
  for (auto const& q : cards().queues)
    if (q->capture != nullptr && (q->capture->mode == cudaStreamCaptureModeGlobal ||
                                  (q->capture->mode == cudaStreamCaptureModeThreadLocal &&
                                   q->capture->owner == std::this_thread::get_id())))
      e = may_wait(*q);
  return e;
}

}  // namespace emulator
