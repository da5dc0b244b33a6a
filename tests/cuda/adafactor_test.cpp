// AdafactorW on the card against the CPU's, whole and factored: master values in accumulators and in bf16, which are
// rounded by the same bits.
#include <yoke/cpu/adafactor.hpp>
#include <yoke/cuda/adafactor.cuh>

#include "cuda/twins.hpp"
#include <limits>

using namespace twins;
using yoke::adafactor_coefficients;
using yoke::first_moment_t;
using yoke::rounding_key;

namespace {

adafactor_coefficients step_number(int t) {
  return {.rate = 0.01 * t,
          .beta1 = 0.9,
          .beta2 = 1 - std::pow(t, -0.8),
          .decay = 0.2,
          .gradient_scale = 0.5,
          .rounding = rounding_key::of(1, static_cast<std::uint64_t>(t), 0)};
}

/// What a step reads and writes: G is the type of gradients, M of master values.
template <class T, class G, class M>
struct state {
  using A = accumulator_t<T>;
  shape<2> size;
  tensor<G, 2> g;
  tensor<M, 2> p;
  tensor<first_moment_t<A>, 2> m;
  tensor<T, 2> copy;
  tensor<A, 1> rows, columns, whole;

  explicit state(shape<2> s)
      : size{s}, g{s, 3}, p{s, 4}, m{s}, copy{s, 9}, rows{{{s[0]}}}, columns{{{s[1]}}}, whole{{{s.size()}}} {}
  /// Rows and columns of different size, one of them zero.
  void new_gradient(std::uint64_t seed) {
    g = tensor<G, 2>{size, seed};
    for (extent_t i = 0; i < size.size(); ++i)
      g.data[at(i)] = static_cast<G>(static_cast<A>(g[i] * static_cast<double>(i / size[1] % 5) *
                                                    std::pow(2.0, -static_cast<double>(i % size[1] % 7))));
  }
};

template <class C, class G, class R, class F, class M, class E>
void update(C& c, adafactor_coefficients const& w, bool factored, view<G, 2> g, view<R, 1> rows,
            view<R, 1> columns, view<R, 1> whole, view<F, 2> m, view<M, 2> p, view<E, 2> copy) {
  if (factored)
    adafactor_update(c, w, g, rows, columns, m, p, copy);
  else
    adafactor_update(c, w, as_flat(g), whole, as_flat(m), as_flat(p),
                     copy.extent(0) == 0 ? view<E, 1>{} : as_flat(copy));
}
template <class T, class G, class M>
void on_host(state<T, G, M>& x, adafactor_coefficients const& w, bool factored, bool has_copy) {
  update(device<T>(), w, factored, x.g.view(), x.rows.view(), x.columns.view(), x.whole.view(), x.m.view(),
         x.p.view(), has_copy ? x.copy.view() : view<T, 2>{});
}
template <class T, class G, class M>
void on_card(state<T, G, M>& x, adafactor_coefficients const& w, bool factored, bool has_copy,
             extent_t offset = 0) {
  auto& c = card<T>();
  on const g{c, x.g, offset};
  on const p{c, x.p, offset};
  on const m{c, x.m};
  on const copy{c, x.copy};
  on const rows{c, x.rows}, columns{c, x.columns}, whole{c, x.whole};
  update(c, w, factored, g.view(), rows.view(), columns.view(), whole.view(), m.view(), p.view(),
         has_copy ? copy.view() : view<T, 2>{});
  x.g = g.back(c), x.p = p.back(c), x.m = m.back(c), x.copy = copy.back(c);
  x.rows = rows.back(c), x.columns = columns.back(c), x.whole = whole.back(c);
}

/// The distance between the two bf16 next to v.
double step_of_bf16(double v) {
  return std::ldexp(1.0, std::ilogb(std::max(std::abs(v), 0x1p-126)) - 7);
}

/// Four steps, each from the CPU's state.
template <class T, class G, class M>
void check_steps(shape<2> s, bool factored, bool has_copy, extent_t offset = 0) {
  INFO(s[0] << " x " << s[1] << (factored ? ", factored" : ", whole"));
  state<T, G, M> host{s};
  auto const copy_before = host.copy.data;
  extent_t others = 0, far = 0;
  for (int t = 1; t <= 4; ++t) {
    host.new_gradient(static_cast<std::uint64_t>(20 + t));
    auto there = host;
    on_host(host, step_number(t), factored, has_copy);
    on_card(there, step_number(t), factored, has_copy, offset);
    same(there.m, host.m, 4);
    same(there.rows, host.rows, 2);
    same(there.columns, host.columns, 2);
    same(there.whole, host.whole, 2);
    near(there.g, std::vector<double>(at(s.size()), 0.0), 0);
    if constexpr (std::is_same_v<M, bf16>) {
      for (extent_t i = 0; i < s.size(); ++i) {
        others += there.p[i] != host.p[i];
        far += !(std::abs(there.p[i] - host.p[i]) <= 1.01 * step_of_bf16(host.p[i]));
      }
    } else {
      same(there.p, host.p, 2);
      for (extent_t i = 0; i < s.size() && has_copy; ++i)
        far += there.copy[i] != static_cast<double>(static_cast<T>(there.p.data[at(i)]));
    }
    if (!has_copy)
      REQUIRE(same_bits(there.copy.data, copy_before));
  }
  CHECK(far == 0);
  CHECK(others <= s.size() / 100);  // rounded by the same bits, the last bit of a sum decides of few
}

}  // namespace

