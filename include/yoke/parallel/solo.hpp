// One rank alone: what it gathers and sums is its own.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <cstddef>
#include <cstring>

namespace yoke::parallel {

/// The communicator of a program that has no peers. Tensors without data (dry runs) are left alone.
struct solo {
  constexpr int rank() const { return 0; }
  constexpr int size() const { return 1; }
  constexpr parallel::traffic traffic() const { return {}; }
};

namespace detail {
template <class T, int R, class U, int S>
void copy_all(view<T, R> from, view<U, S> to) {
  expects(from.size() == to.size(), "with one rank both sides have the same number of elements");
  if (from.data != nullptr && from.data != to.data && from.size() > 0)
    std::memmove(to.data, from.data, static_cast<std::size_t>(from.size()) * sizeof(U));
}
}  // namespace detail

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(solo&, view<T, R> mine, view<U, S> all) {
  detail::copy_all(mine, all);
}

template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(solo&, view<T, R> all, view<U, S> mine) {
  detail::copy_all(all, mine);
}

template <class T, int R>
void all_reduce(solo&, view<T, R>, reduction = reduction::sum) {}

template <class T, int R>
void broadcast(solo&, view<T, R>, int root) {
  expects(root == 0, "the root is one of the ranks");
}

template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(solo&, int to, view<T, R> send, int from, view<U, S> receive) {
  expects(to == 0 && from == 0, "peers are ranks of the communicator");
  detail::copy_all(send, receive);
}

template <class T, int R>
void all_gather_parts(solo&, view<T, R> buffer, std::span<extent_t const> begins) {
  detail::expect_parts(begins, 1, buffer.size());
}

inline void barrier(solo&) {}

inline solo split(solo&, int) {
  return {};
}

static_assert(communicator<solo>);

}  // namespace yoke::parallel
