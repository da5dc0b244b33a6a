// A trained model for the tools that only embed: yoke-zero-shot and yoke-embed.
#pragma once
#include <yoke/contrastive/frozen.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/plan.hpp>

#include "models.hpp"
#include "tools.hpp"
#include <memory>

namespace tools {

/// A model of one kind from a checkpoint: float on this machine, without what only training needs.
template <class Kind>
class encoder_of final : public embedder {
 public:
  using context_type = cpu::context<float>;

  encoder_of(std::string const& folder, extent_t batch)
      : what_{Kind::read(folder + "/" + Kind::file)},
        model_{Kind::build(scope{list_}, what_.model)},
        tokenizer_{text::sentence_piece::load(folder + "/" + tokenizer_file,
                                              {.context_length = what_.model.text.context_length})},
        device_{
            train::plan_encode<float>(model_, list_, batch, shape{image_size(), image_size(), extent_t{3}},
                                      what_.model.text.context_length),
            mebibytes(1)},
        store_{device_, list_},
        towers_{device_,
                {model_.image, store_, model_.text, store_, tokenizer_, what_.preprocess, image_size(),
                 model_.embedding, batch}} {
    train::load_parameters(folder, device_, list_, store_);
  }

  extent_t image_size() const override { return what_.model.image.image_size.height; }
  eval::embeddings empty() const override { return towers_.empty(); }
  eval::embeddings texts(std::span<std::string const> lines) override { return towers_.texts(lines); }
  void images(data::batch const& b, eval::embeddings& to) override { towers_.images(b, to); }
  void tokenize(std::string_view text, std::vector<std::int32_t>& ids) const override {
    tokenizer_(text, ids);
  }

 private:
  using model_type = typename Kind::model;
  using image_type = decltype(model_type::image);
  using text_type = decltype(model_type::text);
  using store_type = contrastive::frozen_parameters<context_type>;

  typename Kind::description what_;
  parameter_list list_;
  model_type model_;
  text::sentence_piece tokenizer_;
  context_type device_;
  store_type store_;
  embedder_of<context_type, image_type, store_type, text_type, store_type> towers_;
};

/// The model of a checkpoint, `batch` samples at a time.
inline std::unique_ptr<embedder> load_encoder(std::string const& checkpoint, extent_t batch) {
  auto const folder = io::committed_folder(checkpoint);
  auto const run = train::read_run(folder);
  if (auto const* const phase = run.find("phase"); phase != nullptr && phase->as<std::string>() == "image")
    throw io::error(checkpoint, "",
                    "is of phase image: there is no text tower yet, and images have classes only");
  if (holds_basic(folder))
    return std::make_unique<encoder_of<basic_kind>>(folder, batch);
  return std::make_unique<encoder_of<clip_kind>>(folder, batch);
}

}  // namespace tools
