// The contrastive loss with its gradients, in products of batch x batch x width at the GEMM peak of the moment (the
// arithmetic needs 4), and the memory beyond inputs and gradients. `info_nce [ROWS [WIDTH [TILE_ROWS TILE_COLUMNS]]]`.
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>

#include "measure.hpp"
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

using namespace yoke;

namespace {

struct embeddings {
  extent_t rows, width;
  std::vector<float> image, text, d_image, d_text;

  embeddings(extent_t n, extent_t d) : rows{n}, width{d}, image(static_cast<std::size_t>(n * d)) {
    text = d_image = d_text = image;
    random_sequence random{1};
    for (auto* v : {&image, &text})
      for (extent_t i = 0; i < n; ++i) {
        auto* const row = v->data() + i * d;
        double square = 0;
        for (extent_t k = 0; k < d; ++k) {
          row[k] = uniform(random.bits()) - 0.5f;
          square += static_cast<double>(row[k]) * static_cast<double>(row[k]);
        }
        for (extent_t k = 0; k < d; ++k) row[k] /= static_cast<float>(std::sqrt(square));
      }
  }
  view<float, 2> as_view(std::vector<float>& v) const { return {v.data(), {{rows, width}}}; }
};

constexpr float scale = 100.0f;

contrastive::info_nce_result loss(cpu::context<float>& c, embeddings& e,
                                  contrastive::info_nce_options const& options) {
  parallel::solo ranks;
  return contrastive::info_nce(c, ranks, e.as_view(e.image), e.as_view(e.text), scale, e.as_view(e.d_image),
                               e.as_view(e.d_text), options);
}

/// The largest deviation from the definition in double, relative to the largest value, over loss and gradients.
double error_of(cpu::context<float>& c, extent_t rows, extent_t width) {
  embeddings e{rows, width};
  auto const result = loss(c, e, {.tile_rows = 100, .tile_columns = 300});
  auto const n = static_cast<std::size_t>(rows), d = static_cast<std::size_t>(width);
  std::vector<double> logits(n * n), row(n), column(n), d_image(n * d), d_text(n * d);
  double expected = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double product = 0;
      for (std::size_t k = 0; k < d; ++k)
        product += static_cast<double>(e.image[i * d + k]) * static_cast<double>(e.text[j * d + k]);
      logits[i * n + j] = static_cast<double>(scale) * product;
      row[i] += std::exp(logits[i * n + j]);  // at most e^100
      column[j] += std::exp(logits[i * n + j]);
    }
  for (std::size_t i = 0; i < n; ++i) {
    expected += (std::log(row[i]) + std::log(column[i]) - 2 * logits[i * n + i]) / static_cast<double>(2 * n);
    for (std::size_t j = 0; j < n; ++j) {
      auto const p = std::exp(logits[i * n + j]);
      auto const g = static_cast<double>(scale) * (p / row[i] + p / column[j] - (i == j ? 2 : 0)) /
                     static_cast<double>(2 * n);
      for (std::size_t k = 0; k < d; ++k) {
        d_image[i * d + k] += g * static_cast<double>(e.text[j * d + k]);
        d_text[j * d + k] += g * static_cast<double>(e.image[i * d + k]);
      }
    }
  }
  auto worst = std::abs(result.loss - expected) / expected;
  for (auto const& [got, wanted] : {std::pair{&e.d_image, &d_image}, {&e.d_text, &d_text}}) {
    double most = 0, size = 0;
    for (std::size_t i = 0; i < wanted->size(); ++i) {
      most = std::max(most, std::abs(static_cast<double>((*got)[i]) - (*wanted)[i]));
      size = std::max(size, std::abs((*wanted)[i]));
    }
    worst = std::max(worst, most / size);
  }
  return worst;
}

}  // namespace

int main(int count, char** words) {
  auto const number = [&](int i, extent_t otherwise) {
    return i < count ? static_cast<extent_t>(std::atoll(words[i])) : otherwise;
  };
  contrastive::info_nce_options const usual;
  auto const rows = number(1, 16384), width = number(2, 512);
  contrastive::info_nce_options const options{.tile_rows = number(3, usual.tile_rows),
                                              .tile_columns = number(4, usual.tile_columns)};
  cpu::context<float> device{gibibytes(1), mebibytes(1)};
  if (auto const error = error_of(device, 700, 40); !(error < 1e-4)) {
    std::fprintf(stderr, "info_nce: wrong by %.3g, not timed\n", error);
    return 1;
  }
  auto const before = bench::gemm_peak<float>();  // its memory is gone before that of the loss is counted
  embeddings e{rows, width};
  auto const memory = bench::most_memory();
  auto const seconds = bench::best_of(
      rows > 32768 ? 1 : 3, [&] { loss(device, e, options); }, rows > 32768 ? 0 : 1);
  auto const extra = bench::most_memory() - memory;
  auto const peak = std::max(before, bench::gemm_peak<float>());
  auto const units = seconds * peak * 1e9 / (2 * static_cast<double>(rows * rows * width));
  char more[200];
  std::snprintf(more, sizeof more,
                R"("seconds": %.3f, "gemms": %.2f, "extra_mb": %.0f, "arena_mb": %.1f, "gflops": %.0f)",
                seconds, units, 1e3 * extra, static_cast<double>(device.memory.peak()) / 1e6, peak);
  bench::report("info_nce " + std::to_string(rows) + " x " + std::to_string(width), "f32",
                static_cast<double>(rows) / seconds, "pairs/s", 4 / units, more);
}
