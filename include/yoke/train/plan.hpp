// What a step will take, before any of it is taken: the same code on the dry backend.
#pragma once
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/encode.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/optim/adam_w.hpp>
#include <yoke/parallel/solo.hpp>

#include <vector>

namespace yoke::train {

struct step_plan {
  std::size_t activations = 0;  // bytes of the activation stack
  std::size_t gradients = 0;    // bytes of the activation gradients' pool
  std::size_t persistent = 0;   // bytes of parameters, their gradients and the optimiser's state
  extent_t parameters = 0;      // learned numbers
  extent_t multiply_adds = 0;   // of one step
};

namespace detail {

/// A batch of images and captions of full length that nobody reads: only their sizes matter.
struct planned_batch {
  std::vector<std::int32_t> offsets;
  contrastive::pixel_batch images;
  contrastive::caption_batch texts;

  planned_batch(extent_t batch, shape<3> image, extent_t caption_length)
      : offsets(static_cast<std::size_t>(batch) + 1),
        images{.pixels = {nullptr, {{batch, image[0], image[1], image[2]}}}} {
    for (std::size_t i = 1; i < offsets.size(); ++i)
      offsets[i] = offsets[i - 1] + static_cast<std::int32_t>(caption_length);
    auto const runs = segments::packed({offsets.data(), {{batch + 1}}}, caption_length);
    texts.tokens = {runs, {nullptr, {{runs.rows}}}};
  }
};

}  // namespace detail

/// The plan of a step with element type T, for images of `image` (height, width, channels) and captions of full
/// length; shorter captions take less. `device`: the traits of the context that will take it, such as
/// cuda::context<T>::traits.
template <element T, class Model>
step_plan plan_step(Model const& model, parameter_list const& list, extent_t batch, shape<3> image,
                    extent_t caption_length, contrastive::step_options const& options,
                    device_traits const& device = {}) {
  dry::context<T> c{device};
  parameter_store<dry::context<T>> store{c, list};
  optim::adam_w<dry::context<T>> const optimizer{c, list, {}};
  parallel::solo ranks;
  detail::planned_batch const b{batch, image, caption_length};
  contrastive::contrastive_step(c, ranks, model, store, b.images, b.texts, options);
  return {c.memory.peak(), c.gradient_memory.peak(), c.persistent_bytes, list.count(), c.multiply_adds};
}

/// Bytes of the activation stack that embedding `batch` samples at a time takes, by either tower.
template <element T, class Model>
std::size_t plan_encode(Model const& model, parameter_list const& list, extent_t batch, shape<3> image,
                        extent_t caption_length, device_traits const& device = {}) {
  using A = accumulator_t<T>;
  dry::context<T> c{device};
  parameter_store<dry::context<T>> const store{c, list};
  auto const rows = make<A>(c, shape{batch, model.embedding});
  detail::planned_batch const b{batch, image, caption_length};
  contrastive::encode(c, model.image, store, b.images, batch, rows);
  contrastive::encode(c, model.text, store, b.texts, batch, rows);
  return c.memory.peak();
}

}  // namespace yoke::train
