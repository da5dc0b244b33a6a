// The trainer: contrastive steps of one model on one device, rank by rank.
#pragma once
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/train/learner.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>

namespace yoke::train {

/// Of a trainer; the same on every rank.
struct trainer_options {
  extent_t micro_batch = 0;       // divides the batch of a rank; 0: one pass, nothing is run twice
  optimizer_options optimizer{};  // optim::adam_w_options or optim::adafactor_w_options
  optim::schedule schedule{};
  double clip_norm = 0;              // largest global norm of the gradients; 0: no clipping
  double largest_scale = 100;        // the learned factor on similarities stays within [1, this]
  int consecutive_skips = 20;        // so many non-finite steps in a row end the run
  std::uint64_t seed = 0;            // of initial values, dropout and stochastic depth
  contrastive::loss_options loss{};  // contrastive::info_nce_options or contrastive::sigmoid_options
  rematerialize remat = rematerialize::nothing;  // at least; the towers' own configuration may keep less
  rank_options ranks{};
};

/// Every rank makes one, with the same options; context, ranks, model and list outlive it.
template <class C, parallel::communicator Ranks, class Model>
class trainer : public learner<C, Ranks> {
  using base = learner<C, Ranks>;

 public:
  using A = typename C::accumulator;

  trainer(C& c, Ranks& ranks, Model const& model, parameter_list const& list, trainer_options const& options)
      : base{c,
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

  /// Loss, gradients, their sum over the ranks, and an update. `images` and `texts` are this rank's part of the global
  /// batch, as in contrastive/inputs.hpp, equally many on every rank.
  template <class Images, class Texts>
  step_report step(Images const& images, Texts const& texts) {
    auto const result =
        contrastive::contrastive_step(this->context(), this->ranks(), *model_, this->store(), images, texts,
                                      {.micro_batch = options_.micro_batch,
                                       .random = this->key(images.count()),
                                       .training = true,
                                       .remat = options_.remat,
                                       .loss = options_.loss,
                                       .model_axis = this->model_axis(),
                                       .watch = this->watch(images.count(), options_.micro_batch)});
    auto report = this->learn(result.loss);
    report.logit_scale = result.logit_scale;
    if (!report.skipped)
      clamp_logit_scale();
    return report;
  }

  /// A batch as a loader gives it, its pixels normalised as CLIP's.
  step_report step(data::batch const& b) {
    return step(contrastive::pixel_batch{.pixels = b.images()},
                contrastive::caption_batch{{b.token_segments(), b.token_ids()}});
  }

  /// A batch that lies in the device's memory already, as cuda::prefetch gives it.
  template <class Batch>
  requires requires(Batch const& b) {
    { b.pixels() } -> std::same_as<view<std::uint8_t const, 4>>;
    { b.tokens() } -> std::convertible_to<yoke::tokens>;
  }
  step_report step(Batch const& b) {
    using contrastive::place;
    return step(contrastive::pixel_batch{.pixels = b.pixels(), .where = place::device},
                contrastive::caption_batch{b.tokens(), place::device});
  }

  Model const& model() const { return *model_; }
  trainer_options const& options() const { return options_; }

 private:
  void clamp_logit_scale() {
    auto const scale = this->store().master_of(model_->logit_scale);
    auto const now = scalar(this->context(), view<A const, 1>{scale});
    auto const allowed = std::clamp(now, 0.0, std::log(options_.largest_scale));
    if (allowed != now)
      add_scalar(this->context(), allowed - now, scale);
  }

  Model const* model_;
  trainer_options options_;
};

}  // namespace yoke::train
