// OpenCLIP's configurations: read as OpenCLIP builds them, refused by key, and written so that it reads them.
#include <yoke/io/open_clip_file.hpp>

#include "io/scratch.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace io = yoke::io;
using Catch::Matchers::ContainsSubstring;
using io::json;
using yoke::extent_t;

namespace {

/// What io::error says of a configuration, "" when it is accepted.
std::string refusal(std::string_view text) {
  try {
    io::open_clip_from_json(io::parse_json(text, "c.json"), "c.json");
    return {};
  } catch (io::error const& e) {
    return e.what();
  }
}

io::open_clip_config parse(std::string_view text) {
  return io::open_clip_from_json(io::parse_json(text, "c.json"), "c.json");
}

/// The smallest configuration, with more settings in each part.
std::string with(std::string const& top, std::string const& vision = "", std::string const& text = "") {
  auto const more = [](std::string const& s) { return s.empty() ? s : ", " + s; };
  return R"({"embed_dim": 8, "vision_cfg": {"width": 128)" + more(vision) +
         R"(}, "text_cfg": {"width": 128)" + more(text) + "}" + more(top) + "}";
}

/// One that uses everything that OpenCLIP can build, too.
io::open_clip_config rich() {
  io::open_clip_config c;
  c.embed_dim = 48;
  c.quick_gelu = true;
  c.init_logit_scale = 2.5;
  c.vision = {.image_size = 48,
              .patch_size = 8,
              .width = 64,
              .layers = 3,
              .head_width = 32,
              .mlp_ratio = 2.5,
              .pool = io::open_clip_vision::pool_type::avg,
              .no_ln_pre = true,
              .final_ln_after_pool = true,
              .norm_epsilon = 1e-6};
  c.text = {.context_length = 16,
            .vocab_size = 1000,
            .width = 40,
            .heads = 4,
            .layers = 2,
            .pool = io::open_clip_text::pool_type::eos,
            .eos_id = 3,
            .no_causal_mask = true,
            .hf_tokenizer_name = "words"};
  c.preprocess = {.mean = {0.5, 0.25, 0.1}, .deviation = {0.5, 1, 2}};
  return c;
}

}  // namespace

TEST_CASE("open clip: configurations that come with OpenCLIP are read as it builds them, or refused by key",
          "[io]") {
  auto const all = io::read_json(YOKE_GOLDEN_DIR "/open_clip/configs.json");
  int plain = 0, refused = 0;
  for (auto const& name : all.keys()) {
    CAPTURE(name);
    auto const& entry = *all.find(name);
    auto const config = entry.find("config")->dump();
    if (auto const* key = entry.find("refused")) {
      ++refused;
      CHECK_THAT(refusal(config), ContainsSubstring("c.json: " + *key->as<std::string>() + ": "));
      continue;
    }
    ++plain;
    auto const c = parse(config);
    io::json_fields facts{*entry.find("facts"), name};
    auto vision = facts.object("vision"), text = facts.object("text");
    auto const side = c.vision.image_size / c.vision.patch_size;
    CHECK(c.embed_dim == facts.required<extent_t>("embed_dim"));
    CHECK(c.quick_gelu == facts.required<bool>("quick_gelu"));
    CHECK(side * side + 1 == vision.required<extent_t>("tokens"));
    CHECK(c.vision.patch_size == vision.required<extent_t>("patch"));
    CHECK(c.vision.width == vision.required<extent_t>("width"));
    CHECK(c.vision.layers == vision.required<extent_t>("layers"));
    CHECK(c.vision.heads() == vision.required<extent_t>("heads"));
    CHECK(c.vision.mlp_width() == vision.required<extent_t>("mlp_width"));
    CHECK(c.text.context_length == text.required<extent_t>("context"));
    CHECK(c.text.vocab_size == text.required<extent_t>("vocabulary"));
    CHECK(c.text.width == text.required<extent_t>("width"));
    CHECK(c.text.layers == text.required<extent_t>("layers"));
    CHECK(c.text.heads == text.required<extent_t>("heads"));
    CHECK(c.text.mlp_width() == text.required<extent_t>("mlp_width"));
    CHECK(io::open_clip_from_json(io::to_json(c), "again") == c);
  }
  CHECK(plain >= 14);
  CHECK(refused >= 7);
}

