// The body of yoke-train: data, model, steps, evaluation, checkpoints, report. What it runs on is a parameter, `Platform`:
// on_cpu.hpp and on_cuda.cuh.
#pragma once
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/text/sentencepiece_training.hpp>
#include <yoke/train/metrics.hpp>
#include <yoke/train/trainer.hpp>

#include "evaluation.hpp"
#include "tools.hpp"
#include <charconv>
#include <chrono>
#include <csignal>
#include <optional>
#include <sys/stat.h>

namespace train_tool {

using namespace yoke;

struct settings {
  std::string train_data = "scenes", val_data, classnames, templates, tokenizer;
  std::uint64_t train_samples = 0;
  extent_t vocabulary = 8192;
  int workers = 2;
  double flip = 0, crop = 0.9;
  std::string model = "scenes", precision = "bf16";
  bool remat = false;
  extent_t batch = 256, micro_batch = 0;
  std::uint64_t epochs = 5;
  double rate = 5e-4;
  std::string scheduler = "cosine";
  std::int64_t warmup = -1;
  optim::adam_w_options optimizer{};
  double clip_norm = 1;
  std::uint64_t seed = 0;
  std::string device = "cpu";
  bool cuda_graphs = false, tf32 = false;
  std::string out = "run", resume;
  std::int64_t save_every = 0, log_every = 20, stop_after = 0;
};

/// The number of the card that "cuda" or "cuda:N" names; -1 for what names none.
inline int card_number(std::string_view device) {
  if (device == "cuda")
    return 0;
  int number = -1;
  if (device.starts_with("cuda:")) {
    auto const* const last = device.data() + device.size();
    auto const [end, problem] = std::from_chars(device.data() + 5, last, number);
    if (problem != std::errc{} || end != last)
      return -1;
  }
  return number;
}

/// What must be the same for a resumed run to be the run that stopped.
inline io::json identity(settings const& s) {
  io::json j;
  j["train_data"] = s.train_data;
  j["train_num_samples"] = s.train_samples;
  j["flip"] = s.flip;
  j["crop"] = s.crop;
  j["precision"] = s.precision;
  j["batch_size"] = s.batch;
  j["epochs"] = s.epochs;
  j["lr"] = s.rate;
  j["lr_scheduler"] = s.scheduler;
  j["warmup"] = s.warmup;
  j["wd"] = s.optimizer.weight_decay;
  j["beta1"] = s.optimizer.beta1;
  j["beta2"] = s.optimizer.beta2;
  j["eps"] = s.optimizer.epsilon;
  j["grad_clip_norm"] = s.clip_norm;
  j["seed"] = s.seed;
  return j;
}

/// Takes the options that make a run what it is from its checkpoint.
inline void adopt(settings& s, io::json const& saved, std::string const& file) {
  io::json_fields f{saved, file, "run.options"};
  s.train_data = f.required<std::string>("train_data");
  s.train_samples = f.required<std::uint64_t>("train_num_samples");
  s.flip = f.required<double>("flip");
  s.crop = f.required<double>("crop");
  s.precision = f.required<std::string>("precision");
  s.batch = f.required<extent_t>("batch_size");
  s.epochs = f.required<std::uint64_t>("epochs");
  s.rate = f.required<double>("lr");
  s.scheduler = f.required<std::string>("lr_scheduler");
  s.warmup = f.required<std::int64_t>("warmup");
  s.optimizer.weight_decay = f.required<double>("wd");
  s.optimizer.beta1 = f.required<double>("beta1");
  s.optimizer.beta2 = f.required<double>("beta2");
  s.optimizer.epsilon = f.required<double>("eps");
  s.clip_norm = f.required<double>("grad_clip_norm");
  s.seed = f.required<std::uint64_t>("seed");
}

inline volatile std::sig_atomic_t interrupted = 0;

/// The tokenizer of the checkpoint, of a file, or one trained on a part of the captions.
template <class Source>
text::sentence_piece make_tokenizer(settings const& s, Source const& source, extent_t context) {
  text::sentence_piece::options const options{.context_length = context};
  if (!s.resume.empty())
    return text::sentence_piece::load(io::committed_folder(s.resume) + "/" + tools::saved_model::tokenizer,
                                      options);
  if (!s.tokenizer.empty())
    return text::sentence_piece::load(s.tokenizer, options);
  constexpr std::size_t most = 50'000;
  std::vector<std::string> captions;
  auto walker = source.walk({.seed = s.seed});
  auto reader = source.make_reader();
  typename Source::reference reference;
  data::sample sample;
  while (captions.size() < most && walker.next(reference)) try {
      reader.read(reference, {.captions = true, .images = false}, sample);
      captions.push_back(sample.caption);
    } catch (io::error const&) {  // the loader will report it
    }
  std::printf("training a tokenizer on %zu captions\n", captions.size());
  return text::sentence_piece{text::train_sentence_piece(captions, {.vocabulary_size = s.vocabulary}),
                              options};
}

/// One run from its settings to its report.
template <class Platform, element T, class Source, class Evaluation>
class session {
 public:
  using context_type = typename Platform::template context<T>;
  using trainer_type = train::trainer<context_type, parallel::solo, contrastive::clip_model>;

