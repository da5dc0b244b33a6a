// What training shares whatever the loss: parameters, their owners among the ranks, the sum of gradients, a guard against
// steps that are not finite, clipping, schedule, optimiser, running statistics.
#pragma once
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/optim/schedule.hpp>
#include <yoke/parallel/communicator.hpp>
#include <yoke/train/gradient_sum.hpp>
#include <yoke/train/optimizer.hpp>
#include <yoke/train/same_run.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace yoke::train {

/// How a step uses several ranks.
struct rank_options {
  /// The ranks among which sharded parameters are shared out: mesh.model_axis(); null: nothing is sharded. It outlives the
  /// trainer.
  parallel::any* model_axis = nullptr;
  bool overlap = true;  // gradients are summed while others are computed; on a card, without a model axis and
                        // without graphs
  extent_t bucket_bytes = 8 << 20;  // of gradients that are summed in one go
  std::uint64_t configuration =
      0;  // must be the same on every rank: parallel::configuration_hash of anything
  std::int64_t compare_every = 100;  // steps after which ranks compare step and parameters; 0: never
};

/// What trainers of every kind have in common; the same on every rank.
struct learner_options {
  optimizer_options optimizer{};
  optim::schedule schedule{};
  double clip_norm = 0;        // largest global norm of the gradients; 0: no clipping
  int consecutive_skips = 20;  // so many non-finite steps in a row end the run
  std::uint64_t seed = 0;      // of initial values, dropout and stochastic depth
  rank_options ranks{};
};

/// Loss or gradients were not finite for too many steps in a row.
struct diverged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What one step did, the same on every rank.
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

/// The squared norm of all gradients, those of shares on other ranks included; the same on every rank.
template <class C>
double squared_gradient_norm(C& c, parameter_list const& list, parameter_store<C> const& store,
                             parallel::any* model_axis) {
  double whole = 0, shares = 0;
  auto const add = [&](double& to) {
    return [&]<class V>(view<V, 1> run) { to += squared_norm(c, view<V const, 1>{run}); };
  };
  if (model_axis == nullptr) {
    store.gradient_block().for_each_run(add(whole));
    return whole;
  }
  for (auto const& p : list.infos()) store.gradient_block().visit(p, add(p.is_sharded() ? shares : whole));
  all_reduce(*model_axis, view<double, 1>{&shares, {{1}}});
  return whole + shares;
}

/// After an update: gradients of what others own are zeroed, and what each rank updated is everybody's.
template <class C, class Ranks>
void share_update(C& c, Ranks& ranks, parameter_store<C>& store) {
  auto const mine = store.owners().owned(false);
  auto const g = store.gradients();
  fill(c, slice(g, 0, mine.begin), 0.0);
  fill(c, slice(g, mine.end, g.size() - mine.end), 0.0);
  store.visit_shared([&](auto values) { all_gather_parts(ranks, values, store.owners().begins()); });
}

}  // namespace detail

/// The base of the trainers. Every rank makes one, with the same options; context, ranks and list outlive it. `ranks` are
/// those that share out the batch: all, or the data axis of a mesh. Each keeps the optimiser's state, and beside a
/// compute copy the master values, of the parameters that it owns.
template <class C, parallel::communicator Ranks>
class learner {
 public:
  using A = typename C::accumulator;

  learner(C& c, Ranks& ranks, parameter_list const& list, learner_options const& options)
      : context_{&c},
        ranks_{&ranks},
        list_{&list},
        options_{options},
        optimizer_{c, list, options.optimizer, ownership{list, ranks.rank(), ranks.size()},
                   options.ranks.model_axis},
        store_{c, list, ownership{list, ranks.rank(), ranks.size()}},
        sum_{c, ranks, list, store_, overlaps(c, options.ranks), options.ranks.bucket_bytes} {
    store_.set_model_axis(options.ranks.model_axis);
    initialize(c, list, options.seed, store_);
    share_values();
    compare();
  }
  learner(learner const&) = delete;
  learner& operator=(learner const&) = delete;

  C& context() const { return *context_; }
  Ranks& ranks() const { return *ranks_; }
  parallel::any* model_axis() const { return options_.ranks.model_axis; }
  parameter_list const& list() const { return *list_; }
  parameter_store<C>& store() { return store_; }
  train::optimizer<C> const& optimizer() const { return optimizer_; }
  trainer_state const& state() const { return state_; }
  /// What this rank has sent along the data axis.
  parallel::traffic sent() const {
    return parallel::traffic{std::as_const(*ranks_).traffic()} + sum_.background_traffic();
  }

  /// After parameters, moments and state were read from a checkpoint into the blocks: on every rank.
  void resume(trainer_state const& state) {
    state_ = state;
    store_.refresh(*context_);
    share_values();
    compare();
  }

 protected:
  /// Where this step's random draws come from, for this rank's `batch` samples of the global batch.
  random_key key(extent_t batch) const {
    return {options_.seed, static_cast<std::uint64_t>(state_.step),
            static_cast<std::uint64_t>(batch * ranks_->rank())};
  }
  /// For the tapes of the next step, which runs so many micro-batches.
  gradient_watch* watch(extent_t batch, extent_t micro_batch) {
    return sum_.watch(micro_batch > 0 ? batch / micro_batch : 1);
  }

  /// The end of a step whose loss, over all ranks, and gradients, this rank's share, are there: their sum, and an
  /// update.
  step_report learn(double loss) {
    auto& c = *context_;
    sum_.finish();
    step_report report{.step = state_.step, .loss = loss};
    report.gradient_norm = std::sqrt(detail::squared_gradient_norm(c, *list_, store_, model_axis()));
    report.rate = options_.schedule(state_.step++);
    report.skipped = !std::isfinite(loss) || !std::isfinite(report.gradient_norm);
    if (report.skipped) {
      skip(report);
    } else {
      state_.skipped_in_a_row = 0;
      auto const limit = options_.clip_norm;
      auto const scale = limit > 0 ? std::min(1.0, limit / (report.gradient_norm + 1e-6)) : 1.0;
      ++state_.updates;
      submit(c, "update", [&] {
        optimizer_.update(c, store_, report.rate, state_.updates, scale);
        store_.absorb_observations(c);
      });
      if (ranks_->size() > 1)
        detail::share_update(c, *ranks_, store_);
    }
    if (auto const every = options_.ranks.compare_every; every > 0 && state_.step % every == 0)
      compare();
    return report;
  }

 private:
  /// A card's collectives that run at once may wait for each other, and a graph has none.
  static bool overlaps(C const& c, rank_options const& options) {
    if constexpr (requires { c.options().graphs; })
      return options.overlap && options.model_axis == nullptr && !c.options().graphs;
    else
      return options.overlap;
  }
  void share_values() {
    if (ranks_->size() > 1 && parameter_store<C>::has_copy)
      store_.visit_shared([&](auto values) { all_gather_parts(*ranks_, values, store_.owners().begins()); });
  }

  void compare() {
    if (ranks_->size() == 1 && model_axis() == nullptr)
      return;
    auto mine = detail::fingerprint_of(*context_, *list_, store_);
    mine.configuration = options_.ranks.configuration;
    mine.step = static_cast<std::uint64_t>(state_.step);
    expect_same_run(*ranks_, model_axis(), mine);
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
  gradient_sum<C, Ranks> sum_;
  trainer_state state_;
};

}  // namespace yoke::train
