// A training step of CoAtNet-0 alone at 224 pixels (tower, projection, a scalar loss, AdamW), as images a second and as
// a share of the GEMM peak; the work of the peer coatnet_step.py. It checks that the loss falls, so that what is timed
// is training.
//
//   coatnet [batch=16] [norm=layer|batch] [stride=expand|depthwise] [remat=nothing|cheap|blocks]
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/optim/adam_w.hpp>
#include <yoke/towers/coatnet.hpp>
#include <yoke/towers/coatnet_presets.hpp>
#include <yoke/train/fit.hpp>

#include "measure.hpp"
#include <map>
#include <string_view>

using namespace yoke;

namespace {

/// The tower and a projection to 512 numbers.
template <class Norm>
struct projected {
  towers::coatnet<Norm> tower;
  nn::linear projection;

  projected(scope s, towers::coatnet_config const& c)
      : tower{s / "image", c}, projection{s / "projection", {.in = c.features(), .out = 512}} {}
  value<2> operator()(auto& t, value<4> x) const { return projection(t, tower(t, x)); }
};

template <class C, class Model>
double step(C& c, Model const& model, parameter_store<C>& store, view<bf16 const, 4> images,
            view<bf16 const, 2> target, rematerialize remat) {
  arena_scope const scratch{c.memory};
  tape<C> t{c, store.views(), {.remat = remat}};
  auto const y = model(t, t.constant(images));
  double loss = 0;
  if (auto const* const out = t(y).data; out != nullptr)
    for (extent_t i = 0; i < target.size(); ++i)
      loss += static_cast<double>(out[i]) * static_cast<double>(target.data[i]);
  t.backward(y, target);
  return loss;
}

template <class Norm>
void run(std::map<std::string, std::string> const& words, std::string const& mode) {
  auto const batch = static_cast<extent_t>(std::stoi(words.at("batch")));
  auto config = *towers::coatnet_preset("coatnet_0");
  config.strided = words.at("stride") == "depthwise" ? nn::stride_in::depthwise : nn::stride_in::expand;
  auto remat = rematerialize::nothing;
  for (auto const p : train::every_policy)
    if (train::name_of(p) == words.at("remat"))
      remat = p;
  parameter_list list;
  projected<Norm> const model{scope{list}, config};
  auto const images_shape = shape{batch, extent_t{224}, extent_t{224}, extent_t{3}};

  dry::context<bf16> plan;
  {
    parameter_store<dry::context<bf16>> store{plan, list};
    step(plan, model, store, view<bf16 const, 4>{nullptr, images_shape},
         view<bf16 const, 2>{nullptr, {{batch, 512}}}, remat);
  }
  using device_type = cpu::context<bf16>;
  device_type c{plan.memory.peak(), plan.gradient_memory.peak()};
  parameter_store<device_type> store{c, list};
  initialize(c, list, 0, store);
  optim::adam_w<device_type> optimizer{c, list, {.weight_decay = 0.01}};
  random_sequence random{3};
  std::vector<bf16> images(static_cast<std::size_t>(images_shape.size())),
      target(static_cast<std::size_t>(batch * 512));
  for (auto* const values : {&images, &target})
    for (auto& v : *values) v = bf16{random.normal()};
  std::int64_t updates = 0;
  auto const once = [&] {
    auto const loss = step(c, model, store, view<bf16 const, 4>{images.data(), images_shape},
                           view<bf16 const, 2>{target.data(), {{batch, 512}}}, remat);
    optimizer.update(c, store, 1e-4, ++updates, 1);
    return loss;
  };
  auto const first = once();
  double last = 0;
  auto const peak_before = bench::gemm_peak<bf16>();
  auto const seconds = bench::best_of(
      3, [&] { last = once(); }, 1);
  if (!(last < first))
    throw std::runtime_error("the loss does not fall");
  auto const peak = std::max(peak_before, bench::gemm_peak<bf16>());
  auto const flops = 2.0 * static_cast<double>(plan.multiply_adds);
  bench::report("CoAtNet-0 at 224, " + words.at("norm") + " norm, batch " + std::to_string(batch), mode,
                static_cast<double>(batch) / seconds, "images/s", flops / seconds / 1e9 / peak,
                R"("gflop_an_image": )" + std::to_string(flops / 1e9 / static_cast<double>(batch)) +
                    R"(, "memory_gb": )" + std::to_string(bench::most_memory()));
}

}  // namespace

int main(int count, char** arguments) {
  std::map<std::string, std::string> words{
      {"batch", "16"}, {"norm", "layer"}, {"stride", "expand"}, {"remat", "nothing"}};
  try {
    for (int i = 1; i < count; ++i) {
      std::string const word = arguments[i];
      auto const cut = word.find('=');
      if (cut == word.npos || !words.contains(word.substr(0, cut)))
        throw std::runtime_error(
            "usage: coatnet [batch=16] [norm=layer|batch] [stride=expand|depthwise] [remat=…]");
      words[word.substr(0, cut)] = word.substr(cut + 1);
    }
    auto const mode = "bf16, stride in " + words["stride"] +
                      (words["remat"] == "nothing" ? "" : ", rematerialised: " + words["remat"]);
    if (words["norm"] == "batch")
      run<nn::batch_norm>(words, mode);
    else
      run<nn::layer_norm>(words, mode);
    return 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "coatnet: %s\n", e.what());
    return 1;
  }
}
