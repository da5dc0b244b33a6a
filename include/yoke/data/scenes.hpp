// Built-in data: generated images of coloured shapes with captions that say what is where. Some combinations of
// colour and shape are never trained on; to name them, a model must have learned colours and shapes apart.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/scene_painter.hpp>
#include <yoke/data/source.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace yoke::data {

/// Classes are pairs of colour and shape: shape * 8 + colour, 48 of them.
inline constexpr std::size_t scene_classes = scene_shapes.size() * scene_colours.size();

/// Templates for prompts: "{}" stands for the class name.
inline constexpr std::array<std::string_view, 3> scene_templates{"a {}", "a picture of a {}",
                                                                 "there is a {}"};

/// "red circle"
inline std::string scene_class_name(std::size_t label) {
  expects(label < scene_classes, "scene_class_name: there are 48 classes");
  return std::string(scene_colours[label % scene_colours.size()])
      .append(" ")
      .append(scene_shapes[label / scene_colours.size()]);
}

/// All 48 names, in the order of the labels.
inline std::vector<std::string> scene_class_names() {
  std::vector<std::string> names;
  for (std::size_t label = 0; label < scene_classes; ++label) names.push_back(scene_class_name(label));
  return names;
}

/// True for the 8 combinations that training never shows: one for each colour, and no shape misses more than
/// two.
constexpr bool scene_held_out(std::size_t label) {
  auto const colour = label % scene_colours.size(), shape = label / scene_colours.size();
  return shape == (colour * 5 + 2) % scene_shapes.size();
}

/// The labels of the held-out combinations.
inline std::vector<std::int32_t> scene_held_out_labels() {
  std::vector<std::int32_t> labels;
  for (std::size_t label = 0; label < scene_classes; ++label)
    if (scene_held_out(label))
      labels.push_back(static_cast<std::int32_t>(label));
  return labels;
}

/// Which scenes: `train` has one or two objects, none held out, and other scenes each epoch. `held_out` has one
/// object, a held-out one, which is the label: for zero-shot classification. `held_out_pairs` has two objects,
/// the first held out: for retrieval. The last two are the same scenes in every epoch.
enum class scene_split : std::uint8_t { train, held_out, held_out_pairs };

/// A source of scenes: which of them, and how many.
struct scene_options {
  scene_split split = scene_split::train;
  std::uint64_t samples = 51200;  // of an epoch
  extent_t size = 32;             // images are (size, size, 3)
  std::uint64_t seed = 0;
};

/// A loader's source of scenes. Scene i is a function of (seed, split, i) alone.
class scenes {
 public:
  using reference = std::uint64_t;

  /// One rank's epoch: every ranks-th scene.
  class walker {
   public:
    walker(std::uint64_t first, std::uint64_t count, order const& o)
        : first_{first},
          count_{count},
          at_{static_cast<std::uint64_t>(o.rank)},
          step_{static_cast<std::uint64_t>(o.ranks)} {}
    bool next(reference& r) {
      if (at_ >= count_)
        return false;
      r = first_ + at_;
      at_ += step_;
      return true;
    }

   private:
    std::uint64_t first_, count_, at_, step_;
  };

  class reader {
   public:
    explicit reader(scene_options const& options) : options_{options} {}
    void read(reference r, wanted const&, sample& into) const { draw(options_, r, into); }

   private:
    scene_options options_;
  };

  explicit scenes(scene_options options = {}) : options_{options} {
    expects(options.samples > 0 && options.size >= 8,
            "scenes: at least one sample, of 8 by 8 pixels or more");
  }

  scene_options const& options() const { return options_; }
  void check(order const& o) const {
    expects(o.ranks > 0 && o.rank >= 0 && o.rank < o.ranks, "scenes: 0 <= rank < ranks");
    if (options_.samples < static_cast<std::uint64_t>(o.ranks))
      throw io::error("scenes", "",
                      std::to_string(options_.samples) + " samples, fewer than the " +
                          std::to_string(o.ranks) + " ranks");
  }
  walker walk(order const& o) const {
    auto const fresh = options_.split == scene_split::train;
    return {fresh ? o.epoch * options_.samples : 0, options_.samples, o};
  }
  reader make_reader() const { return reader{options_}; }
  sample_name name(reference r) const { return {"scenes", std::to_string(r)}; }
  std::uint64_t samples() const { return options_.samples; }

