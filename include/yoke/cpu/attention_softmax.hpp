// Softmax of a panel of queries and its gradient. Queries are lanes, so that no sum goes across a vector.
#pragma once
#include <yoke/cpu/attention_tiles.hpp>

#include <algorithm>
#include <type_traits>

namespace yoke::cpu::detail {

/// The keys that a vector of queries from `lane` on sees: all of it those before `all`, some of it
/// those before `some`; keys before `read` may be in a tile with those.
struct key_range {
  extent_t all, some, read;
};

template <class A>
key_range keys_of(panel const& p, bool causal, extent_t lane) {
  auto const seen = p.begin + lane + 1, last = seen + lanes<A>::count - 1;
  if (!causal)
    return {p.keys, p.keys, p.keys};
  return {std::min(p.keys, seen), std::min(p.keys, last), std::min(p.keys, last + most_tile_rows)};
}

/// v, with `other` for those queries of a vector from `lane` on that come before key j.
template <class A>
lanes_t<A> hide(panel const& p, extent_t lane, extent_t j, lanes_t<A> v, A other) {
  return numbered<A>() < broadcast(static_cast<A>(j - p.begin - lane)) ? broadcast(other) : v;
}

/// f(i, 0), f(i + 1, 1), f(i + 2, 0), … for i in [0, n): sums in two slots wait half as long for
/// the sum before. The slot is a constant.
template <class F>
void in_turns(extent_t n, F const& f) {
  extent_t i = 0;
  for (; i + 1 < n; i += 2) {
    f(i, std::integral_constant<int, 0>{});
    f(i + 1, std::integral_constant<int, 1>{});
  }
  if (i < n)
    f(i, std::integral_constant<int, 0>{});
}

/// logits (keys, lanes) become exponentials less their largest; for each query the inverse of
/// their sum and the logarithm of the sum of exponentials.
template <class A>
void softmax(panel const& p, bool causal, block<A> logits, A* inverse, A* lse) {
  for (extent_t lane = 0; lane < p.lanes; lane += lanes<A>::count) {
    auto const keys = keys_of<A>(p, causal, lane);
    auto const at = [&](extent_t j) { return logits.data + j * logits.step + lane; };
    A const masked{-1e30f};
    lanes_t<A> most[2] = {broadcast(masked), broadcast(masked)}, sum[2] = {};
    in_turns(keys.all, [&](extent_t j, auto slot) { most[slot] = larger<A>(most[slot], load(at(j))); });
    for (auto j = keys.all; j < keys.some; ++j)
      most[0] = larger<A>(most[0], hide(p, lane, j, load(at(j)), masked));
    auto const largest = larger<A>(most[0], most[1]);
    in_turns(keys.all, [&](extent_t j, auto slot) {
      auto const e = exponential(load(at(j)) - largest);
      save(at(j), e);
      sum[slot] += e;
    });
    for (auto j = keys.all; j < keys.some; ++j) {
      auto const e = hide(p, lane, j, exponential(load(at(j)) - largest), A{0});
      save(at(j), e);
      sum[0] += e;
    }
    for (auto j = keys.some; j < keys.read; ++j) save(at(j), lanes_t<A>{});
    auto const total = sum[0] + sum[1];
    save(inverse + lane, A{1} / total);
    save(lse + lane, largest + logarithm(total));
  }
}

/// logits become probabilities; dprobabilities become the gradients of the logits.
template <class A>
void softmax_backward(panel const& p, bool causal, A const* lse, block<A> logits, block<A> dprobabilities) {
  for (extent_t lane = 0; lane < p.lanes; lane += lanes<A>::count) {
    auto const keys = keys_of<A>(p, causal, lane);
    auto const at = [&](extent_t j) { return logits.data + j * logits.step + lane; };
    auto const dat = [&](extent_t j) { return dprobabilities.data + j * logits.step + lane; };
    auto const less = load(lse + lane);
    lanes_t<A> along[2] = {};
    in_turns(keys.all, [&](extent_t j, auto slot) {
      auto const e = exponential(load(at(j)) - less);
      save(at(j), e);
      along[slot] += e * load(dat(j));
    });
    for (auto j = keys.all; j < keys.some; ++j) {
      auto const e = hide(p, lane, j, exponential(load(at(j)) - less), A{0});
      save(at(j), e);
      along[0] += e * load(dat(j));
    }
    auto const total = along[0] + along[1];
    for (extent_t j = 0; j < keys.some; ++j) save(dat(j), load(at(j)) * (load(dat(j)) - total));
    for (auto j = keys.some; j < keys.read; ++j) {
      save(at(j), lanes_t<A>{});
      save(dat(j), lanes_t<A>{});
    }
  }
}

}  // namespace yoke::cpu::detail
