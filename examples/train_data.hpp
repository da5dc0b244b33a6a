// The data of a run, whatever its source is: labelled images for phase image, pairs for the others.
#pragma once
#include <yoke/data/loader.hpp>
#include <yoke/text/sentencepiece.hpp>
#include <yoke/train/sources.hpp>

#include "settings.hpp"
#include <memory>
#include <string>

namespace train_tool {

/// A loader of any source.
class any_loader {
 public:
  any_loader() = default;
  any_loader(any_loader const&) = delete;
  any_loader& operator=(any_loader const&) = delete;
  virtual ~any_loader() = default;

  virtual bool next(data::batch& into) = 0;
  virtual std::uint64_t skipped() const = 0;
};

/// Where a run's samples come from. What can be known to be wrong with them is thrown before any work (io::error).
class training_data {
 public:
  /// `classes`: names in the list of classes; 0 without one.
  training_data(settings const& s, std::size_t classes);
  ~training_data();
  training_data(training_data const&) = delete;
  training_data& operator=(training_data const&) = delete;

  std::uint64_t labelled_samples() const;
  std::uint64_t pair_samples() const;
  /// The tokenizer of the checkpoint or file that the settings name, or one trained on a part of the captions.
  text::sentence_piece tokenizer(extent_t context) const;

  std::unique_ptr<any_loader> labelled(data::loader_options options) const;
  std::unique_ptr<any_loader> pairs(data::tokenize_function tokenize, data::loader_options options) const;

  train::sample_numbers numbers() const;
  /// The images of all pairs once, in no order, with their numbers as labels.
  std::unique_ptr<any_loader> images(train::sample_numbers const& numbers,
                                     data::loader_options options) const;
  /// Pairs without images, with their images' numbers as labels, of those that are present.
  std::unique_ptr<any_loader> numbered_pairs(train::sample_numbers const& numbers,
                                             std::vector<std::uint8_t> const& present,
                                             data::tokenize_function tokenize,
                                             data::loader_options options) const;

 private:
  struct sources;
  settings settings_;
  std::size_t classes_;
  std::unique_ptr<sources const> sources_;
};

}  // namespace train_tool
