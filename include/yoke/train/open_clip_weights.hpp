// Weights under OpenCLIP's names and layouts, for both directions: its checkpoints into Yoke's blocks, and back.
#pragma once
#include <yoke/autograd/parameter.hpp>

#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::train {

/// How a tensor of OpenCLIP lies relative to Yoke's (rows, columns).
enum class foreign_layout {
  same,
  transposed,  // projections: (in, out) there
  patches,     // a convolution (out, channel, y, x) there, a matrix (out, (y, x, channel)) here
  scalar,      // one element, without a dimension there
};

/// A parameter as OpenCLIP's files have it.
struct foreign_tensor {
  std::string name;
  std::vector<extent_t> shape;
  foreign_layout layout = foreign_layout::same;
};

namespace detail {

/// "attention.qkv.weight" -> "attn.in_proj_weight", and so on: the part of a name behind its block's number.
inline std::optional<std::string> open_clip_leaf(std::string_view leaf) {
  using pair = std::pair<std::string_view, std::string_view>;
  constexpr std::array<pair, 12> names{{{"norm_attention.gain", "ln_1.weight"},
                                        {"norm_attention.bias", "ln_1.bias"},
                                        {"norm_mlp.gain", "ln_2.weight"},
                                        {"norm_mlp.bias", "ln_2.bias"},
                                        {"attention.qkv.weight", "attn.in_proj_weight"},
                                        {"attention.qkv.bias", "attn.in_proj_bias"},
                                        {"attention.out.weight", "attn.out_proj.weight"},
                                        {"attention.out.bias", "attn.out_proj.bias"},
                                        {"mlp.up.weight", "mlp.c_fc.weight"},
                                        {"mlp.up.bias", "mlp.c_fc.bias"},
                                        {"mlp.down.weight", "mlp.c_proj.weight"},
                                        {"mlp.down.bias", "mlp.c_proj.bias"}}};
  for (auto const& [ours, theirs] : names)
    if (leaf == ours)
      return std::string(theirs);
  return std::nullopt;
}

}  // namespace detail

/// OpenCLIP's tensor for a parameter of dual_encoder{vit "image", text_transformer "text"}; none when it has no such.
inline std::optional<foreign_tensor> open_clip_tensor(parameter_info const& p) {
  struct entry {
    std::string_view ours, theirs;
    foreign_layout layout;
  };
  using enum foreign_layout;
  constexpr std::array<entry, 15> names{{{"image.patch.weight", "visual.conv1.weight", patches},
                                         {"image.class_token", "visual.class_embedding", same},
                                         {"image.positions", "visual.positional_embedding", same},
                                         {"image.norm_before.gain", "visual.ln_pre.weight", same},
                                         {"image.norm_before.bias", "visual.ln_pre.bias", same},
                                         {"image.norm_after.gain", "visual.ln_post.weight", same},
                                         {"image.norm_after.bias", "visual.ln_post.bias", same},
                                         {"image.projection.weight", "visual.proj", transposed},
                                         {"text.tokens", "token_embedding.weight", same},
                                         {"text.positions", "positional_embedding", same},
                                         {"text.norm.gain", "ln_final.weight", same},
                                         {"text.norm.bias", "ln_final.bias", same},
                                         {"text.projection.weight", "text_projection", transposed},
                                         {"logit_scale", "logit_scale", scalar},
                                         {"logit_bias", "logit_bias", scalar}}};
  for (auto const& n : names)
    if (p.name == n.ours) {
      auto s = p.shape;
      if (n.layout == transposed)
        std::swap(s[0], s[1]);
      if (n.layout == scalar)
        s.clear();
      if (n.layout == patches) {
        auto const side = static_cast<extent_t>(std::lround(std::sqrt(static_cast<double>(s[1]) / 3)));
        s = {s[0], 3, side, side};
      }
      return foreign_tensor{std::string(n.theirs), s, n.layout};
    }
  using pair = std::pair<std::string_view, std::string_view>;
  constexpr std::array<pair, 2> towers{
      {{"image.block.", "visual.transformer.resblocks."}, {"text.block.", "transformer.resblocks."}}};
  for (auto const& [ours, theirs] : towers)
    if (p.name.starts_with(ours)) {
      auto const rest = std::string_view(p.name).substr(ours.size());
      auto const dot = rest.find('.');
      if (auto const leaf = detail::open_clip_leaf(rest.substr(dot + 1)))
        return foreign_tensor{std::string(theirs) + std::string(rest.substr(0, dot)) + "." + *leaf, p.shape};
    }
  return std::nullopt;
}

/// Copies between the layouts: element k of Yoke's tensor is element result of OpenCLIP's.
inline extent_t foreign_element(foreign_tensor const& f, extent_t k) {
  switch (f.layout) {
    case foreign_layout::transposed: {
      auto const in = f.shape[0], out = f.shape[1];
      return k % in * out + k / in;
    }
    case foreign_layout::patches: {
      auto const channels = f.shape[1], side = f.shape[2], patch = channels * side * side;
      auto const row = k / patch, place = k % patch / channels, channel = k % channels;
      return row * patch + channel * side * side + place;
    }
    default:
      return k;
  }
}

}  // namespace yoke::train
