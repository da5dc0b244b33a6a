// Ranks as threads of one process: every distributed path runs, and is tested, on one machine.
#pragma once
#include <yoke/parallel/combine.hpp>
#include <yoke/parallel/communicator.hpp>
#include <yoke/parallel/threads_room.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace yoke::parallel {

class threads_group;

namespace detail {
struct threads_access;
}

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
/// When a rank throws or returns, those that wait for it, in the group or a split of it, leave their collectives with
/// parallel::error that names it by its number in the group, and all others leave theirs with the same sentence; `run`
/// joins all and rethrows what was thrown first. How many OpenMP threads each rank uses is the caller's choice, made inside
/// the function.
class threads_group {
 public:
  explicit threads_group(int ranks) : size_{ranks} { expects(ranks > 0, "a group has at least one rank"); }
  threads_group(threads_group const&) = delete;
  threads_group& operator=(threads_group const&) = delete;

  int size() const { return size_; }

  template <class F>
  void run(F const& function) {
    auto const fate = std::make_shared<detail::threads_fate>();
    std::vector<int> names(static_cast<std::size_t>(size_));
    std::iota(names.begin(), names.end(), 0);
    auto const room = std::make_shared<detail::threads_room>(fate, std::move(names));
    std::vector<std::thread> running;
    running.reserve(static_cast<std::size_t>(size_));
    try {
      for (int r = 0; r < size_; ++r)
        running.emplace_back([r, &fate, &room, &function] {
          try {
            threads self{room, r};
            function(self);
            fate->leaves({.rank = r, .because = "it has returned"});
          } catch (std::exception const& e) {
            fate->leaves({r, e.what(), std::current_exception()});
          } catch (...) {
            fate->leaves({r, "it threw something that is no std::exception", std::current_exception()});
          }
        });
    } catch (...) {  // a thread could not be started: those that run must not wait for it
      fate->leaves(
          {static_cast<int>(running.size()), "its thread could not be started", std::current_exception()});
    }
    for (auto& t : running) t.join();
    for (auto const& who : fate->left)
      if (who.thrown)
        std::rethrow_exception(who.thrown);
  }

 private:
  int size_;
};

