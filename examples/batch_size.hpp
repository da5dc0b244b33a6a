// The body of yoke-batch-size: one small model trained at several contrastive batch sizes on the same samples, in the
// same order, equally often; what it then knows of those samples and of others that were held out.
#pragma once
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/eval/embed.hpp>
#include <yoke/eval/zero_shot.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include "batch_size_data.hpp"
#include "batch_size_page.hpp"
#include <atomic>
#include <chrono>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

namespace batch_size_tool {

/// How far all runs together are; a line on `screen` every ten seconds, whichever thread comes by.
class progress {
 public:
  progress(std::FILE* screen, std::int64_t steps, extent_t samples)
      : screen_{screen}, steps_{steps}, samples_{samples} {}

  /// After a step of a run of `batch` samples.
  void step(extent_t batch, double loss) {
    std::lock_guard const lock{mutex_};
    done_ += batch;
    ++taken_;
    auto const now = clock::now();
    if (now - shown_ < std::chrono::seconds(10))
      return;
    shown_ = now;
    auto const seconds = std::chrono::duration<double>(now - start_).count();
    std::fprintf(screen_, "  step %lld of %lld, %lld %% of all samples, loss %.3f at batch %lld, ETA %s\n",
                 static_cast<long long>(taken_), static_cast<long long>(steps_),
                 static_cast<long long>(100 * done_ / samples_), loss, static_cast<long long>(batch),
                 train::duration(seconds * static_cast<double>(samples_ - done_) / static_cast<double>(done_))
                     .c_str());
    std::fflush(screen_);
  }

 private:
  using clock = std::chrono::steady_clock;
  std::FILE* screen_;
  std::mutex mutex_;
  std::int64_t steps_, taken_ = 0;
  extent_t samples_, done_ = 0;
  clock::time_point start_ = clock::now(), shown_ = start_;
};

/// The numbers [0, n) in an order that depends on the key alone.
inline std::vector<extent_t> shuffled(extent_t n, std::uint64_t key) {
  std::vector<extent_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), extent_t{0});
  random_sequence draws{key, hash("batch_size")};
  for (auto i = all.size(); i > 1; --i) std::swap(all[i - 1], all[draws.below(i)]);
  return all;
}

/// The contrastive loss of pairs of embeddings, the mean over batches of `batch` drawn from four orders of the samples:
/// the same batches for every model.
template <class C>
contrastive::info_nce_result mean_loss(C& c, view<float const, 2> images, view<float const, 2> texts,
                                       double scale, extent_t batch) {
  contrastive::info_nce_result mean;
  parallel::solo alone;
  std::vector<float> image_rows, text_rows;
  auto const width = images.extent(1);
  double batches = 0;
  for (std::uint64_t round = 0; round < 4; ++round) {
    auto const order = shuffled(images.extent(0), round);
    for (extent_t first = 0; first + batch <= images.extent(0); first += batch, ++batches) {
      image_rows.clear();
      text_rows.clear();
      for (auto i :
           std::span{order}.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(batch))) {
        auto const* const image = images.data + i * width;
        auto const* const text = texts.data + i * width;
        image_rows.insert(image_rows.end(), image, image + width);
        text_rows.insert(text_rows.end(), text, text + width);
      }
      shape<2> const rows{{batch, width}};
      auto const found =
          contrastive::info_nce(c, alone, view<float const, 2>{image_rows.data(), rows},
                                view<float const, 2>{text_rows.data(), rows}, static_cast<float>(scale),
                                view<float, 2>{nullptr, {{0, width}}}, view<float, 2>{nullptr, {{0, width}}});
      mean.loss += found.loss;
      mean.accuracy += found.accuracy;
    }
  }
  mean.loss /= batches;
  mean.accuracy /= batches;
  return mean;
}

/// One model at one batch size from one seed.
template <element T>
class single_run {
 public:
  using context_type = cpu::context<T>;

  single_run(experiment const& e, extent_t batch, std::uint64_t seed)
      : e_{&e},
        set_{&e.sets[seed]},
        batch_{batch},
        seed_{seed},
        steps_an_epoch_{e.options.samples / batch},
        steps_{steps_an_epoch_ * e.options.epochs},
        device_{activations(), plan().gradients},
        trainer_{device_, alone_, *e.model, e.list, trainer_options()} {}

