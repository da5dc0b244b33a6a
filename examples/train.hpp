// The three phases of yoke-train: what each learns, from what, and how it begins. What it runs on is a parameter,
// `Platform`: on_cpu.hpp and on_cuda.cuh; so is the kind of model, `Kind`: models.hpp.
#pragma once
#include <yoke/contrastive/frozen.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/train/classification_trainer.hpp>
#include <yoke/train/kept_embeddings.hpp>

#include "session.hpp"

namespace train_tool {

/// A run from its first phase to its report.
template <class Platform, element T, class Kind>
class run_of_phases : session<Platform, T, Kind> {
  using base = session<Platform, T, Kind>;

 public:
  using context_type = typename base::context_type;
  using base::base;

  void run() {
    this->expect_common_data();
    for (auto const p : phases_)
      run_phase(p, until::planned);  // that one does not fit is known before the first begins
    this->open_metrics();
    for (auto const p : phases_)
      if (p >= first_ && !run_phase(p, until::learned))
        return;
    this->report();
  }

 private:
  /// How far a phase is to go.
  enum class until { planned, learned };

  using base::data_;
  using base::earlier_;
  using base::evaluation_;
  using base::first_;
  using base::metrics_;
  using base::phases_;
  using base::platform_;
  using base::settings_;
  using base::tokenizer_;
  using base::what_;
  using base::within_;

  /// False when the run was told to stop.
  bool run_phase(phase p, until end) {
    return p == phase::image ? image_phase(end) : p == phase::text ? text_phase(end) : both_phase(end);
  }

  bool image_phase(until end) {
    if constexpr (!yoke::detail::classification_kernels<context_type>)
      throw std::runtime_error("phase image: " + platform_.name() + " has no kernels for it");
    else
      return learn_classes(end);
  }

  bool learn_classes(until end) {
    parameter_list list{this->share()};
    scope const s{list};
    auto const classes = static_cast<extent_t>(evaluation_->classes.names.size());
    contrastive::image_classifier model{s,
                                        Kind::image_tower(s / "image", what_.model),
                                        {.width = Kind::embedding(what_.model),
                                         .classes = classes,
                                         .model_parallel = what_.model.image.model_parallel}};
    auto const [micro, plan] =
        this->fit([&](extent_t m) { return train::plan_classification<T>(model, list, this->planned(m)); });
    if (end == until::planned)
      return true;
    auto device = platform_.template make<T>(
        std::max(plan.activations, train::plan_images<T>(model, list, this->evaluated(), classes)),
        plan.gradients);
    typename Platform::template ranks<context_type> all{platform_, device};
    parallel::mesh mesh{all.any, this->mesh_};
    train::classification_trainer trainer{
        device,
        mesh.data(),
        model,
        list,
        {.micro_batch = micro,
         .optimizer = settings_.optimizer_options(),
         .schedule = settings_.schedule(phase::image, this->course_of(phase::image).steps),
         .clip_norm = settings_.clip_norm,
         .label_smoothing = settings_.label_smoothing,
         .seed = settings_.seed,
         .remat = settings_.policy(),
         .ranks = this->rank_options(mesh.model_axis())}};
    this->announce(phase::image, list, micro, plan);
    auto const step = [&](auto const& batches) {
      auto images = batches.images();
      tools::normalize(images, what_.preprocess);
      return trainer.step(images, batches.labels());
    };
    auto const evaluate = [&] {
      auto const right = evaluation_->accuracy(
          [&](data::batch const& b, std::vector<std::int32_t>& found) {
            classify(device, model, trainer.store(), tools::pixels_of(b, what_.preprocess), found);
          },
          this->image_shape()[0], settings_.workers);
      if (!right || !this->speaks())
        return;
      std::printf("classification of held-out images: top-1 %.1f %%\n", 100 * *right);
      this->write_evaluation(
          {this->course_of(phase::image).before + trainer.state().step,
           {{"phase", this->phase_number(phase::image)}, {"classification_top1", *right}}});
    };
    return this->telling_others([&] {
      if (!this->resume(trainer) && !earlier_.path.empty())
        train::load_parameters(earlier_.path, device, list, trainer.store(), "image.");
      if (this->ended(phase::image))
        return this->end_again(phase::image, trainer, evaluate);
      auto const from = data_->labelled(this->loader_options(phase::image));
      return this->take_steps(phase::image, trainer, *from, step, evaluate);
    });
  }

