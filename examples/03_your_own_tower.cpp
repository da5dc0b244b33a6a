// Lesson 3: a tower of your own. A tower is its forward pass: a call operator on any tape. Gradients, rematerialisation,
// micro-batches, memory plans and every backend come with it. This one mixes tokens and channels (arXiv 2105.01601).
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/nn/transformer.hpp>
#include <yoke/ops/tokens.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include <cstdio>

using namespace yoke;

/// Patches, a few residual MLPs on each, the mean of all: (batch, 16, 16, 3) -> (batch, embedding).
struct patch_mlp {
  nn::linear embed, head;
  std::vector<nn::layer_norm> norms;
  std::vector<nn::mlp> blocks;

  patch_mlp(scope s, extent_t width, extent_t embedding)
      : embed{s / "embed", {.in = 4 * 4 * 3, .out = width}},
        head{s / "head", {.in = width, .out = embedding}} {
    for (extent_t i = 0; i < 2; ++i) {
      norms.emplace_back(s / "norm" / i, width);
      blocks.emplace_back(s / "block" / i, nn::transformer_config{.width = width, .layers = 2});
    }
  }
  value<2> operator()(auto& t, value<4> images) const {
    auto x = embed(t, ops::patches(t, images, 4));
    for (std::size_t i = 0; i < blocks.size(); ++i) x = ops::sum(t, x, blocks[i](t, norms[i](t, x)));
    return head(t, ops::pool(t, x, segments::uniform(images.shape[0], 16), pool_kind::mean));
  }
};

/// The mean of the tokens' embeddings: captions -> (captions, embedding).
struct bag_of_words {
  parameter<2> table;

  bag_of_words(scope s, extent_t words, extent_t embedding)
      : table{s.weight("table", shape{words, embedding}, 1.f)} {}
  value<2> operator()(auto& t, tokens const& batch) const {
    return ops::pool(t, ops::token_embedding(t, batch.captions, batch.ids, table), batch.captions,
                     pool_kind::mean);
  }
};

int main() {
  parameter_list list;
  scope const s{list};
  contrastive::dual_encoder const model{s, patch_mlp{s / "image", 32, 16}, bag_of_words{s / "text", 8, 16},
                                        16};
  auto const plan = train::plan_step<float>(model, list, 8, shape{16, 16, 3}, 1, {.micro_batch = 4});
  std::printf("%lld parameters; a step takes %zu bytes of activations\n",
              static_cast<long long>(list.count()), plan.activations);

  cpu::context<float> device{plan.activations, plan.gradients};
  parallel::solo ranks;
  train::trainer trainer{
      device, ranks, model, list, {.micro_batch = 4, .schedule = {.peak = 3e-3, .warmup = 5, .steps = 60}}};

  std::vector<std::uint8_t> pixels(8 * 16 * 16 * 3);  // eight flat colours, each with a name of its own
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = (i / 768 >> i % 3) & 1 ? 220 : 30;
  std::vector<std::int32_t> const names{0, 1, 2, 3, 4, 5, 6, 7};
  contrastive::pixel_batch const images{.pixels = {pixels.data(), {{8, 16, 16, 3}}}};
  contrastive::caption_batch const captions{{segments::uniform(8, 1), {names.data(), {{8}}}}};
  double loss = 0;
  for (int step = 0; step < 60; ++step) {
    loss = trainer.step(images, captions).loss;
    if (step % 15 == 0)
      std::printf("step %2d  loss %.4f\n", step, loss);
  }
  std::printf("at last  loss %.4f\n", loss);
  return loss < 0.1 ? 0 : 1;
}
