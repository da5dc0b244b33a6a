// One run of yoke-train: where its phases are, what each is given, steps, checkpoints, figures and the report.
#pragma once
#include <yoke/dry/context.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/metrics.hpp>
#include <yoke/train/phase_plan.hpp>
#include <yoke/train/trainer.hpp>

#include "evaluation.hpp"
#include "models.hpp"
#include "ranks.hpp"
#include "tools.hpp"
#include "train_data.hpp"
#include <chrono>
#include <csignal>
#include <limits>
#include <memory>
#include <optional>
#include <sys/stat.h>

namespace train_tool {

using namespace yoke;

inline volatile std::sig_atomic_t interrupted = 0;

/// Samples a second since the last restart.
struct speedometer {
  using clock = std::chrono::steady_clock;
  clock::time_point start = clock::now();
  extent_t samples = 0;

  void count(extent_t n) { samples += n; }
  double rate() const {
    return static_cast<double>(samples) /
           std::max(1e-9, std::chrono::duration<double>(clock::now() - start).count());
  }
  void restart() { start = clock::now(), samples = 0; }
};

/// One run: all that its phases have in common.
template <class Platform, element T, class Kind>
class session {
 public:
  using context_type = typename Platform::template context<T>;

  session(Platform const& platform, settings s, training_data const& data, held_out& evaluation)
      : platform_{platform},
        settings_{std::move(s)},
        mesh_{mesh_of(settings_, platform.launched().size())},
        data_{&data},
        evaluation_{&evaluation},
        what_{describe()},
        phases_{settings_.phase_list()} {
    if (mesh_.model > 1)
      what_.model.sharded(settings_.model_parallel == "tensor" ? nn::model_parallel::tensor
                                                               : nn::model_parallel::gathered);
    if (phases_.back() != phase::image) {
      tokenizer_.emplace(data.tokenizer(what_.model.text.context_length));
      what_.model.text.vocabulary = tokenizer_->vocabulary_size();
    }
    std::int64_t before = 0;
    for (auto const p : phases_) {
      auto& here = course_of(p);
      here = {.samples = samples_of(p), .before = before};
      here.epoch = here.samples / settings_.batch;
      if (here.epoch == 0)
        throw io::error(settings_.train_data, "",
                        "an epoch of " + std::to_string(here.samples) + " samples has no batch of " +
                            std::to_string(settings_.batch));
      here.steps = here.epoch * static_cast<std::int64_t>(settings_.epochs_of(p));
      before += here.steps;
    }
    steps_ = before;
    if (!settings_.resume.empty())
      find_position();
    else if (!settings_.init.empty())
      earlier_ = {settings_.init, holds_texts(settings_.init)};
  }

 protected:
  /// Rank 0 writes, and says what there is to say.
  bool speaks() const { return platform_.launched().rank() == 0; }
  /// The ranks of the first group hold a model that evaluates; the others wait for them.
  bool evaluates() const { return data_rank() == 0; }
  int data_rank() const { return platform_.launched().rank() / mesh_.model; }
  /// The share of a sharded model that this rank holds.
  model_share share() const { return {platform_.launched().rank() % mesh_.model, mesh_.model}; }
  /// Of a rank.
  extent_t local_batch() const { return settings_.batch / mesh_.data; }

  /// Ranks that see other data would follow other schedules.
  void expect_common_data() {
    auto& ranks = platform_.launched();
    ranks.wait_for_all();  // each has counted its samples, which takes as long as its disk does
    for (auto const p : phases_)
      expect_common(std::string("a number of samples for phase ") + name_of(p),
                    static_cast<std::uint64_t>(course_of(p).samples), ranks);
    if (tokenizer_)
      expect_common("a tokenizer", hash(tokenizer_->bytes()), ranks);
  }

  /// Does the work of a phase that may fail on this rank alone: the others learn why before its communicators end.
  template <class Work>
  bool telling_others(Work const& work) {
    try {
      return work();
    } catch (std::exception const& e) {
      platform_.launched().announce(e.what());
      throw;
    }
  }

