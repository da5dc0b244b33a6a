// Ranks that are not there: a plan of what one of them would send.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <cstddef>

namespace yoke::parallel {

/// The first of `ranks` ranks on a machine without any. Nothing is moved; the bytes that this rank would send by ring
/// algorithms (Thakur et al., "Optimization of collective communication operations in MPICH", 2005) are counted.
struct dry {
  int ranks = 1;
  double sent = 0;  // bytes

  constexpr int rank() const { return 0; }
  constexpr int size() const { return ranks; }
};

namespace detail {
template <class T, int R>
double bytes(view<T, R> v) {
  return static_cast<double>(v.size()) * sizeof(T);
}
}  // namespace detail

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(dry& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.ranks, "all_gather: a place for each rank's part");
  c.sent += detail::bytes(mine) * (c.ranks - 1);
}

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void reduce_scatter(dry& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.ranks, "reduce_scatter: a part for each rank");
  c.sent += detail::bytes(mine) * (c.ranks - 1);
}

template <class T, int R>
void all_reduce(dry& c, view<T, R> buffer, reduction = reduction::sum) {
  c.sent += 2 * detail::bytes(buffer) * (c.ranks - 1) / c.ranks;
}

template <class T, int R>
void broadcast(dry& c, view<T, R> buffer, int root) {
  expects(root >= 0 && root < c.ranks, "the root is one of the ranks");
  if (root == 0 && c.ranks > 1)
    c.sent += detail::bytes(buffer);
}

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(dry& c, int, view<T, R> send, int, view<U, S> receive) {
  expects(send.size() == receive.size(), "exchange: both sides have one size");
  c.sent += detail::bytes(send);
}

inline void barrier(dry&) {}

static_assert(communicator<dry>);

}  // namespace yoke::parallel
