// What ranks say to each other. A communicator is a value that a loss or a step is given: solo (one
// rank), threads (ranks of one process), and others with the same functions, found by ADL.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

#include <concepts>
#include <type_traits>

namespace yoke::parallel {

/// How all_reduce combines the ranks' values.
enum class reduction { sum, maximum };

namespace detail {

/// Elements that may be sent; bf16 and integers can be copied but not summed.
template <class From, class To>
concept copies_to = std::same_as<std::remove_const_t<From>, To> && std::is_trivially_copyable_v<To>;
template <class From, class To>
concept sums_to = copies_to<From, To> && std::floating_point<To>;

}  // namespace detail

/// Every rank calls the same collectives in the same order with the same sizes. Tensors of any rank
/// are taken as flat runs of float or double; sums add the ranks in one fixed order, so a repeated
/// run gives the same bits, and every rank gets the same result. A peer that is missing, has failed
/// or disagrees ends in parallel::error on the others.
///
///   all_gather(c, mine, all)               all = the ranks' `mine`, one after the other
///   reduce_scatter(c, all, mine)           mine = this rank's part of the sum of the ranks' `all`
///   all_reduce(c, buffer[, reduction])     buffer = the ranks' sum or maximum
///   broadcast(c, buffer, root)             buffer = the root's
///   exchange(c, to, send, from, receive)   receive = what rank `from` sent; `send` goes to `to`
///   barrier(c)                             returns when every rank has called it
template <class C>
concept communicator = requires(C& c, view<float const, 2> mine, view<float, 2> all, view<double, 1> buffer,
                                reduction how, int peer) {
  { c.rank() } -> std::same_as<int>;  // 0 … size() - 1
  { c.size() } -> std::same_as<int>;
  all_gather(c, mine, all);
  reduce_scatter(c, mine, all);
  all_reduce(c, buffer);
  all_reduce(c, buffer, how);
  broadcast(c, buffer, peer);
  exchange(c, peer, mine, peer, all);
  barrier(c);
};

}  // namespace yoke::parallel
