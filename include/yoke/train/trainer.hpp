// The trainer: parameters, optimiser and step counter of one model on one device, rank by rank.
#pragma once
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/optim/adam_w.hpp>
#include <yoke/optim/schedule.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <stdexcept>

namespace yoke::train {

struct trainer_options {
  extent_t micro_batch = 0;  // divides the batch of a rank; 0: one pass, nothing is run twice
  optim::adam_w_options optimizer{};
  optim::schedule schedule{};
  double clip_norm = 0;        // largest global norm of the gradients; 0: no clipping
  double largest_scale = 100;  // the learned factor on similarities stays within [1, this]
  int consecutive_skips = 20;  // so many non-finite steps in a row end the run
  std::uint64_t seed = 0;      // of initial values, dropout and stochastic depth
  contrastive::info_nce_options loss{};
};

/// Loss or gradients were not finite for too many steps in a row.
struct diverged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct step_report {
  std::int64_t step = 0;  // number of this step, from 0
  double loss = 0, gradient_norm = 0, rate = 0, logit_scale = 0;
  bool skipped = false;  // loss or gradients were not finite: the parameters were left as they were
};

/// What of a trainer is not a flat block.
struct trainer_state {
  std::int64_t step = 0;     // steps begun, skipped ones included
  std::int64_t updates = 0;  // of the optimiser
  std::int64_t skipped = 0;
  std::int64_t skipped_in_a_row = 0;
};

/// Every rank makes one, with the same options; context, ranks, model and list outlive it.
template <class C, parallel::communicator Ranks, class Model>
class trainer {
 public:
  using A = typename C::accumulator;

  trainer(C& c, Ranks& ranks, Model const& model, parameter_list const& list, trainer_options const& options)
      : context_{&c},
        ranks_{&ranks},
        model_{&model},
        list_{&list},
        options_{options},
        store_{c, list},
        optimizer_{c, list, options.optimizer} {
    initialize(c, list, options.seed, store_.master());
    store_.refresh(c);
  }

  /// Loss, gradients, their sum over the ranks, and an update. `images` and `texts` are this rank's part of the global
  /// batch, as in contrastive/inputs.hpp, equally many on every rank.
  template <class Images, class Texts>
  step_report step(Images const& images, Texts const& texts) {
    auto& c = *context_;
    auto const first = static_cast<std::uint64_t>(images.count() * ranks_->rank());
    random_key const random{options_.seed, static_cast<std::uint64_t>(state_.step), first};
    auto const result = contrastive::contrastive_step(
        c, *ranks_, *model_, store_, images, texts,
        {.micro_batch = options_.micro_batch, .random = random, .training = true, .loss = options_.loss});
    all_reduce(*ranks_, store_.gradients());

    step_report report{.step = state_.step, .loss = result.loss, .logit_scale = result.logit_scale};
    report.gradient_norm = std::sqrt(squared_norm(c, view<A const, 1>{store_.gradients()}));
    report.rate = options_.schedule(state_.step++);
    report.skipped = !std::isfinite(result.loss) || !std::isfinite(report.gradient_norm);
    if (report.skipped) {
      skip(report);
      return report;
    }
    state_.skipped_in_a_row = 0;
    auto const limit = options_.clip_norm;
    auto const scale = limit > 0 ? std::min(1.0, limit / (report.gradient_norm + 1e-6)) : 1.0;
    ++state_.updates;
    submit(c, "update", [&] { optimizer_.update(c, store_, report.rate, state_.updates, scale); });
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

  C& context() const { return *context_; }
  Ranks& ranks() const { return *ranks_; }
  Model const& model() const { return *model_; }
  parameter_list const& list() const { return *list_; }
  parameter_store<C>& store() { return store_; }
  optim::adam_w<C> const& optimizer() const { return optimizer_; }
  trainer_options const& options() const { return options_; }
  trainer_state const& state() const { return state_; }

  /// After parameters, moments and state were read from a checkpoint into the blocks.
  void resume(trainer_state const& state) {
    state_ = state;
    store_.refresh(*context_);
  }

 private:
  void skip(step_report const& report) {
    store_.zero_gradients(*context_);
    ++state_.skipped;
    if (++state_.skipped_in_a_row > options_.consecutive_skips)
      throw diverged("training diverged: loss or gradients were not finite for " +
                     std::to_string(state_.skipped_in_a_row) + " steps, up to step " +
                     std::to_string(report.step) + "; a lower rate, a longer warm-up or clipping may help");
  }

  void clamp_logit_scale() {
    auto const scale = slice(store_.master(), model_->logit_scale.offset, 1);
    auto const now = scalar(*context_, view<A const, 1>{scale});
    auto const allowed = std::clamp(now, 0.0, std::log(options_.largest_scale));
    if (allowed != now)
      add_scalar(*context_, allowed - now, scale);
  }

  C* context_;
  Ranks* ranks_;
  Model const* model_;
  parameter_list const* list_;
  trainer_options options_;
  parameter_store<C> store_;
  optim::adam_w<C> optimizer_;
  trainer_state state_;
};

}  // namespace yoke::train
