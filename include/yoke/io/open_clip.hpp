// What an OpenCLIP model configuration says about two plain towers. Reading and writing the files:
// open_clip_file.hpp.
#pragma once
#include <yoke/core/tensor.hpp>

#include <array>
#include <optional>
#include <string>

namespace yoke::io {

/// The vision transformer's part, OpenCLIP's "vision_cfg". Defaults are OpenCLIP's.
struct open_clip_vision {
  enum class pool_type {
    tok,  // the class token's row
    avg   // the mean of the patches' rows; OpenCLIP's tower has a class token beside them
  };

  extent_t image_size = 224;  // pixels, square, a multiple of the patch
  extent_t patch_size = 16;
  extent_t width = 768;
  extent_t layers = 12;
  extent_t head_width = 64;  // divides the width
  double mlp_ratio = 4;
  pool_type pool = pool_type::tok;
  bool class_token = true;           // false is Yoke's own: "no_class_token"; pool is then avg
  bool no_ln_pre = false;            // no norm before the blocks
  bool final_ln_after_pool = false;  // with avg: the norm is of the mean, not of each row
  double norm_epsilon = 1e-5;
  bool tanh_gelu = false;  // the tanh form instead of erf

  extent_t heads() const { return width / head_width; }
  extent_t mlp_width() const { return static_cast<extent_t>(static_cast<double>(width) * mlp_ratio); }
  bool operator==(open_clip_vision const&) const = default;
};

/// The text transformer's part, OpenCLIP's "text_cfg". Defaults are OpenCLIP's.
struct open_clip_text {
  enum class pool_type {
    argmax,  // the row of the highest id, which is the end token of CLIP's vocabulary
    eos,     // the row of the first eos_id
    mean     // the mean of all rows; Yoke's own
  };

  extent_t context_length = 77;
  extent_t vocab_size = 49408;
  extent_t width = 512;
  extent_t heads = 8;  // divides the width
  extent_t layers = 12;
  double mlp_ratio = 4;
  pool_type pool = pool_type::argmax;
  extent_t eos_id = 2;          // where the pool is eos
  bool no_causal_mask = false;  // every token sees every other; OpenCLIP's also see the padding
  double norm_epsilon = 1e-5;
  bool tanh_gelu = false;
  std::string hf_tokenizer_name;  // the tokenizer that it was made for; empty: CLIP's

  extent_t mlp_width() const { return static_cast<extent_t>(static_cast<double>(width) * mlp_ratio); }
  bool operator==(open_clip_text const&) const = default;
};

/// How images are normalised, "preprocess_cfg": (pixel / 255 - mean) / deviation of red, green, blue.
struct open_clip_preprocess {
  std::array<double, 3> mean{0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> deviation{0.26862954, 0.26130258, 0.27577711};

  bool operator==(open_clip_preprocess const&) const = default;
};

/// A model of two plain transformers.
struct open_clip_config {
  extent_t embed_dim = 512;
  bool quick_gelu = false;                       // x * sigmoid(1.702 x) in both towers
  bool custom_text = false;                      // the text tower's weights are named "text.…"
  double init_logit_scale = 2.6592600369327779;  // ln(1 / 0.07)
  std::optional<double> init_logit_bias{};       // of the sigmoid loss
  open_clip_vision vision;
  open_clip_text text;
  open_clip_preprocess preprocess;

  bool operator==(open_clip_config const&) const = default;
};

}  // namespace yoke::io
