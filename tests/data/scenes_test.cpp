// The built-in data: what it shows is what it says, and what is held out is never shown.
#include <yoke/core/expects.hpp>
#include <yoke/data/scenes.hpp>

#include <algorithm>
#include <array>
#include <catch2/catch_all.hpp>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

using namespace yoke::data;

namespace {

/// The classes that a caption names.
std::vector<std::size_t> named(std::string const& caption) {
  std::vector<std::size_t> labels;
  for (std::size_t label = 0; label < scene_classes; ++label)
    for (auto at = caption.find(scene_class_name(label)); at != std::string::npos;
         at = caption.find(scene_class_name(label), at + 1))
      labels.push_back(label);
  return labels;
}

}  // namespace

TEST_CASE("Each colour is held out with one shape, and every shape and colour is trained on", "[data]") {
  CHECK(scene_class_names().size() == 48);
  CHECK(scene_class_name(8) == "red square");
  CHECK_THROWS_AS(scene_class_name(48), yoke::precondition_error);
  std::map<std::size_t, int> colours, shapes;
  auto const held_out = scene_held_out_labels();
  REQUIRE(held_out.size() == 8);
  for (auto label : held_out) {
    ++colours[static_cast<std::size_t>(label) % 8];
    ++shapes[static_cast<std::size_t>(label) / 8];
  }
  CHECK(colours.size() == 8);
  for (auto const& [shape, count] : shapes) CHECK(count <= 2);
}

TEST_CASE("Training never shows or names what is held out", "[data]") {
  sample s;
  int pairs = 0;
  std::set<std::string> captions;
  std::set<std::size_t> seen;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    scenes::draw({.size = 8}, i, s);
    auto const labels = named(s.caption);
    REQUIRE((labels.size() == 1 || labels.size() == 2));
    for (auto label : labels) REQUIRE_FALSE(scene_held_out(label));
    if (labels.size() == 1)
      REQUIRE(s.label == static_cast<std::int32_t>(labels[0]));
    else
      REQUIRE(s.label == -1);
    pairs += labels.size() == 2;
    captions.insert(s.caption);
    seen.insert(labels.begin(), labels.end());
  }
  CHECK((pairs > 1800 && pairs < 2200));
  CHECK(seen.size() == 40);
  CHECK(captions.size() > 2000);
}

TEST_CASE("Held-out scenes show what is held out", "[data]") {
  sample s;
  std::set<std::int32_t> labels;
  for (std::uint64_t i = 0; i < 300; ++i) {
    scenes::draw({.split = scene_split::held_out, .size = 8}, i, s);
    REQUIRE(named(s.caption) == std::vector{static_cast<std::size_t>(s.label)});
    REQUIRE(scene_held_out(static_cast<std::size_t>(s.label)));
    labels.insert(s.label);
    scenes::draw({.split = scene_split::held_out_pairs, .size = 8}, i, s);
    auto const both = named(s.caption);
    REQUIRE(both.size() == 2);
    REQUIRE((scene_held_out(both[0]) || scene_held_out(both[1])));
  }
  CHECK(labels.size() == 8);
}

TEST_CASE("A scene is a function of seed, split and number", "[data]") {
  sample first, again, other;
  scenes::draw({.seed = 5}, 17, first);
  scenes::draw({.seed = 5}, 17, again);
  CHECK((first.caption == again.caption && first.image.pixels == again.image.pixels));
  scenes::draw({.seed = 6}, 17, other);
  CHECK(first.image.pixels != other.image.pixels);
  scenes::draw({.seed = 5}, 18, other);
  CHECK(first.image.pixels != other.image.pixels);
  scenes::draw({.size = 48, .seed = 5}, 17, other);
  CHECK((other.caption == first.caption && other.image.height == 48 && other.image.width == 48));
}

TEST_CASE("Shapes are painted where and in the colour that the object says", "[data]") {
  // A circle, a square, a cross and a diamond have paint at their centre; a ring has the ground there.
  for (std::size_t shape = 0; shape < scene_shapes.size(); ++shape) {
    picture image;
    image.resize(64, 64);
    paint_scene(image, std::array{scene_object{shape, 0, 0.25f, 0.75f, 0.2f}}, yoke::random_sequence{1});
    auto red = [&](std::size_t y, std::size_t x) {
      auto const* const p = image.pixels.data() + (y * 64 + x) * 3;
      return p[0] > 180 && p[1] < 90 && p[2] < 90;
    };
    INFO(scene_shapes[shape]);
    CHECK(red(48, 16) == (scene_shapes[shape] != "ring"));
    CHECK_FALSE(red(16, 48));
    int painted = 0;
    for (std::size_t y = 0; y < 64; ++y)
      for (std::size_t x = 0; x < 64; ++x) {
        painted += red(y, x);
        if (red(y, x))
          CHECK((x >= 2 && x <= 30 && y >= 34 && y <= 62));
      }
    CHECK((painted > 100 && painted < 560));
  }
}

TEST_CASE("Captions of two objects say where the first is", "[data]") {
  // The first object's paint is looked for on the side that the caption names.
  sample s;
  int checked = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    scenes::draw({.split = scene_split::held_out_pairs, .size = 32}, i, s);
    if (!s.caption.starts_with("a red ") || s.caption.find(" red ", 3) != std::string::npos)
      continue;
    double x_sum = 0, y_sum = 0, count = 0;
    for (std::size_t y = 0; y < 32; ++y)
      for (std::size_t x = 0; x < 32; ++x) {
        auto const* const p = s.image.pixels.data() + (y * 32 + x) * 3;
        if (p[0] > 180 && p[1] < 80 && p[2] < 80) {
          x_sum += static_cast<double>(x);
          y_sum += static_cast<double>(y);
          ++count;
        }
      }
    INFO(s.caption << ", scene " << i);
    REQUIRE(count > 3);
    auto says = [&](char const* words) { return s.caption.find(words) != std::string::npos; };
    if (says("left"))
      CHECK(x_sum / count < 17);
    if (says("right"))
      CHECK(x_sum / count > 14);
    if (says("above"))
      CHECK(y_sum / count < 17);
    if (says("below"))
      CHECK(y_sum / count > 14);
    ++checked;
  }
  CHECK(checked > 10);
}
