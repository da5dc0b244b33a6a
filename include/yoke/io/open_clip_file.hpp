// Reads and writes OpenCLIP's model configuration files: the bare form of its model_configs folder,
// and open_clip_config.json with "model_cfg" and "preprocess_cfg".
#pragma once
#include <yoke/io/json_fields.hpp>
#include <yoke/io/open_clip.hpp>

#include <initializer_list>

namespace yoke::io {

namespace detail {

/// A setting of OpenCLIP's that Yoke has only one value for: missing, null and `only` pass.
template <class T>
void only(json_fields& fields, std::string_view key, T const& value, std::string_view rule) {
  if (auto const* found = fields.find(key); found != nullptr && found->as<T>() != value)
    fields.fail(key, rule);
}

/// Square images and patches may be written as one number or as two equal ones.
inline extent_t square(json_fields& fields, std::string_view key, extent_t fallback) {
  constexpr extent_t most = 1 << 20;
  auto const* value = fields.find(key);
  if (value == nullptr || value->kind() != json_kind::array)
    return fields.in_range<extent_t>(key, 1, most, fallback);
  auto const sides = fields.required<std::vector<extent_t>>(key);
  if (sides.size() != 2 || sides[0] != sides[1] || sides[0] < 1 || sides[0] > most)
    fields.fail(key, "must be square: one number, or two that are equal");
  return sides[0];
}

/// What both towers' blocks may have.
template <class Tower>
void read_block(json_fields& fields, Tower& tower) {
  constexpr extent_t most = 1 << 24;
  tower.width = fields.in_range<extent_t>("width", 1, most, tower.width);
  tower.layers = fields.in_range<extent_t>("layers", 0, 10'000, tower.layers);
  tower.mlp_ratio = fields.in_range<double>("mlp_ratio", 0, 1024, tower.mlp_ratio);
  if (tower.mlp_width() < 1)
    fields.fail("mlp_ratio", "must leave the MLP a width of at least 1");
  if (fields.has("norm_kwargs")) {
    auto norm = fields.object("norm_kwargs");
    tower.norm_epsilon = norm.in_range<double>("eps", 0, 1, tower.norm_epsilon);
    norm.expect_no_others();
  }
  if (fields.has("act_kwargs")) {
    auto activation = fields.object("act_kwargs");
    auto const form = activation.optional<std::string>("approximate", "none");
    if (form != "none" && form != "tanh")
      activation.fail("approximate", R"(must be "none" or "tanh")");
    tower.tanh_gelu = form == "tanh";
    activation.expect_no_others();
  }
  if (fields.has("ls_init_value"))
    fields.fail("ls_init_value", "layer scale is not supported");
  only(fields, "block_type", std::string("default"), R"(must be "default")");
  for (auto const* key :
       {"qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"})
    only(fields, key, false, "is not supported: blocks are pre-norm, with no other norms or scales");
  fields.ignore("output_tokens");
}

inline open_clip_vision read_vision(json_fields fields) {
  open_clip_vision c;
  if (fields.has("timm_model_name"))
    fields.fail("timm_model_name",
                "towers of timm are not supported; a plain ViT has width, layers and patch_size");
  for (auto const* key : {"timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop",
                          "timm_drop_path", "attn_pooler_queries", "attn_pooler_heads"})
    fields.ignore(key);
  if (auto const* layers = fields.find("layers"); layers != nullptr && layers->kind() == json_kind::array)
    fields.fail("layers", "a list is a ResNet, which is not supported; a plain ViT has one number");
  read_block(fields, c);
  c.image_size = square(fields, "image_size", c.image_size);
  c.patch_size = square(fields, "patch_size", c.patch_size);
  if (c.image_size % c.patch_size != 0)
    fields.fail("image_size", "must be a multiple of patch_size");
  c.head_width = fields.in_range<extent_t>("head_width", 1, c.width, c.head_width);
  if (c.width % c.head_width != 0)
    fields.fail("head_width", "must divide width");
  only(fields, "attentional_pool", false,
       R"(an attentional pool is not supported; pool_type "tok" and "avg" are)");
  only(fields, "patch_dropout", 0., "dropping patches is not supported");
  only(fields, "pos_embed_type", std::string("learnable"), R"(must be "learnable")");
  auto const pool = fields.optional<std::string>("pool_type", "tok");
  if (pool != "tok" && pool != "avg")
    fields.fail("pool_type", R"(must be "tok", the class token, or "avg", the mean of the patches)");
  c.pool = pool == "tok" ? open_clip_vision::pool_type::tok : open_clip_vision::pool_type::avg;
  c.class_token = !fields.optional("no_class_token", false);
  if (!c.class_token && pool == "tok")
    fields.fail("no_class_token", R"(needs pool_type "avg")");
  c.no_ln_pre = fields.optional("no_ln_pre", c.no_ln_pre);
  c.final_ln_after_pool = fields.optional("final_ln_after_pool", c.final_ln_after_pool);
  fields.expect_no_others();
  return c;
}

inline open_clip_text read_text(json_fields fields) {
  constexpr extent_t most = 1 << 24;
  open_clip_text c;
  if (fields.has("hf_model_name"))
    fields.fail("hf_model_name",
                "text towers of Hugging Face are not supported; a plain one has width, heads and layers");
  for (auto const* key : {"hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "tokenizer_mode",
                          "tokenizer_kwargs", "pad_id", "final_ln_after_pool"})
    fields.ignore(key);
  read_block(fields, c);
  c.context_length = fields.in_range<extent_t>("context_length", 1, most, c.context_length);
  c.vocab_size = fields.in_range<extent_t>("vocab_size", 1, most, c.vocab_size);
  c.heads = fields.in_range<extent_t>("heads", 1, c.width, c.heads);
  if (c.width % c.heads != 0)
    fields.fail("heads", "must divide width");
  only(fields, "embed_cls", false, "a class token in the text tower is not supported");
  only(fields, "proj_bias", false, "a bias of the projection is not supported");
  only(fields, "proj_type", std::string("linear"), R"(must be "linear")");
  using enum open_clip_text::pool_type;
  auto const pool = fields.optional<std::string>("pool_type", "argmax");
  if (pool == "first" || pool == "last")
    fields.fail("pool_type", R"(")" + pool +
                                 R"(" is not supported, since captions are not padded to a fixed length; )"
                                 R"("argmax", "eos" and "mean" are)");
  if (pool != "argmax" && pool != "eos" && pool != "mean")
    fields.fail("pool_type", R"(must be "argmax", the highest id, "eos", the first eos_id, or "mean")");
  c.pool = pool == "argmax" ? argmax : pool == "eos" ? eos : mean;
  c.eos_id = fields.in_range<extent_t>("eos_id", 0, c.pool == eos ? c.vocab_size - 1 : most, c.eos_id);
  c.no_causal_mask = fields.optional("no_causal_mask", c.no_causal_mask);
  c.hf_tokenizer_name = fields.optional("hf_tokenizer_name", c.hf_tokenizer_name);
  fields.expect_no_others();
  return c;
}

inline open_clip_preprocess read_preprocess(json_fields fields, extent_t image_size) {
  open_clip_preprocess c;
  auto const triple = [&](std::string_view key, std::array<double, 3>& values) {
    auto const read = fields.optional<std::vector<double>>(key, {values.begin(), values.end()});
    if (read.size() != 3)
      fields.fail(key, "must be three numbers: red, green, blue");
    std::copy(read.begin(), read.end(), values.begin());
  };
  triple("mean", c.mean);
  triple("std", c.deviation);
  for (auto const x : c.deviation)
    if (!(x > 0))
      fields.fail("std", "must be positive");
  if (square(fields, "size", image_size) != image_size)
    fields.fail("size", "must be vision_cfg's image_size");
  only(fields, "mode", std::string("RGB"), R"(must be "RGB")");
  only(fields, "interpolation", std::string("bicubic"), R"(must be "bicubic")");
  only(fields, "resize_mode", std::string("shortest"),
       R"(must be "shortest": the short side is resized, the centre cropped)");
  fields.ignore("fill_color");
  return c;
}

inline open_clip_config read_model(json_fields fields) {
  open_clip_config c;
  if (fields.has("multimodal_cfg"))
    fields.fail("multimodal_cfg", "CoCa is not supported; models of two towers are");
  c.embed_dim = fields.in_range<extent_t>("embed_dim", 1, 1 << 24);
  c.quick_gelu = fields.optional("quick_gelu", c.quick_gelu);
  c.custom_text = fields.optional("custom_text", c.custom_text);
  c.init_logit_scale = fields.in_range<double>("init_logit_scale", -100, 100, c.init_logit_scale);
  c.vision = read_vision(fields.object("vision_cfg"));
  c.text = read_text(fields.object("text_cfg"));
  if (fields.has("init_logit_bias"))
    c.init_logit_bias = fields.in_range<double>("init_logit_bias", -1000, 1000);
  fields.ignore("nonscalar_logit_scale");
  fields.expect_no_others();
  return c;
}

}  // namespace detail

