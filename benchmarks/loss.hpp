// How long a loss over all pairs of a batch takes on the processor, in the units of its arithmetic.
#pragma once
#include <yoke/cpu/context.hpp>

#include "embeddings.hpp"
#include "measure.hpp"
#include <algorithm>
#include <cstdio>
#include <string>

namespace bench {

/// Prints the line of loss(embeddings&), which needs `gemms` products of rows x rows x width, on `device`.
template <class F>
void time_loss(std::string const& name, yoke::extent_t rows, yoke::extent_t width, int gemms,
               yoke::cpu::context<float>& device, F const& loss) {
  auto const before = gemm_peak<float>();  // its memory is gone before that of the loss is counted
  embeddings e{rows, width};
  auto const memory = most_memory();
  auto const seconds = best_of(
      rows > 32768 ? 1 : 3, [&] { loss(e); }, rows > 32768 ? 0 : 1);
  auto const extra = most_memory() - memory;
  auto const peak = std::max(before, gemm_peak<float>());
  auto const units = seconds * peak * 1e9 / (2 * static_cast<double>(rows * rows * width));
  char more[200];
  std::snprintf(more, sizeof more,
                R"("seconds": %.3f, "gemms": %.2f, "extra_mb": %.0f, "arena_mb": %.1f, "gflops": %.0f)",
                seconds, units, 1e3 * extra, static_cast<double>(device.memory.peak()) / 1e6, peak);
  report(name + " " + std::to_string(rows) + " x " + std::to_string(width), "f32",
         static_cast<double>(rows) / seconds, "pairs/s", gemms / units, more);
}

}  // namespace bench
