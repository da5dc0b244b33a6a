// The CoAtNets of the paper (Dai et al., arXiv 2106.04803, tables 3 and 10), 0 to 7.
#pragma once
#include <yoke/towers/coatnet_config.hpp>

#include <array>
#include <optional>
#include <string_view>

namespace yoke::towers {

/// The names that `coatnet_preset` knows.
inline constexpr std::array<std::string_view, 8> coatnet_preset_names{
    "coatnet_0", "coatnet_1", "coatnet_2", "coatnet_3", "coatnet_4", "coatnet_5", "coatnet_6", "coatnet_7"};

/// As the paper has them, for images of 224 x 224, without projection; null for any other name. With a classifier of
/// 1000 classes (nn::classifier_head) they have the counts that the paper prints, except CoAtNet-6: with its last stage
/// as printed, 2 x 2048, it has 1348 M parameters, and the printed 1.47 B with 2 x 3072.
inline std::optional<coatnet_config> coatnet_preset(std::string_view name) {
  constexpr auto mbconv = coatnet_block::mbconv, attention = coatnet_block::attention;
  // Stages at 1/4, 1/8, 1/16 and 1/32 of the image.
  auto const four = [](extent_t stem, coatnet_stage s1, coatnet_stage s2, coatnet_stage s3, coatnet_stage s4,
                       extent_t head_width = 32) {
    return coatnet_config{.stem_width = stem, .stages = {s1, s2, s3, s4}, .head_width = head_width};
  };
  if (name == "coatnet_0")
    return four(64, {mbconv, 2, 96}, {mbconv, 3, 192}, {attention, 5, 384}, {attention, 2, 768});
  if (name == "coatnet_1")
    return four(64, {mbconv, 2, 96}, {mbconv, 6, 192}, {attention, 14, 384}, {attention, 2, 768});
  if (name == "coatnet_2")
    return four(128, {mbconv, 2, 128}, {mbconv, 6, 256}, {attention, 14, 512}, {attention, 2, 1024});
  if (name == "coatnet_3")
    return four(192, {mbconv, 2, 192}, {mbconv, 6, 384}, {attention, 14, 768}, {attention, 2, 1536});
  if (name == "coatnet_4")
    return four(192, {mbconv, 2, 192}, {mbconv, 12, 384}, {attention, 28, 768}, {attention, 2, 1536});
  if (name == "coatnet_5")
    return four(192, {mbconv, 2, 256}, {mbconv, 12, 512}, {attention, 28, 1280}, {attention, 2, 2048}, 64);
  // 6 and 7 have MBConv and attention at 1/16.
  auto const five = [](coatnet_stage s1, coatnet_stage s2, coatnet_stage s3, coatnet_stage then,
                       coatnet_stage s4) {
    then.stride = 1;
    return coatnet_config{.stem_width = 192, .stages = {s1, s2, s3, then, s4}, .head_width = 128};
  };
  if (name == "coatnet_6")
    return five({mbconv, 2, 192}, {mbconv, 4, 384}, {mbconv, 8, 768}, {attention, 42, 1536},
                {attention, 2, 2048});
  if (name == "coatnet_7")
    return five({mbconv, 2, 256}, {mbconv, 4, 512}, {mbconv, 8, 1024}, {attention, 42, 2048},
                {attention, 2, 3072});
  return std::nullopt;
}

/// The same network as timm (1.0) builds it under this name: the stride in the depthwise convolution, means instead of
/// maxima, no bias in the stem, heads of 32. Its weights want nn::batch_norm.
inline coatnet_config as_in_timm(coatnet_config c) {
  c.strided = nn::stride_in::depthwise;
  c.pool = window_pool_kind::mean;
  c.stem_bias = false;
  c.head_width = 32;
  c.layer_norm_epsilon = 1e-6;
  return c;
}

}  // namespace yoke::towers