TEMPLATE_TEST_CASE("adafactor_update on the card takes steps", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const s =
      GENERATE(as<shape<2>>{}, shape<2>{{0, 5}}, shape<2>{{1, 1}}, shape<2>{{7, 3}}, shape<2>{{33, 40}},
               shape<2>{{5, 1000}}, shape<2>{{300, 35}}, shape<2>{{200, 2056}}, shape<2>{{2500, 32}});
  bool const factored = GENERATE(true, false);
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  check_steps<TestType, A, A>(s, factored, offset == 0, offset);
  if constexpr (std::is_same_v<TestType, bf16>) {
    check_steps<bf16, bf16, bf16>(s, factored, offset == 1, offset);
    check_steps<bf16, bf16, float>(s, factored, true, offset);
  }
}

TEST_CASE("bf16 master values on the card are rounded by the CPU's bits") {
  bool const factored = GENERATE(true, false);
  state<bf16, bf16, bf16> host{shape<2>{{133, 137}}};
  std::fill(host.g.data.begin(), host.g.data.end(), bf16{});
  constexpr float infinity = std::numeric_limits<float>::infinity();
  host.p.data[5] = bf16{infinity};
  host.p.data[700] = bf16{-infinity};
  host.p.data[36] = std::bit_cast<bf16>(std::uint16_t{0x7fff});
  host.p.data.back() = std::bit_cast<bf16>(std::uint16_t{0xffff});
  auto there = host;
  adafactor_coefficients const w{.rate = 0.1, .decay = 0.37, .rounding = rounding_key::of(3, 5, 96)};
  on_host(host, w, factored, false);
  on_card(there, w, factored, false);
  extent_t different = 0;
  for (extent_t i = 0; i < host.size.size(); ++i)  // a card's NaN has bits of its own
    different +=
        there.p.data[at(i)].bits != host.p.data[at(i)].bits && !(is_nan(there.p[i]) && is_nan(host.p[i]));
  CHECK(different == 0);
}

TEST_CASE("adafactor_update on the card gives the same bits each time") {
  bool const factored = GENERATE(true, false);
  same_each_time([&] {
    state<bf16, bf16, bf16> x{shape<2>{{300, 264}}};
    on_card(x, step_number(2), factored, false);
    auto all = x.p.doubles();
    for (auto const& more : {x.m.doubles(), x.rows.doubles(), x.columns.doubles(), x.whole.doubles()})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  });
}