  session(Platform const& platform, settings s, Source source, Evaluation const& evaluation)
      : platform_{platform},
        settings_{std::move(s)},
        source_{std::move(source)},
        evaluation_{&evaluation},
        config_{model_config()},
        tokenizer_{make_tokenizer(settings_, source_, config_.text.context_length)} {
    config_.text.vocabulary = tokenizer_.vocabulary_size();
    if (settings_.remat)
      config_.rematerialized(rematerialize::blocks);
    model_.emplace(contrastive::clip(scope{list_}, config_));
    auto const samples = settings_.train_samples > 0 ? settings_.train_samples : source_.samples();
    steps_an_epoch_ = static_cast<std::int64_t>(samples) / settings_.batch;
    if (steps_an_epoch_ == 0)
      throw io::error(settings_.train_data, "",
                      "an epoch of " + std::to_string(samples) + " samples has no batch of " +
                          std::to_string(settings_.batch));
    steps_ = steps_an_epoch_ * static_cast<std::int64_t>(settings_.epochs);
  }

  void run() {
    auto const micro = fitting_micro_batch();
    auto const plan = plan_for(micro);
    auto device = platform_.template make<T>(std::max(plan.activations, plan_evaluation()), plan.gradients);
    parallel::solo ranks;
    trainer_type trainer{device, ranks, *model_, list_, trainer_options(micro)};
    auto metrics = begin(trainer);
    std::printf("%s: %.2f M parameters, %s on %s, batch %lld in micro-batches of %lld, %lld steps, %.2f GB\n",
                settings_.model.c_str(), static_cast<double>(list_.count()) / 1e6,
                settings_.precision.c_str(), platform_.name().c_str(),
                static_cast<long long>(settings_.batch), static_cast<long long>(micro),
                static_cast<long long>(steps_),
                static_cast<double>(plan.activations + plan.gradients + plan.persistent) / 1e9);
    loop(trainer, metrics);
  }

 private:
  contrastive::clip_config model_config() const {
    if (settings_.resume.empty())
      return train::clip_model_config(settings_.model);
    return train::from_open_clip(io::read_open_clip_config(io::committed_folder(settings_.resume) + "/" +
                                                           tools::saved_model::configuration));
  }

  shape<3> image_shape() const {
    auto const side = config_.image.image_size;
    return {{side.height, side.width, 3}};
  }
  train::step_plan plan_for(extent_t micro) const {
    return train::plan_step<T>(*model_, list_, settings_.batch, image_shape(), config_.text.context_length,
                               {.micro_batch = micro}, context_type::traits);
  }
  std::size_t plan_evaluation() const {
    return train::plan_encode<T>(*model_, list_, evaluation_batch, image_shape(), config_.text.context_length,
                                 context_type::traits);
  }
  /// The whole batch where its step fits the memory that the platform allows, else the largest half, quarter, … that does.
  extent_t fitting_micro_batch() const {
    if (settings_.micro_batch > 0)
      return settings_.micro_batch;
    auto const memory = platform_.memory();
    for (auto micro = settings_.batch;; micro /= 2) {
      auto const plan = plan_for(micro);
      if (plan.activations + plan.gradients + plan.persistent < memory || micro % 2 != 0)
        return micro;
    }
  }

