// SentencePiece vocabularies: load one, or train one on the captions at hand. The component
// yoke::sentencepiece.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/text/tokenizer.hpp>
#include <yoke/text/utf8.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <memory>
#include <sentencepiece_processor.h>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::text {

/// A tokenizer over a SentencePiece model (Kudo and Richardson, EMNLP 2018). Copies share the
/// model, which is never modified.
class sentence_piece {
 public:
  struct options {
    extent_t context_length = 77;  // tokens of a caption, start and end included
  };

  /// Reads a `.model` file. io::error names the file and what is wrong with it. The library checks the structure of
  /// a model but not its every byte: read files that you trust.
  static sentence_piece load(std::string const& path, options wanted) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
      throw io::error(path, "", "cannot be opened");
    std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (file.bad())
      throw io::error(path, "", "cannot be read");
    return sentence_piece(std::move(bytes), wanted, path);
  }
  static sentence_piece load(std::string const& path) { return load(path, {}); }

  /// Takes a model's bytes, as train_sentence_piece or a checkpoint gives them; `name` stands in
  /// for the file's in errors.
  explicit sentence_piece(std::string model, options wanted, std::string_view name = "SentencePiece model")
      : context_length_{wanted.context_length} {
    expects(context_length_ >= 2, "sentence_piece: a context of at least a start and an end token");
    auto loaded = std::make_shared<shared_model>();
    loaded->bytes = std::move(model);
    // An empty message is a legal one to the parser, and the library dies on it later.
    if (loaded->bytes.empty())
      throw io::error(name, "", "is empty, not a SentencePiece model");
    auto const status = loaded->processor.LoadFromSerializedProto(loaded->bytes);
    if (!status.ok())
      throw io::error(name, "", "is not a SentencePiece model: " + status.ToString());
    start_ = loaded->processor.bos_id();
    end_ = loaded->processor.eos_id();
    if (end_ < 0)
      throw io::error(name, "", "has no end-of-text token, at which captions are pooled");
    model_ = std::move(loaded);
  }
  explicit sentence_piece(std::string model) : sentence_piece(std::move(model), options{}) {}

  /// Appends the ids of a caption; see the concept `tokenizer`.
  void operator()(std::string_view caption, std::vector<std::int32_t>& ids) const {
    auto const malformed = first_malformed_utf8(caption);
    if (malformed != std::string_view::npos)
      throw io::error("caption", "byte " + std::to_string(malformed), "not UTF-8");
    std::vector<int> words;
    auto const status = model_->processor.Encode(caption, &words);
    if (!status.ok())
      throw io::error("caption", "", status.ToString());
    auto const room = static_cast<std::size_t>(context_length_) - (start_ < 0 ? 1 : 2);
    if (start_ >= 0)
      ids.push_back(start_);
    ids.insert(ids.end(), words.begin(),
               words.begin() + static_cast<std::ptrdiff_t>(std::min(room, words.size())));
    ids.push_back(end_);
  }

  extent_t context_length() const { return context_length_; }
  extent_t vocabulary_size() const { return model_->processor.GetPieceSize(); }
  std::int32_t end_of_text() const { return end_; }

  /// The text of ids, start and end tokens left out. Case and white space are as the model
  /// normalised them.
  std::string decode(std::vector<std::int32_t> const& ids) const {
    for (auto id : ids) expects(id >= 0 && id < vocabulary_size(), "sentence_piece: ids of this vocabulary");
    std::string text;
    auto const status = model_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    expects(status.ok(), [&] { return status.ToString(); });
    return text;
  }

  /// The serialised model, to be saved with a checkpoint.
  std::string const& bytes() const { return model_->bytes; }

 private:
  struct shared_model {
    std::string bytes;
    sentencepiece::SentencePieceProcessor processor;
  };

  std::shared_ptr<shared_model const> model_;
  extent_t context_length_;
  std::int32_t start_ = -1, end_ = -1;
};

static_assert(tokenizer<sentence_piece>);

}  // namespace yoke::text
