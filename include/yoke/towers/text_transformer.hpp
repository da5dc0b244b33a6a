// The text tower: a transformer over packed captions, causal and pooled at the end token as CLIP's
// (arXiv 2103.00020), or bidirectional and mean-pooled as BASIC's (arXiv 2111.10050). No row of
// padding exists.
#pragma once
#include <yoke/nn/transformer.hpp>
#include <yoke/ops/tokens.hpp>

namespace yoke::towers {

/// The row of the end token, or the mean of all rows.
enum class text_pool { end_token, mean };

/// Of a transformer text tower; the defaults are those of CLIP's ViT-B.
struct text_transformer_config {
  extent_t vocabulary = 49408;
  extent_t context_length = 77;
  extent_t width = 512;
  extent_t layers = 12;
  extent_t heads = 8;
  extent_t mlp_width = 0;  // 0: 4 * width
  extent_t embedding = 512;
  text_pool pool = text_pool::end_token;
  bool causal = true;
  yoke::activation activation = yoke::activation::gelu;
  double norm_epsilon = 1e-5;
  float dropout = 0;
  float stochastic_depth = 0;
  rematerialize remat = rematerialize::nothing;
  nn::model_parallel model_parallel = nn::model_parallel::none;
};

/// Captions -> (captions, embedding), not normalised. The end token is the last of each caption.
class text_transformer {
 public:
  text_transformer(scope s, text_transformer_config const& c)
      : config_{c},
        gathered_{nn::gathered_rows(s, c.model_parallel, c.vocabulary) == matmul_split::gathered},
        table_{s.weight("tokens", shape{c.vocabulary, c.width}, 0.02f, weight_decay::yes,
                        gathered_ ? cut{0, 1} : cut{})},
        positions_{s.weight("positions", shape{c.context_length, c.width}, 0.01f)},
        blocks_{s,
                {.width = c.width,
                 .layers = c.layers,
                 .heads = c.heads,
                 .mlp_width = c.mlp_width,
                 .activation = c.activation,
                 .norm_epsilon = c.norm_epsilon,
                 .causal = c.causal,
                 .dropout = c.dropout,
                 .stochastic_depth = c.stochastic_depth,
                 .remat = c.remat,
                 .model_parallel = c.model_parallel}},
        norm_{s / "norm", c.width, c.norm_epsilon},
        projection_{s / "projection",
                    {.in = c.width,
                     .out = c.embedding,
                     .bias = false,
                     .split = nn::gathered_rows(s, c.model_parallel, c.embedding)}} {}

  value<2> operator()(auto& t, tokens const& batch) const {
    auto const& runs = batch.captions;
    auto x = ops::token_embedding(t, runs, batch.ids, table_, positions_, gathered_);
    x = blocks_(t, x, runs);
    if (config_.pool == text_pool::end_token)  // only the pooled rows need the norm
      return projection_(t, norm_(t, ops::pool(t, x, runs, pool_kind::last)));
    return projection_(t, ops::pool(t, norm_(t, x), runs, pool_kind::mean));
  }

  text_transformer_config const& config() const { return config_; }

 private:
  text_transformer_config config_;
  bool gathered_;  // the table
  parameter<2> table_, positions_;
  nn::transformer blocks_;
  nn::layer_norm norm_;
  nn::linear projection_;
};

}  // namespace yoke::towers
