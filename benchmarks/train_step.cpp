// A whole training step (towers, loss, clipping, AdamW) of two models, as pairs a second and as a share of the GEMM
// peak; work done twice for the sake of memory counts once. It checks that the loss falls, so that what is timed is
// training.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/towers/text_transformer.hpp>
#include <yoke/towers/vit.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include "measure.hpp"
#include "pairs.hpp"
#include <vector>

using namespace yoke;

namespace {

struct work {
  std::string name;
  towers::vit_config image;
  towers::text_transformer_config text;
  extent_t batch, micro_batch;
  extent_t caption_length = 0;  // 0: real lengths
};

template <class T>
void run(work const& w, char const* precision, double gemm) {
  parameter_list list;
  scope const s{list};
  contrastive::dual_encoder const model{s, towers::vit{s / "image", w.image},
                                        towers::text_transformer{s / "text", w.text}, w.image.embedding};
  auto const side = w.image.image_size.height;
  auto const plan = train::plan_step<T>(model, list, w.batch, shape{side, side, 3}, w.text.context_length,
                                        {.micro_batch = w.micro_batch});
  cpu::context<T> device{plan.activations, plan.gradients};
  parallel::solo ranks;
  train::trainer trainer{device,
                         ranks,
                         model,
                         list,
                         {.micro_batch = w.micro_batch,
                          .schedule = {.peak = 1e-4, .warmup = 3, .decay = optim::decay::constant},
                          .clip_norm = 1}};
  bench::pairs const batch{{.batch = w.batch,
                            .side = side,
                            .vocabulary = w.text.vocabulary,
                            .context_length = w.text.context_length,
                            .caption_length = w.caption_length}};
  auto const images = batch.images();
  auto const captions = batch.captions();

  auto const first = trainer.step(images, captions).loss;
  double last = 0;
  auto const seconds = bench::best_of(
      5, [&] { last = trainer.step(images, captions).loss; }, 2);
  if (!(last < first))
    throw std::runtime_error(w.name + ": the loss does not fall");
  auto const peak = std::max(gemm, bench::gemm_peak<T>());
  dry::context<T> counter;  // these captions, without padding
  parameter_store<dry::context<T>> nothing{counter, list};
  contrastive::contrastive_step(counter, ranks, model, nothing, images, captions, {.micro_batch = w.batch});
  auto const flops = 2e-9 * static_cast<double>(counter.multiply_adds);
  bench::report(w.name, precision, static_cast<double>(w.batch) / seconds, "pairs/s", flops / seconds / peak,
                "\"peak_gflops\": " + std::to_string(peak) + ", \"tokens_per_caption\": " +
                    std::to_string(static_cast<double>(batch.tokens()) / static_cast<double>(w.batch)) +
                    ", \"memory_gb\": " + std::to_string(bench::most_memory()));
}

}  // namespace

int main(int count, char** arguments) {
  std::string const only = count > 1 ? arguments[1] : "";
  towers::text_transformer_config const clip_text{};
  towers::vit_config const small_image{
      .image_size = 32, .patch_size = 4, .width = 192, .layers = 6, .heads = 3, .embedding = 192};
  towers::text_transformer_config const small_text{
      .vocabulary = 1024, .context_length = 16, .width = 192, .layers = 4, .heads = 3, .embedding = 192};
  std::vector<work> const all{
      {"ViT-B-32, 77 tokens, batch 32", {}, clip_text, 32, 32, 77},
      {"ViT-B-32, real captions, batch 32", {}, clip_text, 32, 32, 0},
      {"small, batch 256", small_image, small_text, 256, 256, 16},
      {"small, batch 1024", small_image, small_text, 1024, 256, 16},
  };
  auto const peak = bench::gemm_peak<bf16>();
  for (auto const& w : all)
    if (w.name.find(only) != std::string::npos)
      run<bf16>(w, "bf16", peak);
}
