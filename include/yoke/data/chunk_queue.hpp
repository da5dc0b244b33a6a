// Threads that prepare a sequence of items ahead of the one who takes them, in order.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace yoke::data {

/// A ring of items. Threads take turns to `plan` the next item, which fixes the order, and then `work` on it
/// side by side. Task has: `item`; `worker`, what a thread needs for itself; `make_worker()`;
/// `plan(item&) -> bool`, false when this item is the last; `work(worker&, item&) const`.
///
/// An exception in a thread is thrown by front() when its item's turn comes. No OpenMP region is entered.
template <class Task>
class chunk_queue {
 public:
  using item = typename Task::item;

  /// `task` outlives the queue. With 0 workers, front() does the work.
  chunk_queue(Task& task, int workers, std::size_t capacity)
      : task_{&task}, ring_(workers == 0 ? 1 : capacity) {
    if (workers == 0)
      own_.emplace(task.make_worker());
    try {
      for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { run(); });
    } catch (...) {  // the system has no more threads
      stop();
      throw;
    }
  }
  chunk_queue(chunk_queue const&) = delete;
  chunk_queue& operator=(chunk_queue const&) = delete;
  ~chunk_queue() { stop(); }

  /// The oldest item, when it is ready. It stays until pop().
  item const& front() {
    auto& s = ring_[taken_ % ring_.size()];
    if (own_) {
      if (!s.ready)
        prepare(*own_, s);
    } else {
      std::unique_lock lock{mutex_};
      ready_.wait(lock, [&] { return s.ready; });
    }
    if (s.failure)
      std::rethrow_exception(s.failure);
    return s.content;
  }

  /// Gives the oldest item's place to a new one.
  void pop() {
    {
      std::lock_guard const lock{mutex_};
      ring_[taken_ % ring_.size()].ready = false;
      ++taken_;
    }
    free_.notify_one();
  }

 private:
  struct slot {
    item content{};
    std::exception_ptr failure{};
    bool ready = false;
  };

  void prepare(typename Task::worker& worker, slot& s) {
    try {
      last_ = !task_->plan(s.content);
      task_->work(worker, s.content);
    } catch (...) {
      s.failure = std::current_exception();
    }
    s.ready = true;
  }

  void run() {
    std::optional<typename Task::worker> worker;
    for (;;) {
      slot* s = nullptr;
      {
        std::lock_guard const turn{planning_};
        {
          std::unique_lock lock{mutex_};
          free_.wait(lock, [&] { return stopping_ || planned_ < taken_ + ring_.size(); });
          if (stopping_)
            return;
        }
        if (last_)
          return;
        s = &ring_[planned_ % ring_.size()];
        try {
          if (!worker)
            worker.emplace(task_->make_worker());
          last_ = !task_->plan(s->content);
        } catch (...) {
          s->failure = std::current_exception();
          last_ = true;
        }
        std::lock_guard const lock{mutex_};
        ++planned_;
      }
      if (!s->failure) {
        try {
          task_->work(*worker, s->content);
        } catch (...) {
          s->failure = std::current_exception();
        }
      }
      {
        std::lock_guard const lock{mutex_};
        s->ready = true;
      }
      ready_.notify_one();
    }
  }

  void stop() {
    {
      std::lock_guard const lock{mutex_};
      stopping_ = true;
    }
    free_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  Task* task_;
  std::vector<slot> ring_;
  std::optional<typename Task::worker> own_{};
  std::uint64_t planned_ = 0, taken_ = 0;  // items so far; guarded by mutex_
  bool stopping_ = false;                  // guarded by mutex_
  bool last_ = false;                      // guarded by planning_
  std::mutex planning_{}, mutex_{};
  std::condition_variable free_{}, ready_{};
  std::vector<std::thread> threads_{};
};

}  // namespace yoke::data
