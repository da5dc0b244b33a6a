// A trained model for the tools that only embed: yoke-zero-shot and yoke-embed.
#pragma once
#include <yoke/cpu/context.hpp>

#include "tools.hpp"

namespace tools {

/// A trained model, ready to embed: float on this machine.
class encoder {
 public:
  using context_type = cpu::context<float>;

  encoder(std::string const& checkpoint, extent_t batch)
      : saved_{checkpoint},
        model_{contrastive::clip(scope{list_}, train::from_open_clip(saved_.config))},
        device_{
            train::plan_encode<float>(model_, list_, batch, shape{image_size(), image_size(), extent_t{3}},
                                      saved_.config.text.context_length),
            mebibytes(1)},
        store_{device_, list_},
        batch_{batch} {
    train::load_parameters(saved_.folder, device_, list_, store_);
  }

  saved_model const& saved() const { return saved_; }
  extent_t image_size() const { return saved_.config.vision.image_size; }
  extent_t batch() const { return batch_; }
  eval::embeddings empty() const { return {model_.embedding, {}}; }

  eval::embeddings texts(std::span<std::string const> lines) {
    return eval::embed_texts(device_, model_, store_, saved_.tokenize, lines, batch_);
  }
  void images(data::batch const& b, eval::embeddings& to) {
    eval::embed_images(device_, model_, store_, pixels_of(b, saved_.config.preprocess), batch_, to);
  }

 private:
  saved_model saved_;
  parameter_list list_;
  contrastive::clip_model model_;
  context_type device_;
  parameter_store<context_type> store_;
  extent_t batch_;
};

}  // namespace tools
