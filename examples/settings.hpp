// What yoke-train was asked for: its options, what of them makes a run what it is, and what of them contradicts itself.
#pragma once
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/optim/schedule.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/train/optimizer.hpp>

#include "options.hpp"
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace train_tool {

using namespace yoke;

/// BASIC's phases: the image tower on labelled images; the text tower against the frozen image tower; both.
enum class phase { image, text, both };

inline constexpr std::array<char const*, 3> phase_names{"image", "text", "both"};

inline char const* name_of(phase p) {
  return phase_names[static_cast<std::size_t>(p)];
}

/// Of one phase; what is not given follows from --epochs and --lr.
struct phase_settings {
  std::optional<std::uint64_t> epochs;
  std::optional<double> rate;
};

struct settings {
  std::string train_data = "scenes", labelled_data, mix = "1:0", val_data, classnames, templates, tokenizer;
  std::uint64_t train_samples = 0;
  extent_t vocabulary = 8192;
  int workers = 2;
  double flip = 0, crop = 0.9;
  std::string model = "scenes", init, precision = "bf16", remat = "nothing", memory;
  bool checkpointing = false;
  extent_t batch = 256, micro_batch = 0;
  std::string phases = "both";
  std::uint64_t epochs = 5;
  double rate = 5e-4;
  std::array<phase_settings, 3> of_phase{};
  bool augmented_text = false;
  double label_smoothing = 0;
  std::string scheduler = "cosine";
  std::int64_t warmup = -1;
  std::string loss = "infonce", optimizer = "adamw";
  std::optional<double> weight_decay, beta1, beta2, epsilon;
  double clip_norm = 1;
  std::uint64_t seed = 0;
  std::string mesh, model_parallel = "none", split = "samples";
  double timeout = 25;
  std::string device = "cpu";
  bool cuda_graphs = false, tf32 = false;
  std::string out = "run", resume;
  std::int64_t save_every = 0, log_every = 20, stop_after = 0;

  /// In their order.
  std::vector<phase> phase_list() const {
    std::vector<phase> list;
    for (std::size_t i = 0; i < phase_names.size(); ++i)
      if (("," + phases + ",").find(std::string(",") + phase_names[i] + ",") != std::string::npos)
        list.push_back(static_cast<phase>(i));
    return list;
  }
  bool runs(phase p) const {
    auto const list = phase_list();
    return std::find(list.begin(), list.end(), p) != list.end();
  }
  phase_settings const& of(phase p) const { return of_phase[static_cast<std::size_t>(p)]; }
  /// A phase `both` that follows others is short.
  std::uint64_t epochs_of(phase p) const {
    auto const follows = p == phase::both && phase_list().size() > 1;
    return of(p).epochs.value_or(follows ? std::max<std::uint64_t>(1, epochs / 5) : epochs);
  }
  /// … and its rate is small.
  double rate_of(phase p) const {
    auto const follows = p == phase::both && phase_list().size() > 1;
    return of(p).rate.value_or(follows ? rate / 20 : rate);
  }

  contrastive::loss_options loss_options() const {
    if (loss == "sigmoid")
      return contrastive::sigmoid_options{};
    return contrastive::info_nce_options{};
  }
  train::optimizer_options optimizer_options() const {
    if (optimizer == "adafactorw") {
      optim::adafactor_w_options o{.seed = seed};
      o.weight_decay = weight_decay.value_or(o.weight_decay);
      o.beta1 = beta1.value_or(o.beta1);
      o.beta2_cap = beta2.value_or(o.beta2_cap);
      o.epsilon = epsilon.value_or(o.epsilon);
      return o;
    }
    optim::adam_w_options o;
    o.weight_decay = weight_decay.value_or(o.weight_decay);
    o.beta1 = beta1.value_or(o.beta1);
    o.beta2 = beta2.value_or(o.beta2);
    o.epsilon = epsilon.value_or(o.epsilon);
    return o;
  }
  optim::schedule schedule(phase p, std::int64_t steps) const {
    return {.peak = rate_of(p),
            .warmup = warmup >= 0 ? warmup : std::min<std::int64_t>(steps / 10, 2000),
            .steps = steps,
            .decay = scheduler == "cosine"   ? optim::decay::cosine
                     : scheduler == "linear" ? optim::decay::linear
                                             : optim::decay::constant};
  }
  rematerialize policy() const {
    auto const chosen = remat == "cheap"        ? rematerialize::cheap
                        : remat == "blocks"     ? rematerialize::blocks
                        : remat == "everything" ? rematerialize::everything
                                                : rematerialize::nothing;
    return checkpointing ? std::max(chosen, rematerialize::blocks) : chosen;
  }
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

/// The parts of captions and of labels as text, "3:1".
inline std::pair<std::int64_t, std::int64_t> mix_of(settings const& s) {
  std::int64_t captions = -1, labels = -1;
  auto const* const last = s.mix.data() + s.mix.size();
  auto const middle = std::from_chars(s.mix.data(), last, captions);
  if (middle.ec == std::errc{} && middle.ptr != last && *middle.ptr == ':') {
    auto const end = std::from_chars(middle.ptr + 1, last, labels);
    if (end.ec == std::errc{} && end.ptr == last && captions >= 0 && labels >= 0 && captions + labels > 0)
      return {captions, labels};
  }
  throw io::error("--mix", s.mix,
                  "is two whole numbers, not both 0: parts of captions and of labels, such as 3:1");
}

/// Data x model ranks: what --mesh says, or all along the data axis.
inline parallel::mesh_shape mesh_of(settings const& s, int ranks) {
  auto const m = s.mesh.empty() ? parallel::mesh_shape{ranks, 1} : tools::mesh_of(s.mesh);
  if (m.ranks() != ranks)
    throw io::error(
        "--mesh", s.mesh,
        "is of " + std::to_string(m.ranks()) + " ranks, and " + std::to_string(ranks) + " were started");
  if (m.model == 1 && s.mesh.empty() && s.model_parallel != "none")
    throw io::error("--model-parallel", s.model_parallel,
                    "is for a mesh with ranks along its model axis: --mesh says how many");
  if (m.model > 1 && s.model_parallel == "none")
    throw io::error("--mesh", s.mesh,
                    "has " + std::to_string(m.model) +
                        " ranks to a model: --model-parallel says how they share it, tensor or gathered");
  if (m.model > 1 && s.cuda_graphs)
    throw io::error("--cuda-graphs", "",
                    "is for models that are whole on each card: collectives are no part of a graph");
  if (s.batch % m.data != 0)
    throw io::error("--batch-size", std::to_string(s.batch),
                    "is a multiple of the " + std::to_string(m.data) + " ranks of the data axis");
  if (s.micro_batch > 0 && s.batch / m.data % s.micro_batch != 0)
    throw io::error("--micro-batch", std::to_string(s.micro_batch),
                    "does not divide the " + std::to_string(s.batch / m.data) + " pairs of a rank");
  return m;
}

/// Throws io::error, a sentence, where options contradict each other: before any work.
inline void check(settings const& s) {
  auto const list = s.phase_list();
  std::string in_order;
  for (auto const p : list) in_order.append(in_order.empty() ? "" : ",").append(name_of(p));
  if (list.empty() || in_order != s.phases)
    throw io::error("--phases", s.phases,
                    "names phases in their order, each once: image,text,both or a part of it");
  for (std::size_t i = 0; i < phase_names.size(); ++i) {
    auto const p = static_cast<phase>(i);
    if (s.runs(p))
      continue;
    auto const of_it = std::string("--") + phase_names[i];
    if (s.of(p).rate && p == phase::image && s.runs(phase::text))
      throw io::error("--image-lr", "",
                      "the image tower is frozen in phase text and learns at no rate there; "
                      "it learns in phases image and both, and --phases is " +
                          s.phases);
    if (s.of(p).rate)
      throw io::error(of_it + "-lr", "", "is of a phase that --phases " + s.phases + " does not run");
    if (s.of(p).epochs)
      throw io::error(of_it + "-epochs", "", "is of a phase that --phases " + s.phases + " does not run");
  }
  auto const labels = mix_of(s).second > 0;
  if (s.train_data == "scenes" && (s.phases != "both" || labels))
    throw io::error("--train-data", "scenes",
                    "the generated scenes are for phase both alone: other phases and --mix want shards");
  if (s.runs(phase::image) && s.classnames.empty())
    throw io::error("--classnames", "",
                    "phase image learns the classes of a list of names, and there is no list");
  if (labels && s.classnames.empty())
    throw io::error("--classnames", "",
                    "--mix " + s.mix + " writes labels as text, and labels have no names without a list");
  if (list.front() == phase::text && s.init.empty() && s.resume.empty())
    throw io::error(
        "--phases", s.phases,
        "phase text wants a trained image tower: run phase image before it, or give a checkpoint by --init");
  if (s.train_data == "scenes" && !(s.val_data.empty() && s.labelled_data.empty()))
    throw io::error("--train-data", "scenes", "has held-out images of its own, and no shards beside it");
  if (s.label_smoothing > 0 && !s.runs(phase::image))
    throw io::error("--label-smoothing", "",
                    "is of phase image, which --phases " + s.phases + " does not run");
  if (s.augmented_text && !s.runs(phase::text))
    throw io::error("--augmented-text", "", "is of phase text, which --phases " + s.phases + " does not run");
  if (s.device == "cpu" && (s.cuda_graphs || s.tf32))
    throw io::error(s.tf32 ? "--tf32" : "--cuda-graphs", "", "is for a card, and --device is cpu");
}

/// What must be the same for a resumed run to be the run that stopped.
inline io::json identity(settings const& s) {
  io::json j;
  j["train_data"] = s.train_data;
  j["labelled_data"] = s.labelled_data;
  j["mix"] = s.mix;
  j["classnames"] = s.classnames;
  j["templates"] = s.templates;
  j["train_num_samples"] = s.train_samples;
  j["flip"] = s.flip;
  j["crop"] = s.crop;
  j["model"] = s.model;
  j["init"] = s.init;
  j["precision"] = s.precision;
  j["batch_size"] = s.batch;
  j["phases"] = s.phases;
  for (std::size_t i = 0; i < phase_names.size(); ++i) {
    auto const p = static_cast<phase>(i);
    j["phase"][phase_names[i]]["epochs"] = s.epochs_of(p);
    j["phase"][phase_names[i]]["lr"] = s.rate_of(p);
  }
  j["augmented_text"] = s.augmented_text;
  j["label_smoothing"] = s.label_smoothing;
  j["lr_scheduler"] = s.scheduler;
  j["warmup"] = s.warmup;
  j["optimizer"] = s.optimizer;
  std::visit(
      [&](auto const& o) {
        j["wd"] = o.weight_decay;
        j["beta1"] = o.beta1;
        if constexpr (requires { o.beta2; })
          j["beta2"] = o.beta2;
        else
          j["beta2"] = o.beta2_cap;
        j["eps"] = o.epsilon;
      },
      s.optimizer_options());
  j["grad_clip_norm"] = s.clip_norm;
  j["seed"] = s.seed;
  j["split"] = s.split;
  j["loss"] = s.loss;
  return j;
}

/// Takes the options that make a run what it is from its checkpoint.
inline void adopt(settings& s, io::json const& saved, std::string const& file) {
  io::json_fields f{saved, file, "run.options"};
  s.train_data = f.required<std::string>("train_data");
  s.labelled_data = f.required<std::string>("labelled_data");
  s.mix = f.required<std::string>("mix");
  if (auto const names = f.required<std::string>("classnames"); !names.empty())
    s.classnames = names;
  if (auto const templates = f.required<std::string>("templates"); !templates.empty())
    s.templates = templates;
  s.train_samples = f.required<std::uint64_t>("train_num_samples");
  s.flip = f.required<double>("flip");
  s.crop = f.required<double>("crop");
  s.model = f.required<std::string>("model");
  s.init = f.optional<std::string>("init", s.init);
  s.precision = f.required<std::string>("precision");
  s.batch = f.required<extent_t>("batch_size");
  s.phases = f.required<std::string>("phases");
  auto phases = f.object("phase");
  for (std::size_t i = 0; i < phase_names.size(); ++i) {
    s.of_phase[i] = {};
    if (!s.runs(static_cast<phase>(i)))
      continue;
    auto one = phases.object(phase_names[i]);
    s.of_phase[i] = {one.required<std::uint64_t>("epochs"), one.required<double>("lr")};
  }
  s.augmented_text = f.required<bool>("augmented_text");
  s.label_smoothing = f.required<double>("label_smoothing");
  s.scheduler = f.required<std::string>("lr_scheduler");
  s.warmup = f.required<std::int64_t>("warmup");
  s.optimizer = f.required<std::string>("optimizer");
  s.weight_decay = f.required<double>("wd");
  s.beta1 = f.required<double>("beta1");
  s.beta2 = f.required<double>("beta2");
  s.epsilon = f.required<double>("eps");
  s.clip_norm = f.required<double>("grad_clip_norm");
  s.seed = f.required<std::uint64_t>("seed");
  s.split = f.optional<std::string>("split", s.split);
  s.loss = f.optional<std::string>("loss", "infonce");
}

class launched_ranks;

/// Trains on the cards that the settings and the ranks name: in a build with CUDA train_cuda.cu, else train_no_cuda.cpp,
/// which refuses.
void train_on_cuda(launched_ranks& ranks, settings const& s);

}  // namespace train_tool