  void open_metrics() {
    if (!speaks())
      return;
    ::mkdir(settings_.out.c_str(), 0777);  // failing, the file below says why
    auto const file = settings_.out + "/metrics.jsonl";
    metrics_.emplace(settings_.resume.empty()
                         ? train::metrics_writer::create(file)
                         : train::metrics_writer::resume(file, course_of(first_).before + start_step_));
    for (auto const& r : train::read_metrics(file))
      if (!r.find("loss"))
        last_evaluation_ = r.step;
  }
  /// What an evaluation has found. A run that goes on from there has written it already.
  void write_evaluation(train::metric_record const& found) {
    if (std::exchange(last_evaluation_, found.step) != found.step)
      metrics_->write(found);
  }

  /// Where a phase is among the steps of the run.
  struct course {
    std::int64_t samples = 0;                       // of an epoch
    std::int64_t epoch = 0, steps = 0, before = 0;  // steps: of an epoch, of the phase, of earlier phases
  };
  /// The checkpoint of the phase before, and whether it has a text tower.
  struct beginning {
    std::string path;
    bool has_texts = false;
  };

  typename Kind::description describe() const {
    for (auto const& checkpoint : {settings_.resume, settings_.init})
      if (!checkpoint.empty()) {
        auto found = Kind::read(io::committed_folder(checkpoint) + "/" + Kind::file);
        if (settings_.loss == "sigmoid" && !found.model.logits.bias)
          throw io::error("--loss", "sigmoid",
                          "wants a model with a bias of logits, which that of " + checkpoint + " has not");
        return found;
      }
    auto fresh = Kind::named(settings_.model);
    if (settings_.loss == "sigmoid")
      fresh.model.logits = contrastive::siglip_logits;
    return fresh;
  }
  course& course_of(phase p) { return courses_[static_cast<std::size_t>(p)]; }
  /// In an epoch: what --train-num-samples says, or what there are.
  std::int64_t samples_of(phase p) const {
    return static_cast<std::int64_t>(settings_.train_samples > 0 ? settings_.train_samples
                                     : p == phase::image         ? data_->labelled_samples()
                                                                 : data_->pair_samples());
  }
  /// The checkpoint that a phase's text tower begins with, empty for none: that of the phase before, or where this had
  /// none, --init.
  std::string texts_from() const {
    if (earlier_.has_texts)
      return earlier_.path;
    return !settings_.init.empty() && holds_texts(settings_.init) ? settings_.init : "";
  }
  static bool holds_texts(std::string const& checkpoint) {
    auto const run = train::read_run(checkpoint);
    auto const* const p = run.find("phase");
    return p == nullptr || p->as<std::string>() != phase_names[0];
  }

  static std::string name_of_samples(phase p) { return std::string("samples_") + name_of(p); }

  /// Where the checkpoint to resume is.
  void find_position() {
    auto const run = train::read_run(settings_.resume);
    io::json_fields fields{run, settings_.resume + "/state.json", "run"};
    auto const name = fields.template required<std::string>("phase");
    auto const found = std::find(phase_names.begin(), phase_names.end(), name);
    if (found == phase_names.end() || !settings_.runs(static_cast<phase>(found - phase_names.begin())))
      fields.fail("phase", "\"" + name + "\" is no phase of this run");
    first_ = static_cast<phase>(found - phase_names.begin());
    start_step_ = fields.template required<std::int64_t>("phase_step");
    last_checkpoint_ = settings_.resume;
    for (auto const p : phases_)
      if (auto const then = fields.template optional<std::int64_t>(name_of_samples(p), course_of(p).samples);
          then != course_of(p).samples)
        fields.fail(name_of_samples(p), "was " + std::to_string(then) + ", and is now " +
                                            std::to_string(course_of(p).samples) +
                                            ": a run goes on with as many samples as it began with");
    skipped_steps_ = fields.template optional<std::int64_t>("skipped_steps", 0);
    within_ = true;
    start_ = position_in(train::read_runs(settings_.resume));
  }

