// What every communicator's collectives must do, wherever its tensors lie.
#pragma once
#include <yoke/parallel/communicator.hpp>
#include <yoke/parallel/dry.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace collectives {

using namespace yoke;

template <class T>
view<T, 1> flat(std::vector<T>& v) {
  return {v.data(), {{static_cast<extent_t>(v.size())}}};
}

/// What rank r holds: different in every element and rank, as far as T can tell, and larger in later ranks.
template <class T>
std::vector<T> made_by(int rank, std::size_t n) {
  std::vector<T> v(n);
  for (std::size_t i = 0; i < n; ++i)
    v[i] = static_cast<T>(100.0 * (rank + 1) + static_cast<double>(i * 37 % 1009) / 7);
  return v;
}

/// Catch's assertions are for one thread: ranks count, the test asserts.
struct failures {
  std::mutex mutex;
  std::vector<std::string> what;

  void unless(bool holds, std::string const& rule) {
    std::lock_guard const lock{mutex};
    if (!holds)
      what.push_back(rule);
  }
};

/// Tensors of the host, for the test below: it makes them of vectors, and reads them back.
struct on_host {
  template <class T>
  struct tensor {
    std::vector<T> values;
    yoke::view<T, 1> view() { return flat(values); }
    std::vector<T> back() const { return values; }
  };
  template <class T>
  tensor<T> operator()(std::vector<T> values) const {
    return {std::move(values)};
  }
};

/// Runs each collective on rank c with tensors of `elements` elements that `here` and `there` make: sources by the one,
/// destinations by the other. What is counted as sent is what a plan counts.
template <class T, class C, class Here, class There>
void hold(C& c, std::size_t elements, Here const& here, There const& there, failures& wrong) {
  auto const size = static_cast<std::size_t>(c.size());
  auto const me = static_cast<std::size_t>(c.rank());
  auto const n = static_cast<extent_t>(elements);
  auto const empty = [](std::size_t count) { return std::vector<T>(count); };
  auto const sum_of = [&](std::size_t count) {  // in the order of ranks, rounded once
    std::vector<accumulator_t<T>> sum(count);
    for (int r = 0; r < c.size(); ++r) {
      auto const theirs = made_by<T>(r, count);
      for (std::size_t i = 0; i < count; ++i) sum[i] += static_cast<accumulator_t<T>>(theirs[i]);
    }
    std::vector<T> rounded(count);
    for (std::size_t i = 0; i < count; ++i) rounded[i] = static_cast<T>(sum[i]);
    return rounded;
  };
  auto const before = c.traffic();
  parallel::dry plan{c.size(), c.rank()};
  auto const on_both = [&](auto const& call) {
    call(c);
    call(plan);
  };

  std::vector<T> everyone;
  for (int r = 0; r < c.size(); ++r) {
    auto const part = made_by<T>(r, elements);
    everyone.insert(everyone.end(), part.begin(), part.end());
  }
  auto mine = here(made_by<T>(c.rank(), elements));
  auto all = there(empty(elements * size));
  on_both([&](auto& ranks) { all_gather(ranks, view<T const, 1>{mine.view()}, all.view()); });
  wrong.unless(all.back() == everyone, "all_gather");

  auto parts = empty(elements * size);
  std::copy_n(everyone.begin() + static_cast<std::ptrdiff_t>(me * elements), elements,
              parts.begin() + static_cast<std::ptrdiff_t>(me * elements));
  auto in_place = there(parts);
  on_both([&](auto& ranks) { all_gather(ranks, slice(in_place.view(), n * c.rank(), n), in_place.view()); });
  wrong.unless(in_place.back() == everyone, "all_gather in place");

  // Parts that grow with the rank, the first one without elements; what lies before and behind them stays.
  std::vector<extent_t> begins{1};
  for (std::size_t r = 0; r < size; ++r)
    begins.push_back(begins.back() + static_cast<extent_t>(elements * r));
  auto const whole = static_cast<std::size_t>(begins.back()) + 2;
  auto uneven = made_by<T>(c.rank(), whole), joined = uneven;
  for (int r = 0; r < c.size(); ++r) {
    auto const theirs = made_by<T>(r, whole);
    for (auto i = begins[static_cast<std::size_t>(r)]; i < begins[static_cast<std::size_t>(r) + 1]; ++i)
      joined[static_cast<std::size_t>(i)] = theirs[static_cast<std::size_t>(i)];
  }
  auto gathered = there(uneven);
  on_both([&](auto& ranks) { all_gather_parts(ranks, gathered.view(), begins); });
  wrong.unless(gathered.back() == joined, "all_gather_parts");

  auto wide = here(made_by<T>(c.rank(), elements * size));
  auto const sum = sum_of(elements * size);
  std::vector<T> const expected(sum.begin() + static_cast<std::ptrdiff_t>(me * elements),
                                sum.begin() + static_cast<std::ptrdiff_t>((me + 1) * elements));
  auto part = there(empty(elements));
  on_both([&](auto& ranks) { reduce_scatter(ranks, wide.view(), part.view()); });
  wrong.unless(part.back() == expected, "reduce_scatter");

  auto reduced = here(mine.back());
  on_both([&](auto& ranks) { all_reduce(ranks, reduced.view()); });
  wrong.unless(reduced.back() == sum_of(elements), "all_reduce: sum");
  on_both([&](auto& ranks) { all_reduce(ranks, wide.view(), parallel::reduction::maximum); });
  wrong.unless(wide.back() == made_by<T>(c.size() - 1, elements * size), "all_reduce: maximum");

  for (int root = 0; root < c.size(); ++root) {
    auto buffer = here(made_by<T>(c.rank(), elements));
    on_both([&](auto& ranks) { broadcast(ranks, buffer.view(), root); });
    wrong.unless(buffer.back() == made_by<T>(root, elements), "broadcast");
  }

  auto received = there(empty(elements));
  auto const next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
  on_both([&](auto& ranks) { exchange(ranks, next, mine.view(), previous, received.view()); });
  wrong.unless(received.back() == made_by<T>(previous, elements), "exchange");
  on_both([](auto& ranks) { barrier(ranks); });

  auto const sent = c.traffic() - before;
  wrong.unless(sent.bytes == plan.traffic().bytes, "bytes as planned");
  wrong.unless(c.size() == 1 || sent.calls == plan.traffic().calls, "calls as planned");
}

