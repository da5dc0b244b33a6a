// What a rank calls: ranks compare it before they do it, and messages name it.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace yoke::parallel::detail {

/// The number of `split`, which is no collective of traffic's.
inline constexpr auto split_call = static_cast<std::uint32_t>(collective_names.size());

/// "all_reduce with 12 elements of 4 bytes"; the name alone where there are no elements.
inline std::string text_of_call(std::string_view name, std::uint64_t elements, std::uint64_t element_size) {
  return std::string(name) + (element_size == 0 ? ""
                                                : " with " + std::to_string(elements) + " elements of " +
                                                      std::to_string(element_size) + " bytes");
}

/// All of a call that the ranks must have alike. It is sent as it lies in memory.
struct call {
  std::uint64_t number = 0;    // of this rank's collectives on the communicator, where these are counted
  std::uint64_t elements = 0;  // of the buffer that has the same size on all ranks
  std::uint64_t parts = 0;     // of all_gather_parts: hash_of_parts
  std::uint32_t which = 0;     // a collective, or split_call
  std::uint32_t element_size = 0;
  std::uint32_t how = 0;   // a reduction
  std::uint32_t root = 0;  // of a broadcast

  bool operator==(call const&) const = default;
  bool is(collective c) const { return which == static_cast<std::uint32_t>(c); }
  std::string text() const {
    auto const name = which < collective_names.size() ? collective_names[which]
                      : which == split_call           ? "split"
                                                      : "no collective";
    return text_of_call(name, elements, element_size);
  }
};
static_assert(sizeof(call) == 40 && std::is_trivially_copyable_v<call>);

template <class T>
call call_of(collective which, extent_t elements) {
  return {.elements = static_cast<std::uint64_t>(elements),
          .which = static_cast<std::uint32_t>(which),
          .element_size = sizeof(T)};
}

/// FNV-1a over where the parts begin.
inline std::uint64_t hash_of_parts(std::span<extent_t const> begins) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (auto const b : begins) hash = (hash ^ static_cast<std::uint64_t>(b)) * 0x100000001b3;
  return hash;
}

/// "rank 3", "ranks 3, 5"; the first eight of many.
template <class Ranks>
std::string text_of_ranks(Ranks const& ranks) {
  constexpr std::size_t most = 8;
  std::string list = ranks.size() == 1 ? "rank " : "ranks ";
  std::size_t count = 0;
  for (auto const r : ranks)
    if (++count <= most)
      list += (count == 1 ? "" : ", ") + std::to_string(r);
  return count > most ? list + " and " + std::to_string(count - most) + " more" : list;
}

/// The sentence about ranks a and b, whose calls differ.
inline std::string difference(int a, call const& one, int b, call const& other) {
  auto const rank = [](int r) { return "rank " + std::to_string(r); };
  if (one.text() == other.text() && one.number == other.number && one.root != other.root)
    return "ranks disagree: " + rank(a) + " names root " + std::to_string(one.root) + ", " + rank(b) +
           " root " + std::to_string(other.root);
  auto const both =
      "ranks disagree: " + rank(a) + " calls " + one.text() + ", " + rank(b) + " calls " + other.text();
  if (one.number != other.number)
    return both + ", as their collectives number " + std::to_string(one.number) + " and " +
           std::to_string(other.number);
  if (one.text() != other.text())
    return both;
  return both + (one.how != other.how ? ": one sums, one takes the maximum" : ": their parts differ");
}

/// The sentence about the first call of those that are known that differs from the first of all; empty when all agree.
/// call_of(r): rank r's, or null. Sentences call ranks by `names`.
template <class CallOf>
std::string disagreement(std::vector<int> const& names, CallOf const& call_of) {
  std::size_t first = 0;
  while (first < names.size() && call_of(first) == nullptr) ++first;
  for (auto r = first + 1; r < names.size(); ++r)
    if (call const* const other = call_of(r); other != nullptr && *other != *call_of(first))
      return difference(names[first], *call_of(first), names[r], *other);
  return {};
}

/// Of an exchange: to which rank one sends, and from which one it waits for something.
struct exchange_peers {
  std::uint32_t to = 0, from = 0;
};

/// The sentence about ranks that do not send to each other what they wait for; empty when all do. peers_of(r): rank r's, or
/// null where they are not known.
template <class PeersOf>
std::string exchange_disagreement(std::vector<int> const& names, PeersOf const& peers_of) {
  auto const rank = [&](std::size_t r) {
    return r < names.size() ? "rank " + std::to_string(names[r]) : "no rank";
  };
  auto const known = [&](std::size_t r) -> exchange_peers const* {
    return r < names.size() ? peers_of(r) : nullptr;
  };
  for (std::size_t r = 0; r < names.size(); ++r) {
    auto const* const mine = known(r);
    if (mine == nullptr)
      continue;
    if (auto const* const p = known(mine->from); p != nullptr && p->to != r)
      return "ranks disagree: " + rank(r) + " waits for " + rank(mine->from) + ", which sends to " +
             rank(p->to);
    if (auto const* const p = known(mine->to); p != nullptr && p->from != r)
      return "ranks disagree: " + rank(r) + " sends to " + rank(mine->to) + ", which waits for " +
             rank(p->from);
  }
  return {};
}

}  // namespace yoke::parallel::detail
