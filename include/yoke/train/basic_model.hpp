// What a BASIC model is, as JSON: every field of its configuration, written and read back.
#pragma once
#include <yoke/contrastive/basic.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/io/open_clip.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <utility>
#include <vector>

namespace yoke::train {

/// A BASIC model, and how its images are normalised.
struct basic_description {
  contrastive::basic_config model{};
  io::open_clip_preprocess preprocess{};
};

namespace detail {

template <class T>
using names_of = std::vector<std::pair<T, std::string_view>>;

inline names_of<activation> activation_names() {
  return {{activation::identity, "identity"},   {activation::gelu, "gelu"},
          {activation::gelu_tanh, "gelu_tanh"}, {activation::gelu_quick, "gelu_quick"},
          {activation::silu, "silu"},           {activation::tanh, "tanh"}};
}
inline names_of<towers::coatnet_block> block_names() {
  return {{towers::coatnet_block::mbconv, "mbconv"}, {towers::coatnet_block::attention, "attention"}};
}
inline names_of<nn::stride_in> stride_names() {
  return {{nn::stride_in::expand, "expand"}, {nn::stride_in::depthwise, "depthwise"}};
}
inline names_of<window_pool_kind> pool_names() {
  return {{window_pool_kind::max, "max"}, {window_pool_kind::mean, "mean"}};
}
inline names_of<towers::text_pool> text_pool_names() {
  return {{towers::text_pool::end_token, "end_token"}, {towers::text_pool::mean, "mean"}};
}

template <class T>
std::string_view name_in(names_of<T> const& names, T value) {
  for (auto const& [v, name] : names)
    if (v == value)
      return name;
  return {};
}
template <class T>
T read_name(io::json_fields& fields, std::string_view key, names_of<T> const& names) {
  auto const found = fields.required<std::string>(key);
  std::string known;
  for (auto const& [value, name] : names) {
    if (name == found)
      return value;
    known.append(known.empty() ? "" : ", ").append(name);
  }
  fields.fail(key, "\"" + found + "\" is none of " + known);
}

inline constexpr extent_t most_width = 1 << 24;

inline io::json to_json(towers::coatnet_config const& c) {
  io::json j;
  j["image_size"] = std::vector<extent_t>{c.image_size.height, c.image_size.width};
  j["channels"] = c.channels;
  j["stem_width"] = c.stem_width;
  j["stem_blocks"] = c.stem_blocks;
  j["stem_stride"] = c.stem_stride;
  j["stem_bias"] = c.stem_bias;
  j["stages"] = io::json::array();
  for (auto const& s : c.stages) {
    io::json stage;
    stage["kind"] = name_in(block_names(), s.kind);
    stage["blocks"] = s.blocks;
    stage["width"] = s.width;
    stage["stride"] = s.stride;
    j["stages"].push_back(std::move(stage));
  }
  j["head_width"] = c.head_width;
  j["expansion"] = c.expansion;
  j["squeezed"] = c.squeezed;
  j["embedding"] = c.embedding;
  j["strided"] = name_in(stride_names(), c.strided);
  j["pool"] = name_in(pool_names(), c.pool);
  j["activation"] = name_in(activation_names(), c.activation);
  j["squeeze_activation"] = name_in(activation_names(), c.squeeze_activation);
  j["norm_epsilon"] = c.norm_epsilon;
  j["layer_norm_epsilon"] = c.layer_norm_epsilon;
  j["stochastic_depth"] = c.stochastic_depth;
  return j;
}

inline towers::coatnet_config read_coatnet(io::json_fields fields) {
  towers::coatnet_config c;
  auto const count = [](io::json_fields& f, std::string_view key, extent_t least = 1) {
    return f.in_range<extent_t>(key, least, most_width);
  };
  auto const side = fields.required<std::vector<extent_t>>("image_size");
  if (side.size() != 2 || std::min(side[0], side[1]) < 1)
    fields.fail("image_size", "must be [height, width], both positive");
  c.image_size = {side[0], side[1]};
  c.channels = count(fields, "channels");
  c.stem_width = count(fields, "stem_width");
  c.stem_blocks = count(fields, "stem_blocks");
  c.stem_stride = count(fields, "stem_stride");
  c.stem_bias = fields.required<bool>("stem_bias");
  auto const* const stages = fields.find("stages");
  if (stages == nullptr || stages->kind() != io::json_kind::array || stages->elements().empty())
    fields.fail("stages", "must be a list of stages, {...} each, at least one");
  for (std::size_t i = 0; i < stages->elements().size(); ++i) {
    io::json_fields stage{stages->elements()[i], fields.file(), "image.stages[" + std::to_string(i) + "]"};
    c.stages.push_back({.kind = read_name(stage, "kind", block_names()),
                        .blocks = count(stage, "blocks"),
                        .width = count(stage, "width"),
                        .stride = count(stage, "stride")});
    stage.expect_no_others();
  }
  c.head_width = count(fields, "head_width");
  c.expansion = count(fields, "expansion");
  c.squeezed = fields.in_range<double>("squeezed", 0, 1024);
  c.embedding = count(fields, "embedding", 0);
  c.strided = read_name(fields, "strided", stride_names());
  c.pool = read_name(fields, "pool", pool_names());
  c.activation = read_name(fields, "activation", activation_names());
  c.squeeze_activation = read_name(fields, "squeeze_activation", activation_names());
  c.norm_epsilon = fields.in_range<double>("norm_epsilon", 0, 1);
  c.layer_norm_epsilon = fields.in_range<double>("layer_norm_epsilon", 0, 1);
  c.stochastic_depth = fields.in_range<float>("stochastic_depth", 0, 1);
  fields.expect_no_others();
  try {
    towers::checked(c);
  } catch (precondition_error const& wrong) {
    throw io::error(fields.file(), "image", wrong.what());
  }
  return c;
}

inline io::json to_json(towers::text_transformer_config const& c) {
  io::json j;
  j["vocabulary"] = c.vocabulary;
  j["context_length"] = c.context_length;
  j["width"] = c.width;
  j["layers"] = c.layers;
  j["heads"] = c.heads;
  j["mlp_width"] = c.mlp_width;
  j["embedding"] = c.embedding;
  j["pool"] = name_in(text_pool_names(), c.pool);
  j["causal"] = c.causal;
  j["activation"] = name_in(activation_names(), c.activation);
  j["norm_epsilon"] = c.norm_epsilon;
  j["dropout"] = c.dropout;
  j["stochastic_depth"] = c.stochastic_depth;
  return j;
}

inline towers::text_transformer_config read_text_tower(io::json_fields fields) {
  towers::text_transformer_config c;
  c.vocabulary = fields.in_range<extent_t>("vocabulary", 1, most_width);
  c.context_length = fields.in_range<extent_t>("context_length", 1, most_width);
  c.width = fields.in_range<extent_t>("width", 1, most_width);
  c.layers = fields.in_range<extent_t>("layers", 0, 10'000);
  c.heads = fields.in_range<extent_t>("heads", 1, c.width);
  if (c.width % c.heads != 0)
    fields.fail("heads", "must divide width");
  c.mlp_width = fields.in_range<extent_t>("mlp_width", 0, most_width);
  c.embedding = fields.in_range<extent_t>("embedding", 1, most_width);
  c.pool = read_name(fields, "pool", text_pool_names());
  c.causal = fields.required<bool>("causal");
  c.activation = read_name(fields, "activation", activation_names());
  c.norm_epsilon = fields.in_range<double>("norm_epsilon", 0, 1);
  c.dropout = fields.in_range<float>("dropout", 0, 1);
  c.stochastic_depth = fields.in_range<float>("stochastic_depth", 0, 1);
  fields.expect_no_others();
  return c;
}

inline std::array<double, 3> read_three(io::json_fields& fields, std::string_view key) {
  auto const values = fields.required<std::vector<double>>(key);
  if (values.size() != 3)
    fields.fail(key, "must be three numbers: of red, green, blue");
  return {values[0], values[1], values[2]};
}

}  // namespace detail

/// All that basic_description_from reads.
inline io::json to_json(basic_description const& d) {
  io::json j;
  j["image"] = detail::to_json(d.model.image);
  j["text"] = detail::to_json(d.model.text);
  j["preprocess"]["mean"] = std::vector<double>(d.preprocess.mean.begin(), d.preprocess.mean.end());
  j["preprocess"]["deviation"] =
      std::vector<double>(d.preprocess.deviation.begin(), d.preprocess.deviation.end());
  if (auto const& logits = d.model.logits; logits != contrastive::logit_config{}) {
    j["logits"]["scale"] = logits.scale;
    if (logits.bias)
      j["logits"]["bias"] = *logits.bias;
  }
  return j;
}

/// Every field must be there, and no other; but for "logits", without which they are CLIP's. io::error names file, key
/// and rule.
inline basic_description basic_description_from(io::json const& j, std::string const& file) {
  io::json_fields fields{j, file};
  basic_description d;
  d.model.image = detail::read_coatnet(fields.object("image"));
  d.model.text = detail::read_text_tower(fields.object("text"));
  auto preprocess = fields.object("preprocess");
  d.preprocess.mean = detail::read_three(preprocess, "mean");
  d.preprocess.deviation = detail::read_three(preprocess, "deviation");
  for (auto const deviation : d.preprocess.deviation)
    if (!(deviation > 0))
      preprocess.fail("deviation", "must be positive");
  preprocess.expect_no_others();
  if (fields.has("logits")) {
    auto logits = fields.object("logits");
    d.model.logits.scale = logits.in_range<float>("scale", 1e-6f, 1e6f);
    if (logits.has("bias"))
      d.model.logits.bias = logits.in_range<float>("bias", -1000, 1000);
    logits.expect_no_others();
  }
  fields.expect_no_others();
  if (d.model.image.features() != d.model.text.embedding)
    throw io::error(file, "text.embedding",
                    "must be the width of the image tower's features, " +
                        std::to_string(d.model.image.features()) + ", not " +
                        std::to_string(d.model.text.embedding));
  return d;
}

/// A preset by its name ("basic-s" is "basic_s"), or the file of that path, as a checkpoint's basic_config.json.
/// io::error names what it knows.
inline basic_description basic_model_description(std::string const& name_or_file) {
  auto name = name_or_file;
  std::replace(name.begin(), name.end(), '-', '_');
  if (auto const preset = contrastive::basic_preset(name))
    return {*preset, {}};
  struct stat status {};
  if (::stat(name_or_file.c_str(), &status) == 0)
    return basic_description_from(io::read_json(name_or_file), name_or_file);
  std::string known;
  for (auto const n : contrastive::basic_preset_names) known.append(known.empty() ? "" : ", ").append(n);
  throw io::error(name_or_file, "", "neither a file nor the name of a model; there are " + known);
}

}  // namespace yoke::train
