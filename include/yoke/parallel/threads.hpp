// Ranks as threads of one process: every distributed path runs, and is tested, on one machine.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace yoke::parallel {

class threads_group;

namespace detail {

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
  auto const said = [&](std::size_t r) {
    auto const& c = ranks[r];
    return "rank " + std::to_string(r) + " calls " + collective_names[static_cast<std::size_t>(c.call)] +
           " with " + std::to_string(c.elements) + " elements of " + std::to_string(c.element_size) +
           " bytes";
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

/// Whether a rank of a group has failed or returned, which all that wait anywhere in the group must learn.
struct threads_fate {
  std::mutex mutex;
  std::condition_variable changed;
  int gone = -1;  // the first rank
  std::string because;
};

/// Where some ranks of a group meet: all of them, or those of a split.
class threads_room {
 public:
  threads_room(std::shared_ptr<threads_fate> fate, std::size_t ranks)
      : fate_{std::move(fate)}, ranks_(ranks) {}

  std::size_t size() const { return ranks_.size(); }

  /// Publishes what this rank brings, lets `work` read all contributions once every rank has
  /// arrived, and returns when every rank is through. Disagreement throws on every rank.
  template <class Work>
  void collective(int rank, contribution const& mine, Work const& work) {
    ranks_[static_cast<std::size_t>(rank)] = mine;
    wait();
    auto const problem = disagreement(ranks_);
    if (problem.empty())
      work(ranks_);
    wait();
    if (!problem.empty())
      throw error(problem);
  }
  std::shared_ptr<threads_fate> const& fate() const { return fate_; }

 private:
  void wait() {
    std::unique_lock lock{fate_->mutex};
    auto const leave = [&] {
      throw error("rank " + std::to_string(fate_->gone) + " takes no further part: " + fate_->because);
    };
    if (fate_->gone >= 0)
      leave();
    auto const round = round_;
    if (++arrived_ == ranks_.size()) {
      arrived_ = 0;
      ++round_;
      fate_->changed.notify_all();
      return;
    }
    fate_->changed.wait(lock, [&] { return round_ != round || fate_->gone >= 0; });
    if (round_ == round)
      leave();
  }

  std::shared_ptr<threads_fate> fate_;
  std::size_t arrived_ = 0;  // guarded by the fate's mutex, as is round_
  std::size_t round_ = 0;
  std::vector<contribution> ranks_;
};

struct threads_access;

}  // namespace detail

/// One rank of a threads_group, or of a split of one: the communicator that the group hands to each thread. A rank may use
/// different communicators in different threads at once.
class threads {
 public:
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(room_->size()); }
  parallel::traffic const& traffic() const { return traffic_; }

 private:
  friend class threads_group;
  friend struct detail::threads_access;
  threads(std::shared_ptr<detail::threads_room> room, int rank) : room_{std::move(room)}, rank_{rank} {}

