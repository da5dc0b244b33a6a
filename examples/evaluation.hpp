// The held-out side of a run: zero-shot accuracy, retrieval, and the pictures of the report.
#pragma once
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/png_writer.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/train/metrics.hpp>
#include <yoke/train/report.hpp>

#include "tools.hpp"
#include <functional>
#include <map>
#include <optional>

namespace train_tool {

using namespace yoke;

inline constexpr extent_t evaluation_batch = 100;

/// What an evaluation found.
struct outcome {
  eval::zero_shot_result zero_shot;
  extent_t captions = 0;  // different ones, each with an image of its own
  double recall_1 = 0, recall_5 = 0;
  std::vector<train::retrieval_example> examples;  // the pictures
};

/// Held-out images by their model, with what is known of them.
struct embedded_images {
  eval::embeddings rows;
  std::vector<std::int32_t> labels;
  std::vector<std::string> captions;
  std::vector<std::uint8_t> pixels;  // of the first `pictures` images
  extent_t side = 0, pictures = 0;

  view<std::uint8_t const, 3> picture(extent_t i) const {
    return {pixels.data() + i * side * side * 3, {{side, side, 3}}};
  }
};

/// All images of a source in its order; pixels are kept up to 128 MB, for the report.
template <class Source>
embedded_images embed_held_out(tools::embedder& model, Source source, data::wanted want, int workers) {
  embedded_images images;
  images.side = model.image_size();
  images.rows = model.empty();
  data::loader loader{
      std::move(source),
      [&](std::string_view text, std::vector<std::int32_t>& ids) { model.tokenize(text, ids); },
      {.batch = evaluation_batch,
       .image_size = images.side,
       .training = false,
       .keep_captions = want.captions,
       .want = want,
       .workers = workers,
       .on_skip = [](auto const& bad) { std::fprintf(stderr, "skipped: %s\n", bad.message().c_str()); }}};
  for (auto const& b : loader) {
    model.images(b, images.rows);
    images.labels.insert(images.labels.end(), b.labels.begin(), b.labels.end());
    images.captions.insert(images.captions.end(), b.captions.begin(), b.captions.end());
    if (images.pixels.size() < (std::size_t{128} << 20)) {
      images.pixels.insert(images.pixels.end(), b.pixels.begin(), b.pixels.end());
      images.pictures += b.size();
    }
  }
  return images;
}

/// The class of each image of a batch, as a classifier sees it, appended.
using classify_function = std::function<void(data::batch const&, std::vector<std::int32_t>&)>;

/// Where held-out images come from, and what their classes are called.
class held_out {
 public:
  tools::prompts classes;

  explicit held_out(tools::prompts c) : classes{std::move(c)} {}
  held_out(held_out const&) = delete;
  held_out& operator=(held_out const&) = delete;
  virtual ~held_out() = default;

  /// Zero-shot accuracy and retrieval; nothing without held-out data. `images_stay`: the image tower is the one of the
  /// last call, and so are its embeddings.
  virtual std::optional<outcome> evaluate(tools::embedder& model, bool images_stay, int workers) = 0;
  /// The share of held-out images that a classifier is right about.
  virtual std::optional<double> accuracy(classify_function const&, extent_t /*side*/, int /*workers*/) const {
    return std::nullopt;
  }

  /// The page with all that evaluation and metrics say.
  train::report page(std::optional<outcome> const& o, std::span<train::metric_record const> records) const {
    train::report page;
    page.loss = train::curve_of(records, "loss");
    page.learning_rate = train::curve_of(records, "learning_rate");
    page.zero_shot = train::curve_of(records, "zero_shot_top1");
    if (!o)
      return page;
    auto const percent = [](double share) {
      char text[16];
      std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
      return std::string(text);
    };
    page.headlines = {
        {percent(o->zero_shot.top1), "zero-shot accuracy", "chance is " + percent(o->zero_shot.chance)},
        {percent(o->zero_shot.top5), "among the first five", ""}};
    if (o->captions > 1)
      page.headlines.push_back({percent(o->recall_1), "captions find their image first",
                                "chance is " + percent(1 / static_cast<double>(o->captions))});
    page.chance = o->zero_shot.chance;
    page.classes = classes.names;
    page.confusion = o->zero_shot.confusion;
    page.retrievals = o->examples;
    return page;
  }

 protected:
  eval::zero_shot_result classify(tools::embedder& model, embedded_images const& images) const {
    auto const prompts = model.texts(eval::prompts(classes.names, classes.templates));
    auto const weights = eval::class_weights(prompts.rows(), static_cast<extent_t>(classes.templates.size()));
    auto const count = static_cast<extent_t>(classes.names.size());
    return eval::zero_shot(images.rows.rows(), {weights.data(), {{count, images.rows.width}}}, images.labels);
  }

