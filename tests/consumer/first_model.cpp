// What a downstream project writes first: two towers on four images of one colour each and their names.
#include <yoke/yoke.hpp>

#include <cstdio>
#include <vector>

int main() {
  using namespace yoke;

  parameter_list list;
  scope const root{list};
  contrastive::dual_encoder const model{
      root,
      towers::vit{root / "image",
                  {.image_size = 8, .patch_size = 4, .width = 32, .layers = 2, .heads = 2, .embedding = 16}},
      towers::text_transformer{
          root / "text",
          {.vocabulary = 8, .context_length = 4, .width = 32, .layers = 2, .heads = 2, .embedding = 16}},
      16};

  cpu::context<float> device{mebibytes(16), mebibytes(16)};
  parallel::solo ranks;
  train::trainer trainer{
      device, ranks, model, list, {.micro_batch = 2, .schedule = {.peak = 3e-3, .warmup = 2, .steps = 20}}};

  std::vector<std::uint8_t> pixels;
  for (int image = 0; image < 4; ++image) pixels.insert(pixels.end(), 8 * 8 * 3, static_cast<std::uint8_t>(60 * image));
  std::vector<std::int32_t> const captions{6, 0, 7, 6, 1, 7, 6, 2, 7, 6, 3, 7};  // start, a word, end
  contrastive::pixel_batch const images{.pixels = {pixels.data(), {{4, 8, 8, 3}}}};
  contrastive::caption_batch const texts{{segments::uniform(4, 3), {captions.data(), {{12}}}}};

  auto const first = trainer.step(images, texts).loss;
  double last = first;
  for (int step = 1; step < 20; ++step) last = trainer.step(images, texts).loss;
  std::printf("loss %.3f at first, %.3f at last\n", first, last);
  return last < first / 2 ? 0 : 1;
}