  bool text_phase(until end) {
    parameter_list frozen_list, list{this->share()};  // each rank has all of what is frozen
    scope const s{list};
    auto const width = Kind::embedding(what_.model);
    auto whole = what_.model;
    whole.image.model_parallel = nn::model_parallel::none;
    auto const tower = Kind::image_tower(scope{frozen_list} / "image", whole);
    contrastive::dual_encoder const model{s, contrastive::ready_embeddings{},
                                          towers::text_transformer{s / "text", what_.model.text}, width,
                                          what_.model.logits};
    auto const kept = !settings_.augmented_text;
    auto const [micro, plan] = this->fit([&](extent_t m) {
      return train::plan_text_phase<T>(model, list, tower, frozen_list, this->planned(m), kept);
    });
    if (end == until::planned)
      return true;
    auto device = platform_.template make<T>(
        std::max({plan.activations, train::plan_images<T>(tower, frozen_list, this->evaluated(), width),
                  train::plan_texts<T>(model.text, list, this->evaluated(), model.embedding)}),
        plan.gradients);
    typename Platform::template ranks<context_type> all{platform_, device};
    parallel::mesh mesh{all.any, this->mesh_};
    contrastive::frozen_parameters<context_type> frozen{device, frozen_list};
    train::trainer trainer{device, mesh.data(), model, list,
                           this->trainer_options(phase::text, micro, mesh.model_axis())};
    this->announce(phase::text, list, micro, plan);
    tools::embedder_of<context_type, std::remove_const_t<decltype(tower)>, decltype(frozen),
                       towers::text_transformer, parameter_store<context_type>>
        towers{device,
               {tower, frozen, model.text, trainer.store(), *tokenizer_, what_.preprocess,
                this->image_shape()[0], width, evaluation_batch}};
    auto const evaluate = [&] { this->evaluate_pairs(phase::text, towers, trainer.state().step); };
    return this->telling_others([&] {
      auto const more = train::parameters_of(frozen_list, frozen);
      if (this->resume(trainer, more)) {
        frozen.refresh(device);
      } else {
        train::load_parameters(earlier_.path, device, frozen_list, frozen, "image.");
        load_texts(device, list, trainer);
      }
      if (this->ended(phase::text))
        return this->end_again(phase::text, trainer, evaluate);
      if (kept)
        return learn_beside_kept(device, tower, frozen_list, frozen, width, trainer, evaluate, more);
      auto const from = data_->pairs(*tokenizer_, this->loader_options(phase::text));
      auto const step = [&](auto const& batches) {
        auto images = batches.images();
        tools::normalize(images, what_.preprocess);
        arena_scope const scratch{device.memory};
        auto const rows = make<T>(device, shape{images.count(), width});
        contrastive::embed_rows(device, tower, frozen, images, micro, rows);
        return trainer.step(contrastive::value_batch<T, 2>{rows, contrastive::place::device},
                            batches.captions());
      };
      return this->take_steps(phase::text, trainer, *from, step, evaluate, more);
    });
  }

  /// Phase text, whose images are embedded once.
  template <class Tower, class Store>
  bool learn_beside_kept(context_type& device, Tower const& tower, parameter_list const& frozen_list,
                         Store& frozen, extent_t width, auto& trainer, auto const& evaluate,
                         auto const& more) {
    auto const numbers = data_->numbers();
    train::kept_embeddings<T> embeddings{numbers.count(), width, numbers.digest(),
                                         train::fingerprint(device, frozen_list, frozen)};
    keep(embeddings, numbers, [&](auto& loader) {
      train::keep_embeddings(
          device, tower, frozen, loader,
          [&](data::batch const& b) { return tools::pixels_of(b, what_.preprocess); }, embeddings);
    });
    auto const from =
        data_->numbered_pairs(numbers, embeddings.present(), *tokenizer_, this->loader_options(phase::text));
    std::vector<T> rows;
    auto const step = [&](auto const& batches) {
      auto const l = batches.labels();
      return trainer.step(embeddings.batch({l.data, static_cast<std::size_t>(l.size())}, rows),
                          batches.captions());
    };
    return this->take_steps(phase::text, trainer, *from, step, evaluate, more);
  }

  bool both_phase(until end) {
    parameter_list list{this->share()};
    auto const model = Kind::build(scope{list}, what_.model);
    auto const [micro, plan] =
        this->fit([&](extent_t m) { return train::plan_step<T>(model, list, this->planned(m)); });
    if (end == until::planned)
      return true;
    auto device = platform_.template make<T>(
        std::max({plan.activations,
                  train::plan_images<T>(model.image, list, this->evaluated(), model.embedding),
                  train::plan_texts<T>(model.text, list, this->evaluated(), model.embedding)}),
        plan.gradients);
    typename Platform::template ranks<context_type> all{platform_, device};
    parallel::mesh mesh{all.any, this->mesh_};
    train::trainer trainer{device, mesh.data(), model, list,
                           this->trainer_options(phase::both, micro, mesh.model_axis())};
    this->announce(phase::both, list, micro, plan);
    auto const step = [&](auto const& batches) {
      auto images = batches.images();
      tools::normalize(images, what_.preprocess);
      return trainer.step(images, batches.captions());
    };
    using store = parameter_store<context_type>;
    tools::embedder_of<context_type, decltype(Kind::model::image), store, towers::text_transformer, store>
        towers{device,
               {model.image, trainer.store(), model.text, trainer.store(), *tokenizer_, what_.preprocess,
                this->image_shape()[0], model.embedding, evaluation_batch}};
    return this->telling_others([&] {
      if (!this->resume(trainer) && !earlier_.path.empty()) {
        train::load_parameters(earlier_.path, device, list, trainer.store(), "image.");
        load_texts(device, list, trainer);
      }
      auto const from = data_->pairs(*tokenizer_, this->loader_options(phase::both));
      return this->take_steps(phase::both, trainer, *from, step,
                              [&] { this->evaluate_pairs(phase::both, towers, trainer.state().step); });
    });
  }

