// The kernels that the card's memory bounds, as a share of the speed of a copy in the same run; checked against the CPU's.
//
//   kernels [rows=131072] [width=1024] [parameters=100000000]
//
// With these sizes a kernel reads and writes more than the card's caches hold.
#include <yoke/cpu/context.hpp>

#include "measure.cuh"

using namespace yoke;

namespace {

using T = bf16;
using host = cpu::context<T>;
using card = cuda::context<T>;

// Each kernel with its arguments, on either context; what a row holds does not depend on how many there are.

template <class C>
struct layer_norm {
  template <class V>
  using buffer = typename C::template buffer<V>;

  C& c;
  extent_t rows, width;
  buffer<T> x = bench::copy_on(c, bench::noise<T>(rows* width, 1));
  buffer<T> dy = bench::copy_on(c, bench::noise<T>(rows* width, 2));
  buffer<float> gain = bench::copy_on(c, bench::noise<float>(width, 3));
  buffer<float> bias = bench::copy_on(c, bench::noise<float>(width, 4));
  buffer<T> y{c, rows*width}, dx{c, rows*width};
  buffer<float> mean{c, rows}, deviation{c, rows}, dgain{c, width}, dbias{c, width};

  view<T, 2> matrix(buffer<T> const& b) const { return {b.view().data, {{rows, width}}}; }
  void forward() {
    layer_norm_forward(c, matrix(x), gain.view(), bias.view(), 1e-5f, matrix(y), mean.view(),
                       deviation.view());
  }
  void backward() {
    layer_norm_backward(c, matrix(x), gain.view(), mean.view(), deviation.view(), matrix(dy), matrix(dx),
                        store::overwrite, dgain.view(), dbias.view());
  }
};

template <class C>
struct gelu {
  C& c;
  extent_t n;
  typename C::template buffer<T> x = bench::copy_on(c, bench::noise<T>(n, 1));
  typename C::template buffer<T> dy = bench::copy_on(c, bench::noise<T>(n, 2));
  typename C::template buffer<T> y{c, n}, dx{c, n};

  void forward() { activation_forward(c, activation::gelu, x.view(), y.view()); }
  void backward() {
    activation_backward(c, activation::gelu, x.view(), dy.view(), dx.view(), store::overwrite);
  }
};

template <class C>
struct adam_w {
  C& c;
  extent_t n;
  typename C::template buffer<float> gradient = bench::copy_on(c, bench::noise<float>(n, 1));
  typename C::template buffer<float> first{c, n}, second{c, n};
  typename C::template buffer<float> master = bench::copy_on(c, bench::noise<float>(n, 2));
  typename C::template buffer<T> compute{c, n};

  void update() {
    adam_w_update(c, {.rate = 1e-3, .decay = 1}, gradient.view(), first.view(), second.view(), master.view(),
                  compute.view());
  }
};

/// The first n elements of both, relative to 1 + |the CPU's|.
template <class V>
void expect_same(char const* work, card& c, view<V, 1> found, host& h, view<V, 1> expected, extent_t n) {
  auto const a = bench::fetched(c, found, n), b = bench::fetched(h, expected, n);
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    auto const error = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])) /
                       (1 + std::abs(static_cast<double>(b[i])));
    worst = error <= worst ? worst : error;  // not a number stays
  }
  bench::expect_error(work, worst, std::is_same_v<V, T> ? 0.01 : 1e-4);
}

