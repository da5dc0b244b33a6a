// Ranks as threads of one process: every distributed path runs, and is tested, on one machine.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace yoke::parallel {

class threads_group;

namespace detail {
struct threads_access;
}

/// One rank of a threads_group: the communicator that the group hands to each thread.
class threads {
 public:
  int rank() const { return rank_; }
  int size() const;

 private:
  friend class threads_group;
  friend struct detail::threads_access;
  threads(threads_group& group, int rank) : group_{&group}, rank_{rank} {}

  threads_group* group_;
  int rank_;
};

namespace detail {

enum class collective { all_gather, reduce_scatter, all_reduce, broadcast, exchange, barrier };

/// What one rank brings to a collective.
struct contribution {
  collective call = collective::barrier;
  std::size_t elements = 0;      // of the buffer below
  std::size_t element_size = 0;  // bytes
  int to = 0, from = 0;          // peers of an exchange; `from` is the root of a broadcast
  reduction how = reduction::sum;
  void const* source = nullptr;
  void* target = nullptr;
};

/// The calls of all ranks agree; empty, or the sentence that says who differs.
inline std::string disagreement(std::vector<contribution> const& ranks) {
  constexpr char const* names[] = {"all_gather", "reduce_scatter", "all_reduce",
                                   "broadcast",  "exchange",       "barrier"};
  auto const said = [&](std::size_t r) {
    auto const& c = ranks[r];
    return "rank " + std::to_string(r) + " calls " + names[static_cast<int>(c.call)] + " with " +
           std::to_string(c.elements) + " elements of " + std::to_string(c.element_size) + " bytes";
  };
  auto const& first = ranks.front();
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    auto const& other = ranks[r];
    if (other.call != first.call || other.elements != first.elements ||
        other.element_size != first.element_size || other.how != first.how)
      return "ranks disagree: " + said(0) + ", " + said(r);
    if (first.call == collective::broadcast && other.from != first.from)
      return "ranks disagree: rank 0 names root " + std::to_string(first.from) + ", rank " +
             std::to_string(r) + " root " + std::to_string(other.from);
  }
  if (first.call == collective::exchange)
    for (std::size_t r = 0; r < ranks.size(); ++r)
      if (auto const from = static_cast<std::size_t>(ranks[r].from); ranks[from].to != static_cast<int>(r))
        return "ranks disagree: rank " + std::to_string(r) + " waits for rank " + std::to_string(from) +
               ", which sends to rank " + std::to_string(ranks[from].to);
  return {};
}

}  // namespace detail

/// n ranks of one process. `run` starts a thread for each and returns when all are done:
///
///     threads_group group{4};
///     group.run([&](threads& ranks) { … });
///
/// When a rank throws, or returns while others wait for it, the others leave their collectives with
/// parallel::error that names it; `run` joins all and rethrows what was thrown first. How many
/// OpenMP threads each rank uses is the caller's choice, made inside the function.
class threads_group {
 public:
  explicit threads_group(int ranks) : ranks_(static_cast<std::size_t>(std::max(ranks, 0))) {
    expects(ranks > 0, "a group has at least one rank");
  }
  threads_group(threads_group const&) = delete;
  threads_group& operator=(threads_group const&) = delete;

  int size() const { return static_cast<int>(ranks_.size()); }

  template <class F>
  void run(F const& function) {
    arrived_ = 0;
    gone_ = -1;
    gone_because_.clear();
    failure_ = nullptr;
    std::vector<std::thread> running;
    running.reserve(ranks_.size());
    try {
      for (int r = 0; r < size(); ++r)
        running.emplace_back([this, r, &function] {
          threads self{*this, r};
          try {
            function(self);
            leave(r, "it has returned", nullptr);
          } catch (std::exception const& e) {
            leave(r, e.what(), std::current_exception());
          } catch (...) {
            leave(r, "it threw something that is no std::exception", std::current_exception());
          }
        });
    } catch (...) {  // a thread could not be started: those that run must not wait for it
      leave(static_cast<int>(running.size()), "its thread could not be started", std::current_exception());
    }
    for (auto& t : running) t.join();
    if (failure_)
      std::rethrow_exception(failure_);
  }

 private:
  friend class threads;
  friend struct detail::threads_access;

  /// Publishes what this rank brings, lets `work` read all contributions once every rank has
  /// arrived, and returns when every rank is through. Disagreement throws on every rank.
  template <class Work>
  void collective(int rank, detail::contribution const& mine, Work const& work) {
    ranks_[static_cast<std::size_t>(rank)] = mine;
    wait();
    auto const problem = detail::disagreement(ranks_);
    if (problem.empty())
      work(ranks_);
    wait();
    if (!problem.empty())
      throw error(problem);
  }

