// What the tests of BASIC's phases share: a labelled version of the made-up data, the classifier, gradients as numbers.
#pragma once
#include <yoke/contrastive/classification_step.hpp>
#include <yoke/contrastive/frozen.hpp>

#include "contrastive/small_step.hpp"

namespace made_up {

inline constexpr extent_t classes = 5;

/// The small model's image tower below "image", with a head.
inline auto small_classifier(scope s, rematerialize policy = rematerialize::nothing) {
  towers::vit image{s / "image",
                    {.image_size = 8,
                     .patch_size = 4,
                     .width = 12,
                     .layers = 2,
                     .heads = 2,
                     .embedding = 6,
                     .dropout = 0.1f,
                     .stochastic_depth = 0.2f,
                     .remat = policy}};
  return contrastive::image_classifier{s, std::move(image), {.width = 6, .classes = classes}};
}

/// The small model's text tower beside ready embeddings.
inline auto small_text_phase(scope s) {
  towers::text_transformer text{s / "text",
                                {.vocabulary = 11,
                                 .context_length = 7,
                                 .width = 8,
                                 .layers = 2,
                                 .heads = 2,
                                 .embedding = 6,
                                 .dropout = 0.1f,
                                 .stochastic_depth = 0.2f}};
  return contrastive::dual_encoder{s, contrastive::ready_embeddings{}, std::move(text), 6};
}

struct labels {
  std::vector<std::int32_t> of;
  labels() {
    random_sequence random{9};
    for (extent_t i = 0; i < batch; ++i) of.push_back(static_cast<std::int32_t>(random.below(classes)));
  }
  view<std::int32_t const, 1> slice(extent_t first, extent_t n) const { return {of.data() + first, {{n}}}; }
};

/// A store's gradients, or other values of it, as doubles.
template <class T>
std::vector<double> numbers(view<T, 1> from) {
  std::vector<double> to;
  for (extent_t i = 0; i < from.size(); ++i) to.push_back(static_cast<double>(from.data[i]));
  return to;
}

/// Loss and gradients of one classification step in the middle of a run, summed over the ranks.
template <class C, class Ranks, class Model>
outcome run_classification(C& c, Ranks& ranks, Model const& model, parameter_list const& list, data const& d,
                           extent_t micro, rematerialize policy = rematerialize::nothing) {
  labels const l;
  parameter_store<C> store{c, list};
  initialize(c, list, 1, store);
  auto const local = batch / ranks.size(), first = local * ranks.rank();
  auto const r = contrastive::classification_step(
      c, ranks, model, store, d.images(first, local), l.slice(first, local),
      {.micro_batch = micro,
       .random = {.seed = 3, .step = 5, .first_sample = static_cast<std::uint64_t>(first)},
       .label_smoothing = 0.1,
       .remat = policy});
  all_reduce(ranks, store.gradients());
  return {r.loss, numbers(store.gradients())};
}

}  // namespace made_up
