// A small model and made-up data for the tests of a step's contracts, on any device.
#pragma once
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/towers/text_transformer.hpp>
#include <yoke/towers/vit.hpp>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <vector>

namespace made_up {

using namespace yoke;

inline constexpr extent_t batch = 12;

template <rematerialize Remat = rematerialize::nothing>
auto small_model(scope s, contrastive::logit_config const& logits = {}) {
  towers::vit image{s / "image",
                    {.image_size = 8,
                     .patch_size = 4,
                     .width = 12,
                     .layers = 2,
                     .heads = 2,
                     .embedding = 6,
                     .dropout = 0.1f,
                     .stochastic_depth = 0.2f,
                     .remat = Remat}};
  towers::text_transformer text{s / "text",
                                {.vocabulary = 11,
                                 .context_length = 7,
                                 .width = 8,
                                 .layers = 2,
                                 .heads = 2,
                                 .embedding = 6,
                                 .dropout = 0.1f,
                                 .stochastic_depth = 0.2f,
                                 .remat = Remat}};
  return contrastive::dual_encoder{s, std::move(image), std::move(text), 6, logits};
}

/// Random images and captions of 1 to 7 tokens.
struct data {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> ids, offsets{0};

  data() {
    random_sequence random{4};
    pixels.resize(batch * 8 * 8 * 3);
    for (auto& p : pixels) p = static_cast<std::uint8_t>(random.below(256));
    for (extent_t i = 0; i < batch; ++i) {
      for (auto n = 1 + random.below(7); n > 0; --n)
        ids.push_back(static_cast<std::int32_t>(random.below(11)));
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
  }
  contrastive::pixel_batch images(extent_t first, extent_t n) const {
    return {.pixels = slice(view<std::uint8_t const, 4>{pixels.data(), {{batch, 8, 8, 3}}}, first, n)};
  }
  contrastive::caption_batch captions(extent_t first, extent_t n) const {
    tokens const all{segments::packed({offsets.data(), {{batch + 1}}}, 7),
                     {ids.data(), {{static_cast<extent_t>(ids.size())}}}};
    return {all.slice(first, n)};
  }
};

struct outcome {
  double loss;
  std::vector<double> gradients;
};

inline contrastive::info_nce_options small_tiles(
    contrastive::text_exchange how = contrastive::text_exchange::gather) {
  return {.exchange = how, .tile_rows = 5, .tile_columns = 4};
}

/// The loss and the gradients of one step in the middle of a run, summed over the ranks.
template <class C, class Ranks, class Model>
outcome run_step(C& c, Ranks& ranks, Model const& model, parameter_list const& list, data const& d,
                 extent_t micro, contrastive::loss_options const& how = small_tiles()) {
  parameter_store<C> store{c, list};
  initialize(c, list, 1, store.master());
  store.refresh(c);
  auto const local = batch / ranks.size(), first = local * ranks.rank();
  contrastive::step_options const options{
      .micro_batch = micro,
      .random = {.seed = 3, .step = 5, .first_sample = static_cast<std::uint64_t>(first)},
      .loss = how};
  auto const r = contrastive::contrastive_step(c, ranks, model, store, d.images(first, local),
                                               d.captions(first, local), options);
  all_reduce(ranks, store.gradients());
  outcome result{r.loss, {}};
  using A = typename C::accumulator;
  read_on_host(c, view<A const, 1>{store.gradients()},
               [&](view<A const, 1> g) { result.gradients.assign(g.data, g.data + g.size()); });
  return result;
}

/// Each parameter's gradients agree within `tolerance` of the largest of them.
inline void check_same(outcome const& a, outcome const& b, parameter_list const& list,
                       double tolerance = 1e-12) {
  CHECK(std::abs(a.loss - b.loss) < tolerance * std::abs(b.loss));
  for (auto const& p : list.infos()) {
    double worst = 0, largest = 0;
    for (auto i = static_cast<std::size_t>(p.offset); i < static_cast<std::size_t>(p.offset + p.size());
         ++i) {
      worst = std::max(worst, std::abs(a.gradients[i] - b.gradients[i]));
      largest = std::max(largest, std::abs(b.gradients[i]));
    }
    INFO(p.name);
    CHECK(worst <= tolerance * std::max(1.0, largest));
    CHECK(largest > 0);  // every parameter learns
  }
}

}  // namespace made_up
