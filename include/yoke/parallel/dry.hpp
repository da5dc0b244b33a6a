// Ranks that are not there: a plan of what one of them would send.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <cstddef>

namespace yoke::parallel {

/// One of `ranks` ranks on a machine without the others. Nothing is moved; what this rank would send is counted, as the
/// communicators that move something count it.
class dry {
 public:
  explicit dry(int ranks = 1, int rank = 0) : ranks_{ranks}, rank_{rank} {
    expects(ranks > 0 && rank >= 0 && rank < ranks, "dry: a rank is below the number of ranks");
  }
  int rank() const { return rank_; }
  int size() const { return ranks_; }
  parallel::traffic const& traffic() const { return traffic_; }
  parallel::traffic& traffic() { return traffic_; }

 private:
  int ranks_, rank_;
  parallel::traffic traffic_{};
};

namespace detail {
template <class T>
double bytes(extent_t elements) {
  return static_cast<double>(elements) * static_cast<double>(sizeof(T));
}
}  // namespace detail

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(dry& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: a place for each rank's part");
  c.traffic().count(collective::all_gather, detail::bytes<U>(detail::sent_by_gather(mine.size(), c.size())));
}

template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(dry& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: a part for each rank");
  c.traffic().count(collective::reduce_scatter,
                    detail::bytes<U>(detail::sent_by_gather(mine.size(), c.size())));
}

template <element T, int R>
void all_reduce(dry& c, view<T, R> buffer, reduction = reduction::sum) {
  c.traffic().count(collective::all_reduce,
                    detail::bytes<T>(detail::sent_by_all_reduce(buffer.size(), c.rank(), c.size())));
}

template <class T, int R>
void broadcast(dry& c, view<T, R> buffer, int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  auto const bytes = buffer.size() * static_cast<extent_t>(sizeof(T));
  c.traffic().count(collective::broadcast,
                    static_cast<double>(detail::sent_by_broadcast(bytes, c.rank(), root, c.size())));
}

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(dry& c, int to, view<T, R> send, int, view<U, S> receive) {
  expects(send.size() == receive.size(), "exchange: both sides have one size");
  c.traffic().count(collective::exchange, to == c.rank() ? 0 : detail::bytes<U>(send.size()));
}

template <class T, int R>
void all_gather_parts(dry& c, view<T, R> buffer, std::span<extent_t const> begins) {
  detail::expect_parts(begins, c.size(), buffer.size());
  auto const r = static_cast<std::size_t>(c.rank());
  c.traffic().count(collective::all_gather_parts,
                    detail::bytes<T>(detail::sent_by_gather(begins[r + 1] - begins[r], c.size())));
}

inline void barrier(dry& c) {
  c.traffic().count(collective::barrier, 0);
}

/// As many as there are: who plans for a mesh makes the communicator of each axis.
inline dry split(dry& c, int) {
  return dry{c.size(), c.rank()};
}

static_assert(communicator<dry>);

}  // namespace yoke::parallel
