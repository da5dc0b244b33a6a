// Every kernel of the CPU backend but attention and the loss: checked against a plain formula, then timed. Products are
// given as a share of the GEMM peak of the moment, all else as a share of the speed of a copy on the same threads.
#include <yoke/cpu/context.hpp>

#include "measure.hpp"
#include <algorithm>
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
    v.data[i] = i < 65536 ? static_cast<T>(numbers.normal()) : v.data[i - 65536];
  return v;
}

template <class T, int R>
view<T const, R> read(view<T, R> v) {
  return v;
}

/// The program ends when a kernel is wrong: its time would mean nothing.
void check(bool right, char const* work) {
  if (right)
    return;
  std::fprintf(stderr, "%s: wrong, not timed\n", work);
  std::exit(1);
}
template <class T>
bool near(T found, double expected) {
  return std::abs(static_cast<double>(found) - expected) <=
         (sizeof(T) == 2 ? 0.02 : 1e-4) * (1 + std::abs(expected));
}

/// Bytes a second that all threads together read and write when they copy.
double copy_speed(void* to, void const* from, std::size_t bytes) {
  auto const seconds = bench::best_of(
      10,
      [&] {
        cpu::parallel_for(static_cast<extent_t>(bytes), 4096, [&](extent_t first, extent_t last) {
          std::memcpy(static_cast<char*>(to) + first, static_cast<char const*>(from) + first,
                      static_cast<std::size_t>(last - first));
        });
      },
      2);
  return 2 * static_cast<double>(bytes) / seconds;
}

template <class T>
class kernels {
  using A = accumulator_t<T>;
  cpu::context<T> c_{gibibytes(2), mebibytes(1)};
  extent_t rows_, width_;
  double copy_ = 0;

  /// `bytes`: what the kernel must read and write at least, for each of `elements`.
  template <class F>
  void time(char const* work, extent_t elements, double bytes, F const& f) {
    auto const seconds = bench::best_of(10, f, 2);
    auto const n = static_cast<double>(elements);
    char more[100];
    std::snprintf(more, sizeof more, R"("ns": %.3f, "bytes": %.0f)", seconds / n * 1e9, bytes);
    bench::report(work, mode_of<T>(), n / seconds * 1e-9, "10^9 elements/s", bytes * n / seconds / copy_,
                  more);
  }

  void product(char const* work, double peak, transpose ta, transpose tb, extent_t m, extent_t n, extent_t k,
               auto sample) {
    using Y = decltype(sample);
    arena_scope const scope{c_.memory};
    auto const a = made<T>(c_, ta == transpose::yes ? shape{k, m} : shape{m, k}, 1);
    auto const b = made<T>(c_, tb == transpose::yes ? shape{n, k} : shape{k, n}, 2);
    auto const d = make<Y>(c_, shape{m, n});
    auto const run = [&] { gemm(c_, ta, tb, read(a), read(b), d, store::overwrite); };
    run();
    double sum = 0;
    for (extent_t l = 0; l < k; ++l)
      sum += static_cast<double>(a.data[ta == transpose::yes ? l * m + 1 : k + l]) *
             static_cast<double>(b.data[tb == transpose::yes ? 2 * k + l : l * n + 2]);
    check(near(d.data[n + 2], sum), work);
    auto const speed = 2.0 * static_cast<double>(m * n * k) / bench::best_of(5, run) / 1e9;
    bench::report(work, mode_of<T>(), speed, "GFLOP/s", speed / peak);
  }

 public:
  kernels(extent_t rows, extent_t width) : rows_{rows}, width_{width} {}

  void products() {
    auto const peak = bench::gemm_peak<T>();
    auto const no = transpose::no, yes = transpose::yes;
    product("linear forward", peak, no, yes, rows_, 4 * width_, width_, T{});
    product("linear forward, narrow", peak, no, yes, rows_, width_, 4 * width_, T{});
    product("linear backward, input", peak, no, no, rows_, width_, 4 * width_, T{});
    product("linear backward, weight", peak, yes, no, 4 * width_, width_, rows_, A{});
    product("linear forward, 1000 rows", peak, no, yes, 1000, 4 * width_, width_, T{});
  }