  /// Where in the data this rank goes on, from what each of the ranks of then has saved.
  data::position position_in(std::vector<io::json> const& runs) {
    auto const same_ranks = runs.size() == static_cast<std::size_t>(mesh_.data);
    auto const epoch = course_of(first_).epoch;
    if (settings_.split == "shards" && !same_ranks) {
      if (start_step_ % epoch != 0)
        throw io::error(
            settings_.resume, "",
            "was saved within an epoch by " + std::to_string(runs.size()) +
                " ranks with shards of their own: as many go on, or others from the end of an epoch");
      return {.epoch = static_cast<std::uint64_t>(start_step_ / epoch)};
    }
    io::json_fields fields{runs[same_ranks ? static_cast<std::size_t>(data_rank()) : 0],
                           settings_.resume + "/state.json", "run"};
    auto position = fields.object("position");
    return {position.template required<std::uint64_t>("epoch"),
            position.template required<std::uint64_t>("sample"), position.template optional<int>("ranks", 1)};
  }

  shape<3> image_shape() const {
    auto const side = what_.model.image.image_size;
    return {{side.height, side.width, 3}};
  }
  train::planned_step planned(extent_t micro) const {
    return {.batch = local_batch(),
            .image = image_shape(),
            .caption_length = what_.model.text.context_length,
            .step = {.micro_batch = micro, .remat = settings_.policy(), .loss = settings_.loss_options()},
            .optimizer = settings_.optimizer_options(),
            .mesh = mesh_,
            .rank = platform_.launched().rank(),
            .device = context_type::traits};
  }
  /// The micro-batch that was asked for or fits on every rank, and its plan; a refusal when none does.
  template <class Plan>
  std::pair<extent_t, train::step_plan> fit(Plan const& plan) const {
    auto const given = tools::bytes_of("--memory", settings_.memory);
    auto const memory = given > 0 ? given : platform_.memory();
    auto micro = settings_.micro_batch;
    if (micro == 0) {
      auto most = -static_cast<double>(train::fitting_micro_batch(local_batch(), memory, plan));
      all_reduce(platform_.launched().on_host(), view<double, 1>{&most, {{1}}}, parallel::reduction::maximum);
      micro = static_cast<extent_t>(-most);
    }
    auto const chosen = plan(micro);
    if (given > 0 && chosen.total() > given)
      throw train::budget_too_small("a step in micro-batches of " + std::to_string(micro) + " takes " +
                                    train::readable_bytes(static_cast<double>(chosen.total())) +
                                    ", and --memory is " + settings_.memory);
    return {micro, chosen};
  }
  /// What evaluation embeds at a time.
  train::planned_step evaluated() const {
    auto step = planned(0);
    step.batch = evaluation_batch;
    return step;
  }

  void announce(phase p, parameter_list const& list, extent_t micro, train::step_plan const& plan) {
    if (!speaks())
      return;
    if (platform_.launched().size() > 1)
      std::printf("%d ranks: %d x %d (data x model)\n", mesh_.ranks(), mesh_.data, mesh_.model);
    std::printf(
        "phase %s: %s, %.2f M parameters learn, %s on %s, batch %lld in micro-batches of %lld, %lld steps, "
        "%s\n",
        name_of(p), settings_.model.c_str(), static_cast<double>(list.count()) / 1e6,
        settings_.precision.c_str(), platform_.name().c_str(), static_cast<long long>(settings_.batch),
        static_cast<long long>(micro), static_cast<long long>(course_of(p).steps),
        train::readable_bytes(static_cast<double>(plan.total())).c_str());
    std::fflush(stdout);
  }

