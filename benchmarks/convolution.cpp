// Convolutions of images, dense and depthwise, and their gradients, in the shapes of CoAtNet: checked at some places
// against plain loops, then timed. Dense ones are given as a share of the GEMM peak of the moment, depthwise ones as a
// share of the speed of a copy on the same threads, of as many bytes as each must read and write at least.
#include <yoke/cpu/convolution.hpp>
#include <yoke/cpu/depthwise.hpp>

#include "measure.hpp"
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using namespace yoke;

namespace {

template <class T>
constexpr char const* mode_of() {
  return std::is_same_v<T, bf16> ? "bf16" : "f32";
}

/// Normal numbers.
template <class T, class C, int R>
view<T, R> made(C& c, shape<R> s, std::uint64_t seed) {
  auto const v = make<T>(c, s);
  random_sequence numbers{seed};
  for (extent_t i = 0; i < v.size(); ++i)
    v.data[i] = i < 65521 ? static_cast<T>(numbers.normal()) : v.data[i - 65521];
  return v;
}

/// Bytes a second that all threads together read and write when they copy.
double copy_speed(void* to, void const* from, extent_t bytes) {
  auto const seconds = bench::best_of(
      5,
      [&] {
        cpu::parallel_for(bytes, 4096, [&](extent_t first, extent_t last) {
          std::memcpy(static_cast<char*>(to) + first, static_cast<char const*>(from) + first,
                      static_cast<std::size_t>(last - first));
        });
      },
      2);
  return 2 * static_cast<double>(bytes) / seconds;
}

/// The program ends when a kernel is wrong: its time would mean nothing.
template <class T>
void check(std::string const& work, T found, double expected, double terms) {
  auto const allowed = (sizeof(T) == 2 ? 0x1p-8 : 0x1p-23) * std::abs(expected) + 1e-6 * (10 + terms);
  if (std::abs(static_cast<double>(found) - expected) <= allowed)
    return;
  std::fprintf(stderr, "%s: %g, expected %g: wrong, not timed\n", work.c_str(), static_cast<double>(found),
               expected);
  std::exit(1);
}

struct layer {
  extent_t batch, extent, in, out, stride;

  window w() const { return {.size = 3, .stride = stride, .padding = 1}; }
  extent_t after() const { return w().output(extent); }
  shape<4> input() const { return {{batch, extent, extent, in}}; }
  shape<4> output() const { return {{batch, after(), after(), out}}; }
  std::string name(char const* kind) const {
    return std::string(kind) + " " + std::to_string(extent) + ", " + std::to_string(in) +
           (in == out ? "" : "->" + std::to_string(out)) + (stride == 1 ? "" : ", stride 2");
  }
  /// f(pixel of the input, pixel of the output, tap) for every meeting of the last image.
  template <class F>
  void for_each_meeting(F const& f) const {
    auto const n = batch - 1;
    for (extent_t y = 0; y < after(); ++y)
      for (extent_t x = 0; x < after(); ++x)
        for (extent_t tap = 0; tap < 9; ++tap) {
          auto const row = y * stride - 1 + tap / 3, column = x * stride - 1 + tap % 3;
          if (row >= 0 && row < extent && column >= 0 && column < extent)
            f((n * extent + row) * extent + column, (n * after() + y) * after() + x, tap);
        }
  }
};

template <class T>
class convolutions {
  using A = accumulator_t<T>;
  cpu::context<T> c_{gibibytes(1), mebibytes(1)};

 public:
  void depthwise(layer s) {
    arena_scope const scope{c_.memory};
    auto const channels = s.in;
    auto const x = made<T>(c_, s.input(), 1), dy = made<T>(c_, s.output(), 2), y = made<T>(c_, s.output(), 3),
               dx = made<T>(c_, s.input(), 4);
    auto const weights = made<T>(c_, shape{extent_t{9}, channels}, 5);
    auto const dweights = make<A>(c_, shape{extent_t{9}, channels});
    auto const name = s.name("depthwise");
    auto const copy = copy_speed(dx.data, x.data, x.size() * extent_t{sizeof(T)});
    auto const bytes = static_cast<double>(x.size() + dy.size()) * sizeof(T);
    auto const time = [&](char const* what, auto const& f) {
      auto const speed = bytes / bench::best_of(10, f, 2);
      bench::report(name + what, mode_of<T>(), speed * 1e-9, "GB/s", speed / copy, R"("share_of": "copy")");
    };
    auto const forward = [&] { depthwise_forward(c_, s.w(), x, weights, y); };
    auto const input = [&] { depthwise_backward_input(c_, s.w(), weights, dy, dx, store::overwrite); };
    auto const gradient = [&] { depthwise_backward_weights(c_, s.w(), x, dy, dweights, store::overwrite); };
    forward(), input(), gradient();
    auto const first_y = (s.batch - 1) * y.size() / s.batch, first_x = (s.batch - 1) * x.size() / s.batch;
    std::vector<double> out(static_cast<std::size_t>(y.size() - first_y)),
        in(static_cast<std::size_t>(x.size() - first_x));
    s.for_each_meeting([&](extent_t from, extent_t to, extent_t tap) {
      for (extent_t k = 0; k < channels; ++k) {
        auto const i = from * channels + k, o = to * channels + k, w = tap * channels + k;
        auto const weight = static_cast<double>(weights.data[w]);
        out[static_cast<std::size_t>(o - first_y)] += static_cast<double>(x.data[i]) * weight;
        in[static_cast<std::size_t>(i - first_x)] += static_cast<double>(dy.data[o]) * weight;
      }
    });
    for (std::size_t i = 0; i < out.size(); ++i)
      check(name, y.data[first_y + static_cast<extent_t>(i)], out[i], 9);
    for (std::size_t i = 0; i < in.size(); ++i)
      check(name, dx.data[first_x + static_cast<extent_t>(i)], in[i], 9);
    double sum = 0, size = 0;  // the middle tap of channel 1
    for (extent_t n = 0; n < s.batch; ++n)
      for (extent_t p = 0; p < s.after() * s.after(); ++p) {
        auto const row = p / s.after() * s.stride, column = p % s.after() * s.stride;
        auto const term =
            static_cast<double>(x.data[((n * s.extent + row) * s.extent + column) * channels + 1]) *
            static_cast<double>(dy.data[(n * s.after() * s.after() + p) * channels + 1]);
        sum += term, size += std::abs(term);
      }
    check(name, dweights.data[4 * channels + 1], sum, size);
    time("", forward);
    time(", input's gradient", input);
    time(", weights' gradient", gradient);
  }