  void pointwise() {
    arena_scope const scope{c_.memory};
    auto const n = rows_ * width_;
    auto const x = made<T>(c_, shape{n}, 1), y = made<T>(c_, shape{n}, 2), z = make<T>(c_, shape{n});
    copy_ = copy_speed(z.data, x.data, static_cast<std::size_t>(n) * sizeof(T));
    double const e = sizeof(T);
    for (auto [kind, name] : {std::pair{activation::gelu, "gelu erf"},
                              {activation::gelu_tanh, "gelu tanh"},
                              {activation::gelu_quick, "gelu quick"}}) {
      activation_forward(c_, kind, x, z);
      auto const v = static_cast<double>(x.data[7]);
      check(near(z.data[7], kind == activation::gelu_quick ? v / (1 + std::exp(-1.702 * v))
                                                           : v * 0.5 * std::erfc(-v / std::sqrt(2.0))) ||
                kind == activation::gelu_tanh,
            name);
      time(name, n, 2 * e, [&, k = kind] { activation_forward(c_, k, x, z); });
      time((std::string(name) + ", backward").c_str(), n, 3 * e,
           [&, k = kind] { activation_backward(c_, k, x, y, z, store::overwrite); });
    }
    add(c_, x, y, z);
    check(near(z.data[9], static_cast<double>(x.data[9]) + static_cast<double>(y.data[9])), "add");
    time("add", n, 3 * e, [&] { add(c_, x, y, z); });
    time("accumulate", n, 3 * e, [&] { convert(c_, read(x), z, store::accumulate); });
    auto const s = segments::uniform(rows_ / 50, 50);
    auto const rows = s.rows;
    view<T, 2> const from{x.data, {{rows, width_}}}, to{z.data, {{rows, width_}}};
    time("dropout", rows * width_, 2 * e,
         [&] { dropout(c_, {.seed = 1}, 1, 0.1f, s, from, to, store::overwrite); });
    time("drop path", rows * width_, 2 * e,
         [&] { drop_path(c_, {.seed = 1}, 1, 0.1f, s, from, to, store::overwrite); });
    time("pool, mean", rows * width_, e, [&] {
      pool_forward(c_, pool_kind::mean, s, from, {z.data, {{s.count, width_}}});
    });
  }

  void normalisation() {
    arena_scope const scope{c_.memory};
    auto const x = made<T>(c_, shape{rows_, width_}, 1), dy = made<T>(c_, shape{rows_, width_}, 2),
               y = make<T>(c_, shape{rows_, width_});
    auto const gain = made<A>(c_, shape{width_}, 3), bias = made<A>(c_, shape{width_}, 4),
               dgain = make<A>(c_, shape{width_}), dbias = make<A>(c_, shape{width_});
    auto const mean = make<A>(c_, shape{rows_}), deviation = make<A>(c_, shape{rows_});
    auto const n = rows_ * width_;
    double const e = sizeof(T);
    copy_ = copy_speed(y.data, x.data, static_cast<std::size_t>(n) * sizeof(T));
    auto const forward = [&] { layer_norm_forward(c_, x, gain, bias, A(1e-5), y, mean, deviation); };
    forward();
    double m = 0, q = 0;
    for (extent_t j = 0; j < width_; ++j) m += static_cast<double>(x.data[j]) / static_cast<double>(width_);
    for (extent_t j = 0; j < width_; ++j)
      q += std::pow(static_cast<double>(x.data[j]) - m, 2) / static_cast<double>(width_);
    check(near(y.data[5], (static_cast<double>(x.data[5]) - m) / std::sqrt(q + 1e-5) *
                                  static_cast<double>(gain.data[5]) +
                              static_cast<double>(bias.data[5])),
          "layer norm");
    time("layer norm", n, 2 * e, forward);
    time("layer norm, backward", n, 3 * e,
         [&] { layer_norm_backward(c_, x, gain, mean, deviation, dy, y, store::overwrite, dgain, dbias); });
    sum_rows(c_, x, dbias, store::overwrite);
    double sum = 0;
    for (extent_t r = 0; r < rows_; ++r) sum += static_cast<double>(x.data[r * width_ + 3]);
    check(near(static_cast<float>(dbias.data[3]), sum), "sum of rows");
    time("sum of rows", n, e, [&] { sum_rows(c_, x, dbias, store::overwrite); });
    time("L2 normalise", n, 2 * e, [&] { l2_normalize_forward(c_, read(x), y, mean); });
    time("L2 normalise, backward", n, 3 * e,
         [&] { l2_normalize_backward(c_, read(x), mean, dy, y, store::overwrite); });
  }