  train::trainer_options trainer_options(phase p, extent_t micro, parallel::any* model_axis) {
    return {.micro_batch = micro,
            .optimizer = settings_.optimizer_options(),
            .schedule = settings_.schedule(p, course_of(p).steps),
            .clip_norm = settings_.clip_norm,
            .seed = settings_.seed,
            .loss = settings_.loss_options(),
            .remat = settings_.policy(),
            .ranks = rank_options(model_axis)};
  }
  /// What a trainer must know of the ranks; those of one run have the same options.
  train::rank_options rank_options(parallel::any* model_axis) const {
    return {.model_axis = model_axis, .configuration = hash(identity(settings_).dump())};
  }

  /// True when the run goes on within this phase.
  template <class Trainer, class More = train::nothing_more>
  bool resume(Trainer& trainer, More const& more = {}) {
    if (!std::exchange(within_, false))
      return false;
    train::load_checkpoint(settings_.resume, trainer, more);
    if (speaks())
      std::printf("resumed at step %lld of %s\n", static_cast<long long>(trainer.state().step),
                  settings_.resume.c_str());
    return within_ = true;
  }

  /// Phases before `both` go through the data in orders of their own. Steps are counted, not the ends of epochs: the
  /// ranks' shards may not be of one size, and samples may be bad.
  data::loader_options loader_options(phase p) {
    return {.batch = local_batch(),
            .image_size = image_shape()[0],
            .seed = p == phase::both ? settings_.seed : mix(settings_.seed, hash(name_of(p))),
            .epochs = std::numeric_limits<std::uint64_t>::max(),
            .start = within_ ? start_ : data::position{},
            .augment = {.crop = settings_.crop < 1, .smallest_area = settings_.crop, .flip = settings_.flip},
            .workers = settings_.workers,
            .rank = data_rank(),
            .ranks = mesh_.data,
            .split = settings_.split == "samples" ? data::split::by_samples : data::split::by_shards,
            .on_skip = [](auto const& bad) { std::fprintf(stderr, "skipped: %s\n", bad.message().c_str()); }};
  }

  static double phase_number(phase p) { return static_cast<double>(p) + 1; }

  template <class Evaluate>
  void evaluate_together(Evaluate const& evaluate) {
    if (evaluates())
      evaluate();
    platform_.launched().wait_for_all();
    std::fflush(stdout);
  }

  /// Whether the run goes on from the very end of this phase, which another follows.
  bool ended(phase p) const {
    return within_ && start_step_ == courses_[static_cast<std::size_t>(p)].steps && p != phases_.back();
  }
  /// What follows a phase's last step, in which it may have been stopped. False when the run was told to stop there.
  template <class Trainer, class Evaluate>
  bool end_again(phase p, Trainer const& trainer, Evaluate const& evaluate) {
    within_ = false;
    evaluate_together(evaluate);
    end_phase(p, trainer);
    auto const done = course_of(p).before + course_of(p).steps;
    return to_stop(done) ? stopped(done) : true;
  }
  template <class Trainer>
  void end_phase(phase p, Trainer const& trainer) {
    skipped_steps_ += trainer.state().skipped;
    earlier_ = {last_checkpoint_, p != phase::image};
  }

  bool to_stop(std::int64_t done) const { return settings_.stop_after > 0 && done >= settings_.stop_after; }
  bool stopped(std::int64_t done) const {
    if (speaks())
      std::printf("stopped at step %lld; --resume %s goes on\n", static_cast<long long>(done),
                  last_checkpoint_.c_str());
    return false;
  }