class benchmark {
 public:
  void of_layer_norm(extent_t rows, extent_t width) {
    auto const few = std::min<extent_t>(rows, 4), n = few * width;
    layer_norm<host> expected{host_, few, width};
    layer_norm<card> small{card_, few, width}, timed{card_, rows, width};
    expected.forward(), small.forward(), timed.forward();
    expected.backward(), small.backward(), timed.backward();
    expect_same("layer norm", card_, timed.y.view(), host_, expected.y.view(), n);
    expect_same("layer norm, backward", card_, timed.dx.view(), host_, expected.dx.view(), n);
    expect_same("layer norm, gain", card_, small.dgain.view(), host_, expected.dgain.view(), width);
    expect_same("layer norm, bias", card_, small.dbias.view(), host_, expected.dbias.view(), width);

    measure_copy(timed.y.view(), timed.x.view());
    time("layer norm", rows * width, 2 * sizeof(T), [&] { timed.forward(); });
    time("layer norm, backward", rows * width, 3 * sizeof(T), [&] { timed.backward(); });
  }

  void of_gelu(extent_t n) {
    auto const few = std::min<extent_t>(n, 10000);
    gelu<host> expected{host_, few};
    gelu<card> timed{card_, n};
    expected.forward(), timed.forward();
    expected.backward(), timed.backward();
    expect_same("GELU", card_, timed.y.view(), host_, expected.y.view(), few);
    expect_same("GELU, backward", card_, timed.dx.view(), host_, expected.dx.view(), few);

    measure_copy(timed.y.view(), timed.x.view());
    time("GELU", n, 2 * sizeof(T), [&] { timed.forward(); });
    time("GELU, backward", n, 3 * sizeof(T), [&] { timed.backward(); });
  }

  void of_adam_w(extent_t n) {
    auto const few = std::min<extent_t>(n, 10000);
    adam_w<host> expected{host_, few};
    adam_w<card> timed{card_, n};
    expected.update(), timed.update();
    expect_same("AdamW", card_, timed.master.view(), host_, expected.master.view(), few);
    expect_same("AdamW, gradient", card_, timed.gradient.view(), host_, expected.gradient.view(), few);
    expect_same("AdamW, first moment", card_, timed.first.view(), host_, expected.first.view(), few);
    expect_same("AdamW, second moment", card_, timed.second.view(), host_, expected.second.view(), few);
    expect_same("AdamW, compute copy", card_, timed.compute.view(), host_, expected.compute.view(), few);

    measure_copy(timed.first.view(), timed.second.view());
    // Four numbers are read and written, and the copy is written.
    time("AdamW", n, 8 * sizeof(float) + sizeof(T), [&] { timed.update(); });
  }

 private:
  /// The speed of a copy is that of its reads and its writes.
  template <class V>
  void measure_copy(view<V, 1> to, view<V, 1> from) {
    auto const bytes = static_cast<std::size_t>(from.size()) * sizeof(V);
    auto const seconds = clock_.best_of(card_, 10, 4, [&] {
      cuda::check(cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyDeviceToDevice, card_.stream()),
                  "a copy");
    });
    copy_ = 2 * static_cast<double>(bytes) / seconds;
  }

  /// `bytes`: what the kernel must read and write at least, for each of `elements`.
  template <class F>
  void time(char const* work, extent_t elements, std::size_t bytes, F const& f) {
    auto const n = static_cast<double>(elements);
    auto const seconds = clock_.best_of(card_, 10, 4, f);
    auto const speed = static_cast<double>(bytes) * n / seconds;
    bench::report_card(work, "bf16", 1e-9 * n / seconds, "10^9 elements/s", speed / copy_,
                       R"("share_of": "copy", )" + bench::member("gb_per_s", 1e-9 * speed) + ", " +
                           bench::member("copy_gb_per_s", 1e-9 * copy_));
  }

  host host_{0, 0};
  card card_{0, 0};
  bench::stopwatch clock_;
  double copy_ = 0;
};

}  // namespace

int main(int count, char** words) {
  return bench::run("kernels", count, words, [](bench::settings& s) {
    auto const rows = s.number("rows", 131072), width = s.number("width", 1024);
    auto const parameters = s.number("parameters", 100'000'000);
    s.expect_no_others();
    benchmark b;
    b.of_layer_norm(rows, width);
    b.of_gelu(rows * width);
    b.of_adam_w(parameters);
  });
}
