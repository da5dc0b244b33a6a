// Ranks that should be alike, and are not: another configuration, another step, other parameters.
#pragma once
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/parallel/any.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace yoke::train {

/// What ranks compare: equal numbers say that they are the same run.
struct fingerprint_of_run {
  std::uint64_t configuration =
      0;  // parallel::configuration_hash of whatever the caller thinks must be the same
  std::uint64_t step = 0;
  std::uint64_t whole = 0;   // of the parameters that every rank has whole
  std::uint64_t shares = 0;  // of those that are shared out along the model axis
};

namespace detail {

/// The bits of a sum of squares, in one order on every rank.
template <class C>
fingerprint_of_run fingerprint_of(C& c, parameter_list const& list, parameter_store<C> const& store) {
  double whole = 0, shares = 0;
  for (auto const& p : list.infos()) {
    auto const add = [&]<class V>(view<V, 1> v) {
      (p.is_sharded() ? shares : whole) += squared_norm(c, view<V const, 1>{v});
    };
    auto const apart = store.master_block().layout().vectors_apart;
    if (apart && !p.is_matrix())
      store.master_block().visit(p, add);
    else
      store.visit_shared([&](auto values) { add(slice(values, p.offset, p.size())); });
  }
  return {0, 0, std::bit_cast<std::uint64_t>(whole), std::bit_cast<std::uint64_t>(shares)};
}

/// Throws parallel::error, on every rank, when the ranks' numbers are not all the same. The ranks that are named are the
/// fewest. `name_of(r)` is what rank r is called.
template <class Ranks, class Name>
void expect_same(Ranks& ranks, std::uint64_t mine, std::string const& what, Name const& name_of) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(ranks.size()));
  all_gather(ranks, view<std::uint64_t const, 1>{&mine, {{1}}},
             view<std::uint64_t, 1>{all.data(), {{ranks.size()}}});
  std::map<std::uint64_t, int> votes;
  for (auto const v : all) ++votes[v];
  if (votes.size() == 1)
    return;
  auto most = all[0];  // of two ranks, rank 0 is right
  for (auto const& [v, n] : votes)
    if (n > votes[most])
      most = v;
  std::string others;
  for (std::size_t r = 0; r < all.size(); ++r)
    if (all[r] != most)
      others += (others.empty() ? "" : ", ") + name_of(static_cast<int>(r));
  throw parallel::error("ranks have diverged: " + others + " and the others do not have the same " + what);
}

}  // namespace detail

/// Throws parallel::error, which names the ranks, unless all ranks of both axes are at the same step of the same run:
/// called by every rank. `model_axis` may be null.
template <class Ranks>
void expect_same_run(Ranks& data, parallel::any* model_axis, fingerprint_of_run const& mine) {
  auto const models = model_axis == nullptr ? 1 : model_axis->size();
  auto const here = model_axis == nullptr ? 0 : model_axis->rank();
  auto const along = [&](auto& ranks, auto const& name_of, bool shares) {
    detail::expect_same(ranks, mine.configuration, "configuration", name_of);
    detail::expect_same(ranks, mine.step, "step", name_of);
    detail::expect_same(ranks, mine.whole, "parameters", name_of);
    if (shares)
      detail::expect_same(ranks, mine.shares, "parameters", name_of);
  };
  if (data.size() > 1)
    along(
        data, [&](int d) { return "rank " + std::to_string(d * models + here); }, true);
  if (model_axis != nullptr)
    along(
        *model_axis, [&](int m) { return "rank " + std::to_string(data.rank() * models + m); }, false);
}

}  // namespace yoke::train