TEST_CASE("open clip: what is left out has OpenCLIP's defaults", "[io]") {
  auto const c = parse(R"({"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}})");
  CHECK(c == io::open_clip_config{});
  CHECK(c.vision.heads() == 12);
  CHECK(c.vision.mlp_width() == 3072);
  CHECK(
      parse(
          R"({"embed_dim": 512, "quick_gelu": null, "vision_cfg": {"ls_init_value": null, "qk_norm": false, "timm_model_name": null, "timm_pool": "avg", "image_size": [224, 224]}, "text_cfg": {"hf_model_name": null, "pad_id": 1}, "init_logit_bias": null})") ==
      c);
}

TEST_CASE("open clip: every setting that is carried is carried", "[io]") {
  auto const c = parse(with(
      R"("quick_gelu": true, "custom_text": true, "init_logit_scale": 1.5, "init_logit_bias": -10)",
      R"("image_size": [64, 64], "patch_size": 16, "layers": 2, "head_width": 32, "mlp_ratio": 3.7, "pool_type": "avg", "no_class_token": true, "no_ln_pre": true, "final_ln_after_pool": true, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"})",
      R"("context_length": 9, "vocab_size": 11, "heads": 2, "layers": 0, "mlp_ratio": 2, "pool_type": "mean", "no_causal_mask": true, "norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "none"}, "hf_tokenizer_name": "t")"));
  CHECK(c.quick_gelu);
  CHECK(c.custom_text);
  CHECK((c.init_logit_scale == 1.5 && c.init_logit_bias == -10));
  CHECK((c.vision.image_size == 64 && c.vision.patch_size == 16 && c.vision.layers == 2 &&
         c.vision.heads() == 4));
  CHECK(c.vision.mlp_width() == 473);  // 473.6
  CHECK((c.vision.pool == io::open_clip_vision::pool_type::avg && !c.vision.class_token));
  CHECK((c.vision.no_ln_pre && c.vision.final_ln_after_pool && c.vision.tanh_gelu && !c.text.tanh_gelu));
  CHECK((c.vision.norm_epsilon == 1e-6 && c.text.norm_epsilon == 1e-3));
  CHECK((c.text.context_length == 9 && c.text.vocab_size == 11 && c.text.heads == 2 && c.text.layers == 0));
  CHECK((c.text.pool == io::open_clip_text::pool_type::mean && c.text.no_causal_mask &&
         c.text.hf_tokenizer_name == "t"));
  CHECK(io::open_clip_from_json(io::to_json(c), "again") == c);
}

TEST_CASE("open clip: the form of open_clip_config.json has the preprocessing, too", "[io]") {
  auto const whole = [](std::string const& preprocess) {
    return R"({"model_cfg": )" + with("") + R"(, "preprocess_cfg": )" + preprocess + R"(, "comment": 1})";
  };
  auto const c = parse(whole(
      R"({"mean": [0.5, 0.25, 0], "std": [1, 2, 3.5], "size": 224, "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0})"));
  CHECK(c.preprocess.mean == std::array{0.5, 0.25, 0.});
  CHECK(c.preprocess.deviation == std::array{1., 2., 3.5});
  CHECK(parse(whole("{}")).preprocess == io::open_clip_preprocess{});
  CHECK(refusal(whole(R"({"mean": [0.5, 0.25]})")) ==
        "c.json: preprocess_cfg.mean: must be three numbers: red, green, blue");
  CHECK(refusal(whole(R"({"std": [1, 0, 1]})")) == "c.json: preprocess_cfg.std: must be positive");
  CHECK(refusal(whole(R"({"std": 1})")) ==
        "c.json: preprocess_cfg.std: must be a list, each a number, not 1");
  CHECK_THAT(refusal(whole(R"({"size": [224, 256]})")),
             ContainsSubstring("preprocess_cfg.size: must be square"));
  CHECK_THAT(refusal(whole(R"({"size": 256})")),
             ContainsSubstring("preprocess_cfg.size: must be vision_cfg's image_size"));
  CHECK_THAT(refusal(whole(R"({"interpolation": "bilinear"})")),
             ContainsSubstring("preprocess_cfg.interpolation: must be \"bicubic\""));
  CHECK_THAT(refusal(whole(R"({"resize_mode": "squash"})")), ContainsSubstring("preprocess_cfg.resize_mode"));
  CHECK_THAT(refusal(R"({"model_cfg": {"embed_dim": 8}})"),
             ContainsSubstring("c.json: model_cfg.vision_cfg: is missing"));
}

