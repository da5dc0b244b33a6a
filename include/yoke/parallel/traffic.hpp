// What a rank sends: counted by every communicator, and by the one that plans.
#pragma once
#include <yoke/core/tensor.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace yoke::parallel {

/// The collectives, by which traffic counts.
enum class collective {
  all_gather,
  reduce_scatter,
  all_reduce,
  broadcast,
  exchange,
  all_gather_parts,
  barrier
};

/// By their numbers.
inline constexpr std::array<char const*, 7> collective_names{
    "all_gather", "reduce_scatter", "all_reduce", "broadcast", "exchange", "all_gather_parts", "barrier"};

/// Payload that a rank has sent, its calls of each collective, and how long they took. Bytes are those of the algorithms
/// that send least where all ranks send at once (Thakur et al., "Optimization of collective communication operations in
/// MPICH", 2005): engines that do not say what they send are counted as if they used them.
struct traffic {
  double bytes = 0;
  std::array<std::int64_t, collective_names.size()> calls{};
  double seconds = 0;  // inside of collectives, by the host's clock; 0 where they run behind the host's back

  void count(collective c, double sent) {
    ++calls[static_cast<std::size_t>(c)];
    bytes += sent;
  }
  std::int64_t calls_of(collective c) const { return calls[static_cast<std::size_t>(c)]; }
  std::int64_t all_calls() const {
    std::int64_t n = 0;
    for (auto const k : calls) n += k;
    return n;
  }

  /// What came between two readings.
  friend traffic operator-(traffic a, traffic const& b) {
    a.bytes -= b.bytes;
    a.seconds -= b.seconds;
    for (std::size_t i = 0; i < a.calls.size(); ++i) a.calls[i] -= b.calls[i];
    return a;
  }
  friend traffic operator+(traffic a, traffic const& b) {
    a.bytes += b.bytes;
    a.seconds += b.seconds;
    for (std::size_t i = 0; i < a.calls.size(); ++i) a.calls[i] += b.calls[i];
    return a;
  }
};

namespace detail {

/// The part of n elements that rank r of `ranks` combines for all: [first, last).
struct share_of_elements {
  extent_t first, last;
  constexpr share_of_elements(extent_t n, int r, int ranks)
      : first{n * r / ranks}, last{n * (r + 1) / ranks} {}
  constexpr extent_t size() const { return last - first; }
};

/// Elements that rank r of `ranks` sends where all contribute `each` (all_gather) or get `each` (reduce_scatter).
constexpr extent_t sent_by_gather(extent_t each, int ranks) {
  return each * (ranks - 1);
}
/// … in an all_reduce of n elements: the others' shares of the sum, then its own share to each of them.
constexpr extent_t sent_by_all_reduce(extent_t n, int r, int ranks) {
  auto const own = share_of_elements{n, r, ranks}.size();
  return n - own + own * (ranks - 1);
}
/// … in a broadcast of n bytes: the root deals out shares, then each rank passes its share on to the others.
constexpr extent_t sent_by_broadcast(extent_t n, int r, int root, int ranks) {
  auto const own = share_of_elements{n, r, ranks}.size();
  return (r == root ? n - own : 0) + own * (ranks - 1);
}

}  // namespace detail

}  // namespace yoke::parallel
