// The contrastive loss with its gradients, in products of batch x batch x width at the GEMM peak of the moment (the
// arithmetic needs 4), and the memory beyond inputs and gradients. `info_nce [ROWS [WIDTH [TILE_ROWS TILE_COLUMNS]]]`.
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>

#include "loss.hpp"
#include <cstdlib>

using namespace yoke;

namespace {

contrastive::info_nce_result loss(cpu::context<float>& c, bench::embeddings& e,
                                  contrastive::info_nce_options const& options) {
  parallel::solo ranks;
  return contrastive::info_nce(c, ranks, e.as_view(e.image), e.as_view(e.text), bench::logit_scale,
                               e.as_view(e.d_image), e.as_view(e.d_text), options);
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
  auto const error = bench::error_of_loss(700, 40, [&](bench::embeddings& e) {
    return loss(device, e, {.tile_rows = 100, .tile_columns = 300});
  });
  if (!(error < 1e-4)) {
    std::fprintf(stderr, "info_nce: wrong by %.3g, not timed\n", error);
    return 1;
  }
  bench::time_loss("info_nce", rows, width, 4, device,
                   [&](bench::embeddings& e) { loss(device, e, options); });
}
