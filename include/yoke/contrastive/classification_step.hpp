// One training step's gradients on labelled images: softmax cross-entropy, phase 1 of BASIC (arXiv 2111.10050).
#pragma once
#include <yoke/autograd/tape.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/nn/classifier_head.hpp>
#include <yoke/parallel/agreement.hpp>
#include <yoke/parallel/communicator.hpp>

#include <array>
#include <string>
#include <utility>

namespace yoke::contrastive {

/// An image tower with a head for classes: what phase 1 trains, and of which phase 2 keeps the tower.
template <class Tower>
struct image_classifier {
  Tower image;
  nn::classifier_head head;
  extent_t classes;

  /// Parameters "head.…" below the scope; the tower has its own.
  image_classifier(scope s, Tower tower, nn::classifier_config const& c)
      : image{std::move(tower)}, head{s / "head", c}, classes{c.classes} {}

  /// -> (batch, classes) logits.
  value<2> operator()(auto& t, auto const& images) const { return head(t, image(t, images)); }
};

/// Of one step on one rank; what concerns the batch is the same on every rank.
struct classification_options {
  extent_t micro_batch = 0;  // divides the batch; 0: the batch itself
  random_key random{};       // first_sample: of this rank's batch within the global batch
  bool training = true;
  double label_smoothing = 0;                    // the share of the target that all classes have in common
  rematerialize remat = rematerialize::nothing;  // at least; the tower's own configuration may keep less
  parallel::any* model_axis = nullptr;  // the ranks among which the model's sharded parameters are shared out
  gradient_watch* watch = nullptr;      // told when gradients of parameters are added to
};

/// Of all ranks together, the same on each.
struct classification_result {
  double loss = 0;      // mean over the global batch
  double accuracy = 0;  // the share of images whose class has the largest logit
};

/// Adds the gradients of the mean cross-entropy over all ranks' batches to the parameters' gradients; this rank's
/// share, to be summed over ranks. `model` gives (batch, classes) logits and has the number of `classes`; `images` are
/// a batch as in inputs.hpp, `labels` (batch), in the host's memory, are from 0 to classes - 1. Each micro-batch is run
/// forward and back in one go: nothing is run twice. Throws parallel::error on every rank, before anything is computed,
/// when one of them has a batch or micro-batch of another length, or other classes.
template <class C, class Ranks, class Model, class Images>
classification_result classification_step(C& c, Ranks& ranks, Model const& model, parameter_store<C>& store,
                                          Images const& given_images, view<std::int32_t const, 1> labels,
                                          classification_options const& options) {
  using E = typename C::element;
  using A = typename C::accumulator;
  auto const batch = given_images.count(), classes = model.classes;
  auto const micro = options.micro_batch > 0 ? options.micro_batch : batch;
  parallel::expect_agreement("classification_step",
                             {{"the batch", static_cast<double>(batch)},
                              {"the micro-batch", static_cast<double>(micro)},
                              {"classes", static_cast<double>(classes)}},
                             ranks, options.model_axis);
  expects(batch > 0 && labels.extent(0) == batch,
          "classification_step: as many labels as images, at least one");
  expects(batch % micro == 0, [&] {
    return "classification_step: the batch " + std::to_string(batch) + " is a multiple of the micro-batch " +
           std::to_string(micro);
  });
  for (extent_t i = 0; i < batch; ++i)
    expects(labels.data[i] >= 0 && labels.data[i] < classes, [&] {
      return "classification_step: label " + std::to_string(labels.data[i]) + " is one of " +
             std::to_string(classes) + " classes, from 0";
    });

  arena_scope const step{c.memory};
  auto const& images = resident_batch(c, given_images);
  auto const ids = resident(c, labels);
  auto const totals = make<A>(c, shape{2});  // loss and hits
  fill(c, totals, 0.0);
  auto const pairs = static_cast<double>(batch) * ranks.size();
  for (extent_t first = 0; first < batch; first += micro)
    submit(c, "classify", [&] {
      arena_scope const scratch{c.memory};
      auto key = options.random;
      key.first_sample += static_cast<std::uint64_t>(first);
      tape<C> t{c,
                store.views(),
                {.record = true,
                 .training = options.training,
                 .random = key,
                 .remat = options.remat,
                 .model_axis = options.model_axis,
                 .watch = options.watch}};
      auto const z = model(t, images.on(t, first, micro));
      expects(z.shape == shape{micro, classes},
              "classification_step: the model gives (micro-batch, classes)");
      auto const dz = make<E>(c, z.shape);
      auto const part = make<A>(c, totals.shape);
      softmax_cross_entropy(c, options.label_smoothing, 1 / pairs, t(z), slice(ids, first, micro), dz, part);
      convert(c, view<A const, 1>{part}, totals, store::accumulate);
      t.backward(z, view<E const, 2>{dz});
    });
  std::array<double, 2> sums{scalar(c, view<A const, 1>{slice(totals, 0, 1)}),
                             scalar(c, view<A const, 1>{slice(totals, 1, 1)})};
  if (ranks.size() > 1)
    all_reduce(ranks, view<double, 1>{sums.data(), {{2}}});
  return {sums[0] / pairs, sums[1] / pairs};
}

}  // namespace yoke::contrastive