/// Splits rank c's communicator by parity, and that by halves: who is in which part, in which order, and that parts sum
/// for themselves.
template <class C>
void split_holds(C& c, failures& wrong) {
  auto const members = [&](C& part) {
    std::vector<std::int32_t> mine{c.rank()}, all(static_cast<std::size_t>(part.size()));
    all_gather(part, flat(mine), flat(all));
    return all;
  };
  auto const before = c.traffic();
  auto const parity = c.rank() % 2;
  auto part = split(c, parity == 0 ? 7 : -3);
  wrong.unless((c.traffic() - before).bytes == 0, "a split sends no payload");
  std::vector<std::int32_t> expected;
  for (int r = parity; r < c.size(); r += 2) expected.push_back(r);
  wrong.unless(part.size() == static_cast<int>(expected.size()) && part.rank() == c.rank() / 2,
               "a part's ranks");
  wrong.unless(members(part) == expected, "a part's members");

  auto const late = part.rank() >= (part.size() + 1) / 2;
  auto again = split(part, late ? 1 : 0);
  auto const middle = expected.begin() + (part.size() + 1) / 2;
  wrong.unless(members(again) == (late ? std::vector<std::int32_t>(middle, expected.end())
                                       : std::vector<std::int32_t>(expected.begin(), middle)),
               "a part of a part");
  wrong.unless(part.size() == 1 || part.traffic().calls_of(parallel::collective::all_gather) == 1,
               "each counts for itself");
  std::vector<double> one{1};
  all_reduce(part, flat(one));
  wrong.unless(one[0] == part.size(), "a part sums for itself");
  all_reduce(c, flat(one), parallel::reduction::maximum);
  wrong.unless(one[0] == (c.size() + 1) / 2, "the whole goes on");
}

}  // namespace collectives