  void wait() {
    std::unique_lock lock{mutex_};
    if (gone_ >= 0)
      throw error(loss());
    auto const round = round_;
    if (++arrived_ == ranks_.size()) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return round_ != round || gone_ >= 0; });
    if (round_ == round)
      throw error(loss());
  }

  std::string loss() const {
    return "rank " + std::to_string(gone_) + " takes no further part: " + gone_because_;
  }

  void leave(int rank, std::string const& because, std::exception_ptr failure) {
    std::lock_guard const lock{mutex_};
    if (failure && !failure_)
      failure_ = failure;
    if (gone_ < 0) {
      gone_ = rank;
      gone_because_ = because;
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t arrived_ = 0;
  std::size_t round_ = 0;
  int gone_ = -1;  // the first rank that failed or returned
  std::string gone_because_;
  std::exception_ptr failure_;
  std::vector<detail::contribution> ranks_;
};

inline int threads::size() const {
  return group_->size();
}

namespace detail {

/// What the collectives below may touch.
struct threads_access {
  template <class Work>
  static void call(threads& c, contribution const& mine, Work const& work) {
    c.group_->collective(c.rank_, mine, work);
  }
};

template <class T, class U>
contribution brings(collective call, T* source, extent_t elements, U* target) {
  return {call, static_cast<std::size_t>(elements), sizeof(T), 0, 0, reduction::sum, source, target};
}

/// Memory may be the very same (in place), never half the same.
inline void copy_bytes(void* to, void const* from, std::size_t bytes) {
  if (bytes > 0 && to != from)
    std::memcpy(to, from, bytes);
}

}  // namespace detail

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(threads& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  detail::threads_access::call(
      c, detail::brings(detail::collective::all_gather, mine.data, mine.size(), all.data),
      [&](auto const& ranks) {
        for (std::size_t r = 0; r < ranks.size(); ++r)
          detail::copy_bytes(all.data + static_cast<extent_t>(r) * mine.size(), ranks[r].source,
                             ranks[r].elements * sizeof(U));
      });
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(threads& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  detail::threads_access::call(
      c, detail::brings(detail::collective::reduce_scatter, all.data, all.size(), mine.data),
      [&](auto const& ranks) {
        auto const first = c.rank() * mine.size();
        for (extent_t i = 0; i < mine.size(); ++i) {
          U sum = 0;
          for (auto const& r : ranks) sum += static_cast<U const*>(r.source)[first + i];
          mine.data[i] = sum;
        }
      });
}

/// Each rank combines a part of its own and hands it to all.
template <std::floating_point T, int R>
void all_reduce(threads& c, view<T, R> buffer, reduction how = reduction::sum) {
  auto mine = detail::brings(detail::collective::all_reduce, buffer.data, buffer.size(), buffer.data);
  mine.how = how;
  detail::threads_access::call(c, mine, [&](auto const& ranks) {
    auto const last = buffer.size() * (c.rank() + 1) / c.size();
    for (extent_t i = buffer.size() * c.rank() / c.size(); i < last; ++i) {
      auto value = static_cast<T const*>(ranks[0].source)[i];
      for (std::size_t r = 1; r < ranks.size(); ++r) {
        auto const other = static_cast<T const*>(ranks[r].source)[i];
        value = how == reduction::sum ? value + other : std::max(value, other);
      }
      for (auto const& r : ranks) static_cast<T*>(r.target)[i] = value;
    }
  });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(threads& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  auto mine = detail::brings(detail::collective::broadcast, buffer.data, buffer.size(), buffer.data);
  mine.from = root;
  detail::threads_access::call(c, mine, [&](auto const& ranks) {
    detail::copy_bytes(buffer.data, ranks[static_cast<std::size_t>(root)].source,
                       static_cast<std::size_t>(buffer.size()) * sizeof(T));
  });
}

/// `send` and `receive` do not overlap; every rank sends once and receives once.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(threads& c, int to, view<T, R> send, int from, view<U, S> receive) {
  expects(to >= 0 && to < c.size() && from >= 0 && from < c.size(), "peers are ranks of the communicator");
  expects(send.size() == receive.size(), "exchange: as many elements come as go");
  auto mine = detail::brings(detail::collective::exchange, send.data, send.size(), receive.data);
  mine.to = to;
  mine.from = from;
  detail::threads_access::call(c, mine, [&](auto const& ranks) {
    detail::copy_bytes(receive.data, ranks[static_cast<std::size_t>(from)].source,
                       static_cast<std::size_t>(receive.size()) * sizeof(U));
  });
}

inline void barrier(threads& c) {
  detail::threads_access::call(c, {}, [](auto const&) {});
}

static_assert(communicator<threads>);

}  // namespace yoke::parallel