  /// The record, or nothing when `cancelled`, which is asked before each step, says so.
  template <class Cancelled>
  std::optional<run_record> operator()(progress& told, Cancelled const& cancelled) {
    auto const start = std::chrono::steady_clock::now();
    run_record record{.batch = batch_, .seed = seed_, .steps = steps_, .rate = rate_of(e_->options, batch_)};
    observe(record);
    chosen_batch batch;
    std::vector<extent_t> order;
    for (std::int64_t step = 0; step < steps_; ++step) {
      if (cancelled())
        return std::nullopt;
      auto const within = step % steps_an_epoch_;
      if (within == 0)
        order = shuffled(e_->options.samples, mix(seed_, static_cast<std::uint64_t>(step / steps_an_epoch_)));
      auto const chosen = std::span{std::as_const(order)}.subspan(static_cast<std::size_t>(within * batch_),
                                                                  static_cast<std::size_t>(batch_));
      if (step < steps_an_epoch_)
        record.repeats += repeated(chosen) / static_cast<double>(e_->options.samples);
      batch.take(*set_, chosen);
      told.step(batch_, trainer_.step(batch.images(), batch.captions()).loss);
      if (evaluation_after(step + 1))
        observe(record);
    }
    finish(record);
    record.skipped = trainer_.state().skipped;
    record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return record;
  }

 private:
  static constexpr extent_t encode_batch = 128;

  shape<3> image_shape() const { return {{set_->side, set_->side, 3}}; }
  extent_t context_length() const { return e_->config.text.context_length; }
  train::step_plan plan() const {
    return train::plan_step<T>(*e_->model, e_->list, batch_, image_shape(), context_length(), {},
                               context_type::traits);
  }
  /// Of a step, of embedding, or of the loss of an evaluation.
  std::size_t activations() const {
    dry::context<T> c{context_type::traits};
    parallel::solo alone;
    shape<2> const rows{{std::max(batch_, e_->options.evaluation_batch), e_->model->embedding}};
    view<float const, 2> const nowhere{nullptr, rows};
    contrastive::info_nce(c, alone, nowhere, nowhere, 1.f, {nullptr, {{0, rows[1]}}},
                          {nullptr, {{0, rows[1]}}});
    return std::max({plan().activations, c.memory.peak(),
                     train::plan_encode<T>(*e_->model, e_->list, encode_batch, image_shape(),
                                           context_length(), context_type::traits)});
  }
  train::trainer_options trainer_options() const {
    return {.optimizer = optim::adam_w_options{.weight_decay = e_->options.weight_decay},
            .schedule = {.peak = rate_of(e_->options, batch_),
                         .warmup = std::max<std::int64_t>(steps_ / 10, 1),
                         .steps = steps_},
            .clip_norm = 1,
            .seed = seed_};
  }

  /// After which steps the run is measured: at the ends of equal parts.
  bool evaluation_after(std::int64_t step) const {
    auto const parts = std::min(e_->options.evaluations, steps_);
    return step * parts / steps_ != (step - 1) * parts / steps_;
  }
  /// For how many samples of the batch others have the same caption, each counted for each.
  double repeated(std::span<extent_t const> chosen) const {
    std::map<std::string_view, double> uses;
    for (auto i : chosen) ++uses[set_->captions[static_cast<std::size_t>(i)]];
    double sum = 0;
    for (auto const& [caption, n] : uses) sum += n * (n - 1);
    return sum;
  }

  eval::embeddings images(sample_set const& set, extent_t first, extent_t count) {
    eval::embeddings rows{e_->model->embedding, {}};
    for (extent_t i = 0; i < count; i += encode_batch)
      eval::embed_images(device_, *e_->model, trainer_.store(),
                         set.images(first + i, std::min(encode_batch, count - i)), encode_batch, rows);
    return rows;
  }
  eval::embeddings texts(std::span<std::string const> lines) {
    eval::embeddings rows{e_->model->embedding, {}};
    for (std::size_t i = 0; i < lines.size(); i += encode_batch) {
      auto const some = eval::embed_texts(
          device_, *e_->model, trainer_.store(), *e_->tokenizer,
          lines.subspan(i, std::min<std::size_t>(encode_batch, lines.size() - i)), encode_batch);
      rows.values.insert(rows.values.end(), some.values.begin(), some.values.end());
    }
    return rows;
  }
  double logit_scale() {
    return std::exp(scalar(
        device_, view<float const, 1>{slice(trainer_.store().master(), e_->model->logit_scale.offset, 1)}));
  }

