// Turns a source into batches: threads read, decode, augment and tokenise ahead; what comes out, and in which
// order, depends on the seed, the epoch and the rank alone, or on the seed and the epoch.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/augment.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/data/chunk_queue.hpp>
#include <yoke/data/dealer.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::data {

/// Appends a caption's ids, start and end tokens included, cut to the context. Several threads call it at once.
using tokenize_function = std::function<void(std::string_view, std::vector<std::int32_t>&)>;

/// A sample that was left out, and why.
struct skipped_sample {
  std::string file{};
  std::string key{};
  std::string rule{};

  std::string message() const { return io::error(file, key, rule).what(); }
};

/// What of its source a loader gives, in which order, and how images are prepared. Seed, batch, split and shuffle are the same on every rank.
struct loader_options {
  extent_t batch = 256;       // samples of a batch
  extent_t image_size = 224;  // images are (image_size, image_size, 3)
  std::uint64_t seed = 0;
  std::uint64_t epochs = 1;     // of the whole run, the epochs before `start` included
  position start{};             // a checkpoint's batch::after
  bool training = true;         // shuffled and augmented, and the last partial batch of an epoch is dropped
  augmentation augment{};       // of training images
  std::size_t shuffle = 16384;  // samples in the shuffle buffer; 0 keeps the order of the source
  bool keep_captions = false;   // batch::captions
  wanted want{};                // what a sample must have, besides an image
  int workers = 1;              // threads; 0: next() does the work. More than shards is fine, they share
  extent_t prepared = 2;        // batches' worth of samples that may wait
  int rank = 0;
  int ranks = 1;
  data::split split = data::split::by_shards;  // how ranks share out an epoch
  std::uint64_t most_skipped = 100;            // bad samples that are always forgiven
  double skipped_share = 0.01;                 // and the share of all samples that is forgiven beyond them
  std::function<void(skipped_sample const&)> on_skip{};  // called by next() for each bad sample, in order
};

/// Batches of a source, epoch after epoch.
///
/// A bad sample (broken image, no caption, not UTF-8) is skipped and counted; the sample after it takes its
/// place. Past the limit next() throws an io::error that repeats the last reason.
///
/// Ranks that share out the epoch by shards, if their shards differ in size, begin an epoch at different steps: count
/// steps, not ends of epochs, where ranks must agree. A run that stops goes on on as many ranks, each at its own
/// batch::after, or on any number from the beginning of an epoch.
///
/// By samples N ranks deliver what one with the N-fold batch delivers, pixel for pixel, and drop the same rest of an
/// epoch. In training, what a rank lacks of its part of a batch because samples are bad is made up for by the first ones
/// of that part, which come a second time: a batch depends on its place in the epoch alone, batch::after is the same on
/// every rank, and a run goes on there on any number of ranks. A part without a good sample is an io::error.
template <source Source>
class loader {
 public:
  /// Throws io::error when the source cannot serve the ranks. Threads start at once.
  loader(Source from, tokenize_function tokenize, loader_options options)
      : options_{std::move(options)},
        task_{std::move(from), std::move(tokenize), options_},
        queue_{task_, options_.workers, chunks_ahead(options_)} {}
  loader(loader const&) = delete;
  loader& operator=(loader const&) = delete;