  /// Captions that occur once among the first thousand, against the images that they belong to; pictures of some.
  void retrieve(tools::embedder& model, embedded_images const& images, outcome& to) const {
    std::map<std::string_view, int> uses;
    auto const first = std::min<std::size_t>(images.captions.size(), 1000);
    for (std::size_t i = 0; i < first; ++i) ++uses[images.captions[i]];
    std::vector<std::string> captions;
    std::vector<extent_t> image_of;
    eval::embeddings rows{images.rows.width, {}};
    for (std::size_t i = 0; i < first; ++i) {
      if (uses[images.captions[i]] != 1)
        continue;
      captions.push_back(images.captions[i]);
      image_of.push_back(static_cast<extent_t>(i));
      auto const row = slice(images.rows.rows(), static_cast<extent_t>(i), 1);
      rows.values.insert(rows.values.end(), row.data, row.data + row.size());
    }
    to.captions = static_cast<extent_t>(captions.size());
    if (captions.size() < 10)
      return;
    auto const embedded = model.texts(captions);
    auto const found = eval::retrieval(rows.rows(), embedded.rows()).text_to_image;
    to.recall_1 = found.recall_1;
    to.recall_5 = found.recall_5;
    auto const shown = std::min<std::size_t>(captions.size(), 8);
    auto const nearest =
        eval::nearest(rows.rows(), slice(embedded.rows(), 0, static_cast<extent_t>(shown)), 5);
    for (std::size_t k = 0; k < shown; ++k) {
      train::retrieval_example example{.caption = captions[k], .rank = found.ranks[k]};
      for (std::size_t n = 0; n < 5; ++n) {
        auto const i = static_cast<std::size_t>(nearest[5 * k + n]);
        if (image_of[i] >= images.pictures)
          continue;
        example.found.push_back({data::encode_png(images.picture(image_of[i])), i == k, captions[i]});
      }
      if (image_of[k] < images.pictures)
        example.own_png = data::encode_png(images.picture(image_of[k]));
      to.examples.push_back(std::move(example));
    }
  }

  /// For data without captions of their own: the images nearest to some classes' prompts.
  void show_classes(tools::embedder& model, embedded_images const& images, outcome& to) const {
    std::vector<std::string> lines;
    for (std::size_t k = 0; k < std::min<std::size_t>(classes.names.size(), 10); ++k)
      lines.push_back(
          eval::prompts(std::span{classes.names}.subspan(k, 1), std::span{classes.templates}.first(1))[0]);
    auto const embedded = model.texts(lines);
    auto const n = std::min<extent_t>(5, images.pictures);
    auto const nearest = eval::nearest(slice(images.rows.rows(), 0, images.pictures), embedded.rows(), n);
    for (std::size_t k = 0; k < lines.size(); ++k) {
      train::retrieval_example example{.caption = lines[k]};
      for (extent_t j = 0; j < n; ++j) {
        auto const i = nearest[k * static_cast<std::size_t>(n) + static_cast<std::size_t>(j)];
        auto const label = static_cast<std::size_t>(images.labels[static_cast<std::size_t>(i)]);
        example.found.push_back({data::encode_png(images.picture(i)), label == k, classes.names[label]});
      }
      to.examples.push_back(std::move(example));
    }
  }
};

/// Combinations of colour and shape that training never shows: named among all, and found by captions of two objects.
class held_out_scenes : public held_out {
 public:
  held_out_scenes()
      : held_out{{data::scene_class_names(), {data::scene_templates.begin(), data::scene_templates.end()}}} {}

  std::optional<outcome> evaluate(tools::embedder& model, bool /*images_stay*/, int workers) override {
    outcome result;
    auto const scenes = [&](data::scene_split split) {
      return data::scenes{{.split = split, .samples = 1000, .size = model.image_size()}};
    };
    result.zero_shot = classify(model, embed_held_out(model, scenes(data::scene_split::held_out),
                                                      {.captions = false, .labels = true}, workers));
    retrieve(model,
             embed_held_out(model, scenes(data::scene_split::held_out_pairs),
                            {.captions = true, .labels = false}, workers),
             result);
    return result;
  }
};

/// Shards with classes; none when no pattern was given.
class held_out_shards : public held_out {
 public:
  held_out_shards(std::string const& patterns, std::string const& names, std::string const& templates)
      : held_out{patterns.empty() && names.empty()
                     ? tools::prompts{std::vector<std::string>{}, std::vector<std::string>{}}
                     : tools::prompts{names, templates}},
        patterns_{patterns} {
    if (!patterns.empty())
      data::shards{patterns};  // that they are there is known before training, not after
  }

  std::optional<outcome> evaluate(tools::embedder& model, bool images_stay, int workers) override {
    if (patterns_.empty())
      return std::nullopt;
    if (!images_stay || !kept_) {
      kept_ = embed_held_out(model, data::shards{patterns_}, {.captions = false, .labels = true}, workers);
      expect_named(kept_->labels);
    }
    outcome result;
    result.zero_shot = classify(model, *kept_);
    show_classes(model, *kept_, result);
    if (!images_stay)
      kept_.reset();
    return result;
  }

  std::optional<double> accuracy(classify_function const& classes_of, extent_t side,
                                 int workers) const override {
    if (patterns_.empty())
      return std::nullopt;
    data::loader loader{data::shards{patterns_},
                        {},
                        {.batch = evaluation_batch,
                         .image_size = side,
                         .training = false,
                         .want = {.captions = false, .labels = true},
                         .workers = workers}};
    std::vector<std::int32_t> found, right;
    for (auto const& b : loader) {
      classes_of(b, found);
      right.insert(right.end(), b.labels.begin(), b.labels.end());
    }
    expect_named(right);
    std::size_t hits = 0;
    for (std::size_t i = 0; i < right.size(); ++i) hits += found[i] == right[i] ? 1 : 0;
    return static_cast<double>(hits) / static_cast<double>(right.size());
  }

 private:
  void expect_named(std::vector<std::int32_t> const& labels) const {
    for (auto label : labels)
      if (label < 0 || label >= static_cast<std::int32_t>(classes.names.size()))
        throw io::error(patterns_, "class " + std::to_string(label),
                        "there are names for " + std::to_string(classes.names.size()) + " classes, from 0");
  }

  std::string patterns_;
  std::optional<embedded_images> kept_;  // while the image tower stays as it is
};

}  // namespace train_tool
