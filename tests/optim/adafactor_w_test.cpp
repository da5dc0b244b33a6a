// AdafactorW against an independent implementation of the papers' formulas (tests/golden/make_adafactor.py); in compact
// contexts; interrupted and continued.
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/optim/adafactor_w.hpp>

#include <algorithm>
#include <array>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

using namespace yoke;

namespace {

/// The golden script's formulas.
double number(int step, int which, extent_t element) {
  auto x = static_cast<std::uint32_t>(element + 1000003LL * step + 77777777LL * which);
  x = (x ^ (x >> 16)) * 0x45D9F3Bu;
  x = x ^ (x >> 16);
  return (static_cast<double>(x & 0xffffu) - 32768) / 32768;
}
double gradient(int step, int which, parameter_info const& p, extent_t element) {
  if (p.name == "vector" && step == 7)
    return 0;
  auto g = std::ldexp(number(step, which, element), step % 4 - 2);
  if (p.shape.size() == 2)
    g = std::ldexp(g, static_cast<int>(-(element / p.shape[1] % 5) - element % p.shape[1] % 3));
  return g;
}
double rate(int step) {
  return (1 + step % 3) / 64.0;
}
double gradient_scale(int step) {
  return step % 2 == 1 ? 0.75 : 1.0;
}

/// The script's parameters, with its initial values, and their optimiser.
template <class C>
struct training {
  C c{mebibytes(1), mebibytes(1)};
  parameter_list list;
  parameter_store<C> store;
  optim::adafactor_w<C> optimizer;

  explicit training(std::uint64_t seed = 0)
      : list{made()},
        store{c, list},
        optimizer{c, list, {.beta2_cap = 0.95, .weight_decay = 0.1, .seed = seed}} {
    fill(store.master_block(),
         [](int which, parameter_info const&, extent_t i) { return number(0, which, i); });
    store.refresh(c);
  }

  void step(int t) {
    fill(store.gradient_block(),
         [t](int which, parameter_info const& p, extent_t i) { return gradient(t, which, p, i); });
    optimizer.update(c, store, rate(t), t, gradient_scale(t));
  }

  template <class Value>
  void fill(typename parameter_store<C>::block const& block, Value const& value) {
    int which = 0;
    for (auto const& p : list.infos()) {
      block.visit(p, [&]<class V>(view<V, 1> v) {
        for (extent_t i = 0; i < v.size(); ++i)
          v.data[i] = static_cast<V>(static_cast<accumulator_t<V>>(value(which, p, i)));
      });
      ++which;
    }
  }
  std::vector<double> values(parameter_info const& p) const {
    return store.master_block().visit(p,
                                      [](auto v) { return std::vector<double>(v.data, v.data + v.size()); });
  }
  /// The bits of everything that the next step depends on.
  std::map<std::string, std::string> bits() const {
    std::map<std::string, std::string> all;
    for (auto const& p : list.infos()) store.master_block().visit(p, [&](auto v) { all[p.name] = bytes(v); });
    optimizer.for_each_tensor([&](tensor_place const& t, int, auto v) { all[t.name] = bytes(v); });
    return all;
  }
  /// As a checkpoint is read.
  void continue_from(training const& other) {
    auto const saved = other.bits();
    auto const restore = [&](std::string const& name, auto v) {
      std::memcpy(static_cast<void*>(v.data), saved.at(name).data(), saved.at(name).size());
    };
    for (auto const& p : list.infos()) store.master_block().visit(p, [&](auto v) { restore(p.name, v); });
    optimizer.for_each_tensor([&](tensor_place const& t, int, auto v) { restore(t.name, v); });
    store.refresh(c);
  }

 private:
  static parameter_list made() {
    parameter_list list;
    scope const s{list};
    s.weight("matrix", shape{33, 40}, 1.f);
    s.weight("table", shape{32, 33}, 1.f, weight_decay::no);
    s.weight("narrow", shape{31, 5}, 1.f);
    s.weight("axes", shape{2, 3, 5}, 1.f);
    s.weight("vector", shape{19}, 1.f);
    return list;
  }
  template <class V>
  static std::string bytes(view<V, 1> v) {
    return {reinterpret_cast<char const*>(v.data), static_cast<std::size_t>(v.size()) * sizeof(V)};
  }
};

struct thread_guard {
  int before = omp_get_max_threads();
  ~thread_guard() { omp_set_num_threads(before); }
};

}  // namespace