namespace detail {

/// What the collectives below may touch.
struct threads_access {
  /// `sent`: bytes.
  template <class Work>
  static void call(threads& c, collective which, contribution mine, extent_t sent, Work const& work) {
    auto const start = std::chrono::steady_clock::now();
    mine.what.which = static_cast<std::uint32_t>(which);
    c.room_->collective(c.rank_, mine, work);
    c.traffic_.count(which, static_cast<double>(sent));
    c.traffic_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  static threads split(threads& c, int color) {
    struct offer {
      int color;
      std::shared_ptr<threads_room> room{};  // made by the first rank of a color
    } mine{color};
    contribution const shown{.what = {.which = split_call}, .source = &mine};
    auto const offered = [](contribution const& r) -> offer const& {
      return *static_cast<offer const*>(r.source);
    };
    auto& whole = *c.room_;
    auto const me = whole.name(static_cast<std::size_t>(c.rank_));
    std::vector<int> names;
    names.reserve(whole.size());
    whole.collective(c.rank_, shown, [&](auto const& ranks) {
      for (std::size_t r = 0; r < ranks.size(); ++r)
        if (offered(ranks[r]).color == color)
          names.push_back(whole.name(r));
    });
    auto const rank = static_cast<int>(std::ranges::find(names, me) - names.begin());
    if (rank == 0)
      mine.room = std::make_shared<threads_room>(whole.fate(), std::move(names));
    std::shared_ptr<threads_room> room;
    whole.collective(c.rank_, shown, [&](auto const& ranks) {
      for (auto const& r : ranks)
        if (auto const& other = offered(r); other.color == color && other.room)
          room = other.room;
    });
    return {std::move(room), rank};
  }
};

template <class T, class U>
contribution brings(T* source, extent_t elements, U* target) {
  return {.what = {.elements = static_cast<std::uint64_t>(elements), .element_size = sizeof(T)},
          .source = source,
          .target = target};
}

/// The ranks' elements [first, last), combined: take(i, values, n) gets them from element i of the whole on.
template <class T, class Take>
void combine(std::vector<contribution> const& ranks, extent_t first, extent_t last, reduction how,
             Take const& take) {
  combine<T>(
      ranks.size(), [&](std::size_t r) { return static_cast<T const*>(ranks[r].source) + first; },
      last - first, how, [&](extent_t i, T const* values, extent_t n) { take(first + i, values, n); });
}

}  // namespace detail

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(threads& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  auto const sent = detail::bytes_of<U>(detail::sent_by_gather(mine.size(), c.size()));
  detail::threads_access::call(c, collective::all_gather, detail::brings(mine.data, mine.size(), all.data),
                               sent, [&](auto const& ranks) {
                                 for (std::size_t r = 0; r < ranks.size(); ++r)
                                   detail::copy_bytes(all.data + static_cast<extent_t>(r) * mine.size(),
                                                      ranks[r].source, ranks[r].what.elements * sizeof(U));
                               });
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(threads& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  auto const sent = detail::bytes_of<U>(detail::sent_by_gather(mine.size(), c.size()));
  detail::threads_access::call(c, collective::reduce_scatter, detail::brings(all.data, all.size(), mine.data),
                               sent, [&](auto const& ranks) {
                                 auto const first = c.rank() * mine.size();
                                 detail::combine<U>(ranks, first, first + mine.size(), reduction::sum,
                                                    [&](extent_t i, U const* sums, extent_t n) {
                                                      std::copy_n(sums, n, mine.data + (i - first));
                                                    });
                               });
}

/// Each rank combines a part of its own and hands it to all.
template <element T, int R>
void all_reduce(threads& c, view<T, R> buffer, reduction how = reduction::sum) {
  auto mine = detail::brings(buffer.data, buffer.size(), buffer.data);
  mine.what.how = static_cast<std::uint32_t>(how);
  detail::share_of_elements const share{buffer.size(), c.rank(), c.size()};
  auto const sent = detail::bytes_of<T>(detail::sent_by_all_reduce(buffer.size(), c.rank(), c.size()));
  detail::threads_access::call(c, collective::all_reduce, mine, sent, [&](auto const& ranks) {
    detail::combine<T>(ranks, share.first, share.last, how, [&](extent_t i, T const* values, extent_t n) {
      for (auto const& r : ranks) std::copy_n(values, n, static_cast<T*>(r.target) + i);
    });
  });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(threads& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  auto mine = detail::brings(buffer.data, buffer.size(), buffer.data);
  mine.what.root = static_cast<std::uint32_t>(root);
  auto const sent = detail::sent_by_broadcast(detail::bytes_of<T>(buffer.size()), c.rank(), root, c.size());
  detail::threads_access::call(c, collective::broadcast, mine, sent, [&](auto const& ranks) {
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
  auto mine = detail::brings(send.data, send.size(), receive.data);
  mine.peers = {.to = static_cast<std::uint32_t>(to), .from = static_cast<std::uint32_t>(from)};
  auto const sent = to == c.rank() ? 0 : detail::bytes_of<U>(send.size());
  detail::threads_access::call(c, collective::exchange, mine, sent, [&](auto const& ranks) {
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
  auto mine = detail::brings(buffer.data, buffer.size(), buffer.data);
  mine.what.parts = detail::hash_of_parts(begins);
  auto const sent = detail::bytes_of<T>(detail::sent_by_gather(begins[me + 1] - begins[me], c.size()));
  detail::threads_access::call(c, collective::all_gather_parts, mine, sent, [&](auto const& ranks) {
    for (std::size_t r = 0; r < ranks.size(); ++r)
      detail::copy_bytes(buffer.data + begins[r], static_cast<T const*>(ranks[r].source) + begins[r],
                         static_cast<std::size_t>(begins[r + 1] - begins[r]) * sizeof(T));
  });
}

inline void barrier(threads& c) {
  detail::threads_access::call(c, collective::barrier, {}, 0, [](auto const&) {});
}

/// Not counted in traffic.
inline threads split(threads& c, int color) {
  return detail::threads_access::split(c, color);
}

static_assert(communicator<threads>);

}  // namespace yoke::parallel
