// Attention on the card against the CPU's: tiles of the tensor cores for bf16, plain kernels for the rest.
#include <yoke/cpu/attention.hpp>
#include <yoke/cuda/attention.cuh>

#include "cuda/twins.hpp"

using namespace twins;
using yoke::attention_shape;
using yoke::cuda::detail::plain_width;

namespace {

struct attention_case {
  std::vector<extent_t> lengths;
  extent_t heads = 1, head_width = 32;
  bool causal = false, bias = false;
  extent_t longer_bias = 0;  // the bias is so much wider than the longest segment
  double deviation = 1;      // of queries, keys and values
  store how = store::overwrite;
  double slack = 1;           // times the usual error of gradients
  bool uniform = false;       // segments without offsets; lengths are equal
  bool bias_gradient = true;  // wanted, where there is a bias
  extent_t shift = 0;         // elements between an aligned address and qkv on the card
};

/// What attention gives: out, log-sum-exp, dqkv, dbias.
template <class T>
struct attention_results {
  using A = accumulator_t<T>;
  tensor<T, 2> out;
  tensor<A, 2> lse;
  tensor<T, 2> dqkv;
  tensor<T, 3> dbias;

  bool operator==(attention_results const& o) const {
    return same_bits(out.data, o.out.data) && same_bits(lse.data, o.lse.data) &&
           same_bits(dqkv.data, o.dqkv.data) && same_bits(dbias.data, o.dbias.data);
  }
};

/// Made-up inputs, and both passes on either side.
template <class T>
struct attention_run {
  using A = accumulator_t<T>;
  attention_case a;
  packed runs{a.lengths};
  extent_t rows = runs.segments().rows, width = a.heads * a.head_width;
  extent_t side = a.bias ? runs.longest + a.longer_bias : 0;
  tensor<T, 2> qkv{{{rows, 3 * width}}, 1, a.deviation}, dout{{{rows, width}}, 2};
  tensor<T, 3> bias{{{a.bias ? a.heads : 0, side, side}}, 3};
  attention_shape settings{.heads = a.heads, .causal = a.causal};

  /// Tensors that are added to, when `how` says so, hold numbers.
  attention_results<T> blank() const {
    return {tensor<T, 2>{{{rows, width}}}, tensor<A, 2>{{{a.heads, rows}}}, tensor<T, 2>{qkv.shape, 4},
            tensor<T, 3>{bias.shape, 5}};
  }
  attention_results<T> on_card() const {
    auto& c = card<T>();
    auto r = blank();
    packed_on<T> const offsets{c, runs};
    auto const s =
        a.uniform ? yoke::segments::uniform(std::ssize(a.lengths), a.lengths[0]) : offsets.segments();
    tensor<T, 1> room{{{a.shift + qkv.shape.size()}}};
    std::copy(qkv.data.begin(), qkv.data.end(), room.data.begin() + a.shift);
    on<T, 1> const room_on_card{c, room};
    view<T const, 2> const x{room_on_card.view().data + a.shift, qkv.shape};
    on<T, 2> const up{c, dout}, out{c, r.out}, dx{c, r.dqkv};
    on<T, 3> const b{c, bias}, db{c, r.dbias};
    on<A, 2> const lse{c, r.lse};
    attention_forward(c, settings, s, x, b.read(), out.view(), lse.view());
    attention_backward(c, settings, s, x, b.read(), out.read(), lse.read(), up.read(), dx.view(), a.how,
                       a.bias_gradient ? db.view() : view<T, 3>{}, a.how);
    return {out.back(c), lse.back(c), dx.back(c), db.back(c)};
  }
  /// In V, from the same inputs.
  template <class V>
  attention_results<V> on_cpu() const {
    auto& c = device<V>();
    auto const widened = []<int R>(tensor<T, R> const& from) {
      tensor<V, R> to{from.shape};
      std::transform(from.data.begin(), from.data.end(), to.data.begin(),
                     [](T v) { return static_cast<V>(static_cast<A>(v)); });
      return to;
    };
    auto const start = blank();
    attention_results<V> r{widened(start.out), tensor<accumulator_t<V>, 2>{start.lse.shape},
                           widened(start.dqkv), widened(start.dbias)};
    auto const x = widened(qkv), up = widened(dout);
    auto const b = widened(bias);
    attention_forward(c, settings, runs.segments(), x.read(), b.read(), r.out.view(), r.lse.view());
    attention_backward(c, settings, runs.segments(), x.read(), b.read(), r.out.read(), r.lse.read(),
                       up.read(), r.dqkv.view(), a.how, a.bias_gradient ? r.dbias.view() : view<V, 3>{},
                       a.how);
    return r;
  }
};

/// Elements are within `share` of the size of all, and of their own.
template <class X, class Y, int R>
void close(char const* what, tensor<X, R> const& found, tensor<Y, R> const& expected, double share) {
  REQUIRE(found.shape == expected.shape);
  double squares = 0;
  for (auto v : expected.data) squares += static_cast<double>(v) * static_cast<double>(v);
  auto const size = std::sqrt(squares / std::max<double>(1, static_cast<double>(expected.data.size())));
  for (std::size_t i = 0; i < expected.data.size(); ++i) {
    auto const v = static_cast<double>(found.data[i]), e = static_cast<double>(expected.data[i]);
    if (!(std::abs(v - e) <= share * (size + std::abs(e)))) {
      INFO(what << ", element " << i << ": the card has " << v << ", expected " << e << " of size " << size);
      REQUIRE(false);
    }
  }
}

template <class T>
void check(attention_case const& a) {
  INFO("head width " << a.head_width << ", heads " << a.heads << ", longest "
                     << *std::max_element(a.lengths.begin(), a.lengths.end()) << (a.causal ? ", causal" : "")
                     << (a.bias ? ", bias" : ""));
  attention_run<T> const run{a};
  auto const found = run.on_card();
  // What bf16 leaves to chance is the rounding of probabilities and of their gradients before the second product.
  auto const expected = run.template on_cpu<std::conditional_t<std::is_same_v<T, bf16>, float, T>>();
  constexpr double share = std::is_same_v<T, bf16> ? 0.02 : std::is_same_v<T, float> ? 2e-5 : 1e-12;
  close("out", found.out, expected.out, share);
  close("log-sum-exp", found.lse, expected.lse, std::is_same_v<T, double> ? 1e-12 : 1e-5);
  close("dqkv", found.dqkv, expected.dqkv, 2 * share * a.slack);
  close("dbias", found.dbias, expected.dbias, 2 * share);
  CHECK(run.on_card() == found);
}

}  // namespace

