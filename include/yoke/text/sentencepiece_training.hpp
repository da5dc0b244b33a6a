// Trains a SentencePiece vocabulary on captions in memory: nothing touches the disk, nothing is
// printed.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/text/utf8.hpp>

#include <cstddef>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace yoke::text {

/// How a vocabulary is cut from its captions.
enum class subwords {
  automatic,   // unigram, or byte pairs where the captions are too few to fill the vocabulary
  unigram,     // the likeliest pieces (Kudo, ACL 2018)
  byte_pairs,  // the most frequent pairs, merged (Sennrich et al., ACL 2016)
};

/// Of the vocabulary that is trained.
struct vocabulary_options {
  extent_t vocabulary_size = 8192;  // at most; fewer where the captions hold no more pieces
  subwords method = subwords::automatic;
  bool lower_case = true;                  // fold case (all of Unicode), as CLIP does
  double character_coverage = 0.9995;      // the rarest characters are spelled as bytes instead
  std::size_t largest_corpus = 1'000'000;  // more captions than this are thinned evenly
};

namespace detail {

/// Hands captions to the trainer: those that are UTF-8 and not blank, one in `stride_`.
class caption_iterator final : public sentencepiece::SentenceIterator {
 public:
  caption_iterator(std::span<std::string const> captions, std::size_t stride)
      : captions_{captions}, stride_{stride} {
    skip_unusable();
  }
  bool done() const override { return at_ >= captions_.size(); }
  void Next() override {
    at_ += stride_;
    skip_unusable();
  }
  std::string const& value() const override { return captions_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void skip_unusable() {
    while (!done() && (is_blank(captions_[at_]) || !is_utf8(captions_[at_]))) at_ += stride_;
  }

  std::span<std::string const> captions_;
  std::size_t stride_, at_ = 0;
};

inline std::string train_pieces(std::span<std::string const> captions, vocabulary_options const& wanted,
                                char const* method) {
  auto const limit = wanted.largest_corpus;
  caption_iterator sentences{captions, (captions.size() + limit - 1) / limit};
  if (sentences.done())
    throw io::error("captions", "", "none is usable to train a vocabulary on");
  std::string model;
  auto const status = sentencepiece::SentencePieceTrainer::Train(
      std::unordered_map<std::string, std::string>{
          {"model_type", method},
          {"vocab_size", std::to_string(wanted.vocabulary_size)},
          {"hard_vocab_limit", "false"},
          {"byte_fallback", "true"},
          {"character_coverage", std::to_string(wanted.character_coverage)},
          {"normalization_rule_name", wanted.lower_case ? "nmt_nfkc_cf" : "nmt_nfkc"},
          {"max_sentence_length", "65536"},
          // A fixed number of threads: sums of floats depend on how the captions are dealt out.
          {"num_threads", "4"},
          {"minloglevel", "3"}},
      &sentences, &model);
  if (!status.ok())
    throw io::error("captions", "training a vocabulary", status.ToString());
  return model;
}

inline extent_t pieces(std::string const& model) {
  sentencepiece::SentencePieceProcessor processor;
  auto const status = processor.LoadFromSerializedProto(model);
  return status.ok() ? processor.GetPieceSize() : 0;
}

}  // namespace detail

/// Trains a vocabulary and returns the serialised model, the same for the same captions. Characters
/// outside it are spelled as bytes, so nothing is unknown. Captions that are blank or not UTF-8 are
/// left out; io::error when none is left. Ids: 0 unknown (never produced), 1 start, 2 end,
/// 3 to 258 bytes, then the pieces.
///
/// Unigram's expectation maximisation splits even frequent words when there are few distinct ones
/// ("▁" "re" "d"), at more than twice the tokens of byte pairs; hence subwords::automatic. On prose the two cut alike.
inline std::string train_sentence_piece(std::span<std::string const> captions,
                                        vocabulary_options const& wanted = {}) {
  expects(wanted.vocabulary_size > 0 && wanted.largest_corpus > 0,
          "train_sentence_piece: a positive vocabulary and corpus size");
  expects(wanted.character_coverage > 0 && wanted.character_coverage <= 1,
          "train_sentence_piece: a character coverage in (0, 1]");
  if (wanted.method == subwords::byte_pairs)
    return detail::train_pieces(captions, wanted, "bpe");
  auto model = detail::train_pieces(captions, wanted, "unigram");
  if (wanted.method == subwords::automatic && detail::pieces(model) < wanted.vocabulary_size)
    return detail::train_pieces(captions, wanted, "bpe");
  return model;
}

}  // namespace yoke::text