TEST_CASE("fifty steps of AdafactorW are the formulas'") {
  io::safetensors_file const file{std::string(YOKE_GOLDEN_DIR) + "/adafactor/steps.safetensors"};
  training<cpu::context<double>> exact;
  training<cpu::context<float>> single;
  training<cpu::context<bf16>> mixed;
  std::size_t kept = 0, far = 0, all = 0;
  for (int t = 1; t <= 50; ++t) {
    exact.step(t);
    single.step(t);
    mixed.step(t);
    if (t != std::array{1, 2, 10, 50}[kept])
      continue;
    for (auto const& p : exact.list.infos()) {
      INFO(p.name << " after step " << t);
      auto const in_double = file.read<double>("exact/" + p.name);
      auto const in_float = file.read<float>("bf16/" + p.name);
      auto const n = static_cast<std::size_t>(p.size());
      auto const d = exact.values(p), f = single.values(p), m = mixed.values(p);
      double worst = 0, worst_in_float = 0;
      for (std::size_t i = 0; i < n; ++i) {
        worst = std::max(worst, std::abs(d[i] - in_double[kept * n + i]));
        auto const off = std::abs(f[i] - static_cast<double>(in_float[kept * n + i]));
        worst_in_float = std::max(worst_in_float, off);
        far += off > 2e-6;
        ++all;
        REQUIRE(m[i] == f[i]);  // elements in bf16 change nothing but the copy
        REQUIRE(static_cast<float>(mixed.store.compute().data[p.offset + static_cast<extent_t>(i)]) ==
                static_cast<float>(bf16{static_cast<float>(m[i])}));
      }
      CHECK(worst < 1e-14);
      // A moment that float's rounding brings to the other side of a tie is 1/256 off, for the ten steps it lasts.
      CHECK(worst_in_float < 2e-3);
    }
    ++kept;
  }
  CHECK(kept == 4);
  CHECK(far < all / 1000);
  exact.optimizer.for_each_tensor([&](tensor_place const& t, int, auto v) {
    auto const& name = t.name;
    if (name.starts_with("first_moment/")) {
      auto const e = file.read<double>("exact_moment/" + name.substr(13));
      for (extent_t i = 0; i < v.size(); ++i)
        REQUIRE(std::abs(static_cast<double>(v.data[i]) - e[static_cast<std::size_t>(i)]) < 1e-12);
    }
  });
  for (auto const& p : single.list.infos())
    single.store.gradient_block().visit(p, [](auto v) {
      for (extent_t i = 0; i < v.size(); ++i) REQUIRE(v.data[i] == 0);
    });
}

TEST_CASE("a compact context follows the one in float, off by its roundings") {
  training<cpu::context<bf16>> wide;
  training<compact<cpu::context<bf16>>> narrow;
  for (int t = 1; t <= 50; ++t) {
    wide.step(t);
    narrow.step(t);
  }
  for (auto const& p : wide.list.infos()) {
    INFO(p.name);
    auto const w = wide.values(p), n = narrow.values(p);
    double squared = 0, mean = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      auto const off = n[i] - w[i];
      squared += off * off / static_cast<double>(w.size());
      mean += off / static_cast<double>(w.size());
    }
    auto const deviation = std::sqrt(squared);
    if (!p.is_matrix()) {
      CHECK(deviation < 1e-6);  // vectors are float in both
    } else {
      CHECK(deviation > 1e-4);
      CHECK(deviation < 0.02);  // fifty roundings of half a step of bf16, 2^-8 at most here
      CHECK(std::abs(mean) < 5 * deviation / std::sqrt(static_cast<double>(w.size())));
    }
  }
}