TEST_CASE("attention on tensor cores at every length of a tile's edge") {
  for (extent_t n : {1, 2, 15, 16, 17, 50, 63, 64, 65, 77, 130})
    for (bool causal : {false, true}) check<bf16>({.lengths = {n}, .head_width = 32, .causal = causal});
  check<bf16>({.lengths = {197, 3}, .head_width = 64});
  check<bf16>({.lengths = {197}, .head_width = 64, .causal = true});
}

TEST_CASE("attention over segments without offsets") {
  check<bf16>({.lengths = {50, 50, 50}, .heads = 2, .causal = true, .uniform = true});
  check<float>({.lengths = {9, 9}, .heads = 2, .uniform = true});
}

TEST_CASE("attention on tensor cores at every width of a head") {
  for (extent_t width : {8, 24, 32, 48, 64, 80, 96, 128})
    check<bf16>({.lengths = {70, 9}, .heads = 2, .head_width = width, .causal = width % 32 == 0});
}

TEST_CASE("attention on tensor cores with a bias and its gradient") {
  for (bool causal : {false, true})
    for (auto how : {store::overwrite, store::accumulate})
      check<bf16>({.lengths = {20, 1, 77, 64, 33},
                   .heads = 2,
                   .head_width = 32,
                   .causal = causal,
                   .bias = true,
                   .longer_bias = causal ? 0 : 5,
                   .how = how});
  check<bf16>({.lengths = std::vector<extent_t>(40, 3), .heads = 3, .head_width = 16, .bias = true});
  check<bf16>({.lengths = {90}, .head_width = 128, .bias = true});
  check<bf16>({.lengths = {33, 70}, .causal = true, .bias = true, .bias_gradient = false});
}

TEST_CASE("what a segment gives does not depend on its neighbours") {
  attention_case const all{.lengths = {50, 3, 0, 17, 77, 1, 64},
                           .heads = 2,
                           .head_width = 32,
                           .causal = GENERATE(false, true),
                           .bias = true};
  attention_run<bf16> const together{all};
  auto const expected = together.on_card();
  extent_t first = 0;
  for (auto const n : all.lengths) {
    INFO(n << " rows from row " << first << " on");
    auto one = all;
    one.lengths = {n};
    one.longer_bias = together.runs.longest - n;
    attention_run<bf16> alone{one};
    auto const part = [&](auto const& from, auto const& like) {
      auto const width = from.shape[1];
      auto to = like;
      std::copy_n(from.data.begin() + first * width, n * width, to.data.begin());
      return to;
    };
    alone.qkv = part(together.qkv, alone.qkv);
    alone.dout = part(together.dout, alone.dout);
    auto const found = alone.on_card();
    CHECK(same_bits(found.out.data, part(expected.out, found.out).data));
    CHECK(same_bits(found.dqkv.data, part(expected.dqkv, found.dqkv).data));
    for (extent_t h = 0; h < all.heads; ++h)
      for (extent_t i = 0; i < n; ++i) CHECK(found.lse(h, i) == expected.lse(h, first + i));
    first += n;
  }
}

TEST_CASE("attention on tensor cores with logits that would overflow") {
  // Probabilities are 0 or 1: gradients are differences of nearly equal numbers, one of them of the rounded output.
  check<bf16>({.lengths = {65}, .head_width = 64, .deviation = 12, .slack = 5});
}

TEMPLATE_TEST_CASE("attention without tensor cores", "", double, float) {
  for (extent_t width : {1, 5, 32, 33, 80, 130})
    check<TestType>({.lengths = {7, 1, 12, 2}, .heads = 2, .head_width = width, .causal = width == 33});
  for (auto how : {store::overwrite, store::accumulate})
    check<TestType>(
        {.lengths = {5, 9}, .heads = 3, .head_width = 8, .bias = true, .longer_bias = 2, .how = how});
}

TEST_CASE("heads that the tiles do not fit run without tensor cores") {
  for (extent_t width : {5, 136})
    check<bf16>({.lengths = {17, 4}, .heads = 2, .head_width = width, .bias = true});
  check<bf16>({.lengths = {17, 4}, .heads = 2, .head_width = 32, .shift = 4});
}

TEST_CASE("empty segments, and none at all") {
  check<bf16>({.lengths = {0, 5, 0}, .head_width = 32});
  check<float>({.lengths = {0, 5, 0}, .head_width = 32});
  check<bf16>({.lengths = {0}, .head_width = 32});
}

TEST_CASE("a head that is too wide is refused") {
  attention_run<float> const run{{.lengths = {2}, .head_width = plain_width + 1}};
  CHECK_THROWS_AS(run.on_card(), yoke::precondition_error);
}
