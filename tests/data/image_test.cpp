// Decoding against Pillow, and what broken images say.
#include <yoke/core/errors.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/image.hpp>

#include "data_files.hpp"
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;
using data_files::bytes;

namespace {

std::string golden(std::string const& name) {
  auto const file = data_files::read(YOKE_GOLDEN_DIR "/images/" + name);
  REQUIRE_FALSE(file.empty());
  return file;
}

/// True when it decodes; only io::error is another answer.
bool decodes(image_decoder& decode, std::string_view file, picture& image) {
  try {
    decode(bytes(file), image);
    return true;
  } catch (yoke::io::error const&) {
    return false;
  }
}

std::vector<std::string> all_names() {
  std::vector<std::string> names;
  std::ifstream list{YOKE_GOLDEN_DIR "/images/pixels.txt"};
  for (std::string name, rest; list >> name && std::getline(list, rest);) names.push_back(name);
  return names;
}

}  // namespace

TEST_CASE("Images decode to Pillow's pixels", "[data]") {
  std::ifstream list{YOKE_GOLDEN_DIR "/images/pixels.txt"};
  std::string name, expected;
  yoke::extent_t height = 0, width = 0;
  image_decoder decode;
  picture image;
  int count = 0;
  while (list >> name >> height >> width >> expected) {
    INFO(name);
    decode(bytes(golden(name)), image);
    CHECK((image.height == height && image.width == width));
    CHECK(data_files::hashed(image.pixels) == expected);
    ++count;
  }
  CHECK(count == 17);
}

TEST_CASE("What is written as PNG reads back", "[data]") {
  for (auto [height, width] : {std::pair{1, 1}, {3, 5}, {150, 200}}) {  // the last needs two stored blocks
    auto const image = data_files::noise(height, width, 9);
    auto const back = decode_image(bytes(data_files::png(image)));
    CHECK((back.height == height && back.width == width));
    CHECK(back.pixels == image.pixels);
  }
}

TEST_CASE("A broken image says which rule it breaks", "[data]") {
  auto rule = [](std::string_view file) {
    try {
      decode_image(bytes(file));
    } catch (yoke::io::error const& bad) {
      return std::string(bad.what());
    }
    return std::string("it decodes");
  };
  CHECK(rule("") == "image: it is empty");
  CHECK(rule("GIF89a") == "image: neither JPEG nor PNG");
  auto const jpeg = golden("color_420.jpg"), png = golden("color.png");
  CHECK_THAT(rule(std::string_view{jpeg}.substr(0, jpeg.size() / 2)), ContainsSubstring("JPEG: "));
  CHECK_THAT(rule(std::string_view{png}.substr(0, png.size() / 2)),
             ContainsSubstring("PNG: the image is cut short"));
  CHECK_THAT(rule(std::string_view{golden("progressive.jpg")}.substr(0, 700)), ContainsSubstring("JPEG: "));
  // Sizes of 65,500 by 65,500 and 2^30 by 1, with nothing behind them.
  auto huge = jpeg;
  auto const frame = huge.find("\xFF\xC0");
  REQUIRE(frame != std::string::npos);
  huge.replace(frame + 5, 4, "\xFF\xDC\xFF\xDC");
  CHECK_THAT(rule(huge), ContainsSubstring("more than 268435456 pixels"));
  // A file without its last marker has all its pixels.
  CHECK(decode_image(bytes(std::string_view{jpeg}.substr(0, jpeg.size() - 2))).pixels ==
        decode_image(bytes(jpeg)).pixels);
}

TEST_CASE("Images cut at any length are errors", "[data]") {
  image_decoder decode;
  picture image;
  for (auto const& name : all_names()) {
    auto const file = golden(name);
    INFO(name);
    std::size_t whole = 0;
    for (std::size_t n = 0; n < file.size(); ++n)
      whole += decodes(decode, std::string_view{file}.substr(0, n), image);
    // The end marker, and the last bits of a scan, which may be padding, can be missing.
    CHECK(whole <= (name.ends_with(".jpg") ? 4 : 0));
    CHECK(decodes(decode, file, image));
  }
}

TEST_CASE("Images with changed bytes decode or are errors, nothing else", "[data]") {
  image_decoder decode;
  picture image;
  yoke::random_sequence random{11};
  int errors = 0;
  for (auto const& name : all_names()) {
    auto const file = golden(name);
    for (int i = 0; i < 150; ++i) {
      auto changed = file;
      for (auto n = 1 + random.below(4); n > 0; --n)
        changed[random.below(changed.size())] = static_cast<char>(random.bits());
      if (!decodes(decode, changed, image))
        ++errors;
      else
        REQUIRE(image.pixels.size() == static_cast<std::size_t>(image.height * image.width * 3));
    }
  }
  CHECK(errors > 100);
}