TEST_CASE("updates far below one step of bf16 add up") {
  using context_type = compact<cpu::context<bf16>>;
  for (extent_t const columns : {64, 16}) {  // factored, and not
    context_type c{mebibytes(1), mebibytes(1)};
    parameter_list list;
    scope{list}.weight("w", shape{extent_t{4096} / columns, columns}, 1.f);
    parameter_store<context_type> store{c, list};
    optim::adafactor_w<context_type> optimizer{c, list, {.beta1 = 0, .weight_decay = 0}};
    fill(c, store.master(), 0.99609375);
    constexpr int steps = 100;
    constexpr double step = 0x1p-8, share = 1.0 / 16;  // of bf16 below 1, and of it that each update moves
    for (int t = 1; t <= steps; ++t) {
      fill(c, store.gradients(), 3.0);  // over its root: 1
      optimizer.update(c, store, step * share, t, 1);
    }
    double mean = 0, squared = 0;
    for (extent_t i = 0; i < 4096; ++i) {
      auto const moved = 0.99609375 - static_cast<double>(store.master().data[i]);
      mean += moved / 4096;
      squared += moved * moved / 4096;
    }
    // Every element's steps are a binomial's: nearest would not move at all.
    auto const variance = steps * share * (1 - share) * step * step;
    CHECK(std::abs(mean - steps * share * step) < 4 * std::sqrt(variance / 4096));
    CHECK(std::abs((squared - mean * mean) / variance - 1) < 4 * std::sqrt(2.0 / 4096));
  }
}

TEMPLATE_TEST_CASE("AdafactorW is the same for any number of threads, and continued from its tensors", "",
                   cpu::context<double>, cpu::context<float>, cpu::context<bf16>,
                   compact<cpu::context<bf16>>) {
  thread_guard const guard;
  omp_set_num_threads(1);
  training<TestType> one, whole;
  for (int t = 1; t <= 6; ++t) one.step(t);
  auto const bits = one.bits();
  omp_set_num_threads(2);
  for (int t = 1; t <= 6; ++t) whole.step(t);
  CHECK(whole.bits() == bits);

  training<TestType> first, second;
  for (int t = 1; t <= 3; ++t) first.step(t);
  second.continue_from(first);
  for (int t = 4; t <= 6; ++t) second.step(t);
  CHECK(second.bits() == bits);

  training<TestType> other{1};  // the seed is of the rounding of bf16 master values alone
  for (int t = 1; t <= 6; ++t) other.step(t);
  CHECK((other.bits() == bits) == !parameter_store<TestType>::block::two_types);
}

TEST_CASE("matrices are factored where both axes are long") {
  training<compact<cpu::context<bf16>>> x;
  std::map<std::string, std::vector<extent_t>> shapes;
  x.optimizer.for_each_tensor([&](tensor_place const& t, int, auto v) {
    CHECK(t.size() == v.size());
    CHECK(shapes.emplace(t.name, t.shape).second);
  });
  CHECK(shapes == std::map<std::string, std::vector<extent_t>>{
                      {"first_moment/matrix", {33, 40}},
                      {"second_moment_of_rows/matrix", {33}},
                      {"second_moment_of_columns/matrix", {40}},
                      {"first_moment/table", {32, 33}},
                      {"second_moment_of_rows/table", {32}},
                      {"second_moment_of_columns/table", {33}},
                      {"first_moment/narrow", {31, 5}},
                      {"second_moment/narrow", {31, 5}},
                      {"first_moment/axes", {2, 3, 5}},
                      {"second_moment/axes", {2, 3, 5}},
                      {"first_moment/vector", {19}},
                      {"second_moment/vector", {19}},
                  });
}

TEST_CASE("AdafactorW's state takes two bytes a parameter, and a line of each matrix") {
  parameter_list list;
  scope{list}.weight("w", shape{1024, 4096}, 1.f);
  dry::context<bf16> c;
  optim::adafactor_w<dry::context<bf16>> optimizer{c, list, {}};
  CHECK(c.persistent_bytes == 1024 * 4096 * 2 + (1024 + 4096) * 4);
  auto const before = c.persistent_bytes;
  parameter_store<dry::context<bf16>> store{c, list};
  auto const with_store = c.persistent_bytes;
  optimizer.update(c, store, 0.1, 1, 1);
  CHECK(with_store > before);
  CHECK(c.persistent_bytes == with_store);
}

TEST_CASE("AdafactorW refuses options that mean nothing") {
  cpu::context<float> c{mebibytes(1), mebibytes(1)};
  parameter_list const list;
  using optimizer = optim::adafactor_w<cpu::context<float>>;
  CHECK_THROWS_AS((optimizer{c, list, {.beta1 = 1}}), precondition_error);
  CHECK_THROWS_AS((optimizer{c, list, {.beta2_cap = 1}}), precondition_error);
  CHECK_THROWS_AS((optimizer{c, list, {.decay_exponent = 0}}), precondition_error);
  CHECK_THROWS_AS((optimizer{c, list, {.epsilon = 0}}), precondition_error);
}
