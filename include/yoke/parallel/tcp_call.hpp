// What ranks tell each other before each collective: they find out that they disagree before anything is taken for
// something else.
#pragma once
#include <yoke/parallel/traffic.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace yoke::parallel::detail {

inline constexpr auto split_call = static_cast<std::uint32_t>(collective_names.size());

/// A rank's call, as it goes to each other rank.
struct tcp_call {
  std::uint64_t number = 0;    // of this rank's collectives on this communicator
  std::uint64_t elements = 0;  // of the buffer that all ranks have alike
  std::uint64_t parts = 0;     // a hash of all_gather_parts' beginnings
  std::uint32_t which = 0;     // a collective, or split_call
  std::uint32_t element_size = 0;
  std::uint32_t to = 0, from = 0;  // peers of an exchange; `from` is the root of a broadcast
  std::uint32_t how = 0;           // a reduction
  std::uint32_t unused = 0;

  bool is(collective c) const { return which == static_cast<std::uint32_t>(c); }

  /// "all_reduce with 12 elements of 4 bytes"
  std::string text() const {
    auto const name = which < collective_names.size() ? collective_names[which]
                      : which == split_call           ? "split"
                                                      : "no collective";
    return std::string(name) + " with " + std::to_string(elements) + " elements of " +
           std::to_string(element_size) + " bytes";
  }

  /// But for the peers of an exchange, which differ from rank to rank.
  bool like(tcp_call const& o) const {
    return number == o.number && elements == o.elements && parts == o.parts && which == o.which &&
           element_size == o.element_size && how == o.how && (!is(collective::broadcast) || from == o.from);
  }
};
static_assert(sizeof(tcp_call) == 48 && std::is_trivially_copyable_v<tcp_call>);

/// Whether rank `me`, which calls `mine`, may read what rank r sends after `theirs`.
inline bool agree(tcp_call const& mine, std::uint32_t me, tcp_call const& theirs, std::uint32_t r) {
  return mine.like(theirs) && (!mine.is(collective::exchange) || ((theirs.to == me) == (mine.from == r) &&
                                                                  (theirs.from == me) == (mine.to == r)));
}

/// The sentence that says who differs, of the calls that are known; empty when all agree. Ranks are called by `names`.
inline std::string disagreement(std::span<std::optional<tcp_call> const> calls,
                                std::vector<int> const& names) {
  auto const rank = [&](std::size_t r) { return "rank " + std::to_string(names[r]); };
  std::size_t first = 0;
  while (first < calls.size() && !calls[first]) ++first;
  for (auto r = first + 1; r < calls.size(); ++r) {
    if (!calls[r] || calls[r]->like(*calls[first]))
      continue;
    auto const &one = *calls[first], &other = *calls[r];
    auto const said =
        "ranks disagree: " + rank(first) + " calls " + one.text() + ", " + rank(r) + " calls " + other.text();
    if (one.number != other.number)
      return said + ", as their collectives number " + std::to_string(one.number) + " and " +
             std::to_string(other.number);
    if (one.text() != other.text())
      return said;
    if (one.is(collective::broadcast))
      return "ranks disagree: " + rank(first) + " names root " + std::to_string(one.from) + ", " + rank(r) +
             " root " + std::to_string(other.from);
    return said + (one.how != other.how ? ": one sums, one takes the maximum" : ": their parts differ");
  }
  for (std::size_t r = 0; r < calls.size(); ++r) {
    if (!calls[r] || !calls[r]->is(collective::exchange))
      continue;
    auto const from = std::size_t{calls[r]->from};
    if (from < calls.size() && calls[from] && calls[from]->to != r)
      return "ranks disagree: " + rank(r) + " waits for " + rank(from) + ", which sends to " +
             (calls[from]->to < calls.size() ? rank(calls[from]->to) : "no rank");
    auto const to = std::size_t{calls[r]->to};
    if (to < calls.size() && calls[to] && calls[to]->from != r)
      return "ranks disagree: " + rank(r) + " sends to " + rank(to) + ", which waits for " +
             (calls[to]->from < calls.size() ? rank(calls[to]->from) : "no rank");
  }
  return {};
}

}  // namespace yoke::parallel::detail
