// The trainer of phase 1: an image tower with a head learns classes.
#pragma once
#include <yoke/contrastive/classification_step.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/train/learner.hpp>

namespace yoke::train {

/// Of a classification_trainer; the same on every rank.
struct classification_trainer_options {
  extent_t micro_batch = 0;  // divides the batch of a rank; 0: one pass
  optimizer_options optimizer{};
  optim::schedule schedule{};
  double clip_norm = 0;                          // largest global norm of the gradients; 0: no clipping
  double label_smoothing = 0;                    // the share of the target that all classes have in common
  int consecutive_skips = 20;                    // so many non-finite steps in a row end the run
  std::uint64_t seed = 0;                        // of initial values, dropout and stochastic depth
  rematerialize remat = rematerialize::nothing;  // at least; the tower's own configuration may keep less
  rank_options ranks{};
};

/// Every rank makes one, with the same options; context, ranks, model and list outlive it. `Model` is
/// contrastive::image_classifier, or gives (batch, classes) logits as it does.
template <class C, parallel::communicator Ranks, class Model>
class classification_trainer : public learner<C, Ranks> {
 public:
  classification_trainer(C& c, Ranks& ranks, Model const& model, parameter_list const& list,
                         classification_trainer_options const& options)
      : learner<C, Ranks>{c,
                          ranks,
                          list,
                          {.optimizer = options.optimizer,
                           .schedule = options.schedule,
                           .clip_norm = options.clip_norm,
                           .consecutive_skips = options.consecutive_skips,
                           .seed = options.seed,
                           .ranks = options.ranks}},
        model_{&model},
        options_{options} {}

  /// Loss, gradients, their sum over the ranks, and an update. `images` and `labels` are this rank's part of the global
  /// batch, equally many on every rank; labels are in the host's memory.
  template <class Images>
  step_report step(Images const& images, view<std::int32_t const, 1> labels) {
    auto const result = contrastive::classification_step(
        this->context(), this->ranks(), *model_, this->store(), images, labels,
        {.micro_batch = options_.micro_batch,
         .random = this->key(images.count()),
         .training = true,
         .label_smoothing = options_.label_smoothing,
         .remat = options_.remat,
         .model_axis = this->model_axis(),
         .watch = this->watch(images.count(), options_.micro_batch)});
    auto report = this->learn(result.loss);
    report.accuracy = result.accuracy;
    return report;
  }

  /// A batch as a loader gives it, its pixels normalised as CLIP's.
  step_report step(data::batch const& b) {
    return step(contrastive::pixel_batch{.pixels = b.images()}, b.label_ids());
  }

  Model const& model() const { return *model_; }
  classification_trainer_options const& options() const { return options_; }

 private:
  Model const* model_;
  classification_trainer_options options_;
};

}  // namespace yoke::train
