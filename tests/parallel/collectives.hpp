// What every communicator's collectives must do, wherever its tensors lie.
#pragma once
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

namespace collectives {

using namespace yoke;

template <class T>
view<T, 1> flat(std::vector<T>& v) {
  return {v.data(), {{static_cast<extent_t>(v.size())}}};
}

/// What rank r holds: different in every element and rank.
template <class T>
std::vector<T> made_by(int rank, std::size_t n) {
  std::vector<T> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<T>(100 * (rank + 1)) + static_cast<T>(i) / 7;
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
/// destinations by the other.
template <class T, class C, class Here, class There>
void hold(C& c, std::size_t elements, Here const& here, There const& there, failures& wrong) {
  auto const size = static_cast<std::size_t>(c.size());
  auto const me = static_cast<std::size_t>(c.rank());
  auto const empty = [](std::size_t n) { return std::vector<T>(n); };

  std::vector<T> everyone;
  for (int r = 0; r < c.size(); ++r) {
    auto const part = made_by<T>(r, elements);
    everyone.insert(everyone.end(), part.begin(), part.end());
  }
  auto mine = here(made_by<T>(c.rank(), elements));
  auto all = there(empty(elements * size));
  all_gather(c, view<T const, 1>{mine.view()}, all.view());
  wrong.unless(all.back() == everyone, "all_gather");

  auto parts = empty(elements * size);
  std::copy_n(everyone.begin() + static_cast<std::ptrdiff_t>(me * elements), elements,
              parts.begin() + static_cast<std::ptrdiff_t>(me * elements));
  auto in_place = there(parts);
  auto const n = static_cast<extent_t>(elements);
  all_gather(c, slice(in_place.view(), n * c.rank(), n), in_place.view());
  wrong.unless(in_place.back() == everyone, "all_gather in place");

  auto wide = here(made_by<T>(c.rank(), elements * size));
  auto sum = empty(elements * size);
  for (int r = 0; r < c.size(); ++r) {
    auto const theirs = made_by<T>(r, elements * size);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += theirs[i];  // in the order of ranks
  }
  std::vector<T> const expected(sum.begin() + static_cast<std::ptrdiff_t>(me * elements),
                                sum.begin() + static_cast<std::ptrdiff_t>((me + 1) * elements));
  auto part = there(empty(elements));
  reduce_scatter(c, wide.view(), part.view());
  wrong.unless(part.back() == expected, "reduce_scatter");

  auto reduced = here(wide.back());
  all_reduce(c, reduced.view());
  wrong.unless(reduced.back() == sum, "all_reduce: sum");
  all_reduce(c, wide.view(), parallel::reduction::maximum);
  wrong.unless(wide.back() == made_by<T>(c.size() - 1, elements * size), "all_reduce: maximum");

  for (int root = 0; root < c.size(); ++root) {
    auto buffer = here(made_by<T>(c.rank(), elements));
    broadcast(c, buffer.view(), root);
    wrong.unless(buffer.back() == made_by<T>(root, elements), "broadcast");
  }

  auto received = there(empty(elements));
  auto const next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
  exchange(c, next, mine.view(), previous, received.view());
  wrong.unless(received.back() == made_by<T>(previous, elements), "exchange");
  barrier(c);
}

}  // namespace collectives
