// The sigmoid loss with its gradients, in products of batch x batch x width at the GEMM peak of the moment (the arithmetic
// needs 3), and the memory beyond inputs and gradients. `sigmoid_loss [ROWS [WIDTH [TILE_ROWS TILE_COLUMNS]]]`.
#include <yoke/contrastive/sigmoid_loss.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>

#include "loss.hpp"
#include <cstdlib>

using namespace yoke;

namespace {

constexpr float scale = 10, bias = -10;

contrastive::sigmoid_result loss(cpu::context<float>& c, bench::embeddings& e,
                                 contrastive::sigmoid_options const& options) {
  parallel::solo ranks;
  return contrastive::sigmoid_loss(c, ranks, e.as_view(e.image), e.as_view(e.text), scale, bias,
                                   e.as_view(e.d_image), e.as_view(e.d_text), options);
}

/// The largest deviation from the definition in double.
double error(cpu::context<float>& c) {
  bench::embeddings e{700, 40};
  auto const result = loss(c, e, {.tile_rows = 100, .tile_columns = 300});
  auto const n = static_cast<std::size_t>(e.rows), d = static_cast<std::size_t>(e.width);
  std::vector<double> d_image(n * d), d_text(n * d);
  double expected = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double product = 0;
      for (std::size_t k = 0; k < d; ++k)
        product += static_cast<double>(e.image[i * d + k]) * static_cast<double>(e.text[j * d + k]);
      auto const z = i == j ? 1.0 : -1.0,
                 logit = static_cast<double>(scale) * product + static_cast<double>(bias);
      expected += std::log1p(std::exp(-z * logit)) / static_cast<double>(n);
      auto const g = -z * static_cast<double>(scale) / (1 + std::exp(z * logit)) / static_cast<double>(n);
      for (std::size_t k = 0; k < d; ++k) {
        d_image[i * d + k] += g * static_cast<double>(e.text[j * d + k]);
        d_text[j * d + k] += g * static_cast<double>(e.image[i * d + k]);
      }
    }
  return bench::worst_difference(e, result.loss, expected, d_image, d_text);
}

}  // namespace

int main(int count, char** words) {
  auto const number = [&](int i, extent_t otherwise) {
    return i < count ? static_cast<extent_t>(std::atoll(words[i])) : otherwise;
  };
  cpu::context<float> device{gibibytes(1), mebibytes(1)};
  if (auto const wrong_by = error(device); !(wrong_by < 1e-4)) {
    std::fprintf(stderr, "sigmoid_loss: wrong by %.3g, not timed\n", wrong_by);
    return 1;
  }
  contrastive::sigmoid_options const options{.tile_rows = number(3, 0), .tile_columns = number(4, 0)};
  bench::time_loss("sigmoid_loss", number(1, 16384), number(2, 512), 3, device,
                   [&](bench::embeddings& e) { loss(device, e, options); });
}
