// Attention, forward and backward, at the lengths of image towers: the arithmetic that is needed (2 products of queries and
// keys forward, 5 backward) at the bf16 GEMM peak of the same run. Checked against the CPU's kernel in float.
//
//   attention [tokens=65536] [width=1024] [edge=8192]         tokens: of all sequences together
#include <yoke/cpu/context.hpp>

#include "measure.cuh"

using namespace yoke;

namespace {

struct shape_of_work {
  extent_t sequences, length, heads, head_width;

  extent_t width() const { return heads * head_width; }
  extent_t rows() const { return sequences * length; }
};

/// Attention and its arguments, on either context; what a sequence holds does not depend on how many there are.
template <class C>
struct problem {
  using T = typename C::element;
  template <class V>
  using buffer = typename C::template buffer<V>;

  C& c;
  shape_of_work w;
  buffer<T> qkv = bench::copy_on(c, made(3 * w.rows() * w.width(), 1));
  buffer<T> dout = bench::copy_on(c, made(w.rows() * w.width(), 2));
  buffer<T> out{c, w.rows() * w.width()}, dqkv{c, 3 * w.rows() * w.width()};
  buffer<float> lse{c, w.heads* w.rows()};

  /// The same values in each type: those that bf16 has.
  static std::vector<T> made(extent_t n, std::uint64_t seed) {
    auto const numbers = bench::noise<bf16>(n, seed);
    return {numbers.begin(), numbers.end()};
  }
  view<T, 2> matrix(buffer<T> const& b) const {
    return {b.view().data, {{w.rows(), b.view().size() / w.rows()}}};
  }
  view<float, 2> sums() const { return {lse.view().data, {{w.heads, w.rows()}}}; }
  segments runs() const { return segments::uniform(w.sequences, w.length); }

  void forward() { attention_forward(c, {w.heads, false}, runs(), matrix(qkv), {}, matrix(out), sums()); }
  void backward() {
    attention_backward(c, {w.heads, false}, runs(), matrix(qkv), {}, matrix(out), sums(), matrix(dout),
                       matrix(dqkv), store::overwrite, {}, store::overwrite);
  }
};

template <class T>
void expect_same(char const* work, std::vector<T> const& found, std::vector<float> const& expected) {
  double worst = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    auto const error = std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    worst = error <= worst ? worst : error;  // not a number stays
    size = std::max(size, std::abs(static_cast<double>(expected[i])));
  }
  bench::expect_error(work, worst / size, 0.02);
}

void measure(shape_of_work const& w, extent_t edge) {
  cuda::context<bf16> card{0, 0};
  cpu::context<float> host{0, 0};
  auto const name =
      "attention, " + std::to_string(w.length) + " tokens, heads of " + std::to_string(w.head_width);

  problem<cuda::context<bf16>> timed{card, w};
  auto one = w;
  one.sequences = 1;
  problem<cpu::context<float>> expected{host, one};
  expected.forward(), timed.forward();
  expected.backward(), timed.backward();
  auto const n = one.rows() * w.width();
  expect_same(name.c_str(), bench::fetched(card, timed.out.view(), n),
              bench::fetched(host, expected.out.view(), n));
  expect_same((name + ", backward").c_str(), bench::fetched(card, timed.dqkv.view(), 3 * n),
              bench::fetched(host, expected.dqkv.view(), 3 * n));

  bench::stopwatch clock;
  auto const before = bench::gemm_peak<bf16>(edge);
  auto const forward = clock.best_of(card, 10, 4, [&] { timed.forward(); });
  auto const backward = clock.best_of(card, 10, 4, [&] { timed.backward(); });
  auto const peak = std::max(before, bench::gemm_peak<bf16>(edge));
  auto const product = 2e-9 * static_cast<double>(w.rows() * w.length) * static_cast<double>(w.width());
  auto const rate = 7 * product / (forward + backward);
  bench::report_card(name, "bf16", rate, "GFLOP/s", rate / peak,
                     bench::member("sequences", static_cast<double>(w.sequences)) + ", " +
                         bench::member("forward_ms", 1e3 * forward) + ", " +
                         bench::member("backward_ms", 1e3 * backward) + ", " +
                         bench::member("forward_share", 2 * product / forward / peak) + ", " +
                         bench::member("backward_share", 5 * product / backward / peak) + ", " +
                         bench::member("peak_gflops", peak));
}

}  // namespace

int main(int count, char** words) {
  return bench::run("attention", count, words, [](bench::settings& s) {
    auto const tokens = s.number("tokens", 65536), width = s.number("width", 1024),
               edge = s.number("edge", 8192);
    s.expect_no_others();
    for (extent_t const head_width : {64, 128})
      for (extent_t const length : {50, 197, 257, 577})
        measure({.sequences = std::max<extent_t>(1, tokens / length),
                 .length = length,
                 .heads = std::max<extent_t>(1, width / head_width),
                 .head_width = head_width},
                edge);
  });
}