  std::shared_ptr<detail::threads_room> room_;
  int rank_;
  parallel::traffic traffic_{};
};

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
  explicit threads_group(int ranks) : size_{ranks} { expects(ranks > 0, "a group has at least one rank"); }
  threads_group(threads_group const&) = delete;
  threads_group& operator=(threads_group const&) = delete;

  int size() const { return size_; }

  template <class F>
  void run(F const& function) {
    auto const fate = std::make_shared<detail::threads_fate>();
    auto const room = std::make_shared<detail::threads_room>(fate, static_cast<std::size_t>(size_));
    std::exception_ptr failure;
    auto const leave = [&](int rank, std::string const& because, std::exception_ptr thrown) {
      std::lock_guard const lock{fate->mutex};
      if (thrown && !failure)
        failure = thrown;
      if (fate->gone < 0) {
        fate->gone = rank;
        fate->because = because;
      }
      fate->changed.notify_all();
    };
    std::vector<std::thread> running;
    running.reserve(static_cast<std::size_t>(size_));
    try {
      for (int r = 0; r < size_; ++r)
        running.emplace_back([r, &room, &function, &leave] {
          try {
            threads self{room, r};
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
    if (failure)
      std::rethrow_exception(failure);
  }

 private:
  int size_;
};

namespace detail {

/// What the collectives below may touch.
struct threads_access {
  /// `sent`: bytes.
  template <class Work>
  static void call(threads& c, contribution const& mine, extent_t sent, Work const& work) {
    auto const start = std::chrono::steady_clock::now();
    c.room_->collective(c.rank_, mine, work);
    c.traffic_.count(mine.call, static_cast<double>(sent));
    c.traffic_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  static auto const& fate_of(threads& c) { return c.room_->fate(); }
  static threads make(std::shared_ptr<threads_room> room, int rank) { return {std::move(room), rank}; }
};

template <class T, class U>
contribution brings(collective call, T* source, extent_t elements, U* target) {
  return {call, static_cast<std::size_t>(elements), sizeof(T), 0, 0, reduction::sum, source, target};
}

template <class T>
extent_t bytes_of(extent_t elements) {
  return elements * static_cast<extent_t>(sizeof(T));
}

/// The ranks' elements at i, combined in their order, in the accumulator's type.
template <class T>
T combine(std::vector<contribution> const& ranks, extent_t i, reduction how) {
  using A = accumulator_t<T>;
  auto value = static_cast<A>(static_cast<T const*>(ranks[0].source)[i]);
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    auto const other = static_cast<A>(static_cast<T const*>(ranks[r].source)[i]);
    value = how == reduction::sum ? value + other : std::max(value, other);
  }
  return static_cast<T>(value);
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
  detail::threads_access::call(c, detail::brings(collective::all_gather, mine.data, mine.size(), all.data),
                               detail::bytes_of<U>(detail::sent_by_gather(mine.size(), c.size())),
                               [&](auto const& ranks) {
                                 for (std::size_t r = 0; r < ranks.size(); ++r)
                                   detail::copy_bytes(all.data + static_cast<extent_t>(r) * mine.size(),
                                                      ranks[r].source, ranks[r].elements * sizeof(U));
                               });
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(threads& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  detail::threads_access::call(c, detail::brings(collective::reduce_scatter, all.data, all.size(), mine.data),
                               detail::bytes_of<U>(detail::sent_by_gather(mine.size(), c.size())),
                               [&](auto const& ranks) {
                                 auto const first = c.rank() * mine.size();
                                 for (extent_t i = 0; i < mine.size(); ++i)
                                   mine.data[i] = detail::combine<U>(ranks, first + i, reduction::sum);
                               });
}

/// Each rank combines a part of its own and hands it to all.
template <element T, int R>
void all_reduce(threads& c, view<T, R> buffer, reduction how = reduction::sum) {
  auto mine = detail::brings(collective::all_reduce, buffer.data, buffer.size(), buffer.data);
  mine.how = how;
  auto const sent = detail::bytes_of<T>(detail::sent_by_all_reduce(buffer.size(), c.rank(), c.size()));
  detail::threads_access::call(c, mine, sent, [&](auto const& ranks) {
    detail::share_of_elements const share{buffer.size(), c.rank(), c.size()};
    for (auto i = share.first; i < share.last; ++i) {
      auto const value = detail::combine<T>(ranks, i, how);
      for (auto const& r : ranks) static_cast<T*>(r.target)[i] = value;
    }
  });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(threads& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  auto mine = detail::brings(collective::broadcast, buffer.data, buffer.size(), buffer.data);
  mine.from = root;
  auto const sent = detail::sent_by_broadcast(detail::bytes_of<T>(buffer.size()), c.rank(), root, c.size());
  detail::threads_access::call(c, mine, sent, [&](auto const& ranks) {
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
  auto mine = detail::brings(collective::exchange, send.data, send.size(), receive.data);
  mine.to = to;
  mine.from = from;
  auto const sent = to == c.rank() ? 0 : detail::bytes_of<U>(send.size());
  detail::threads_access::call(c, mine, sent, [&](auto const& ranks) {
    detail::copy_bytes(receive.data, ranks[static_cast<std::size_t>(from)].source,
                       static_cast<std::size_t>(receive.size()) * sizeof(U));
  });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> &&
         !std::is_const_v<T>) void all_gather_parts(threads& c, view<T, R> buffer,
                                                    std::span<extent_t const> begins) {
  detail::expect_parts(begins, c.size(), buffer.size());
  auto const me = static_cast<std::size_t>(c.rank());
  auto const sent = detail::bytes_of<T>(detail::sent_by_gather(begins[me + 1] - begins[me], c.size()));
  detail::threads_access::call(
      c, detail::brings(collective::all_gather_parts, buffer.data, buffer.size(), buffer.data), sent,
      [&](auto const& ranks) {
        for (std::size_t r = 0; r < ranks.size(); ++r)
          if (r != me)
            detail::copy_bytes(buffer.data + begins[r], static_cast<T const*>(ranks[r].source) + begins[r],
                               static_cast<std::size_t>(begins[r + 1] - begins[r]) * sizeof(T));
      });
}

inline void barrier(threads& c) {
  detail::contribution const nothing;
  detail::threads_access::call(c, nothing, 0, [](auto const&) {});
}

/// A rank that fails or returns is gone for those that wait for it in a split, too.
inline threads split(threads& c, int color) {
  // Each rank shows its colour; the first of a colour makes their room, and shows it.
  struct offer {
    int color;
    std::shared_ptr<detail::threads_room> room;
  } mine{color, {}};
  std::shared_ptr<detail::threads_room> room;
  int rank = 0;
  auto const shown = detail::brings(collective::exchange, &mine, 1, static_cast<void*>(nullptr));
  auto alone = shown;
  alone.to = alone.from = c.rank();
  auto const color_of = [](detail::contribution const& r) -> offer& {
    return *static_cast<offer*>(const_cast<void*>(r.source));
  };
  detail::threads_access::call(c, alone, 0, [&](auto const& ranks) {
    std::size_t members = 0;
    for (int r = 0; r < c.size(); ++r)
      if (color_of(ranks[static_cast<std::size_t>(r)]).color == color) {
        rank += r < c.rank() ? 1 : 0;
        ++members;
      }
    if (rank == 0)
      mine.room = std::make_shared<detail::threads_room>(detail::threads_access::fate_of(c), members);
  });
  detail::threads_access::call(c, alone, 0, [&](auto const& ranks) {
    for (auto const& r : ranks)
      if (auto const& other = color_of(r); other.color == color && other.room)
        room = other.room;
  });
  return detail::threads_access::make(std::move(room), rank);
}

static_assert(communicator<threads>);

}  // namespace yoke::parallel
