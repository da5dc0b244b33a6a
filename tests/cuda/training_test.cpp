// Training on a card: the CPU's losses step by step, stopped and resumed as if never stopped, batches that were copied
// ahead, steps as graphs, and a tower that knows nothing of cards.
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/prefetch.cuh>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/eval/embed.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/trainer.hpp>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <stdlib.h>
#include <string>
#include <vector>

// The lesson as users read it, its tower written before there was a card to run it on.
#define main lesson_main
#include "../../examples/03_your_own_tower.cpp"
#undef main

namespace {

struct temporary_folder {
  std::string path;
  temporary_folder() {
    auto name = (std::filesystem::temp_directory_path() / "yoke-test-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~temporary_folder() { std::filesystem::remove_all(path); }
};

contrastive::clip_config small() {
  return {.image = {.image_size = 16,
                    .patch_size = 4,
                    .width = 16,
                    .layers = 2,
                    .heads = 2,
                    .embedding = 12,
                    .dropout = 0.1f,
                    .stochastic_depth = 0.1f},
          .text = {.vocabulary = 128,
                   .context_length = 24,
                   .width = 16,
                   .layers = 1,
                   .heads = 2,
                   .embedding = 12,
                   .dropout = 0.1f}};
}

/// One token a letter is enough of a tokenizer.
void letters(std::string_view caption, std::vector<std::int32_t>& ids) {
  for (auto c : caption.substr(0, 23)) ids.push_back(c & 127);
  ids.push_back(0);
}
auto loader(data::position start = {}) {
  return data::loader{
      data::scenes{{.samples = 40, .size = 16}},
      letters,
      {.batch = 8, .image_size = 16, .seed = 3, .epochs = 2, .start = start, .augment = {.flip = 0.5}}};
}

template <class Context>
struct run {
  using A = typename Context::accumulator;

  parameter_list list;
  contrastive::clip_model model{contrastive::clip(scope{list}, small())};
  Context device;
  parallel::solo ranks;
  train::trainer<Context, parallel::solo, contrastive::clip_model> trainer;

  template <class... Options>
  explicit run(extent_t micro, Options... options)
      : device{mebibytes(64), mebibytes(16), options...},
        trainer{device,
                ranks,
                model,
                list,
                {.micro_batch = micro,
                 .schedule = {.peak = 2e-3, .warmup = 2, .steps = 20},
                 .clip_norm = 1,
                 .seed = 11}} {}

  std::vector<A> weights() {
    std::vector<A> copy;
    read_on_host(device, view<A const, 1>{trainer.store().master()},
                 [&](view<A const, 1> v) { copy.assign(v.data, v.data + v.size()); });
    return copy;
  }
  std::vector<double> losses(int steps) {
    std::vector<double> all;
    auto batches = loader();
    data::batch b;
    while (static_cast<int>(all.size()) < steps && batches.next(b)) all.push_back(trainer.step(b).loss);
    return all;
  }
};

}  // namespace

TEST_CASE("losses on the card are the CPU's") {
  run<cuda::context<float>> card{4};
  run<cpu::context<float>> host{4};
  auto const a = card.losses(6), b = host.losses(6);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) < 1e-3 * b[i]);
}

TEST_CASE("graphs change no bit of a run on the card") {
  run<cuda::context<bf16>> plain{4}, graphs{4, cuda::context_options{.graphs = true}};
  CHECK(plain.losses(5) == graphs.losses(5));
  CHECK(plain.weights() == graphs.weights());
}

TEST_CASE("a run on the card that was stopped ends in the weights of one that was not") {
  temporary_folder folder;
  auto const path = folder.path + "/checkpoint";
  run<cuda::context<bf16>> whole{0};
  whole.losses(6);
  data::position at;
  {
    run<cuda::context<bf16>> first{0};
    auto batches = loader();
    data::batch b;
    for (int i = 0; i < 3; ++i) {
      REQUIRE(batches.next(b));
      first.trainer.step(b);
      at = b.after;
    }
    train::save_checkpoint(path, first.trainer, io::json::object());
  }
  run<cuda::context<bf16>> second{0};
  train::load_checkpoint(path, second.trainer);
  auto batches = loader(at);
  data::batch b;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(batches.next(b));
    second.trainer.step(b);
  }
  CHECK(second.weights() == whole.weights());
}

TEST_CASE("a checkpoint of the card is read on the CPU") {
  temporary_folder folder;
  auto const path = folder.path + "/checkpoint";
  run<cuda::context<float>> card{0};
  card.losses(2);
  train::save_checkpoint(path, card.trainer, io::json::object());
  run<cpu::context<float>> host{0};
  train::load_checkpoint(path, host.trainer);
  CHECK(host.weights() == card.weights());

  struct tokenizer {
    void operator()(std::string_view s, std::vector<std::int32_t>& ids) const { letters(s, ids); }
    extent_t context_length() const { return 24; }
  };
  std::vector<std::string> const lines{"a red circle", "a blue square", "two triangles"};
  auto const a = eval::embed_texts(card.device, card.model, card.trainer.store(), tokenizer{}, lines, 2);
  auto const b = eval::embed_texts(host.device, host.model, host.trainer.store(), tokenizer{}, lines, 2);
  REQUIRE(a.values.size() == b.values.size());
  for (std::size_t i = 0; i < a.values.size(); ++i) CHECK(std::abs(a.values[i] - b.values[i]) < 1e-5f);
}

TEST_CASE("the lesson's tower trains on a card unchanged") {
  parameter_list list;
  scope const s{list};
  contrastive::dual_encoder const model{s, patch_mlp{s / "image", 32, 16}, bag_of_words{s / "text", 8, 16},
                                        16};
  cuda::context<float> device{mebibytes(8), mebibytes(4)};
  parallel::solo ranks;
  train::trainer trainer{
      device, ranks, model, list, {.micro_batch = 4, .schedule = {.peak = 3e-3, .warmup = 5, .steps = 60}}};
  std::vector<std::uint8_t> pixels(8 * 16 * 16 * 3);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = (i / 768 >> i % 3) & 1 ? 220 : 30;
  std::vector<std::int32_t> const names{0, 1, 2, 3, 4, 5, 6, 7};
  contrastive::pixel_batch const images{.pixels = {pixels.data(), {{8, 16, 16, 3}}}};
  contrastive::caption_batch const captions{{segments::uniform(8, 1), {names.data(), {{8}}}}};
  auto const first = trainer.step(images, captions).loss;
  auto last = first;
  for (int step = 1; step < 30; ++step) last = trainer.step(images, captions).loss;
  CHECK(last < 0.5 * first);
}
