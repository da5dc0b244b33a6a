// What a step of each of BASIC's phases will take, and the micro-batch that fits.
#pragma once
#include <yoke/contrastive/classification_step.hpp>
#include <yoke/contrastive/frozen.hpp>
#include <yoke/train/fit.hpp>
#include <yoke/train/plan.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace yoke::train {

namespace detail {

template <element T, class Tower, class Part>
std::size_t plan_rows(Tower const& tower, parameter_list const& list, planned_step const& s, extent_t width,
                      Part const& part) {
  dry::context<T> c{s.device};
  contrastive::frozen_parameters<dry::context<T>> store{c, list};
  parallel::dry model{list.share().ranks, list.share().rank};
  parallel::any axis{model};
  store.set_model_axis(model.size() > 1 ? &axis : nullptr);
  auto const rows = make<accumulator_t<T>>(c, shape{s.batch, width});
  contrastive::encode(c, tower, store, part(planned_batch{s.batch, s.image, s.caption_length}), s.batch,
                      rows);
  return c.memory.peak();
}

}  // namespace detail

/// The plan of a classification step (phase 1), T as of plan_step: what `s` says of captions and the loss is not used.
template <class T, class Model>
step_plan plan_classification(Model const& model, parameter_list const& list, planned_step const& s) {
  return detail::plan_of<T>(list, s, [&](auto& c, auto& ranks, auto& store, parallel::any* axis) {
    detail::planned_batch const b{s.batch, s.image, 1};
    std::vector<std::int32_t> const labels(static_cast<std::size_t>(s.batch));
    contrastive::classification_step(
        c, ranks, model, store, b.images, view<std::int32_t const, 1>{labels.data(), {{s.batch}}},
        {.micro_batch = s.step.micro_batch, .remat = s.step.remat, .model_axis = axis});
  });
}

/// The plan of a step of texts against a frozen image tower (phase 2), whose embeddings are kept, or computed in each
/// step a micro-batch at a time.
template <class T, class Model, class Tower>
step_plan plan_text_phase(Model const& model, parameter_list const& list, Tower const& frozen_tower,
                          parameter_list const& frozen_list, planned_step const& s, bool kept) {
  return detail::plan_of<T>(list, s, [&](auto& c, auto& ranks, auto& store, parallel::any* axis) {
    using C = std::remove_reference_t<decltype(c)>;
    using E = typename C::element;
    contrastive::frozen_parameters<C> frozen{c, frozen_list};
    frozen.set_model_axis(frozen_list.share().ranks > 1 ? axis : nullptr);
    detail::planned_batch const b{s.batch, s.image, s.caption_length};
    auto const micro = s.step.micro_batch > 0 ? s.step.micro_batch : s.batch;
    auto const rows = shape{s.batch, model.embedding};
    contrastive::value_batch<E, 2> images{{nullptr, rows}};
    arena_scope const scratch{c.memory};
    if (!kept) {
      images = {make<E>(c, rows), contrastive::place::device};
      contrastive::embed_rows(c, frozen_tower, frozen, b.images, micro, view<E, 2>{nullptr, rows});
    }
    auto options = s.step;
    options.model_axis = axis;
    contrastive::contrastive_step(c, ranks, model, store, images, b.texts, options);
  });
}

/// Bytes of the activation stack that running a tower over the images of `s`, as many as its batch, takes: for rows of
/// `width` in accumulators.
template <element T, class Tower>
std::size_t plan_images(Tower const& tower, parameter_list const& list, planned_step const& s,
                        extent_t width) {
  return detail::plan_rows<T>(tower, list, s, width, [](auto const& b) { return b.images; });
}
/// The same for captions of full length.
template <element T, class Tower>
std::size_t plan_texts(Tower const& tower, parameter_list const& list, planned_step const& s,
                       extent_t width) {
  return detail::plan_rows<T>(tower, list, s, width, [](auto const& b) { return b.texts; });
}

/// The largest divisor of the batch whose plan(micro_batch) is within `budget` bytes. Throws budget_too_small.
template <class Plan>
extent_t fitting_micro_batch(extent_t batch, std::size_t budget, Plan const& plan) {
  step_plan least;
  for (auto const micro : possible_micro_batches(batch))
    if ((least = plan(micro)).total() <= budget)
      return micro;
  throw budget_too_small("a step of batch " + std::to_string(batch) + " takes at least " +
                         readable_bytes(static_cast<double>(least.total())) +
                         ", in micro-batches of 1; there are " + readable_bytes(static_cast<double>(budget)) +
                         " for it. Parameters, their gradients and the optimiser alone take " +
                         readable_bytes(static_cast<double>(least.persistent)));
}

}  // namespace yoke::train
