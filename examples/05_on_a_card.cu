// Lesson 5: the model of lesson 1 on a GPU. Towers, loss and trainer are the same; what changes is the context, and that
// batches travel to the card while the step before them runs. Compiled by nvcc.
#include <yoke/contrastive/presets.hpp>
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/prefetch.cuh>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include <cmath>
#include <cstdio>

using namespace yoke;

/// One token a letter.
void letters(std::string_view caption, std::vector<std::int32_t>& ids) {
  for (char c : caption.substr(0, 15)) ids.push_back(static_cast<unsigned char>(c));
  ids.push_back(0);
}

int main() try {
  parameter_list list;
  auto const model = contrastive::clip(scope{list}, *contrastive::clip_preset("tiny"));

  extent_t const batch = 512, steps = 200;
  using device_type = cuda::context<bf16>;
  auto const plan = train::plan_step<bf16>(model, list, batch, shape{32, 32, 3}, 16, {.micro_batch = 256},
                                           device_type::traits);  // inputs are copied to the card: they count
  device_type device{plan.activations, plan.gradients, {.graphs = true}};
  parallel::solo ranks;  // or cuda::nccl
  train::trainer trainer{
      device,
      ranks,
      model,
      list,
      {.micro_batch = 256, .schedule = {.peak = 2e-3, .warmup = 20, .steps = steps}, .clip_norm = 1}};

  data::loader loader{
      data::scenes{{.samples = batch * steps}}, letters, {.batch = batch, .image_size = 32, .workers = 4}};
  double loss = 0;
  for (auto const& b : cuda::prefetch{device, loader}) {
    auto const report = trainer.step(b);
    loss = report.loss;
    if (report.step % 20 == 0)
      std::printf("step %3lld  loss %.3f\n", static_cast<long long>(report.step), loss);
  }
  std::printf("at last   loss %.3f, a blind guess has %.3f\n", loss, std::log(static_cast<double>(batch)));
  return loss < 0.8 * std::log(static_cast<double>(batch)) ? 0 : 1;
} catch (cuda::no_device const& e) {
  std::printf("skipped: %s\n", e.what());
  return 77;
}