  train::trainer_options trainer_options(extent_t micro) const {
    auto const& s = settings_;
    auto const warmup = s.warmup >= 0 ? s.warmup : std::min<std::int64_t>(steps_ / 10, 2000);
    auto const decay = s.scheduler == "cosine"   ? optim::decay::cosine
                       : s.scheduler == "linear" ? optim::decay::linear
                                                 : optim::decay::constant;
    return {.micro_batch = micro,
            .optimizer = s.optimizer,
            .schedule = {.peak = s.rate, .warmup = warmup, .steps = steps_, .decay = decay},
            .clip_norm = s.clip_norm,
            .seed = s.seed};
  }

  train::metrics_writer begin(trainer_type& trainer) {
    ::mkdir(settings_.out.c_str(), 0777);  // failing, the file below says why
    auto const file = settings_.out + "/metrics.jsonl";
    if (settings_.resume.empty())
      return train::metrics_writer::create(file);
    train::load_checkpoint(settings_.resume, trainer);
    auto const run = train::read_run(settings_.resume);
    io::json_fields fields{run, settings_.resume, "run"};
    auto position = fields.object("position");
    start_ = {position.template required<std::uint64_t>("epoch"),
              position.template required<std::uint64_t>("sample")};
    std::printf("resumed at step %lld of %s\n", static_cast<long long>(trainer.state().step),
                settings_.resume.c_str());
    return train::metrics_writer::resume(file, trainer.state().step);
  }

  data::loader_options loader_options() const {
    return {.batch = settings_.batch,
            .image_size = config_.image.image_size.height,
            .seed = settings_.seed,
            .epochs = settings_.epochs,
            .start = start_,
            .augment = {.crop = settings_.crop < 1, .smallest_area = settings_.crop, .flip = settings_.flip},
            .workers = settings_.workers,
            .on_skip = [](auto const& bad) { std::fprintf(stderr, "skipped: %s\n", bad.message().c_str()); }};
  }

  void loop(trainer_type& trainer, train::metrics_writer& metrics) {
    data::loader loader{source_, tokenizer_, loader_options()};
    if (take_steps(trainer, metrics, loader))
      report(trainer, loader.skipped());
  }

