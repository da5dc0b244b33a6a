// What ranks say to each other. A communicator is a value that a loss or a step is given: solo (one
// rank), threads (ranks of one process), and others with the same functions, found by ADL.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/numeric.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/parallel/traffic.hpp>

#include <concepts>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>

namespace yoke::parallel {

/// How all_reduce combines the ranks' values. A maximum of numbers of which some are NaN may be any of them.
enum class reduction { sum, maximum };

namespace detail {

/// Elements that may be sent; integers can be copied but not summed.
template <class From, class To>
concept copies_to = std::same_as<std::remove_const_t<From>, To> && std::is_trivially_copyable_v<To>;
template <class From, class To>
concept sums_to = copies_to<From, To> && element<To>;

template <class T>
constexpr extent_t bytes_of(extent_t elements) {
  return elements * static_cast<extent_t>(sizeof(T));
}

/// Memory may be the very same (in place), never half the same.
inline void copy_bytes(void* to, void const* from, std::size_t bytes) {
  if (bytes > 0 && to != from)
    std::memcpy(to, from, bytes);
}

}  // namespace detail

/// Every rank calls the same collectives in the same order with the same sizes. Tensors of any rank
/// are taken as flat runs of float, double or bf16. Sums add the ranks in one fixed order, so a repeated
/// run gives the same bits, and every rank gets the same result. Threads, sockets and, unless it is told
/// otherwise, MPI add in the order of the ranks, bf16 in float and rounded once; NCCL has orders of its own and
/// rounds bf16 at each pair. A peer that is missing, has failed or disagrees ends in parallel::error on the
/// others.
///
///   all_gather(c, mine, all)               all = the ranks' `mine`, one after the other
///   reduce_scatter(c, all, mine)           mine = this rank's part of the sum of the ranks' `all`
///   all_reduce(c, buffer[, reduction])     buffer = the ranks' sum or maximum
///   broadcast(c, buffer, root)             buffer = the root's
///   exchange(c, to, send, from, receive)   receive = what rank `from` sent; `send` goes to `to` (MPI: Sendrecv)
///   all_gather_parts(c, buffer, begins)    elements [begins[r], begins[r + 1]) become those of rank r, for every r;
///                                          `begins` has size() + 1 numbers, none below the one before it
///                                          (MPI: Allgatherv)
///   barrier(c)                             returns when every rank has called it
///   split(c, color)                        ranks of one color form a communicator, in the order of their ranks
///   c.traffic()                            what this rank has sent
template <class C>
concept communicator = requires(C& c, view<float const, 2> mine, view<float, 2> all, view<double, 1> buffer,
                                reduction how, int peer, std::span<extent_t const> begins) {
  { c.rank() } -> std::same_as<int>;  // 0 … size() - 1
  { c.size() } -> std::same_as<int>;
  all_gather(c, mine, all);
  reduce_scatter(c, mine, all);
  all_reduce(c, buffer);
  all_reduce(c, buffer, how);
  broadcast(c, buffer, peer);
  exchange(c, peer, mine, peer, all);
  all_gather_parts(c, buffer, begins);
  barrier(c);
  { split(c, peer) } -> std::same_as<C>;
  { c.traffic() } -> std::convertible_to<traffic>;
};

/// One whose collectives can go on beside a device's other work, in streams:
///
///   split_beside(c)   all ranks again; each collective begins when the device's work before it is done. Null when it has
///                     no streams after all
///   join(c)           the device's work from now on waits for the collectives so far
template <class C>
concept has_streams = requires(C& c) {
  { split_beside(c) } -> std::same_as<std::unique_ptr<C>>;
  join(c);
};

namespace detail {

/// What every all_gather_parts demands.
inline void expect_parts(std::span<extent_t const> begins, int ranks, extent_t elements) {
  bool right = begins.size() == static_cast<std::size_t>(ranks) + 1 && begins.front() >= 0 &&
               begins.back() <= elements;
  for (std::size_t i = 1; right && i < begins.size(); ++i) right = begins[i - 1] <= begins[i];
  expects(right,
          "all_gather_parts: a beginning for each rank's part and an end, in order and within the buffer");
}

}  // namespace detail

}  // namespace yoke::parallel
