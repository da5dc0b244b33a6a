// Lesson 1: two towers on the built-in scenes. A model is a description; a context is a device; a trainer brings them
// together. The loss starts near that of a blind guess, log(batch), and falls.
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/towers/text_transformer.hpp>
#include <yoke/towers/vit.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include <cmath>
#include <cstdio>

using namespace yoke;

/// Any function from a caption to ids is a tokenizer. This one gives each word one of 255 numbers, and 0 ends a caption.
void words(std::string_view caption, std::vector<std::int32_t>& ids) {
  while (!caption.empty()) {
    auto const word = caption.substr(0, caption.find(' '));
    ids.push_back(static_cast<std::int32_t>(1 + hash(word) % 255));
    caption.remove_prefix(std::min(caption.size(), word.size() + 1));
  }
  ids.push_back(0);
}

int main() {
  parameter_list list;
  scope const root{list};
  contrastive::dual_encoder const model{
      root,
      towers::vit{root / "image",
                  {.image_size = 32, .patch_size = 8, .width = 64, .layers = 2, .heads = 2, .embedding = 64}},
      towers::text_transformer{
          root / "text",
          {.vocabulary = 256, .context_length = 16, .width = 64, .layers = 2, .heads = 2, .embedding = 64}},
      64};

  extent_t const batch = 128, steps = 120;
  auto const plan = train::plan_step<float>(model, list, batch, shape{32, 32, 3}, 16, {});
  std::printf("%lld parameters, %.1f MB for a step\n", static_cast<long long>(list.count()),
              static_cast<double>(plan.activations + plan.gradients) / 1e6);

  cpu::context<float> device{plan.activations, plan.gradients};  // or bf16
  parallel::solo ranks;                                          // or threads
  train::trainer trainer{
      device, ranks, model, list, {.schedule = {.peak = 2e-3, .warmup = 10, .steps = steps}, .clip_norm = 1}};

  data::loader loader{data::scenes{{.samples = batch * steps}}, words, {.batch = batch, .image_size = 32}};
  double loss = 0;
  for (auto const& b : loader) {
    auto const report = trainer.step(b);
    loss = report.loss;
    if (report.step % 20 == 0)
      std::printf("step %3lld  loss %.3f\n", static_cast<long long>(report.step), loss);
  }
  std::printf("at last   loss %.3f, a blind guess has %.3f\n", loss, std::log(static_cast<double>(batch)));
  return loss < 0.8 * std::log(static_cast<double>(batch)) ? 0 : 1;
}
