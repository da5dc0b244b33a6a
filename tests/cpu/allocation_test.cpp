// A kernel in steady state allocates nothing: the second call with the same shapes does not reach operator new.
#include <yoke/cpu/context.hpp>

#include "allocations.hpp"
#include "checks.hpp"

using namespace checks;
using yoke::transpose;

TEST_CASE("allocations are counted") {
  CHECK(allocations_of([] { ::operator delete(::operator new(100)); }) == 1);
}

TEMPLATE_TEST_CASE("kernels allocate nothing the second time", "", double, float, bf16) {
  using T = TestType;
  using A = accumulator_t<T>;
  auto& c = device<T>();
  extent_t const rows = 60, width = 96, n = rows * width;
  tensor<T, 2> x{{{rows, width}}, 1}, dy{{{rows, width}}, 2}, y{{{rows, width}}}, w{{{width, width}}, 3};
  tensor<A, 2> wide{{{rows, width}}, 4}, dw{{{width, width}}}, dpositions{{{20, width}}};
  tensor<A, 1> gain{{{width}}, 5}, bias{{{width}}, 6}, mean{{{rows}}}, deviation{{{rows}}};
  tensor<A, 1> g{{{n}}, 7}, m{{{n}}}, v{{{n}}}, p{{{n}}, 8};
  tensor<std::uint8_t, 2> bytes{{{n / 3, 3}}};
  std::vector<std::int32_t> const ids(60, 7);
  view<std::int32_t const, 1> const words{ids.data(), {{rows}}};
  packed const lengths{{20, 10, 30}};
  auto const s = lengths.segments();
  auto const flat = [](auto& t) { return yoke::as_flat(t.view()); };
  auto const flat_read = [](auto const& t) { return yoke::as_flat(t.read()); };
  std::array<float, 3> const half{0.5f, 0.5f, 0.5f};

#define NONE(...) CHECK(allocations_of([&] { __VA_ARGS__; }) == 0)
  NONE(linear_forward(c, x.read(), w.read(), bias.read(), y.view()));
  NONE(gemm(c, transpose::yes, transpose::no, x.read(), dy.read(), dw.view(), store::accumulate));
  for (auto kind : {yoke::activation::gelu, yoke::activation::gelu_tanh, yoke::activation::gelu_quick}) {
    NONE(activation_forward(c, kind, flat_read(x), flat(y)));
    NONE(activation_backward(c, kind, flat_read(x), flat_read(dy), flat(y), store::accumulate));
  }
  NONE(add(c, flat_read(x), flat_read(dy), flat(y)));
  NONE(convert(c, flat_read(x), flat(wide), store::accumulate));
  NONE(fill(c, flat(y), 1.0));
  NONE(normalize_pixels(c, half, half, bytes.read(), {y.data.data(), {{n / 3, 3}}}));
  NONE(dropout(c, {}, 1, 0.1f, s, x.read(), y.view(), store::overwrite));
  NONE(drop_path(c, {}, 1, 0.5f, s, x.read(), y.view(), store::overwrite));
  NONE(sum_rows(c, x.read(), bias.view(), store::accumulate));
  NONE(layer_norm_forward(c, x.read(), gain.read(), bias.read(), A(1e-5), y.view(), mean.view(),
                          deviation.view()));
  NONE(layer_norm_backward(c, x.read(), gain.read(), mean.read(), deviation.read(), dy.read(), y.view(),
                           store::overwrite, gain.view(), bias.view()));
  NONE(l2_normalize_forward(c, x.read(), y.view(), mean.view()));
  NONE(l2_normalize_backward(c, x.read(), mean.read(), dy.read(), y.view(), store::overwrite));
  NONE(embed_tokens(c, s, words, w.read(), x.read(), y.view()));
  NONE(embed_tokens_backward(c, s, words, dy.read(), dw.view(), wide.view()));
  NONE(
      extract_patches(c, 4, view<T const, 4>{x.data.data(), {{5, 16, 24, 3}}}, {y.data.data(), {{120, 48}}}));
  NONE(fold_patches(c, 4, {x.data.data(), {{120, 48}}}, {y.data.data(), {{5, 16, 24, 3}}}, store::overwrite));
  NONE(assemble_tokens(c, 3, yoke::slice(x.read(), 0, 57), gain.read(), yoke::slice(w.read(), 0, 20),
                       y.view()));
  NONE(assemble_tokens_backward(c, 3, dy.read(), {y.data.data(), {{57, width}}}, store::overwrite,
                                gain.view(), dpositions.view()));
  NONE(pool_forward(c, yoke::pool_kind::mean, s, x.read(), {y.data.data(), {{3, width}}}));
  NONE(pool_backward(c, yoke::pool_kind::last, s, {x.data.data(), {{3, width}}}, y.view(), store::overwrite));
  NONE(squared_norm(c, g.read()));
  NONE(adam_w_update(c, {}, g.view(), m.view(), v.view(), p.view(), flat(y)));
#undef NONE
}
