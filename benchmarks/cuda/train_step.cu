// A whole training step (towers, loss, clipping, AdamW) on one card, as pairs a second and as a share of the bf16 GEMM peak
// of the same run; work done twice for the sake of memory counts once. The batch is the largest that fits, found by plans,
// and lies in the card's memory. Checked: a small model's losses are the CPU's, and the loss of what is timed falls.
//
//   train_step [model=ViT-B-32] [remat=no|yes] [graphs=no|yes] [memory=MB] [largest=65536] [unit=16] [edge=8192]
//
// memory: to plan with, otherwise what is free but for a tenth; the batch is a multiple of `unit`, at most `largest`.
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include "../pairs.hpp"
#include "measure.cuh"

using namespace yoke;

namespace {

using card = cuda::context<bf16>;

struct wanted {
  std::string name;
  contrastive::clip_config config;
  bool graphs;
  std::size_t memory;
  extent_t largest, unit, edge;

  extent_t side() const { return config.image.image_size.height; }
  extent_t caption_length() const { return config.text.context_length; }
  bench::pairs pairs(extent_t batch) const {
    return bench::pairs{{.batch = batch,
                         .side = side(),
                         .vocabulary = config.text.vocabulary,
                         .context_length = caption_length(),
                         .caption_length = caption_length()}};
  }
};

struct planned_model {
  parameter_list list;
  contrastive::clip_model model;
  wanted const& w;

