// What ranks tell each other before each collective: they find out that they disagree before anything is taken for
// something else.
#pragma once
#include <yoke/parallel/call.hpp>

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace yoke::parallel::detail {

/// A rank's call, as it goes to each other rank.
struct tcp_call {
  call what{};
  exchange_peers peers{};
};
static_assert(sizeof(tcp_call) == 48 && std::is_trivially_copyable_v<tcp_call>);

/// Whether rank `me`, which calls `mine`, may read what rank r sends after `theirs`.
inline bool agree(tcp_call const& mine, std::uint32_t me, tcp_call const& theirs, std::uint32_t r) {
  return mine.what == theirs.what &&
         (!mine.what.is(collective::exchange) || ((theirs.peers.to == me) == (mine.peers.from == r) &&
                                                  (theirs.peers.from == me) == (mine.peers.to == r)));
}

/// The sentence that says who differs, of the calls that are known; empty when all agree.
inline std::string disagreement(std::span<std::optional<tcp_call> const> calls,
                                std::vector<int> const& names) {
  auto const problem =
      disagreement(names, [&](std::size_t r) { return calls[r] ? &calls[r]->what : nullptr; });
  if (!problem.empty())
    return problem;
  return exchange_disagreement(names, [&](std::size_t r) {
    return calls[r] && calls[r]->what.is(collective::exchange) ? &calls[r]->peers : nullptr;
  });
}

}  // namespace yoke::parallel::detail