  /// The steps of one phase that are left. False when the run was told to stop before their end.
  template <class Trainer, class Step, class Evaluate, class More = train::nothing_more>
  bool take_steps(phase p, Trainer& trainer, any_loader& loader, Step const& step, Evaluate const& evaluate,
                  More const& more = {}) {
    within_ = false;
    auto const here = course_of(p);
    auto const ends_epoch = [&](std::int64_t n) { return n % here.epoch == 0 || n == here.steps; };
    platform_.launched().wait_for_all();  // what was loaded took as long as each one's disk
    if (auto const done = trainer.state().step; done > 0 && ends_epoch(done))
      evaluate_together(evaluate);  // which may be what the run was stopped in, and is what the report shows
    if (auto const done = trainer.state().step; done < here.steps && to_stop(here.before + done))
      return stopped(here.before + done);
    {  // on a card a thread of theirs reads ahead, and has ended before the loader is asked below
      auto batches = platform_.feed(trainer.context(), loader);
      speedometer speed;
      while (trainer.state().step < here.steps && batches.next()) {
        train::step_report const report = step(batches);
        auto const of_phase = report.step + 1, done = here.before + of_phase;
        speed.count(settings_.batch);
        if (report.skipped && speaks())
          std::fprintf(stderr, "step %lld skipped: loss %g, gradient norm %g\n", static_cast<long long>(done),
                       report.loss, report.gradient_norm);
        write_step(p, done, report, speed.rate());
        if (speaks() && (of_phase % settings_.log_every == 0 || of_phase == here.steps)) {
          std::printf("%s\n", train::progress_line(train::progress{.step = done,
                                                                   .steps = steps_,
                                                                   .batch = settings_.batch,
                                                                   .loss = report.loss,
                                                                   .learning_rate = report.rate,
                                                                   .samples_per_second = speed.rate()})
                                  .c_str());
          std::fflush(stdout);
          speed.restart();
        }
        auto const stop = told_to_stop() || to_stop(done);
        auto const epoch_ends = ends_epoch(of_phase);
        if (stop || of_phase == here.steps ||
            (settings_.save_every > 0 ? done % settings_.save_every == 0 : epoch_ends))
          save(p, trainer, batches.after(), more);
        if (epoch_ends) {
          evaluate_together(evaluate);
          speed.restart();
        }
        if (stop)
          return stopped(done);
      }
    }
    skipped_samples_ += sum_of_ranks(share().rank == 0 ? loader.skipped() : 0);  // a group reads the same
    end_phase(p, trainer);
    return true;
  }

  /// A signal to one rank stops all, after the same step.
  bool told_to_stop() const { return sum_of_ranks(interrupted != 0 ? 1 : 0) > 0; }

  std::uint64_t sum_of_ranks(std::uint64_t mine) const {
    auto sum = static_cast<double>(mine);
    if (platform_.launched().size() > 1)
      all_reduce(platform_.launched().on_host(), view<double, 1>{&sum, {{1}}});
    return static_cast<std::uint64_t>(sum);
  }

  void write_step(phase p, std::int64_t done, train::step_report const& r, double rate) {
    if (!speaks())
      return;
    train::metric_record record{done,
                                {{"phase", phase_number(p)},
                                 {"loss", r.loss},
                                 {"learning_rate", r.rate},
                                 {"gradient_norm", r.gradient_norm}}};
    record.values.push_back(p == phase::image ? std::pair<std::string, double>{"accuracy", r.accuracy}
                                              : std::pair<std::string, double>{"logit_scale", r.logit_scale});
    record.values.emplace_back("samples_per_second", rate);
    metrics_->write(record);
  }

  template <class Trainer, class More>
  void save(phase p, Trainer& trainer, data::position const& at, More const& more) {
    io::json run;
    run["phase"] = name_of(p);
    run["phase_step"] = trainer.state().step;
    run["position"]["epoch"] = at.epoch;
    run["position"]["sample"] = at.sample;
    run["position"]["ranks"] = at.ranks;
    for (auto const each : phases_) run[name_of_samples(each)] = course_of(each).samples;
    run["skipped_steps"] = skipped_steps_;  // of earlier phases; the trainer knows its own
    run["options"] = identity(settings_);
    train::checkpoint_files files{{Kind::file, Kind::write(what_)}};
    if (tokenizer_)
      files.emplace_back(tools::tokenizer_file, tokenizer_->bytes());
    last_checkpoint_ = settings_.out + "/checkpoint";
    train::save_checkpoint(last_checkpoint_, trainer, run, files, more);
  }