  planned_model(wanted const& of, contrastive::clip_config const& config)
      : model{contrastive::clip(scope{list}, config)}, w{of} {}
  train::step_plan plan(extent_t batch) const {
    return train::plan_step<bf16>(model, list, batch, shape{w.side(), w.side(), extent_t{3}},
                                  w.caption_length(), {}, card::traits);
  }
};

std::size_t bytes(train::step_plan const& p) {
  return p.activations + p.gradients + p.persistent;
}

/// The largest multiple of the unit whose step fits.
extent_t largest_batch(planned_model const& m) {
  auto const& w = m.w;
  auto const fits = [&](extent_t units) {
    return units * w.unit <= w.largest && bytes(m.plan(units * w.unit)) <= w.memory;
  };
  extent_t low = 0, high = 1;
  while (fits(high)) low = std::exchange(high, 2 * high);
  while (high - low > 1) {
    auto const middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  if (low == 0)
    throw std::runtime_error(w.name + ": a step of " + std::to_string(w.unit) + " pairs takes " +
                             std::to_string(bytes(m.plan(w.unit)) / 1'000'000) + " MB, and there are " +
                             std::to_string(w.memory / 1'000'000));
  return low * w.unit;
}

constexpr optim::schedule schedule{.peak = 1e-4, .warmup = 3, .decay = optim::decay::constant};

/// Losses and norms of the gradients of a small model that learns fast, so that wrong gradients show.
template <class C>
std::vector<double> figures_of_small_model() {
  contrastive::clip_config const config{
      .image = {.image_size = 16, .patch_size = 4, .width = 64, .layers = 2, .heads = 2, .embedding = 32},
      .text = {.vocabulary = 64, .context_length = 8, .width = 64, .layers = 2, .heads = 2, .embedding = 32}};
  parameter_list list;
  auto const model = contrastive::clip(scope{list}, config);
  C c{mebibytes(32), mebibytes(32)};
  parallel::solo ranks;
  train::trainer trainer{
      c,
      ranks,
      model,
      list,
      {.schedule = {.peak = 3e-3, .warmup = 1, .decay = optim::decay::constant}, .clip_norm = 1}};
  bench::pairs const batch{
      {.batch = 8, .side = 16, .vocabulary = 64, .context_length = 8, .caption_length = 8}};
  std::vector<double> figures;
  for (int i = 0; i < 3; ++i) {
    auto const report = trainer.step(batch.images(), batch.captions());
    figures.insert(figures.end(), {report.loss, report.gradient_norm});
  }
  return figures;
}

template <class T>
void check(double allowed) {
  auto const found = figures_of_small_model<cuda::context<T>>();
  auto const expected = figures_of_small_model<cpu::context<T>>();
  for (std::size_t i = 0; i < found.size(); ++i)
    bench::expect_error("train_step of a small model", std::abs(found[i] - expected[i]) / expected[i],
                        allowed);
}

void measure(wanted w) {
  check<float>(1e-3);
  check<bf16>(0.05);
  auto const before = bench::gemm_peak<bf16>(w.edge);
  if (auto const now = bench::memory_now(); w.memory == 0)
    w.memory = now.free - now.free / 10;  // a tenth: kernels' scratch memory, libraries, graphs
  planned_model const m{w, w.config};
  auto const batch = largest_batch(m);
  auto const plan = m.plan(batch);

  card device{plan.activations, plan.gradients, {.graphs = w.graphs}};
  parallel::solo ranks;
  train::trainer trainer{device, ranks, m.model, m.list, {.schedule = schedule, .clip_norm = 1}};
  auto const host_batch = w.pairs(batch);
  auto const images =
      host_batch.images().resident(device);  // stays on the arena: the plan has it there as well
  auto const captions = host_batch.captions().resident(device);

  auto const first = trainer.step(images, captions).loss;
  double last = 0;
  bench::stopwatch clock;
  auto const seconds = clock.best_of(device, 3, 1, [&] { last = trainer.step(images, captions).loss; });
  if (!(last < first))
    throw std::runtime_error(w.name + ": the loss does not fall, from " + std::to_string(first) + " to " +
                             std::to_string(last));
  auto const memory = bench::memory_now();
  auto const peak = std::max(before, bench::gemm_peak<bf16>(w.edge));
  auto once = w.config;
  planned_model const counted{w, once.rematerialized(rematerialize::nothing)};
  auto const flops = 2e-9 * static_cast<double>(counted.plan(batch).multiply_adds);
  auto const mode = std::string("bf16") + (w.graphs ? ", graphs" : "");
  bench::report_card(w.name, mode, static_cast<double>(batch) / seconds, "pairs/s", flops / seconds / peak,
                     bench::member("batch", static_cast<double>(batch)) + ", " +
                         bench::member("gflops", flops / seconds) + ", " +
                         bench::member("peak_gflops", peak) + ", " +
                         bench::member("planned_gb", 1e-9 * static_cast<double>(bytes(plan))) + ", " +
                         bench::member("memory_gb", 1e-9 * static_cast<double>(memory.all - memory.free)) +
                         ", " + bench::member("loss_first", first) + ", " + bench::member("loss_last", last));
}

bool yes(bench::settings& s, char const* name) {
  auto const word = s.text(name, "no");
  if (word != "yes" && word != "no")
    throw std::invalid_argument(std::string(name) + " is yes or no");
  return word == "yes";
}

}  // namespace

int main(int count, char** words) {
  return bench::run("train_step", count, words, [](bench::settings& s) {
    auto const name = s.text("model", "ViT-B-32");
    auto config = contrastive::clip_preset(name);
    if (!config)
      throw std::invalid_argument(name + ": no such model");
    auto const remat = yes(s, "remat");
    config->rematerialized(remat ? rematerialize::blocks : rematerialize::nothing);
    wanted const w{.name = name + ", " + std::to_string(config->text.context_length) + " tokens" +
                           (remat ? ", rematerialised" : ""),
                   .config = *config,
                   .graphs = yes(s, "graphs"),
                   .memory = static_cast<std::size_t>(s.number("memory", 0)) * 1'000'000,
                   .largest = s.number("largest", 65536),
                   .unit = s.number("unit", 16),
                   .edge = s.number("edge", 8192)};
    s.expect_no_others();
    measure(w);
  });
}
