// Resampling against Pillow, preprocessing against torchvision, and what augmentation promises.
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/augment.hpp>
#include <yoke/data/resize.hpp>

#include "data_files.hpp"
#include <algorithm>
#include <array>
#include <catch2/catch_all.hpp>
#include <cmath>
#include <fstream>
#include <string>
#include <utility>

using namespace yoke::data;
using yoke::extent_t;

TEST_CASE("Resizing equals Pillow's bit for bit", "[data]") {
  std::ifstream golden{YOKE_GOLDEN_DIR "/resize/cases.txt"};
  std::string filter, expected;
  std::uint32_t seed = 0;
  extent_t h = 0, w = 0, to_h = 0, to_w = 0;
  rectangle part;
  resizer resize;  // one for all: what it keeps must not leak from one image to the next
  int count = 0;
  while (golden >> filter >> seed >> h >> w >> part.top >> part.left >> part.height >> part.width >> to_h >>
         to_w >> expected) {
    auto const image = data_files::noise(h, w, seed);
    picture target;
    target.resize(to_h, to_w);
    resize(image.hwc(), part, target.hwc(),
           filter == "box"        ? resampling::box
           : filter == "bilinear" ? resampling::bilinear
                                  : resampling::bicubic);
    INFO(filter << " " << h << "x" << w << " to " << to_h << "x" << to_w);
    CHECK(data_files::hashed(target.pixels) == expected);
    ++count;
  }
  CHECK(count == 81);
}

TEST_CASE("Resizing can take rows first, as Pillow did before version 13", "[data]") {
  resizer resize;
  for (auto [h, w, to_h, to_w] :
       {std::array<extent_t, 4>{100, 30, 50, 20}, {30, 100, 20, 50}, {90, 30, 20, 60}}) {
    auto const image = data_files::noise(h, w, 3);
    picture rows, both, expected, newer;
    rows.resize(h, to_w);
    resize(image.hwc(), rows.hwc());  // one way only: there is no order to choose
    expected.resize(to_h, to_w);
    resize(std::as_const(rows).hwc(), expected.hwc());
    both.resize(to_h, to_w);
    resize(image.hwc(), both.hwc(), resampling::bicubic, pass_order::rows_first);
    CHECK(both.pixels == expected.pixels);
    newer.resize(to_h, to_w);
    resize(image.hwc(), newer.hwc());
    CHECK((newer.pixels == expected.pixels) == (h - to_h <= 2 * (w - to_w)));
  }
}

TEST_CASE("Evaluation preprocessing equals torchvision's", "[data]") {
  std::ifstream golden{YOKE_GOLDEN_DIR "/resize/evaluate.txt"};
  std::string expected;
  std::uint32_t seed = 0;
  extent_t h = 0, w = 0, size = 0;
  preprocessor prepare;
  int count = 0;
  while (golden >> seed >> h >> w >> size >> expected) {
    picture target;
    target.resize(size, size);
    prepare.evaluate(data_files::noise(h, w, seed).hwc(), target.hwc());
    INFO(h << "x" << w << " to " << size);
    CHECK(data_files::hashed(target.pixels) == expected);
    ++count;
  }
  CHECK(count == 7);
}

TEST_CASE("Random parts lie in the image and have the area and the ratio asked for", "[data]") {
  augmentation const how{.smallest_area = 0.2, .largest_area = 0.6};
  yoke::random_sequence random{7};
  double least = 1, most = 0;
  bool left_edge = false, right_edge = false;
  for (int i = 0; i < 2000; ++i) {
    auto const part = random_part(90, 120, how, random);
    REQUIRE(
        (part.top >= 0 && part.left >= 0 && part.top + part.height <= 90 && part.left + part.width <= 120));
    auto const area = static_cast<double>(part.height * part.width) / (90 * 120);
    auto const ratio = static_cast<double>(part.width) / static_cast<double>(part.height);
    least = std::min(least, area);
    most = std::max(most, area);
    CHECK((ratio > 0.73 && ratio < 1.36));
    left_edge |= part.left == 0;
    right_edge |= part.left + part.width == 120;
  }
  CHECK(std::abs(least - 0.2) < 0.01);
  CHECK(std::abs(most - 0.6) < 0.01);
  CHECK((left_edge && right_edge));
}

TEST_CASE("An image that is too narrow for the ratios is cut in its middle", "[data]") {
  augmentation const how{.smallest_area = 1, .largest_area = 1};
  yoke::random_sequence random{1};
  CHECK(random_part(100, 9, how, random) == rectangle{44, 0, 12, 9});
  CHECK(random_part(9, 100, how, random) == rectangle{0, 44, 9, 12});
  CHECK(random_part(1, 1, how, random) == rectangle{0, 0, 1, 1});
}

TEST_CASE("Augmentation is a function of its draws, and flips as often as asked", "[data]") {
  auto const image = data_files::noise(8, 8, 3);
  auto mirrored = image;
  flip_horizontally(mirrored.hwc());
  CHECK(mirrored.pixels != image.pixels);
  for (std::size_t y = 0; y < 8; ++y)
    for (std::size_t x = 0; x < 8; ++x)
      for (std::size_t c = 0; c < 3; ++c)
        REQUIRE(mirrored.pixels[(y * 8 + x) * 3 + c] == image.pixels[(y * 8 + 7 - x) * 3 + c]);

  preprocessor prepare;
  picture once, again;
  once.resize(8, 8);
  again.resize(8, 8);
  int flipped = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    prepare.train(image.hwc(), once.hwc(), {.crop = false, .flip = 0.25}, yoke::random_sequence{5, i});
    REQUIRE((once.pixels == image.pixels || once.pixels == mirrored.pixels));
    flipped += once.pixels == mirrored.pixels;
  }
  CHECK((flipped > 70 && flipped < 130));

  prepare.train(image.hwc(), once.hwc(), {.smallest_area = 0.2, .flip = 0.5}, yoke::random_sequence{5, 1});
  prepare.train(image.hwc(), again.hwc(), {.smallest_area = 0.2, .flip = 0.5}, yoke::random_sequence{5, 1});
  CHECK(once.pixels == again.pixels);
  prepare.train(image.hwc(), again.hwc(), {.smallest_area = 0.2, .flip = 0.5}, yoke::random_sequence{5, 2});
  CHECK(once.pixels != again.pixels);
}

TEST_CASE("Resizing refuses what has no meaning", "[data]") {
  auto const image = data_files::noise(4, 4, 0);
  picture target;
  target.resize(2, 2);
  resizer resize;
  CHECK_THROWS_AS(resize(image.hwc(), rectangle{2, 0, 3, 4}, target.hwc()), yoke::precondition_error);
  CHECK_THROWS_AS(resize(image.hwc(), rectangle{0, 0, 0, 4}, target.hwc()), yoke::precondition_error);
  CHECK_THROWS_AS(resize(image.hwc(), {target.pixels.data(), {{0, 2, 3}}}), yoke::precondition_error);
}