  void evaluate_pairs(phase p, tools::embedder& towers, std::int64_t step) {
    last_ = evaluation_->evaluate(towers, p == phase::text, settings_.workers);
    if (!last_ || !speaks())
      return;
    tools::print(last_->zero_shot, evaluation_->classes.names, false);
    if (last_->captions > 0)
      std::printf(
          "retrieval among %lld held-out captions: the right image is first for %.1f %%, in the first five "
          "for %.1f %% (chance %.1f %%)\n",
          static_cast<long long>(last_->captions), 100 * last_->recall_1, 100 * last_->recall_5,
          100.0 / static_cast<double>(last_->captions));
    write_evaluation({course_of(p).before + step,
                      {{"phase", phase_number(p)},
                       {"zero_shot_top1", last_->zero_shot.top1},
                       {"zero_shot_top5", last_->zero_shot.top5},
                       {"retrieval_recall_1", last_->recall_1},
                       {"retrieval_recall_5", last_->recall_5}}});
  }

  void report() {
    if (!speaks())
      return;
    auto const records = train::read_metrics(settings_.out + "/metrics.jsonl");
    auto const path = settings_.out + "/report.html";
    auto page = evaluation_->page(last_, records);
    page.title = "Yoke: " + settings_.model + " on " + settings_.train_data;
    parameter_list list;
    Kind::build(scope{list}, what_.model);
    page.facts = {{"model", settings_.model},
                  {"parameters", std::to_string(list.count())},
                  {"data", settings_.train_data},
                  {"batch", std::to_string(settings_.batch)},
                  {"phases", settings_.phases},
                  {"steps", std::to_string(steps_)},
                  {"skipped samples since the last start", std::to_string(skipped_samples_)},
                  {"skipped steps", std::to_string(skipped_steps_)},
                  {"precision", settings_.precision},
                  {"optimizer", settings_.optimizer},
                  {"seed", std::to_string(settings_.seed)}};
    if (phases_.size() > 1)
      page.phases = phase_curves(records);
    page.footer = "Yoke " + std::string(version);
    train::write_html(page, path);
    std::printf("checkpoint: %s/checkpoint\nreport: %s\n", settings_.out.c_str(), path.c_str());
  }

  /// The run's phases, for the report.
  std::vector<train::phase_curves> phase_curves(std::span<train::metric_record const> records) const {
    std::vector<train::phase_curves> all;
    for (auto const p : phases_) {
      std::vector<train::metric_record> mine;
      for (auto const& r : records)
        if (r.find("phase") == phase_number(p))
          mine.push_back(r);
      auto const classes = p == phase::image;
      all.push_back({.name = classes                ? "The image tower learns classes"
                             : p == phase::text     ? "The text tower learns beside it"
                             : phases_.front() == p ? "Both towers learn"
                                                    : "Both go on, slowly",
                     .loss = train::curve_of(mine, "loss"),
                     .accuracy = train::curve_of(mine, classes ? "classification_top1" : "zero_shot_top1"),
                     .accuracy_name = classes ? "Accuracy" : "Zero-shot accuracy"});
    }
    return all;
  }

  Platform platform_;
  settings settings_;
  parallel::mesh_shape mesh_;
  training_data const* data_;
  held_out* evaluation_;
  typename Kind::description what_;
  std::optional<text::sentence_piece> tokenizer_;
  std::vector<phase> phases_;
  std::array<course, 3> courses_{};
  std::int64_t steps_ = 0;
  phase first_ = phase::image;
  bool within_ = false;  // the next phase to run goes on from a checkpoint of its own
  std::int64_t start_step_ = 0;
  data::position start_{};
  beginning earlier_{};
  std::string last_checkpoint_;
  std::optional<train::metrics_writer> metrics_;
  std::int64_t last_evaluation_ = -1;  // the step of the last that is in metrics.jsonl
  std::uint64_t skipped_samples_ = 0;
  std::int64_t skipped_steps_ = 0;
  std::optional<outcome> last_;
};

}  // namespace train_tool
