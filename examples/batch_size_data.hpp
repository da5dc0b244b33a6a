// What the runs of yoke-batch-size share: settings, samples in memory, tokenizer and model.
#pragma once
#include <yoke/contrastive/inputs.hpp>
#include <yoke/contrastive/presets.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/eval/prompts.hpp>
#include <yoke/io/json.hpp>
#include <yoke/text/sentencepiece.hpp>
#include <yoke/text/sentencepiece_training.hpp>
#include <yoke/train/open_clip_model.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <sys/stat.h>
#include <utility>
#include <vector>

namespace batch_size_tool {

using namespace yoke;

struct settings {
  std::vector<extent_t> batches{16, 32, 64, 128, 256, 512};
  std::uint64_t seeds = 3;
  std::string data = "scenes", classnames, templates;
  bool repeated_captions = false;
  extent_t samples = 2048, held_out = 2048;
  std::int64_t epochs = 30;
  std::string model = "scenes";
  extent_t patch = 8;
  std::string precision = "bf16";
  double rate = 1e-3;
  std::string rate_rule = "sqrt";
  double weight_decay = 0;
  extent_t evaluation_batch = 256;
  std::int64_t evaluations = 10;
  int jobs = 0;
  std::string out = "batch-size";

  bool scenes() const { return data == "scenes"; }
};

inline constexpr extent_t rate_batch = 64;  // the batch size that settings::rate is for
inline constexpr std::uint64_t unseen_scenes = 500;

/// The peak rate of a batch size: that of 64, times the factor between the sizes, its root, or nothing.
inline double rate_of(settings const& s, extent_t batch) {
  auto const factor = static_cast<double>(batch) / static_cast<double>(rate_batch);
  return s.rate * (s.rate_rule == "linear" ? factor : s.rate_rule == "sqrt" ? std::sqrt(factor) : 1);
}

/// Throws io::error where settings do not fit each other.
inline void check(settings const& s) {
  for (auto batch : s.batches) {
    auto const name = "--batches " + std::to_string(batch);
    if (s.samples % batch != 0)
      throw io::error(name, "",
                      "does not divide the " + std::to_string(s.samples) +
                          " samples of --samples: every batch size must see each sample once an epoch");
    if (s.held_out < batch)
      throw io::error(name, "",
                      "needs as many held-out samples; --held-out is " + std::to_string(s.held_out));
  }
  if (std::set(s.batches.begin(), s.batches.end()).size() != s.batches.size())
    throw io::error("--batches", "", "names a size twice");
  if (s.evaluation_batch > std::min(s.samples, s.held_out))
    throw io::error("--evaluation-batch " + std::to_string(s.evaluation_batch), "",
                    "is more than there are samples, to train on or held out");
  if (!s.scenes() && s.classnames.empty())
    throw io::error("--classnames", "", "is needed for zero-shot accuracy on shards");
}

/// What must be the same for a folder's runs to be compared.
inline io::json identity(settings const& s) {
  io::json j;
  j["data"] = s.data;
  j["classnames"] = s.classnames;
  j["templates"] = s.templates;
  j["repeated_captions"] = s.repeated_captions;
  j["samples"] = s.samples;
  j["held_out"] = s.held_out;
  j["epochs"] = s.epochs;
  j["model"] = s.model;
  j["patch"] = s.patch;
  j["precision"] = s.precision;
  j["lr"] = s.rate;
  j["lr_rule"] = s.rate_rule;
  j["wd"] = s.weight_decay;
  j["evaluation_batch"] = s.evaluation_batch;
  j["evaluations"] = s.evaluations;
  return j;
}

/// Makes the folder, or sees that what it holds was made with the same settings.
inline void begin_folder(settings const& s) {
  ::mkdir(s.out.c_str(), 0777);  // failing, the file below says why
  auto const file = s.out + "/experiment.json";
  auto const now = identity(s);
  if (struct stat status{}; ::stat(file.c_str(), &status) != 0) {
    io::write_file_atomically(file, now.dump(2) + "\n");
    return;
  }
  auto const before = io::read_json(file);
  for (auto const& key : now.keys()) {
    auto const* const value = before.find(key);
    auto const old = value == nullptr ? "not there" : value->dump();
    if (old != now.find(key)->dump())
      throw io::error(file, key,
                      "is " + old + " for the runs of this folder and would be " + now.find(key)->dump() +
                          " now, so they could not be compared; another --out begins anew");
  }
}

/// One seed's samples: those to train on, then those held out.
struct sample_set {
  extent_t side = 0;
  std::vector<std::uint8_t> pixels{};
  std::vector<std::string> captions{};
  std::vector<std::int32_t> labels{};              // class, or -1
  std::vector<std::int32_t> tokens{}, offsets{0};  // of all captions, one after the other

  extent_t count() const { return static_cast<extent_t>(labels.size()); }
  contrastive::pixel_batch images(extent_t first, extent_t n) const {
    return {.pixels = {pixels.data() + first * side * side * 3, {{n, side, side, 3}}}};
  }
};

/// A batch of chosen samples; its storage is reused.
struct chosen_batch {
  std::vector<std::uint8_t> pixels{};
  std::vector<std::int32_t> tokens{}, offsets{};
  extent_t side = 0, longest = 0;

