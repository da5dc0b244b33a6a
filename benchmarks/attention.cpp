// Attention, forward and backward, at the shapes of image and text towers: the arithmetic that is needed (a
// causal key counts where it is seen) at the GEMM peak of the moment. `attention [bf16|f32 [SHAPE]]`, SHAPE a
// part of a name below.
#include <yoke/cpu/context.hpp>

#include "measure.hpp"
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

using namespace yoke;

namespace {

struct work {
  char const* name;
  extent_t segments, tokens, heads, head_width;
  bool causal;
  bool packed;  // lengths around `tokens`, as captions have, instead of all the same
};

constexpr work shapes[] = {
    {"ViT-B/32", 64, 50, 12, 64, false, false},
    {"text, padded to 77", 64, 77, 8, 64, true, false},
    {"text, packed", 256, 14, 8, 64, true, true},
    {"small ViT, 64 tokens", 128, 64, 4, 32, false, false},
    {"small ViT, 65 tokens", 128, 65, 3, 64, false, false},
    {"ViT-B/16", 16, 197, 12, 64, false, false},
    {"ViT-L/14", 8, 257, 16, 64, false, false},
    {"4096 tokens", 1, 4096, 4, 64, false, false},
};

template <class T>
struct problem {
  work w;
  std::vector<std::int32_t> offsets{0};
  extent_t longest = 0, width = w.heads * w.head_width;
  cpu::context<T> c{0, 0};
  cpu::buffer<T> qkv, out, dout, dqkv;
  cpu::buffer<float> lse;

  explicit problem(work const& given) : w{given} {
    random_sequence random{1};
    for (extent_t i = 0; i < w.segments; ++i) {
      auto const spread = w.packed ? static_cast<extent_t>(random.below(15)) - 7 : 0;
      longest = std::max(longest, w.tokens + spread);
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(w.tokens + spread));
    }
    for (auto [b, times] : {std::pair{&qkv, 3}, {&out, 1}, {&dout, 1}, {&dqkv, 3}}) {
      *b = cpu::buffer<T>{c, times * rows() * width};
      for (extent_t i = 0; i < b->view().size(); ++i)
        b->view().data[i] = static_cast<T>(static_cast<float>(random.normal()));
    }
    lse = cpu::buffer<float>{c, w.heads * rows()};
  }
  extent_t rows() const { return offsets.back(); }
  segments runs() const { return segments::packed({offsets.data(), {{w.segments + 1}}}, longest); }
  view<T, 2> matrix(cpu::buffer<T>& b) const { return {b.view().data, {{rows(), b.view().size() / rows()}}}; }
  view<float, 2> sums() { return {lse.view().data, {{w.heads, rows()}}}; }

  void forward() { attention_forward(c, {w.heads, w.causal}, runs(), matrix(qkv), {}, matrix(out), sums()); }
  void backward() {
    attention_backward(c, {w.heads, w.causal}, runs(), matrix(qkv), {}, matrix(out), sums(), matrix(dout),
                       matrix(dqkv), store::overwrite, {}, store::overwrite);
  }
  /// Operations of one product with all keys that are seen, in units of 1e9; forward has 2, backward 5.
  double product() const {
    double pairs = 0;
    for (extent_t s = 0; s < w.segments; ++s) {
      auto const n = static_cast<double>(runs().length(s));
      pairs += w.causal ? n * (n + 1) / 2 : n * n;
    }
    return 2e-9 * static_cast<double>(width) * pairs;
  }
  /// The largest deviation of the first segment's last head from the definition in double.
  double error() {
    forward();
    auto const n = runs().length(0), d = w.head_width, first = width - d;
    auto const in = [&](extent_t i, extent_t part, extent_t k) {
      return static_cast<double>(qkv.view().data[i * 3 * width + part * width + first + k]);
    };
    double worst = 0;
    for (extent_t i = 0; i < n; ++i) {
      std::vector<double> y(static_cast<std::size_t>(d));
      double sum = 0;
      for (extent_t j = 0; j < (w.causal ? i + 1 : n); ++j) {
        double logit = 0;
        for (extent_t k = 0; k < d; ++k) logit += in(i, 0, k) * in(j, 1, k);
        auto const e = std::exp(logit / std::sqrt(static_cast<double>(d)));
        sum += e;
        for (extent_t k = 0; k < d; ++k) y[static_cast<std::size_t>(k)] += e * in(j, 2, k);
      }
      for (extent_t k = 0; k < d; ++k)
        worst = std::max(worst, std::abs(y[static_cast<std::size_t>(k)] / sum -
                                         static_cast<double>(out.view().data[i * width + first + k])));
    }
    return worst;
  }
};

template <class T>
bool measure(char const* mode, char const* wanted) {
  for (auto const& w : shapes) {
    if (std::strstr(w.name, wanted) == nullptr)
      continue;
    problem<T> p{w};
    if (auto const error = p.error(); !(error < (std::is_same_v<T, bf16> ? 2e-2 : 1e-5))) {
      std::fprintf(stderr, "attention, %s: wrong by %.3g, not timed\n", w.name, error);
      return false;
    }
    auto const before = bench::gemm_peak<T>();
    auto const forward = bench::best_of(15, [&] { p.forward(); });
    auto const backward = bench::best_of(15, [&] { p.backward(); });
    auto const peak = std::max(before, bench::gemm_peak<T>());
    auto const rate = 7 * p.product() / (forward + backward);
    char more[120];
    std::snprintf(more, sizeof more, R"("forward_ms": %.3f, "backward_ms": %.3f, "gflops": %.0f)",
                  1e3 * forward, 1e3 * backward, peak);
    bench::report("attention, " + std::string(w.name), mode, rate, "GFLOP/s", rate / peak, more);
  }
  return true;
}

}  // namespace

int main(int count, char** words) {
  std::string const mode = count > 1 ? words[1] : "bf16";
  auto const* const wanted = count > 2 ? words[2] : "";
  if (mode != "bf16" && mode != "f32") {
    std::fprintf(stderr, "usage: attention [bf16|f32 [SHAPE]]\n");
    return 1;
  }
  return (mode == "bf16" ? measure<bf16>("bf16", wanted) : measure<float>("f32", wanted)) ? 0 : 1;
}