TEST_CASE("open clip: what is wrong or cannot be built is named by key", "[io]") {
  auto const says = [](std::string const& text, std::string const& words) {
    CAPTURE(text);
    CHECK_THAT(refusal(text), ContainsSubstring("c.json: " + words));
  };
  REQUIRE(refusal(with("")).empty());
  says("[]", "must be an object");
  says("{}", "embed_dim: is missing");
  says(R"({"embed_dim": 8})", "vision_cfg: is missing");
  says(R"({"embed_dim": 8, "vision_cfg": {}})", "text_cfg: is missing");
  says(R"({"embed_dim": 0, "vision_cfg": {}, "text_cfg": {}})",
       "embed_dim: must be from 1 to 16777216, not 0");
  says(R"({"embed_dim": "8", "vision_cfg": {}, "text_cfg": {}})",
       "embed_dim: must be a whole number, not \"8\"");
  says(with(R"("init_logit_bias": -10000)"), "init_logit_bias: must be from -1000");
  says(with(R"("towers": 3)"), "towers: is not a key that is known here");

  auto const vision = [&](std::string const& more, std::string const& words) {
    says(with("", more), "vision_cfg." + words);
  };
  vision(R"("pach_size": 3)", "pach_size: is not a key that is known here");
  vision(R"("layers": "12")", "layers: must be a whole number");
  vision(R"("layers": -1)", "layers: must be from 0 to 10000");
  vision(R"("layers": [3, 4, 6, 3])", "layers: a list is a ResNet");
  vision(R"("image_size": [224, 256])", "image_size: must be square");
  vision(R"("image_size": [224, 224, 224])", "image_size: must be square");
  vision(R"("image_size": 225)", "image_size: must be a multiple of patch_size");
  vision(R"("patch_size": 0)", "patch_size: must be from 1 to 1048576, not 0");
  vision(R"("head_width": 63)", "head_width: must divide width");
  vision(R"("head_width": 129)", "head_width: must be from 1 to 128, not 129");
  vision(R"("mlp_ratio": 0.001)", "mlp_ratio: must leave the MLP a width");
  vision(R"("mlp_ratio": -1)", "mlp_ratio: must be from 0");
  vision(R"("pool_type": "none")", "pool_type: must be \"tok\"");
  vision(R"("no_class_token": true)", "no_class_token: needs pool_type \"avg\"");
  vision(R"("attentional_pool": true)", "attentional_pool: an attentional pool is not supported");
  vision(R"("attentional_pool": "parallel")", "attentional_pool: an attentional pool is not supported");
  vision(R"("patch_dropout": 0.5)", "patch_dropout: dropping patches is not supported");
  vision(R"("pos_embed_type": "sin_cos_2d")", "pos_embed_type: must be \"learnable\"");
  vision(R"("ls_init_value": 0.1)", "ls_init_value: layer scale is not supported");
  vision(R"("qk_norm": true)", "qk_norm: is not supported");
  vision(R"("block_type": "custom")", "block_type: must be \"default\"");
  vision(R"("norm_kwargs": {"eps": -1})", "norm_kwargs.eps: must be from 0 to 1");
  vision(R"("norm_kwargs": {"bias": false})", "norm_kwargs.bias: is not a key");
  vision(R"("act_kwargs": {"approximate": "fast"})", "act_kwargs.approximate: must be");
  vision(R"("timm_model_name": "vit")", "timm_model_name: towers of timm are not supported");

  auto const text = [&](std::string const& more, std::string const& words) {
    says(with("", "", more), "text_cfg." + words);
  };
  text(R"("heads": 7)", "heads: must divide width");
  text(R"("vocab_size": 0)", "vocab_size: must be from 1");
  text(R"("context_length": 1e3)", "context_length: must be a whole number, not 1000");
  text(R"("pool_type": "last")", "pool_type: \"last\" is not supported");
  text(R"("pool_type": "sum")", "pool_type: must be");
  text(R"("pool_type": "eos", "vocab_size": 2)", "eos_id: must be from 0 to 1, not 2");
  text(R"("embed_cls": true)", "embed_cls: a class token in the text tower is not supported");
  text(R"("proj_bias": true)", "proj_bias: a bias of the projection is not supported");
  text(R"("proj_type": "none")", "proj_type: must be \"linear\"");
  text(R"("hf_model_name": "roberta-base")", "hf_model_name: text towers of Hugging Face are not supported");
}

TEST_CASE("open clip: the configuration that OpenCLIP has built is written, byte for byte, and read again",
          "[io]") {
  scratch_folder const folder;
  auto const path = folder / "open_clip_config.json";
  io::write_open_clip_config(path, rich());
  CHECK(io::read_file(path) == io::read_file(YOKE_GOLDEN_DIR "/open_clip/yoke.json"));
  CHECK(io::read_open_clip_config(path) == rich());
}
