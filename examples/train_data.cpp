// The data of a run: shards, labels as text, mixtures of both, or generated scenes.
#include "train_data.hpp"

#include <yoke/data/image_shards.hpp>
#include <yoke/data/labels.hpp>
#include <yoke/data/mixture.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/io/folder.hpp>
#include <yoke/text/sentencepiece_training.hpp>

#include "models.hpp"
#include "ranks.hpp"
#include <cstdio>
#include <optional>
#include <variant>

namespace train_tool {

namespace {

using mixed = data::mixture<data::shards, data::labels_as_text<data::shards>>;

template <data::source Source>
class loader_of final : public any_loader {
 public:
  loader_of(Source from, data::tokenize_function tokenize, data::loader_options options)
      : loader_{std::move(from), std::move(tokenize), std::move(options)} {}
  bool next(data::batch& into) override { return loader_.next(into); }
  std::uint64_t skipped() const override { return loader_.skipped(); }

 private:
  data::loader<Source> loader_;
};

template <class Source>
std::unique_ptr<any_loader> make_loader(Source from, data::tokenize_function tokenize,
                                        data::loader_options options) {
  return std::make_unique<loader_of<Source>>(std::move(from), std::move(tokenize), std::move(options));
}

}  // namespace

struct training_data::sources {
  std::variant<data::scenes, data::shards, mixed> pairs{};
  std::optional<data::shards> labelled{};
};

training_data::training_data(settings const& s, std::size_t classes) : settings_{s}, classes_{classes} {
  auto from = std::make_unique<sources>();
  auto const& labelled = s.labelled_data.empty() ? s.train_data : s.labelled_data;
  auto const [captions, labels] = mix_of(s);
  if (s.train_data != "scenes") {
    data::shards const pairs{s.train_data};
    if (labels == 0) {
      from->pairs = pairs;
    } else {
      std::vector<mixed::part> parts;
      if (captions > 0)
        parts.push_back({pairs, captions});
      parts.push_back({data::labels_as_text<data::shards>{
                           data::shards{labelled}, data::read_label_options(s.classnames, s.templates)},
                       labels});
      from->pairs = mixed{std::move(parts)};
    }
  }
  if (s.runs(phase::image)) {
    from->labelled.emplace(labelled);
    train::labelled{*from->labelled, classes, s.classnames}.check({});
  }
  if (s.runs(phase::text) || s.runs(phase::both))
    std::visit([](auto const& source) { source.check({}); }, from->pairs);
  sources_ = std::move(from);
}
training_data::~training_data() = default;

std::uint64_t training_data::labelled_samples() const {
  return sources_->labelled->samples();
}
std::uint64_t training_data::pair_samples() const {
  return std::visit([](auto const& source) -> std::uint64_t { return source.samples(); }, sources_->pairs);
}

text::sentence_piece training_data::tokenizer(extent_t context) const {
  text::sentence_piece::options const options{.context_length = context};
  auto const& s = settings_;
  for (auto const& checkpoint : {s.resume, s.init})
    if (!checkpoint.empty()) {
      auto const file = io::committed_folder(checkpoint) + "/" + tools::tokenizer_file;
      if (checkpoint == s.resume || io::detail::exists(file))
        return text::sentence_piece::load(file, options);
    }
  if (!s.tokenizer.empty())
    return text::sentence_piece::load(s.tokenizer, options);
  constexpr std::size_t most = 50'000;
  std::vector<std::string> captions;
  std::visit(
      [&]<class Source>(Source const& source) {
        auto walker = source.walk({.seed = s.seed});
        auto reader = source.make_reader();
        typename Source::reference reference;
        data::sample sample;
        while (captions.size() < most && walker.next(reference)) try {
            reader.read(reference, {.captions = true, .images = false}, sample);
            captions.push_back(sample.caption);
          } catch (io::error const&) {  // the loader will report it
          }
      },
      sources_->pairs);
  if (rank_in_environment() == 0)
    std::printf("training a tokenizer on %zu captions\n", captions.size());
  return text::sentence_piece{text::train_sentence_piece(captions, {.vocabulary_size = s.vocabulary}),
                              options};
}

std::unique_ptr<any_loader> training_data::labelled(data::loader_options options) const {
  options.want = {.captions = false, .labels = true};
  return make_loader(train::labelled{*sources_->labelled, classes_, settings_.classnames}, {},
                     std::move(options));
}

std::unique_ptr<any_loader> training_data::pairs(data::tokenize_function tokenize,
                                                 data::loader_options options) const {
  return std::visit(
      [&](auto const& source) { return make_loader(source, std::move(tokenize), std::move(options)); },
      sources_->pairs);
}

train::sample_numbers training_data::numbers() const {
  return std::visit([](auto const& source) { return train::sample_numbers{source}; }, sources_->pairs);
}

std::unique_ptr<any_loader> training_data::images(train::sample_numbers const& numbers,
                                                  data::loader_options options) const {
  options.training = false;
  options.epochs = 1;
  options.start = {};
  options.want = {.captions = false, .labels = true};
  return std::visit(
      [&]<class Source>(Source const& source) -> std::unique_ptr<any_loader> {
        using rules = typename train::numbered<Source>::rules;
        return make_loader(train::numbered<Source>{source, std::make_shared<rules const>(rules{numbers})}, {},
                           std::move(options));
      },
      sources_->pairs);
}

std::unique_ptr<any_loader> training_data::numbered_pairs(train::sample_numbers const& numbers,
                                                          std::vector<std::uint8_t> const& present,
                                                          data::tokenize_function tokenize,
                                                          data::loader_options options) const {
  options.image_size = 1;
  options.augment = data::augmentation::none();
  return std::visit(
      [&]<class Source>(Source const& source) -> std::unique_ptr<any_loader> {
        using rules = typename train::numbered<Source>::rules;
        return make_loader(
            train::numbered<Source>{source, std::make_shared<rules const>(rules{numbers, present})},
            std::move(tokenize), std::move(options));
      },
      sources_->pairs);
}

}  // namespace train_tool
