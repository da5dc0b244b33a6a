// What evaluation and the embedding tools ask of a model, whatever it is and wherever it runs.
#pragma once
#include <yoke/data/batch.hpp>
#include <yoke/eval/embed.hpp>
#include <yoke/io/open_clip.hpp>
#include <yoke/text/sentencepiece.hpp>

#include <algorithm>
#include <span>
#include <string>

namespace tools {

using namespace yoke;

/// The pixels are to be normalised as the model's configuration says.
inline void normalize(contrastive::pixel_batch& batch, io::open_clip_preprocess const& p) {
  std::copy(p.mean.begin(), p.mean.end(), batch.mean.begin());
  std::copy(p.deviation.begin(), p.deviation.end(), batch.deviation.begin());
}

inline contrastive::pixel_batch pixels_of(data::batch const& b, io::open_clip_preprocess const& p) {
  contrastive::pixel_batch batch{.pixels = b.images()};
  normalize(batch, p);
  return batch;
}

inline contrastive::caption_batch captions_of(data::batch const& b) {
  return {tokens{b.token_segments(), b.token_ids()}};
}

/// A model that embeds images and texts to rows of unit length.
class embedder {
 public:
  embedder() = default;
  embedder(embedder const&) = delete;
  embedder& operator=(embedder const&) = delete;
  virtual ~embedder() = default;

  virtual extent_t image_size() const = 0;
  /// No rows yet, of the model's width.
  virtual eval::embeddings empty() const = 0;
  virtual eval::embeddings texts(std::span<std::string const> lines) = 0;
  /// Appends the rows of a batch.
  virtual void images(data::batch const& b, eval::embeddings& to) = 0;
  /// For a loader.
  virtual void tokenize(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
};

/// One tower with its width, under the name that eval::embed_images or eval::embed_texts wants.
template <class Tower>
struct image_tower_of {
  Tower const& image;
  extent_t embedding;
};
template <class Tower>
struct text_tower_of {
  Tower const& text;
  extent_t embedding;
};

/// Two towers, each with the store of its parameters.
template <class C, class Image, class ImageStore, class Text, class TextStore>
class embedder_of final : public embedder {
 public:
  struct parts {
    Image const& image;
    ImageStore const& image_store;
    Text const& text;
    TextStore const& text_store;
    text::sentence_piece const& tokenizer;
    io::open_clip_preprocess const& preprocess;
    extent_t image_size, embedding, batch;
  };
  embedder_of(C& c, parts const& p) : c_{&c}, p_{p} {}

  extent_t image_size() const override { return p_.image_size; }
  eval::embeddings empty() const override { return {p_.embedding, {}}; }
  eval::embeddings texts(std::span<std::string const> lines) override {
    return eval::embed_texts(*c_, text_tower_of<Text>{p_.text, p_.embedding}, p_.text_store, p_.tokenizer,
                             lines, p_.batch);
  }
  void images(data::batch const& b, eval::embeddings& to) override {
    eval::embed_images(*c_, image_tower_of<Image>{p_.image, p_.embedding}, p_.image_store,
                       pixels_of(b, p_.preprocess), p_.batch, to);
  }
  void tokenize(std::string_view text, std::vector<std::int32_t>& ids) const override {
    p_.tokenizer(text, ids);
  }

 private:
  C* c_;
  parts p_;
};

}  // namespace tools