  /// False when the run was told to stop before its end.
  bool take_steps(trainer_type& trainer, train::metrics_writer& metrics, auto& loader) {
    auto batches = platform_.feed(trainer.context(), loader);
    speedometer speed;
    while (trainer.state().step < steps_ && batches.next()) {
      auto images = batches.images();
      tools::normalize(images, preprocess_);
      auto const report = trainer.step(images, batches.captions());
      auto const done = report.step + 1;
      speed.count(settings_.batch);
      if (report.skipped)
        std::fprintf(stderr, "step %lld skipped: loss %g, gradient norm %g\n", static_cast<long long>(done),
                     report.loss, report.gradient_norm);
      metrics.write(train::metric_record{.step = done,
                     .values = {{"loss", report.loss},
                                {"learning_rate", report.rate},
                                {"gradient_norm", report.gradient_norm},
                                {"logit_scale", report.logit_scale},
                                {"samples_per_second", speed.rate()}}});
      if (done % settings_.log_every == 0 || done == steps_) {
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
      auto const stop = interrupted != 0 || done == settings_.stop_after;
      auto const epoch_ends = done % steps_an_epoch_ == 0;
      if (stop || done == steps_ ||
          (settings_.save_every > 0 ? done % settings_.save_every == 0 : epoch_ends))
        save(trainer, batches.after());
      if (stop) {
        std::printf("stopped at step %lld; --resume %s/checkpoint goes on\n", static_cast<long long>(done),
                    settings_.out.c_str());
        return false;
      }
      if (epoch_ends || done == steps_) {
        evaluate(trainer, metrics, done);
        speed.restart();
      }
    }
    return true;
  }

  void save(trainer_type& trainer, data::position const& at) {
    io::json run;
    run["position"]["epoch"] = at.epoch;
    run["position"]["sample"] = at.sample;
    run["options"] = identity(settings_);
    auto saved = config_;
    saved.rematerialized(rematerialize::nothing);
    train::save_checkpoint(
        settings_.out + "/checkpoint", trainer, std::move(run),
        {{tools::saved_model::configuration, io::to_json(train::to_open_clip(saved)).dump(2) + "\n"},
         {tools::saved_model::tokenizer, tokenizer_.bytes()}});
  }

  void evaluate(trainer_type& trainer, train::metrics_writer& metrics, std::int64_t step) {
    last_ = evaluation_->evaluate(trainer, tokenizer_, image_shape()[0], preprocess_, settings_.workers);
    if (!last_)
      return;
    tools::print(last_->zero_shot, evaluation_->classes.names, false);
    if (last_->captions > 0)
      std::printf(
          "retrieval among %lld held-out captions: the right image is first for %.1f %%, in the first five "
          "for "
          "%.1f %% (chance %.1f %%)\n",
          static_cast<long long>(last_->captions), 100 * last_->recall_1, 100 * last_->recall_5,
          100.0 / static_cast<double>(last_->captions));
    std::fflush(stdout);
    metrics.write(train::metric_record{.step = step,
                   .values = {{"zero_shot_top1", last_->zero_shot.top1},
                              {"zero_shot_top5", last_->zero_shot.top5},
                              {"retrieval_recall_1", last_->recall_1},
                              {"retrieval_recall_5", last_->recall_5}}});
  }

  void report(trainer_type& trainer, std::uint64_t skipped) {
    auto const records = train::read_metrics(settings_.out + "/metrics.jsonl");
    auto const path = settings_.out + "/report.html";
    auto page = evaluation_->page(last_, records);
    page.title = "Yoke: " + settings_.model + " on " + settings_.train_data;
    page.facts = {{"model", settings_.model},
                  {"parameters", std::to_string(list_.count())},
                  {"data", settings_.train_data},
                  {"batch", std::to_string(settings_.batch)},
                  {"steps", std::to_string(trainer.state().step)},
                  {"skipped samples", std::to_string(skipped)},
                  {"skipped steps", std::to_string(trainer.state().skipped)},
                  {"precision", settings_.precision},
                  {"seed", std::to_string(settings_.seed)}};
    page.footer = "Yoke " + std::string(version);
    train::write_html(page, path);
    std::printf("checkpoint: %s/checkpoint\nreport: %s\n", settings_.out.c_str(), path.c_str());
  }

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

  Platform platform_;
  settings settings_;
  Source source_;
  Evaluation const* evaluation_;
  contrastive::clip_config config_;
  text::sentence_piece tokenizer_;
  io::open_clip_preprocess preprocess_{};
  parameter_list list_;
  std::optional<contrastive::clip_model> model_;
  std::int64_t steps_an_epoch_ = 0, steps_ = 0;
  data::position start_{};
  std::optional<outcome> last_;
};

template <class Platform, element T>
void train(Platform const& platform, settings s) {
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::signal(SIGTERM, [](int) { interrupted = 1; });
  if (!s.resume.empty())
    adopt(s, *train::read_run(s.resume).find("options"), s.resume + "/state.json");
  auto const start = [&](auto source, auto const& evaluation) {
    session<Platform, T, decltype(source), std::remove_cvref_t<decltype(evaluation)>>{
        platform, std::move(s), std::move(source), evaluation}
        .run();
  };
  if (s.train_data == "scenes")
    start(data::scenes{}, held_out_scenes{});
  else
    start(data::shards{s.train_data}, held_out_shards{s.val_data, s.classnames, s.templates});
}

/// The precision is one of the command line's.
template <class Platform>
void train_on(Platform const& platform, settings const& s) {
  if (s.precision == "fp32")
    train<Platform, float>(platform, s);
  else
    train<Platform, bf16>(platform, s);
}

/// Trains on the card that the settings name: in a build with CUDA train_cuda.cu, else train_no_cuda.cpp, which refuses.
void train_on_cuda(settings const& s);

}  // namespace train_tool
