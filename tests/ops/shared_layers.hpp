// A layer and a table of tokens that ranks share, beside the same of one rank: on any device.
#pragma once
#include <yoke/contrastive/inputs.hpp>
#include <yoke/nn/linear.hpp>
#include <yoke/ops/pointwise.hpp>
#include <yoke/ops/tokens.hpp>
#include <yoke/parallel/threads.hpp>

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace shared_layers {

using namespace yoke;

using numbers = std::vector<double>;

/// Tensors by name: the parts that a rank has of them, NaN elsewhere; or wholes.
using outcome = std::map<std::string, numbers>;

inline constexpr double nowhere = std::numeric_limits<double>::quiet_NaN();

inline numbers random_numbers(std::uint64_t seed, extent_t n) {
  random_sequence random{seed};
  numbers v(static_cast<std::size_t>(n));
  for (auto& x : v) x = random.normal();
  return v;
}

/// The columns that a rank has of a matrix (rows, whole), from their first numbers on.
struct columns {
  extent_t rows, whole, here;
  std::vector<std::array<extent_t, 3>> runs;  // first of the whole, first here, how many

  template <class T>
  std::vector<T> of(numbers const& v) const {
    std::vector<T> part(static_cast<std::size_t>(rows * here));
    for_each([&](extent_t from, extent_t to) {
      part[static_cast<std::size_t>(to)] = static_cast<T>(v[static_cast<std::size_t>(from)]);
    });
    return part;
  }
  template <class C, class T>
  numbers in_whole(C& c, view<T const, 2> part) const {
    numbers v(static_cast<std::size_t>(rows * whole), nowhere);
    read_on_host(c, as_flat(part), [&](view<T const, 1> on_host) {
      for_each([&](extent_t to, extent_t from) {
        v[static_cast<std::size_t>(to)] = static_cast<double>(on_host.data[from]);
      });
    });
    return v;
  }

 private:
  template <class F>
  void for_each(F const& f) const {
    for (extent_t r = 0; r < rows; ++r)
      for (auto const& [first, local, n] : runs)
        for (extent_t i = 0; i < n; ++i) f(r * whole + first + i, r * here + local + i);
  }
};

/// What a rank has of the gradients of all parameters.
template <class C>
void collect(C& c, parameter_list const& list, parameter_store<C> const& store, outcome& to) {
  for (auto const& p : list.infos())
    store.gradient_block().visit(p, [&]<class T>(view<T, 1> gradient) {
      auto const n = p.size() * (p.is_sharded() ? p.share.ranks : 1);
      auto& whole = to[p.name] = numbers(static_cast<std::size_t>(n), nowhere);
      read_on_host(c, view<T const, 1>{gradient}, [&](view<T const, 1> g) {
        p.for_each_run_of_whole([&](extent_t at, extent_t here, extent_t size) {
          for (extent_t i = 0; i < size; ++i)
            whole[static_cast<std::size_t>(at + i)] = static_cast<double>(g.data[here + i]);
        });
      });
    });
}

/// A number of the whole that is moved: of a parameter, or of the input "x".
struct nudge {
  std::string name;
  extent_t at = 0;
  double by = 0;

  /// Among the numbers that a rank has, in the host's memory.
  template <class C>
  void apply(parameter_list const& list, parameter_store<C>& store) const {
    if (auto const* const p = list.find(name))
      store.master_block().visit(*p, [&]<class T>(view<T, 1> run) {
        p->for_each_run_of_whole([&](extent_t whole, extent_t here, extent_t n) {
          if (at >= whole && at < whole + n) {
            auto& number = run.data[here + at - whole];
            number = static_cast<T>(static_cast<double>(number) + by);
          }
        });
      });
  }
};

struct layer_case {
  matmul_split split = matmul_split::none;
  extent_t rows = 7, groups = 1;
  bool bias = true;
};
inline constexpr extent_t in = 12, out = 36;

/// One layer, used twice: the gradients of input and weights come in two parts.
template <class C>
outcome run_layer(C& c, parallel::any* axis, layer_case const& k, nudge const& moved = {}) {
  using E = typename C::element;
  model_share const share{axis == nullptr ? 0 : axis->rank(), axis == nullptr ? 1 : axis->size()};
  parameter_list list{share};
  nn::linear const layer{scope{list},
                         {.in = in, .out = out, .bias = k.bias, .split = k.split, .groups = k.groups}};
  parameter_store<C> store{c, list};
  initialize(c, list, 3, store);
  if (k.bias) {
    auto const values = random_numbers(9, out);
    write_from_host(c, store.master_of(layer.bias), [&](auto on_host) {
      list.find("bias")->for_each_run_of_whole([&](extent_t at, extent_t first, extent_t n) {
        for (extent_t i = 0; i < n; ++i)
          on_host.data[first + i] =
              static_cast<typename C::accumulator>(values[static_cast<std::size_t>(at + i)]);
      });
    });
  }

  columns inputs{k.rows, in, in, {{0, 0, in}}}, outputs{k.rows, out, out, {{0, 0, out}}};
  if (k.split == matmul_split::row && axis != nullptr) {
    inputs.here = in / share.ranks;
    inputs.runs = {{inputs.here * share.rank, 0, inputs.here}};
  }
  if (k.split == matmul_split::column && axis != nullptr) {
    auto const run = out / k.groups / share.ranks;
    outputs.here = out / share.ranks;
    outputs.runs.clear();
    for (extent_t g = 0; g < k.groups; ++g)
      outputs.runs.push_back({(g * share.ranks + share.rank) * run, g * run, run});
  }
  moved.apply(list, store);
  auto all_of_x = random_numbers(1, k.rows * in);
  if (moved.name == "x")
    all_of_x[static_cast<std::size_t>(moved.at)] += moved.by;
  auto const x = inputs.of<E>(all_of_x);
  auto const dy = outputs.of<E>(random_numbers(2, k.rows * out));
  arena_scope const copies{c.memory};

  tape<C> t{c, store.views(), {.model_axis = axis}};
  auto const input = t.variable(resident(c, view<E const, 2>{x.data(), {{k.rows, inputs.here}}}));
  auto const y = ops::sum(t, layer(t, input), layer(t, input));
  outcome result{{"y", outputs.in_whole(c, t(y))}};
  t.backward(y, resident(c, view<E const, 2>{dy.data(), {{k.rows, outputs.here}}}));
  result["dx"] = inputs.in_whole(c, view<E const, 2>{t.gradient_of(input).data});
  collect(c, list, store, result);
  return result;
}

/// Captions of a table of 12 tokens, used twice.
template <class C>
outcome run_embedding(C& c, parallel::any* axis, nudge const& moved = {}) {
  using E = typename C::element;
  model_share const share{axis == nullptr ? 0 : axis->rank(), axis == nullptr ? 1 : axis->size()};
  parameter_list list{share};
  scope const s{list};
  auto const table = s.weight("table", shape{12, 5}, 1, weight_decay::yes, {.axis = 0});
  auto const positions = s.weight("positions", shape{4, 5}, 1);
  parameter_store<C> store{c, list};
  initialize(c, list, 3, store);
  moved.apply(list, store);
  std::vector<std::int32_t> const offsets{0, 3, 4, 8}, ids{11, 0, 5, 5, 2, 7, 0, 11};
  arena_scope const copies{c.memory};
  auto const captions =
      contrastive::caption_batch{{segments::packed({offsets.data(), {{4}}}, 4), {ids.data(), {{8}}}}}
          .resident(c)
          .tokens;
  auto const dy_numbers = random_numbers(5, 40);
  std::vector<E> const dy(dy_numbers.begin(), dy_numbers.end());
  tape<C> t{c, store.views(), {.model_axis = axis}};
  auto const lookup = [&] {
    return ops::token_embedding(t, captions.captions, captions.ids, table, positions, true);
  };
  auto const y = ops::sum(t, lookup(), lookup());
  outcome result{{"y", columns{8, 5, 5, {{0, 0, 5}}}.in_whole(c, t(y))}};
  t.backward(y, resident(c, view<E const, 2>{dy.data(), {{8, 5}}}));
  collect(c, list, store, result);
  return result;
}

/// run(context, null) on a context of the device.
template <class C, class Run>
outcome alone(Run const& run) {
  C c{mebibytes(1), mebibytes(1)};
  return run(c, static_cast<parallel::any*>(nullptr));
}

/// run(context, model axis) on n ranks: each tensor put together from their parts. What several ranks have is the same on
/// each. talk(context, threads) is the communicator of the device's tensors.
template <class C, class Run, class Talk>
outcome together(int n, Run const& run, Talk const& talk) {
  std::vector<outcome> parts(static_cast<std::size_t>(n));
  parallel::threads_group{n}.run([&](parallel::threads& ranks) {
    C c{mebibytes(1), mebibytes(1)};
    auto&& there = talk(c, ranks);
    parallel::any axis{there};
    parts[static_cast<std::size_t>(ranks.rank())] = run(c, &axis);
  });
  auto whole = parts[0];
  for (auto const& part : parts)
    for (auto const& [name, values] : part) {
      auto& to = whole.at(name);
      bool same = true;
      for (std::size_t i = 0; i < values.size(); ++i)
        if (std::isnan(to[i]))
          to[i] = values[i];
        else
          same = same && (std::isnan(values[i]) || values[i] == to[i]);
      INFO(name);
      CHECK(same);
    }
  return whole;
}

/// Each tensor within `tolerance` of its largest number.
inline void check_close(outcome const& a, outcome const& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (auto const& [name, values] : b) {
    auto const& others = a.at(name);
    REQUIRE(others.size() == values.size());
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      worst = std::max(worst, std::isnan(others[i]) ? 1e300 : std::abs(others[i] - values[i]));
      largest = std::max(largest, std::abs(values[i]));
    }
    INFO(name);
    CHECK(worst <= tolerance * largest);
    CHECK(largest > 0);
  }
}

/// Each way of sharing a matrix.
inline std::vector<layer_case> layer_cases() {
  using enum matmul_split;
  std::vector<layer_case> all{{column, 7, 3}, {column, 7, 1, false}, {row}, {row, 7, 1, false}};
  for (extent_t rows : {1, 2, 7, 8, 12})
    all.push_back({gathered, rows});  // some ranks have fewer rows, or none
  all.push_back({gathered, 7, 1, false});
  return all;
}

}  // namespace shared_layers