  /// Fills `into`, whose storage is reused; false after the last batch. Throws what the source, the tokenizer
  /// or the limit on bad samples says, and says it again when it is called again.
  bool next(batch& into) {
    if (failure_)
      std::rethrow_exception(failure_);
    try {
      return assemble(into);
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  }

  /// Bad samples so far, since this loader began.
  std::uint64_t skipped() const { return skipped_; }
  /// The last of them, at most 16.
  std::deque<skipped_sample> const& last_skipped() const { return last_skipped_; }
  loader_options const& options() const { return options_; }

  /// For `for (auto const& batch : loader)`: goes on where next() was.
  class iterator {
   public:
    using value_type = batch;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    explicit iterator(loader& from) : from_{&from} { ++*this; }
    batch const& operator*() const { return from_->current_; }
    iterator& operator++() {
      if (!from_->next(from_->current_))
        from_ = nullptr;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return from_ == nullptr; }

   private:
    loader* from_ = nullptr;
  };
  iterator begin() { return iterator{*this}; }
  std::default_sentinel_t end() const { return {}; }

 private:
  /// Samples that one thread prepares in one go.
  static extent_t chunk_size(loader_options const& o) { return std::clamp<extent_t>(o.batch / 8, 1, 32); }
  static std::size_t chunks_ahead(loader_options const& o) {
    auto const samples = o.batch * std::max<extent_t>(o.prepared, 1);
    return static_cast<std::size_t>(samples / chunk_size(o) + std::max(o.workers, 1));
  }

  /// Consecutive samples of an epoch, prepared.
  struct chunk : dealer<Source>::hand {
    // Of the good samples, one after the other:
    std::vector<std::uint8_t> pixels{};
    std::vector<std::int32_t> tokens{}, lengths{}, labels{};
    std::vector<std::string> captions{};
    std::vector<std::string> rules{};  // (count): why a sample is bad; empty for good ones
  };

  /// What the threads do: `plan` one at a time, `work` side by side.
  struct task {
    using item = chunk;
    struct worker {
      typename Source::reader reader;
      sample loaded{};
      preprocessor prepare{};
    };

    task(Source source, tokenize_function tokenizer, loader_options const& options)
        : from{std::move(source)},
          tokenize{std::move(tokenizer)},
          o{&checked(options, tokenize)},
          samples{from,
                  {.samples = {o->seed, o->start.epoch, o->training ? o->shuffle : 0, o->rank, o->ranks},
                   .split = o->split,
                   .batch = o->batch,
                   .training = o->training,
                   .epochs = o->epochs,
                   .start = o->start}} {}

    static loader_options const& checked(loader_options const& o, tokenize_function const& tokenizer) {
      expects(o.batch > 0 && o.image_size > 0, "loader: batch and image_size are positive");
      expects(o.workers >= 0, "loader: workers is not negative");
      expects(tokenizer || !o.want.captions, "loader: captions need a tokenizer");
      return o;
    }
    worker make_worker() const { return {from.make_reader()}; }

    /// The next references. False after the last epoch.
    bool plan(chunk& c) { return samples.next(c, static_cast<std::size_t>(chunk_size(*o))); }

    void work(worker& w, chunk& c) const {
      c.pixels.resize(c.count * image_bytes());
      c.rules.resize(c.count);
      c.captions.resize(o->keep_captions ? c.count : 0);
      c.tokens.clear();
      c.lengths.clear();
      c.labels.clear();
      for (std::size_t i = 0; i < c.count; ++i) {
        c.rules[i].clear();
        auto const tokens_before = c.tokens.size();
        try {
          from_source(w, c, i);
        } catch (io::error const& bad) {
          c.tokens.resize(tokens_before);
          c.rules[i] = bad.what();
        }
      }
    }

    void from_source(worker& w, chunk& c, std::size_t i) const {
      w.reader.read(c.references[i], o->want, w.loaded);
      if (o->want.captions) {
        auto const before = c.tokens.size();
        tokenize(w.loaded.caption, c.tokens);
        if (c.tokens.size() == before)
          throw io::error("", "caption", "it has no tokens");
        c.lengths.push_back(static_cast<std::int32_t>(c.tokens.size() - before));
      }
      auto const good = c.labels.size();
      auto const target =
          view<std::uint8_t, 3>{c.pixels.data() + good * image_bytes(), {{o->image_size, o->image_size, 3}}};
      if (o->training)
        w.prepare.train(
            w.loaded.image.hwc(), target, o->augment,
            random_sequence{
                mix(mix(o->seed, c.epoch), hash("augmentation")),
                mix(c.first + i, static_cast<std::uint64_t>(samples.how().of_epoch(c.epoch).rank))});
      else
        w.prepare.evaluate(w.loaded.image.hwc(), target);
      if (o->keep_captions)
        c.captions[good].swap(w.loaded.caption);
      c.labels.push_back(w.loaded.label);
    }

    std::size_t image_bytes() const { return static_cast<std::size_t>(o->image_size * o->image_size * 3); }

    Source from;
    tokenize_function tokenize;
    loader_options const* o;
    dealer<Source> samples;
  };

  bool assemble(batch& b) {
    clear(b);
    b.pixels.resize(static_cast<std::size_t>(options_.batch) * task_.image_bytes());
    for (auto delivered = false; !delivered;) {
      if (chunk_ == nullptr) {
        chunk_ = &queue_.front();
        in_chunk_ = good_ = token_ = 0;
      }
      if (chunk_->ends_all)
        return false;  // stays at the front, for the next call
      take(b);
      auto const used_up = in_chunk_ == chunk_->count;
      delivered = chunk_->ends_epoch && used_up ? end_epoch(b, *chunk_) : end_batch(b, *chunk_);
      if (used_up) {
        chunk_ = nullptr;
        queue_.pop();
      }
    }
    b.pixels.resize(static_cast<std::size_t>(b.size()) * task_.image_bytes());
    return true;
  }

  void clear(batch& b) const {
    b.image_shape = {{0, options_.image_size, options_.image_size, 3}};
    b.tokens.clear();
    b.offsets.assign(1, 0);
    b.labels.clear();
    b.captions.clear();
  }

  /// Moves samples from the chunk to the batch until either is at its end.
  void take(batch& b) {
    auto const& c = *chunk_;
    for (; in_chunk_ < c.count && b.size() < options_.batch; ++in_chunk_) {
      ++seen_;
      b.after = task_.samples.place(c.epoch, c.first + in_chunk_ + 1, c.count - in_chunk_ - 1 + c.following);
      if (!c.rules[in_chunk_].empty()) {
        skip(task_.from.name(c.references[in_chunk_]), c.rules[in_chunk_]);
        continue;
      }
      auto const bytes = task_.image_bytes();
      std::copy_n(c.pixels.data() + good_ * bytes, bytes,
                  b.pixels.data() + static_cast<std::size_t>(b.size()) * bytes);
      if (options_.want.captions) {
        auto const from = c.tokens.begin() + static_cast<std::ptrdiff_t>(token_);
        auto const length = c.lengths[good_];
        expects(
            b.tokens.size() + static_cast<std::size_t>(length) <= std::numeric_limits<std::int32_t>::max(),
            "loader: a batch has fewer than 2^31 tokens");
        b.tokens.insert(b.tokens.end(), from, from + length);
        token_ += static_cast<std::size_t>(length);
      }
      b.offsets.push_back(static_cast<std::int32_t>(b.tokens.size()));
      b.labels.push_back(c.labels[good_]);
      if (options_.keep_captions)
        b.captions.push_back(c.captions[good_]);
      ++b.image_shape[0];
      ++good_;
    }
  }

  bool by_samples() const { return options_.split == split::by_samples; }

  /// True when what there is of a batch is to be delivered.
  bool end_batch(batch& b, chunk const& c) {
    if (by_samples()) {
      if (!c.ends_batch)
        return false;
      b.after = c.after;
      if (options_.training)
        fill_up(b, c.epoch);
    }
    auto const done = by_samples() ? b.size() > 0 : b.size() == options_.batch;
    batches_ += done ? 1 : 0;
    return done;
  }

  /// The same at the end of an epoch. In training its rest is dropped.
  bool end_epoch(batch& b, chunk const& c) {
    auto const before = std::exchange(batches_, 0);
    if (b.size() == options_.batch || (!options_.training && b.size() > 0))
      return true;
    auto const whole_epoch = c.epoch != options_.start.epoch || options_.start.sample == 0;
    auto const parts_may_be_empty = by_samples() && !options_.training && c.first > 0;
    if (before == 0 && whole_epoch && !parts_may_be_empty)
      throw no_batch(c.epoch, by_samples() ? std::to_string(c.following) + " samples for a batch of " +
                                                 std::to_string(options_.batch) + " on each of " +
                                                 std::to_string(options_.ranks) + " ranks"
                                           : std::to_string(b.size()) + " good samples for a batch of " +
                                                 std::to_string(options_.batch));
    clear(b);
    return false;
  }

  io::error no_batch(std::uint64_t epoch, std::string const& why) const {
    return {"loader", "epoch " + std::to_string(epoch),
            "no batch: " + why +
                (last_skipped_.empty() ? "" : "; last skipped: " + last_skipped_.back().message())};
  }

  /// The first samples come a second time, in place of bad ones.
  void fill_up(batch& b, std::uint64_t epoch) const {
    if (b.size() == 0)
      throw no_batch(epoch, "none of the " + std::to_string(options_.batch) + " samples is good");
    auto const bytes = task_.image_bytes();
    for (std::size_t i = 0; b.size() < options_.batch; ++i, ++b.image_shape[0]) {
      std::copy_n(b.pixels.data() + i * bytes, bytes,
                  b.pixels.data() + static_cast<std::size_t>(b.size()) * bytes);
      for (auto t = b.offsets[i]; t < b.offsets[i + 1]; ++t)
        b.tokens.push_back(std::int32_t{b.tokens[static_cast<std::size_t>(t)]});
      b.offsets.push_back(static_cast<std::int32_t>(b.tokens.size()));
      b.labels.push_back(std::int32_t{b.labels[i]});
      if (options_.keep_captions)
        b.captions.push_back(std::string{b.captions[i]});
    }
  }

  void skip(sample_name name, std::string const& rule) {
    ++skipped_;
    if (last_skipped_.size() == 16)
      last_skipped_.pop_front();
    auto const& last =
        last_skipped_.emplace_back(skipped_sample{std::move(name.file), std::move(name.key), rule});
    if (options_.on_skip)
      options_.on_skip(last);
    if (skipped_ > options_.most_skipped &&
        static_cast<double>(skipped_) > options_.skipped_share * static_cast<double>(seen_))
      throw io::error(last.file, last.key,
                      rule + " (bad sample " + std::to_string(skipped_) + " of " + std::to_string(seen_) +
                          ", more than the limit)");
  }

  loader_options options_;
  task task_;
  chunk_queue<task> queue_;
  chunk const* chunk_ = nullptr;                     // what next() is at
  std::size_t in_chunk_ = 0, good_ = 0, token_ = 0;  // in it: the sample, the good sample, its first token
  std::uint64_t batches_ = 0;                        // of this epoch
  std::uint64_t seen_ = 0, skipped_ = 0;
  std::deque<skipped_sample> last_skipped_{};
  std::exception_ptr failure_{};
  batch current_{};
};

}  // namespace yoke::data