  /// Scene `number`: image, caption, the classes of its objects, and as label that of the only one or -1.
  static void draw(scene_options const& options, std::uint64_t number, sample& into) {
    auto random = random_sequence{
        mix(options.seed, hash("scenes") + static_cast<std::uint64_t>(options.split)), number};
    auto const single = options.split == scene_split::held_out ||
                        (options.split == scene_split::train && random.below(2) == 0);
    std::vector<scene_object> objects(single ? 1 : 2);
    for (std::size_t i = 0; i < objects.size(); ++i) {
      auto const held_out = options.split != scene_split::train && i == 0;
      std::size_t label = 0;
      do label = random.below(scene_classes);
      while (scene_held_out(label) != held_out);
      objects[i].shape = label / scene_colours.size();
      objects[i].colour = label % scene_colours.size();
    }
    if (single)
      place_one(objects[0], random);
    else
      place_two(objects[0], objects[1], random);
    into.caption = single ? describe(objects[0], random) : describe(objects[0], objects[1]);
    into.names.clear();
    into.classes.clear();
    for (auto const& object : objects) into.classes.push_back(static_cast<std::int32_t>(class_of(object)));
    into.label = single ? into.classes[0] : -1;
    into.image.resize(options.size, options.size);
    paint_scene(into.image, objects, random);
  }

 private:
  static constexpr float large = 0.27f;  // from this radius on

  static float between(random_sequence& random, float low, float high) {
    return low + (high - low) * static_cast<float>(random.uniform());
  }

  static void place_one(scene_object& object, random_sequence& random) {
    object.radius = between(random, 0.18f, 0.36f);
    object.x = between(random, object.radius, 1 - object.radius);
    object.y = between(random, object.radius, 1 - object.radius);
  }

  /// Apart, and clearly beside or above one another.
  static void place_two(scene_object& a, scene_object& b, random_sequence& random) {
    for (int attempt = 0; attempt < 64; ++attempt) {
      for (auto* object : {&a, &b}) {
        object->radius = between(random, 0.16f, 0.22f);
        object->x = between(random, object->radius, 1 - object->radius);
        object->y = between(random, object->radius, 1 - object->radius);
      }
      auto const dx = a.x - b.x, dy = a.y - b.y, reach = a.radius + b.radius + 0.03f;
      if (dx * dx + dy * dy > reach * reach && std::abs(std::abs(dx) - std::abs(dy)) > 0.15f)
        return;
    }
    a.x = 0.25f;
    b.x = 0.75f;
    a.y = b.y = 0.5f;
  }

  static std::size_t class_of(scene_object const& object) {
    return object.shape * scene_colours.size() + object.colour;
  }

  static std::string object_name(scene_object const& object) { return scene_class_name(class_of(object)); }

  static std::string describe(scene_object const& object, random_sequence& random) {
    auto const name = object_name(object);
    auto const sized = std::string(object.radius < large ? "small " : "large ") + name;
    switch (random.below(4)) {
      case 0:
        return "a " + name;
      case 1:
        return "a picture of a " + name;
      case 2:
        return "a " + sized;
      default:
        return "a " + sized + place_name(object);
    }
  }

  static std::string place_name(scene_object const& object) {
    auto third = [](float v) { return v < 0.42f ? 0u : v < 0.58f ? 1u : 2u; };
    constexpr std::array<std::string_view, 9> places{
        " at the top left",    " at the top",    " at the top right",
        " at the left",        " in the middle", " at the right",
        " at the bottom left", " at the bottom", " at the bottom right"};
    return std::string(places[third(object.y) * 3 + third(object.x)]);
  }

  static std::string describe(scene_object const& a, scene_object const& b) {
    auto const dx = a.x - b.x, dy = a.y - b.y;
    auto const* relation = std::abs(dx) > std::abs(dy) ? (dx < 0 ? " left of a " : " right of a ")
                                                       : (dy < 0 ? " above a " : " below a ");
    return "a " + object_name(a) + relation + object_name(b);
  }

  scene_options options_;
};

static_assert(source<scenes>);

}  // namespace yoke::data
