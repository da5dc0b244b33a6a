// Draws coloured shapes on a noisy background, anti-aliased, at any size.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/data/picture.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace yoke::data {

inline constexpr std::array<std::string_view, 6> scene_shapes{"circle",  "square", "triangle",
                                                              "diamond", "cross",  "ring"};
inline constexpr std::array<std::string_view, 8> scene_colours{"red",  "green",  "blue", "yellow",
                                                               "pink", "purple", "cyan", "white"};

/// A shape in a scene. Lengths are shares of the image's side; y grows downwards.
struct scene_object {
  std::size_t shape = 0;   // of scene_shapes
  std::size_t colour = 0;  // of scene_colours
  float x = 0.5f;
  float y = 0.5f;
  float radius = 0.25f;  // of the circle around the shape
};

namespace detail {

using rgb = std::array<float, 3>;

inline constexpr std::array<rgb, scene_colours.size()> scene_paint{{{225, 35, 35},
                                                                    {40, 170, 50},
                                                                    {45, 75, 230},
                                                                    {240, 225, 50},
                                                                    {250, 120, 180},
                                                                    {150, 50, 190},
                                                                    {60, 215, 225},
                                                                    {240, 240, 240}}};

/// How far (x, y) is outside of a shape of radius r around the origin; negative inside.
inline float outside(std::size_t shape, float x, float y, float r) {
  auto const ax = std::abs(x), ay = std::abs(y);
  switch (shape) {
    case 0:
      return std::sqrt(x * x + y * y) - r;
    case 1:
      return std::max(ax, ay) - 0.8f * r;
    case 2:
      return std::max(y - 0.5f * r, 0.866f * ax - 0.5f * y - 0.5f * r);
    case 3:
      return 0.7071f * (ax + ay) - 0.7071f * r;
    case 4:
      return std::min(std::max(ax - 0.95f * r, ay - 0.3f * r), std::max(ay - 0.95f * r, ax - 0.3f * r));
    default:
      return std::abs(std::sqrt(x * x + y * y) - 0.76f * r) - 0.24f * r;
  }
}

}  // namespace detail

/// Fills `image`, whose size is given, with a background of the `random` sequence's and paints each object over
/// what was there. Works with any count of objects.
template <class Objects>
void paint_scene(picture& image, Objects const& objects, random_sequence random) {
  auto between = [&](float low, float high) {
    return low + (high - low) * static_cast<float>(random.uniform());
  };
  auto const level = between(40, 110);
  detail::rgb ground;
  for (auto& channel : ground) channel = level + between(-12, 12);
  std::array<detail::rgb, 4> paints{};
  std::size_t known = 0;
  for (auto const& object : objects) {
    auto& paint = paints[known++ % paints.size()];
    paint = detail::scene_paint[object.colour];
    for (auto& channel : paint) channel += between(-12, 12);
  }
  auto const height = static_cast<float>(image.height), width = static_cast<float>(image.width);
  auto const side = std::min(height, width);
  auto* out = image.pixels.data();
  for (extent_t row = 0; row < image.height; ++row)
    for (extent_t column = 0; column < image.width; ++column, out += 3) {
      auto colour = ground;
      std::size_t n = 0;
      for (auto const& object : objects) {
        auto const& paint = paints[n++ % paints.size()];
        auto const x = static_cast<float>(column) + 0.5f - object.x * width;
        auto const y = static_cast<float>(row) + 0.5f - object.y * height;
        auto const d = detail::outside(object.shape, x, y, object.radius * side);
        auto const cover = std::clamp(0.5f - d, 0.0f, 1.0f);
        for (std::size_t c = 0; c < 3; ++c) colour[c] += cover * (paint[c] - colour[c]);
      }
      auto const noise = random.bits();  // a byte for each channel, about ±15
      for (std::size_t c = 0; c < 3; ++c) {
        auto const grain = static_cast<float>((noise >> (8 * c)) & 0xFF) * (30.0f / 255) - 15.0f;
        out[c] = static_cast<std::uint8_t>(std::clamp(colour[c] + grain + 0.5f, 0.0f, 255.0f));
      }
    }
}

}  // namespace yoke::data