  void take(sample_set const& from, std::span<extent_t const> chosen) {
    side = from.side;
    longest = 0;
    pixels.clear();
    tokens.clear();
    offsets.assign(1, 0);
    for (auto i : chosen) {
      auto const image = side * side * 3;
      auto const* const first = from.pixels.data() + i * image;
      pixels.insert(pixels.end(), first, first + image);
      auto const* const caption = from.offsets.data() + i;
      tokens.insert(tokens.end(), from.tokens.data() + caption[0], from.tokens.data() + caption[1]);
      offsets.push_back(static_cast<std::int32_t>(tokens.size()));
      longest = std::max<extent_t>(longest, caption[1] - caption[0]);
    }
  }
  extent_t count() const { return static_cast<extent_t>(offsets.size()) - 1; }
  contrastive::pixel_batch images() const { return {.pixels = {pixels.data(), {{count(), side, side, 3}}}}; }
  contrastive::caption_batch captions() const {
    auto const runs = segments::packed({offsets.data(), {{count() + 1}}}, longest);
    return {{runs, {tokens.data(), {{runs.rows}}}}};
  }
};

/// The first samples of a source, or the first of each caption. Samples to train on and held-out ones come from one
/// stream, so that nothing but training tells them apart.
template <class Source>
sample_set collect(Source source, settings const& s, extent_t wanted, extent_t side, std::uint64_t seed,
                   bool repeated) {
  sample_set set{.side = side};
  std::set<std::string> seen;
  data::loader loader{
      std::move(source),
      [](std::string_view, std::vector<std::int32_t>& ids) { ids.push_back(0); },
      {.batch = 1,
       .image_size = side,
       .seed = seed,
       .augment = data::augmentation::none(),
       .keep_captions = true,
       .want = {.captions = true, .labels = !s.scenes()},
       .on_skip = [](auto const& bad) { std::fprintf(stderr, "skipped: %s\n", bad.message().c_str()); }}};
  for (data::batch b; set.count() < wanted && loader.next(b);) {
    if (!repeated && !seen.insert(b.captions[0]).second)
      continue;
    set.pixels.insert(set.pixels.end(), b.pixels.begin(), b.pixels.end());
    set.captions.push_back(b.captions[0]);
    set.labels.push_back(b.labels[0]);
  }
  if (set.count() < wanted)
    throw io::error(s.data, "",
                    "has " + std::to_string(set.count()) +
                        (repeated ? " samples" : " samples with a caption of their own") + " of the " +
                        std::to_string(wanted) + " wanted to train on and held out" +
                        (repeated ? "" : "; --repeated-captions takes repeated ones as well"));
  return set;
}

/// Data, tokenizer and model of all runs. A seed has samples of its own, the same for each batch size.
class experiment {
 public:
  explicit experiment(settings s) : options{std::move(s)}, config{train::clip_model_config(options.model)} {
    if (options.scenes()) {
      names = data::scene_class_names();
      templates.assign(data::scene_templates.begin(), data::scene_templates.end());
    } else {
      names = eval::read_class_names(options.classnames);
      templates =
          options.templates.empty() ? eval::default_templates() : eval::read_templates(options.templates);
    }
    if (options.patch > 0)
      config.image.patch_size = options.patch;
    auto const side = config.image.image_size.height;
    for (std::uint64_t seed = 0; seed < options.seeds; ++seed) add_samples(side, seed);
    tokenize_all();
    config.text.vocabulary = tokenizer->vocabulary_size();
    model.emplace(contrastive::clip(scope{list}, config));
  }
  experiment(experiment const&) = delete;
  experiment& operator=(experiment const&) = delete;

  settings options;
  contrastive::clip_config config;
  std::vector<std::string> names, templates;  // of the classes, and what their names are put into
  std::vector<sample_set> sets, unseen;  // by seed; `unseen` are of classes that training lacks, scenes only
  std::optional<text::sentence_piece> tokenizer;
  parameter_list list;
  std::optional<contrastive::clip_model> model;

 private:
  void add_samples(extent_t side, std::uint64_t seed) {
    auto const wanted = options.samples + options.held_out;
    if (!options.scenes()) {
      sets.push_back(
          collect(data::shards{options.data}, options, wanted, side, seed, options.repeated_captions));
      for (auto label : sets.back().labels)
        if (label >= static_cast<std::int32_t>(names.size()))
          throw io::error(options.data, "class " + std::to_string(label),
                          options.classnames + " names " + std::to_string(names.size()) + " classes, from 0");
      return;
    }
    auto const scenes = [&](data::scene_split split, std::uint64_t samples) {
      return data::scenes{{.split = split, .samples = samples, .size = side, .seed = seed}};
    };
    sets.push_back(collect(scenes(data::scene_split::train, static_cast<std::uint64_t>(wanted) * 20), options,
                           wanted, side, seed, options.repeated_captions));
    unseen.push_back(collect(scenes(data::scene_split::held_out, unseen_scenes), options,
                             static_cast<extent_t>(unseen_scenes), side, seed, true));
  }

  /// One vocabulary for all runs, from the captions that the first seed trains on.
  void tokenize_all() {
    auto const captions =
        std::span{std::as_const(sets[0].captions)}.first(static_cast<std::size_t>(options.samples));
    tokenizer.emplace(text::train_sentence_piece(captions, {.vocabulary_size = config.text.vocabulary}),
                      text::sentence_piece::options{.context_length = config.text.context_length});
    for (auto& set : sets)
      for (auto const& caption : set.captions) {
        (*tokenizer)(caption, set.tokens);
        set.offsets.push_back(static_cast<std::int32_t>(set.tokens.size()));
      }
  }
};

}  // namespace batch_size_tool
