// What training shares whatever the loss: parameters, the sum of gradients over ranks, a guard against steps that are
// not finite, clipping, schedule, optimiser, running statistics.
#pragma once
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/optim/schedule.hpp>
#include <yoke/parallel/communicator.hpp>
#include <yoke/train/optimizer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace yoke::train {

struct learner_options {
  optimizer_options optimizer{};
  optim::schedule schedule{};
  double clip_norm = 0;        // largest global norm of the gradients; 0: no clipping
  int consecutive_skips = 20;  // so many non-finite steps in a row end the run
  std::uint64_t seed = 0;      // of initial values, dropout and stochastic depth
};

/// Loss or gradients were not finite for too many steps in a row.
struct diverged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct step_report {
  std::int64_t step = 0;  // number of this step, from 0
  double loss = 0, gradient_norm = 0, rate = 0;
  double logit_scale = 0;  // of a contrastive step
  double accuracy = 0;     // of a classification step: the share of images whose class was first
  bool skipped = false;    // loss or gradients were not finite: the parameters were left as they were
};

/// What of training is not a flat block.
struct trainer_state {
  std::int64_t step = 0;     // steps begun, skipped ones included
  std::int64_t updates = 0;  // of the optimiser
  std::int64_t skipped = 0;
  std::int64_t skipped_in_a_row = 0;
};

namespace detail {

/// The sum over the ranks of elements that cannot be summed as they are (bf16), through accumulators, piece by piece.
/// The work space is less than any step's own.
template <class C, class Ranks, class V>
void all_reduce_converted(C& c, Ranks& ranks, view<V, 1> values) {
  constexpr extent_t piece = 1 << 16;
  arena_scope const scratch{c.memory};
  auto const wide = make<typename C::accumulator>(c, shape{std::min(piece, values.size())});
  for (extent_t first = 0; first < values.size(); first += piece) {
    auto const n = std::min(piece, values.size() - first);
    auto const part = slice(wide, 0, n);
    convert(c, view<V const, 1>{slice(values, first, n)}, part, store::overwrite);
    all_reduce(ranks, part);
    convert(c, view<typename C::accumulator const, 1>{part}, slice(values, first, n), store::overwrite);
  }
}

}  // namespace detail

/// The base of the trainers. Every rank makes one, with the same options; context, ranks and list outlive it.
template <class C, parallel::communicator Ranks>
class learner {
 public:
  using A = typename C::accumulator;

  learner(C& c, Ranks& ranks, parameter_list const& list, learner_options const& options)
      : context_{&c},
        ranks_{&ranks},
        list_{&list},
        options_{options},
        optimizer_{c, list, options.optimizer},
        store_{c, list} {
    initialize(c, list, options.seed, store_);
  }

  C& context() const { return *context_; }
  Ranks& ranks() const { return *ranks_; }
  parameter_list const& list() const { return *list_; }
  parameter_store<C>& store() { return store_; }
  train::optimizer<C> const& optimizer() const { return optimizer_; }
  trainer_state const& state() const { return state_; }

  /// After parameters, moments and state were read from a checkpoint into the blocks.
  void resume(trainer_state const& state) {
    state_ = state;
    store_.refresh(*context_);
  }

 protected:
  /// Where this step's random draws come from, for this rank's `batch` samples of the global batch.
  random_key key(extent_t batch) const {
    return {options_.seed, static_cast<std::uint64_t>(state_.step),
            static_cast<std::uint64_t>(batch * ranks_->rank())};
  }

  /// The end of a step whose loss, over all ranks, and gradients, this rank's share, are there: their sum, and an
  /// update.
  step_report learn(double loss) {
    auto& c = *context_;
    sum_over_ranks();
    step_report report{.step = state_.step, .loss = loss};
    double squared = 0;
    store_.gradient_block().for_each_run(
        [&]<class V>(view<V, 1> run) { squared += squared_norm(c, view<V const, 1>{run}); });
    report.gradient_norm = std::sqrt(squared);
    report.rate = options_.schedule(state_.step++);
    report.skipped = !std::isfinite(loss) || !std::isfinite(report.gradient_norm);
    if (report.skipped) {
      skip(report);
      return report;
    }
    state_.skipped_in_a_row = 0;
    auto const limit = options_.clip_norm;
    auto const scale = limit > 0 ? std::min(1.0, limit / (report.gradient_norm + 1e-6)) : 1.0;
    ++state_.updates;
    submit(c, "update", [&] {
      optimizer_.update(c, store_, report.rate, state_.updates, scale);
      store_.absorb_observations(c);
    });
    return report;
  }

 private:
  void sum_over_ranks() {
    if (ranks_->size() == 1)
      return;
    store_.gradient_block().for_each_run([&]<class V>(view<V, 1> run) {
      if constexpr (std::is_floating_point_v<V>)
        all_reduce(*ranks_, run);
      else
        detail::all_reduce_converted(*context_, *ranks_, run);
    });
    if (store_.observations().size() > 0)
      all_reduce(*ranks_, store_.observations());
  }

  void skip(step_report const& report) {
    store_.zero_gradients(*context_);
    ++state_.skipped;
    if (++state_.skipped_in_a_row > options_.consecutive_skips)
      throw diverged("training diverged: loss or gradients were not finite for " +
                     std::to_string(state_.skipped_in_a_row) + " steps, up to step " +
                     std::to_string(report.step) + "; a lower rate, a longer warm-up or clipping may help");
  }

  C* context_;
  Ranks* ranks_;
  parameter_list const* list_;
  learner_options options_;
  train::optimizer<C> optimizer_;
  parameter_store<C> store_;
  trainer_state state_;
};

}  // namespace yoke::train