/// Reads a configuration. What Yoke's towers cannot be, such as towers of timm or of Hugging Face,
/// ResNets and CoCa, is an io::error that names the key and what is supported; so is an unknown key.
inline open_clip_config open_clip_from_json(json const& value, std::string const& file) {
  auto top = json_fields{value, file};
  if (!top.has("model_cfg"))
    return detail::read_model(std::move(top));
  auto c = detail::read_model(top.object("model_cfg"));
  if (top.has("preprocess_cfg"))
    c.preprocess = detail::read_preprocess(top.object("preprocess_cfg"), c.vision.image_size);
  return c;
}
inline open_clip_config read_open_clip_config(std::string const& path) {
  return open_clip_from_json(read_json(path), path);
}

/// The inverse, in the form of open_clip_config.json. OpenCLIP can build it unless it uses what is
/// Yoke's own: a mean of the text's rows, no class token.
inline json to_json(open_clip_config const& c) {
  auto const block = [](json& target, auto const& tower, auto const& standard) {
    if (tower.mlp_ratio != standard.mlp_ratio)
      target["mlp_ratio"] = tower.mlp_ratio;
    if (tower.norm_epsilon != standard.norm_epsilon)
      target["norm_kwargs"]["eps"] = tower.norm_epsilon;
    if (tower.tanh_gelu)
      target["act_kwargs"]["approximate"] = "tanh";
  };
  json vision;
  vision["image_size"] = c.vision.image_size;
  vision["layers"] = c.vision.layers;
  vision["width"] = c.vision.width;
  vision["patch_size"] = c.vision.patch_size;
  vision["head_width"] = c.vision.head_width;
  block(vision, c.vision, open_clip_vision{});
  if (c.vision.pool == open_clip_vision::pool_type::avg)
    vision["pool_type"] = "avg";
  if (!c.vision.class_token)
    vision["no_class_token"] = true;
  if (c.vision.no_ln_pre)
    vision["no_ln_pre"] = true;
  if (c.vision.final_ln_after_pool)
    vision["final_ln_after_pool"] = true;

  json text;
  text["context_length"] = c.text.context_length;
  text["vocab_size"] = c.text.vocab_size;
  text["width"] = c.text.width;
  text["heads"] = c.text.heads;
  text["layers"] = c.text.layers;
  block(text, c.text, open_clip_text{});
  using enum open_clip_text::pool_type;
  if (c.text.pool != argmax)
    text["pool_type"] = c.text.pool == eos ? "eos" : "mean";
  if (c.text.eos_id != open_clip_text{}.eos_id)
    text["eos_id"] = c.text.eos_id;
  if (c.text.no_causal_mask)
    text["no_causal_mask"] = true;
  if (!c.text.hf_tokenizer_name.empty())
    text["hf_tokenizer_name"] = c.text.hf_tokenizer_name;

  json model;
  model["embed_dim"] = c.embed_dim;
  if (c.quick_gelu)
    model["quick_gelu"] = true;
  if (c.custom_text)
    model["custom_text"] = true;
  if (c.init_logit_scale != open_clip_config{}.init_logit_scale)
    model["init_logit_scale"] = c.init_logit_scale;
  if (c.init_logit_bias)
    model["init_logit_bias"] = *c.init_logit_bias;
  model["vision_cfg"] = std::move(vision);
  model["text_cfg"] = std::move(text);

  json whole;
  whole["model_cfg"] = std::move(model);
  whole["preprocess_cfg"]["mean"] = std::vector<double>(c.preprocess.mean.begin(), c.preprocess.mean.end());
  whole["preprocess_cfg"]["std"] =
      std::vector<double>(c.preprocess.deviation.begin(), c.preprocess.deviation.end());
  return whole;
}

/// Writes to_json to a file, which appears complete or not at all.
inline void write_open_clip_config(std::string const& path, open_clip_config const& c) {
  write_json(path, to_json(c));
}

}  // namespace yoke::io