  void tokens() {
    arena_scope const scope{c_.memory};
    extent_t const vocabulary = 49408, length = 14, count = rows_ / length;
    auto const s = segments::uniform(count, length);
    auto const table = made<T>(c_, shape{vocabulary, width_}, 1),
               positions = made<T>(c_, shape{77, width_}, 2), y = make<T>(c_, shape{s.rows, width_});
    auto const dtable = make<A>(c_, shape{vocabulary, width_}), dpositions = make<A>(c_, shape{77, width_});
    std::vector<std::int32_t> ids(static_cast<std::size_t>(s.rows));
    random_sequence draw{1};
    for (auto& id : ids) id = static_cast<std::int32_t>(draw.below(static_cast<std::uint64_t>(vocabulary)));
    view<std::int32_t const, 1> const words{ids.data(), {{s.rows}}};
    double const e = sizeof(T), a = sizeof(A);
    auto const n = s.rows * width_;
    fill(c_, as_flat(y), 0.0);
    fill(c_, as_flat(dtable), 0.0);
    copy_ = copy_speed(y.data, table.data, static_cast<std::size_t>(n) * sizeof(T));
    time("embed tokens", n, 2 * e, [&] { embed_tokens(c_, s, words, table, positions, y); });
    check(near(y.data[length * width_],
               static_cast<double>(table.data[ids[static_cast<std::size_t>(length)] * width_]) +
                   static_cast<double>(positions.data[0])),
          "embed tokens");
    time("embed tokens, backward", n, e + 2 * a,
         [&] { embed_tokens_backward(c_, s, words, y, dtable, dpositions); });
    auto const images = made<T>(c_, shape{extent_t{32}, extent_t{224}, extent_t{224}, extent_t{3}}, 1);
    auto const rows = make<T>(c_, shape{extent_t{32 * 196}, extent_t{768}});
    time("patches", rows.size(), 2 * e, [&] { extract_patches(c_, 16, images, rows); });
    time("patches, backward", rows.size(), 2 * e,
         [&] { fold_patches(c_, 16, rows, images, store::overwrite); });
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(images.size()), 100);
    view<std::uint8_t const, 2> const pixels{bytes.data(), {{images.size() / 3, 3}}};
    time("pixels", images.size(), 1 + e, [&] {
      normalize_pixels(c_, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, pixels, as_rows(images));
    });
  }

  void optimiser() {
    arena_scope const scope{c_.memory};
    extent_t const n = 20'000'000;
    auto const g = make<A>(c_, shape{n}), m = make<A>(c_, shape{n}), v = make<A>(c_, shape{n}),
               p = make<A>(c_, shape{n});
    auto const copy = make<T>(c_, shape{n});
    for (auto x : {g, m, v, p}) fill(c_, x, 1.0);
    fill(c_, copy, 0.0);
    copy_ = copy_speed(m.data, g.data, static_cast<std::size_t>(n) * sizeof(A));
    time("AdamW", n, 8 * sizeof(A) + sizeof(T), [&] { adam_w_update(c_, {.rate = 1e-3}, g, m, v, p, copy); });
    check(near(copy.data[5], static_cast<double>(p.data[5])), "AdamW");
    time("squared norm", n, sizeof(A), [&] { check(squared_norm(c_, m) >= 0, "squared norm"); });
    time("fill", n, sizeof(A), [&] { fill(c_, g, 0.0); });
  }

  void all() {
    products();
    pointwise();
    normalisation();
    tokens();
    optimiser();
  }
};

}  // namespace

/// kernels [rows [width]]
int main(int count, char** words) {
  auto const number = [&](int i, extent_t otherwise) {
    return i < count ? static_cast<extent_t>(std::atoll(words[i])) : otherwise;
  };
  auto const rows = number(1, 64 * 197), width = number(2, 768);
  kernels<bf16>{rows, width}.all();
  kernels<float>{rows, width}.all();
}