  /// Embeds training and held-out samples and notes their losses.
  void observe(run_record& record) {
    auto const& o = e_->options;
    auto const split = [&](extent_t first, extent_t count) {
      return std::pair{images(*set_, first, count),
                       texts(std::span{set_->captions}.subspan(static_cast<std::size_t>(first),
                                                               static_cast<std::size_t>(count)))};
    };
    train_ = split(0, o.samples);
    held_out_ = split(o.samples, o.held_out);
    record.logit_scale = logit_scale();
    auto const loss = [&](auto const& of, extent_t batch) {
      return mean_loss(device_, of.first.rows(), of.second.rows(), record.logit_scale, batch);
    };
    auto const seen = loss(train_, o.evaluation_batch), unseen = loss(held_out_, o.evaluation_batch);
    record.samples_seen.push_back(static_cast<double>(trainer_.state().step * batch_));
    record.train_loss.push_back(seen.loss);
    record.held_out_loss.push_back(unseen.loss);
    record.train_match = seen.accuracy;
    record.held_out_match = unseen.accuracy;
    record.own_train_loss = loss(train_, batch_).loss;
    record.own_held_out_loss = loss(held_out_, batch_).loss;
  }

  /// Zero-shot accuracy by the embeddings of the last observation.
  void finish(run_record& record) {
    auto const& names = e_->names;
    auto const& templates = e_->templates;
    auto const prompts = texts(eval::prompts(names, templates));
    auto const weights = eval::class_weights(prompts.rows(), static_cast<extent_t>(templates.size()));
    auto const top1 = [&](eval::embeddings const& rows, std::span<std::int32_t const> labels) {
      eval::embeddings labelled{rows.width, {}};
      std::vector<std::int32_t> classes;
      for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] < 0)
          continue;
        classes.push_back(labels[i]);
        auto const row = slice(rows.rows(), static_cast<extent_t>(i), 1);
        labelled.values.insert(labelled.values.end(), row.data, row.data + row.size());
      }
      if (classes.empty())
        return std::numeric_limits<double>::quiet_NaN();
      return eval::zero_shot(labelled.rows(),
                             {weights.data(), {{static_cast<extent_t>(names.size()), rows.width}}}, classes)
          .top1;
    };
    auto const labels = std::span{set_->labels};
    auto const trained = static_cast<std::size_t>(e_->options.samples);
    record.train_top1 = top1(train_.first, labels.first(trained));
    record.held_out_top1 = top1(held_out_.first, labels.subspan(trained));
    record.unseen_top1 = std::numeric_limits<double>::quiet_NaN();
    if (!e_->unseen.empty()) {
      auto const& set = e_->unseen[seed_];
      record.unseen_top1 = top1(images(set, 0, set.count()), set.labels);
    }
  }

  experiment const* e_;
  sample_set const* set_;
  extent_t batch_;
  std::uint64_t seed_;
  std::int64_t steps_an_epoch_, steps_;
  parallel::solo alone_;
  context_type device_;
  train::trainer<context_type, parallel::solo, contrastive::clip_model> trainer_;
  std::pair<eval::embeddings, eval::embeddings> train_, held_out_;  // images and captions
};