  void dense(layer s) {
    arena_scope const scope{c_.memory};
    auto const x = made<T>(c_, s.input(), 1), dy = made<T>(c_, s.output(), 2), y = made<T>(c_, s.output(), 3),
               dx = made<T>(c_, s.input(), 4);
    auto const weights = made<T>(c_, shape{s.out, 9 * s.in}, 5);
    auto const bias = made<A>(c_, shape{s.out}, 6);
    auto const dweights = make<A>(c_, shape{s.out, 9 * s.in});
    auto const name = s.name("convolution");
    auto const peak = bench::gemm_peak<T>();
    auto const time = [&](char const* what, auto const& f) {
      auto const speed = 18 * static_cast<double>(y.size() * s.in) / bench::best_of(5, f) * 1e-9;
      bench::report(name + what, mode_of<T>(), speed, "GFLOP/s", speed / peak);
    };
    auto const forward = [&] { convolution_forward(c_, s.w(), x, weights, bias, y); };
    auto const input = [&] { convolution_backward_input(c_, s.w(), weights, dy, dx, store::overwrite); };
    auto const gradient = [&] { convolution_backward_weights(c_, s.w(), x, dy, dweights, store::overwrite); };
    forward(), input(), gradient();
    // one output channel, one input channel, of the last image
    auto const o = s.out / 2, i = s.in / 2;
    std::vector<double> out(static_cast<std::size_t>(s.batch * s.after() * s.after()),
                            static_cast<double>(bias.data[o])),
        in(static_cast<std::size_t>(s.batch * s.extent * s.extent));
    s.for_each_meeting([&](extent_t from, extent_t to, extent_t tap) {
      for (extent_t k = 0; k < s.in; ++k)
        out[static_cast<std::size_t>(to)] += static_cast<double>(x.data[from * s.in + k]) *
                                             static_cast<double>(weights.data[(o * 9 + tap) * s.in + k]);
      for (extent_t k = 0; k < s.out; ++k)
        in[static_cast<std::size_t>(from)] += static_cast<double>(dy.data[to * s.out + k]) *
                                              static_cast<double>(weights.data[(k * 9 + tap) * s.in + i]);
    });
    auto const last_out = (s.batch - 1) * s.after() * s.after(),
               last_in = (s.batch - 1) * s.extent * s.extent;
    for (auto p = last_out; p < s.batch * s.after() * s.after(); ++p)
      check(name, y.data[p * s.out + o], out[static_cast<std::size_t>(p)], static_cast<double>(9 * s.in));
    for (auto p = last_in; p < s.batch * s.extent * s.extent; ++p)
      check(name, dx.data[p * s.in + i], in[static_cast<std::size_t>(p)], static_cast<double>(9 * s.out));
    double sum = 0, size = 0;  // the middle tap
    for (extent_t n = 0; n < s.batch; ++n)
      for (extent_t p = 0; p < s.after() * s.after(); ++p) {
        auto const row = p / s.after() * s.stride, column = p % s.after() * s.stride;
        auto const term = static_cast<double>(x.data[((n * s.extent + row) * s.extent + column) * s.in + i]) *
                          static_cast<double>(dy.data[(n * s.after() * s.after() + p) * s.out + o]);
        sum += term, size += std::abs(term);
      }
    check(name, dweights.data[(o * 9 + 4) * s.in + i], sum, size);
    time("", forward);
    time(", input's gradient", input);
    time(", weights' gradient", gradient);
  }

  void all(extent_t batch) {
    depthwise({batch, 112, 256, 256, 1});
    depthwise({batch, 112, 256, 256, 2});
    depthwise({batch, 56, 384, 384, 1});
    depthwise({batch, 56, 384, 384, 2});
    depthwise({batch, 28, 768, 768, 1});
    dense({batch, 224, 3, 64, 2});
    dense({batch, 112, 64, 64, 1});
  }
};

}  // namespace

/// convolution [batch]
int main(int count, char** words) {
  extent_t const batch = count > 1 ? std::atoll(words[1]) : 16;
  convolutions<bf16>{}.all(batch);
  convolutions<float>{}.all(batch);
}