  /// The text tower that a phase begins with, and the logits' scale and bias, if there are any.
  void load_texts(context_type& device, parameter_list const& list, auto& trainer) {
    if (auto const from = this->texts_from(); !from.empty())
      for (auto const* const part : {"text.", "logit_"})
        train::load_parameters(from, device, list, trainer.store(), part);
  }

  /// The class that each image's largest logit names.
  template <class Model>
  static void classify(context_type& c, Model const& model, parameter_store<context_type> const& store,
                       contrastive::pixel_batch const& images, std::vector<std::int32_t>& found) {
    arena_scope const scratch{c.memory};
    auto const logits = make<T>(c, shape{images.count(), model.classes});
    contrastive::embed_rows(c, model, store, images, images.count(), logits);
    read_on_host(c, view<T const, 1>{as_flat(logits)}, [&](view<T const, 1> v) {
      for (extent_t i = 0; i < images.count(); ++i) {
        auto const* const row = v.data + i * model.classes;
        found.push_back(static_cast<std::int32_t>(std::max_element(row, row + model.classes) - row));
      }
    });
  }

  /// The embeddings of all images, from the run's folder or computed, by each rank those of its part.
  void keep(train::kept_embeddings<T>& to, train::sample_numbers const& numbers, auto const& compute) {
    auto const file = settings_.out + "/image_embeddings.safetensors";
    auto& ranks = platform_.launched();
    ranks.wait_for_all();  // each has numbered its samples, which takes as long as its disk does
    expect_common("samples for phase text to embed", numbers.digest(), ranks);
    double missing = within_ && io::detail::exists(file) ? 0 : 1;
    all_reduce(ranks.on_host(), view<double, 1>{&missing, {{1}}}, parallel::reduction::maximum);
    if (missing == 0)
      return to.load(file);
    auto const begin = speedometer::clock::now();
    auto options = this->loader_options(phase::text);
    options.batch = evaluation_batch;
    options.rank = ranks.rank();
    options.ranks = ranks.size();
    options.split = data::split::by_samples;
    auto const images = data_->images(numbers, std::move(options));
    compute(*images);
    ranks.wait_for_all();
    to.unite(ranks.on_host());
    if (!this->speaks())
      return;
    to.save(file);
    std::printf("embedded %lld images in %.0f s, kept in %s\n", static_cast<long long>(to.count()),
                std::chrono::duration<double>(speedometer::clock::now() - begin).count(), file.c_str());
  }
};

/// A run in one precision.
template <class Platform, element T>
void train(Platform const& platform, settings s) {
  std::unique_ptr<held_out> evaluation;
  if (s.train_data == "scenes")
    evaluation = std::make_unique<held_out_scenes>();
  else
    evaluation = std::make_unique<held_out_shards>(s.val_data, s.classnames, s.templates);
  training_data const data{s, evaluation->classes.names.size()};
  auto const checkpoint = s.resume.empty() ? s.init : s.resume;
  auto const basic =
      checkpoint.empty() ? tools::names_basic(s.model) : tools::holds_basic(io::committed_folder(checkpoint));
  if (basic)
    return run_of_phases<Platform, T, tools::basic_kind>{platform, std::move(s), data, *evaluation}.run();
  run_of_phases<Platform, T, tools::clip_kind>{platform, std::move(s), data, *evaluation}.run();
}

/// Whether both are there, and one.
inline bool same_folder(std::string const& a, std::string const& b) {
  struct stat one {};
  struct stat other {};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

/// The settings of a run that goes on are those of its checkpoint; throws io::error where they contradict each other.
inline settings prepared(settings s) {
  if (s.resume == "latest") {
    auto const last = s.out + "/checkpoint";
    s.resume = io::detail::exists(io::committed_folder(last)) ? last : "";
  }
  if (!s.resume.empty()) {
    auto const run = train::read_run(s.resume);
    auto const file = s.resume + "/state.json";
    io::json_fields fields{run, file, "run"};
    fields.object("options");
    adopt(s, *run.find("options"), file);
  } else if (!s.init.empty()) {
    if (same_folder(io::committed_folder(s.init), io::committed_folder(s.out + "/checkpoint")))
      throw io::error("--init", s.init, "is where this run saves its own checkpoint: give it another --out");
    auto const run = train::read_run(s.init);
    if (auto const* const options = run.find("options"))
      s.model = io::json_fields{*options, s.init + "/state.json", "run.options"}.optional<std::string>(
          "model", s.model);
  }
  check(s);
  return s;
}

/// A run of settings that are prepared.
template <class Platform>
void train_on(Platform const& platform, settings s) {
  if (s.precision == "fp32")
    train<Platform, float>(platform, std::move(s));
  else
    train<Platform, bf16>(platform, std::move(s));
}

}  // namespace train_tool