/// The runs that are not in the file yet, some side by side, each on one core; a finished one is in the file at once.
template <element T>
void run_missing(experiment const& e, run_file& file, std::FILE* screen) {
  auto const& o = e.options;
  std::vector<std::pair<extent_t, std::uint64_t>> missing;
  std::int64_t steps = 0;
  for (std::uint64_t seed = 0; seed < o.seeds; ++seed)
    for (auto batch : o.batches)
      if (!file.find(batch, seed)) {
        missing.emplace_back(batch, seed);
        steps += o.samples / batch * o.epochs;
      }
  auto const finished = o.batches.size() * o.seeds - missing.size();
  std::fprintf(screen, "%zu runs, %zu of them finished before; %.2f M parameters, %s\n",
               o.batches.size() * o.seeds, finished, static_cast<double>(e.list.count()) / 1e6,
               o.precision.c_str());
  progress told{screen, steps, static_cast<extent_t>(missing.size()) * o.samples * o.epochs};
  std::atomic<std::size_t> next{0};
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  std::exception_ptr failure;
  auto const work = [&] {
    omp_set_num_threads(1);  // of this thread's kernels
    for (std::size_t i = 0; (i = next++) < missing.size() && !cancelled;) try {
        auto const [batch, seed] = missing[i];
        auto const record = single_run<T>{e, batch, seed}(told, [&] { return cancelled.load(); });
        if (!record)
          return;
        std::lock_guard const lock{mutex};
        file.add(*record);
        std::fprintf(
            screen, "batch %lld, seed %llu: loss %.3f train, %.3f held-out; zero-shot %s and %s; %s\n",
            static_cast<long long>(batch), static_cast<unsigned long long>(seed), record->train_loss.back(),
            record->held_out_loss.back(), train::percent(record->train_top1).c_str(),
            train::percent(record->held_out_top1).c_str(), train::duration(record->seconds).c_str());
        std::fflush(screen);
      } catch (...) {
        std::lock_guard const lock{mutex};
        failure = failure ? failure : std::current_exception();
        cancelled = true;
      }
  };
  auto const cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  auto const jobs =
      std::min<std::size_t>(static_cast<std::size_t>(o.jobs > 0 ? o.jobs : cores), missing.size());
  std::vector<std::thread> others;
  for (std::size_t j = 0; j < jobs; ++j) others.emplace_back(work);
  for (auto& thread : others) thread.join();
  if (failure)
    std::rethrow_exception(failure);
}

/// What was done, in sentences for the page.
inline std::vector<std::string> account(experiment const& e, summary const& s) {
  auto const& o = e.options;
  auto const number = [](auto n) { return train::grouped(static_cast<std::int64_t>(n)); };
  auto const repeats = [&] {
    std::string text;
    for (auto batch : s.batches())
      text += (text.empty() ? "" : ", ") +
              train::fixed(s.of(batch, [](auto const& r) { return r.repeats; }).mean, 2) + " at batch " +
              number(batch);
    return text;
  }();
  return {
      "The same model (" + o.model + ", " + number(e.list.count()) +
          " parameters) trained at each batch size on the same " + number(o.samples) + " samples of " +
          o.data + ", in the same order, " + number(o.epochs) +
          " epochs each: equal samples and equal arithmetic, and so fewer steps the larger the batch. The "
          "peak rate is " +
          train::scientific(o.rate, 1) + " at batch 64 and follows the rule “" + o.rate_rule +
          "”; AdamW's other settings, a tenth of the steps as warm-up and cosine decay are the same for all.",
      number(o.held_out) + " held-out samples come from the same stream. Losses are of batches of " +
          number(o.evaluation_batch) +
          " whatever was trained at, “own batch” excepted; “equal train loss” compares models where each "
          "first came down to a training loss of " +
          train::fixed(s.common_loss(), 3) +
          ", which every run reached, by its held-out loss there. Accuracies do not depend on the learned "
          "temperature; losses do.",
      "Bars and ± are standard errors over seeds; a seed has data, order and initial values of its own, the "
      "same for every batch size. “Per doubling” is a straight line's slope over the logarithm of the batch, "
      "estimated seed "
      "by seed.",
      "Other samples of a training batch with the same caption, each of them a wrong negative: " + repeats +
          ". Captions that differ can suit the same image, too; the larger the batch, the more of them it "
          "holds."};
}

/// The whole experiment, from settings to page; what it has to say meanwhile goes to `screen`.
inline void run(settings const& s, std::FILE* screen) {
  check(s);
  experiment const e{s};
  begin_folder(s);
  run_file file{s.out};
  if (s.precision == "fp32")
    run_missing<float>(e, file, screen);
  else
    run_missing<bf16>(e, file, screen);

  summary const found{file.runs()};
  auto const chance = 1 / static_cast<double>(e.names.size());
  std::fprintf(screen, "\n%s\n%s", aligned(table(found, loss_columns(found))).c_str(),
               aligned(table(found, share_columns())).c_str());
  for (auto const& p : pictures(found, chance))
    io::write_file_atomically(s.out + "/" + p.name, train::svg_file(p.svg));
  io::write_file_atomically(
      s.out + "/report.html",
      page(found, chance, "Generalisation over contrastive batch size", account(e, found)));
  std::fprintf(screen, "\nruns: %s/runs.jsonl\nreport: %s/report.html\n", s.out.c_str(), s.out.c_str());
}

}  // namespace batch_size_tool
