// What a step will take, before any of it is taken: the same code on the dry backend.
#pragma once
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/encode.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/parallel/dry.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/train/learner.hpp>

#include <cstdint>
#include <limits>
#include <vector>

namespace yoke::train {

/// What a step takes on one rank.
struct step_plan {
  std::size_t activations = 0;  // bytes of the activation stack
  std::size_t gradients =
      0;  // bytes of the pool of activation gradients: those of parameters are in `persistent`
  std::size_t persistent = 0;  // bytes of parameters, their gradients and the optimiser's state
  extent_t parameters = 0;     // learned numbers
  extent_t multiply_adds = 0;  // of one step

  // parts of `persistent`; the rest are parameters that do not learn
  std::size_t master = 0, compute_copy = 0, parameter_gradients = 0, optimizer_state = 0;

  // What the rank sends in one step, along each axis of the mesh.
  parallel::traffic data_axis{}, model_axis{};

  double sent() const { return data_axis.bytes + model_axis.bytes; }
  std::size_t total() const { return activations + gradients + persistent; }
};

/// A step to be planned. Captions are taken at full length; shorter ones take less.
struct planned_step {
  extent_t batch = 0;  // of one rank
  shape<3> image{};    // height, width, channels
  extent_t caption_length = 0;
  contrastive::step_options step{};
  optimizer_options optimizer{};
  parallel::mesh_shape mesh{};  // the list is that of the rank's share of the model
  int rank = 0;                 // of the mesh
  device_traits device{};       // of the context that will take it, such as cuda::context<T>::traits
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
    expects(batch * caption_length < std::numeric_limits<std::int32_t>::max(),
            "plan: the captions of a rank's batch have fewer than 2^31 tokens");
    for (std::size_t i = 1; i < offsets.size(); ++i)
      offsets[i] = offsets[i - 1] + static_cast<std::int32_t>(caption_length);
    auto const runs = segments::packed({offsets.data(), {{batch + 1}}}, caption_length);
    texts.tokens = {runs, {nullptr, {{runs.rows}}}};
  }
};

/// A rank of a mesh that is not there.
struct planned_ranks final : dry::piece_watch {
  parallel::dry data, model;
  parallel::any any_model{model};
  parallel::traffic before{}, piece{};

  planned_ranks(parameter_list const& list, planned_step const& s)
      : data{s.mesh.data, s.rank / s.mesh.model}, model{s.mesh.model, s.rank % s.mesh.model} {
    expects(list.share().ranks == s.mesh.model && list.share().rank == model.rank(),
            "plan_step: the model was made on the list of the rank's share");
  }
  parallel::any* model_axis() { return model.size() > 1 ? &any_model : nullptr; }
  ownership owners(parameter_list const& list) const { return {list, data.rank(), data.size()}; }

  void begins() override { before = model.traffic(); }
  void ends() override { piece = model.traffic() - before; }
  void repeats() override { model.traffic() = model.traffic() + piece; }
};

/// What learner does of communication once gradients are there, without its arithmetic.
template <class C>
void plan_update(C& c, planned_ranks& ranks, parameter_list const& list, parameter_store<C>& store,
                 optimizer<C>& optimizer) {
  gradient_sum<C, parallel::dry>{c, ranks.data, list, store, false, rank_options{}.bucket_bytes}.finish();
  squared_gradient_norm(c, list, store, ranks.model_axis());
  optimizer.update(c, store, 0, 1, 1);
  if (ranks.data.size() > 1)
    share_update(c, ranks.data, store);
}

template <class T>
struct planning_context {
  using type = T;
};
template <element T>
struct planning_context<T> {
  using type = dry::context<T>;
};

/// step(context, ranks, store, model axis), and the update that follows, on one rank of devices without memory.
template <class T, class Step>
step_plan plan_of(parameter_list const& list, planned_step const& s, Step const& step,
                  std::vector<dry::memory_sample>* timeline = nullptr) {
  expects(s.mesh.data > 0 && s.mesh.model > 0 && s.rank >= 0 && s.rank < s.mesh.ranks(),
          "plan: a rank of a mesh that has some");
  using C = typename planning_context<T>::type;
  C c{s.device};
  c.timeline = timeline;
  planned_ranks ranks{list, s};
  c.pieces = &ranks;
  auto const owners = ranks.owners(list);
  step_plan plan{.parameters = list.count()};
  parameter_store<C> store{c, list, owners};
  auto const bytes = [&](auto const& block) {
    std::size_t n = 0;
    block.for_each_run(
        [&]<class V>(view<V, 1> run) { n += static_cast<std::size_t>(run.size()) * sizeof(V); });
    return n;
  };
  plan.master = bytes(store.master_block());
  plan.parameter_gradients = bytes(store.gradient_block());
  plan.compute_copy = static_cast<std::size_t>(store.compute().size()) * sizeof(typename C::element);
  auto const before = c.persistent_bytes;
  optimizer<C> state{c, list, s.optimizer, owners, ranks.model_axis()};
  plan.optimizer_state = c.persistent_bytes - before;
  step(c, ranks.data, store, ranks.model_axis());
  plan_update(c, ranks, list, store, state);
  plan.persistent = c.persistent_bytes;  // with what the step itself keeps, such as a frozen tower
  plan.activations = c.memory.peak();
  plan.gradients = c.gradient_memory.peak();
  plan.multiply_adds = c.multiply_adds;
  plan.data_axis = ranks.data.traffic();
  plan.model_axis = ranks.model.traffic();
  return plan;
}

}  // namespace detail

/// The plan of one rank's step. T: the context's type of elements, or the context without memory that stands for it, such as
/// compact<dry::context<bf16>>. `timeline`: bytes in use at each kernel that finds another use, the first micro-batch
/// standing for all.
template <class T, class Model>
step_plan plan_step(Model const& model, parameter_list const& list, planned_step const& s,
                    std::vector<dry::memory_sample>* timeline = nullptr) {
  auto const step = [&](auto& c, auto& ranks, auto& store, parallel::any* axis) {
    detail::planned_batch const b{s.batch, s.image, s.caption_length};
    auto options = s.step;
    options.model_axis = axis;
    contrastive::contrastive_step(c, ranks, model, store, b.images, b.texts, options);
  };
  return detail::plan_of<T>(list, s, step, timeline);
}

/// The same for one rank with AdamW.
template <element T, class Model>
step_plan plan_step(Model const& model, parameter_list const& list, extent_t batch, shape<3> image,
                    extent_t caption_length, contrastive::step_options const& options,
                    device_traits const& device = {}) {
  return plan_step<T>(model, list,
                      planned_step{.batch = batch,
                                   .image = image,
                                   .caption_length = caption_length,
                                   .step = options,
                                   .device = device});
}

/// Bytes of the activation stack that embedding `batch` samples at a time takes, by either tower.
template <element T, class Model>
std::size_t plan_encode(Model const& model, parameter_list const& list, extent_t batch, shape<3> image,
                        extent_t caption_length, device_traits const& device = {}) {
  using A = accumulator_t<T>;
  dry::context<T> c{device};
  parameter_store<dry::context<T>> store{c, list};
  parallel::dry model_ranks{list.share().ranks, list.share().rank};
  parallel::any axis{model_ranks};
  store.set_model_axis(model_ranks.size() > 1 ? &axis : nullptr);
  auto const rows = make<A>(c, shape{batch, model.embedding});
  detail::planned_batch const b{batch, image, caption_length};
  contrastive::encode(c, model.image, store, b.images, batch, rows);
  contrastive::encode(c, model.text, store, b.texts, batch, rows);
  return c.memory.peak();
}

}  // namespace yoke::train
