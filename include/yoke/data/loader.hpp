// Turns a source into batches: threads read, decode, augment and tokenise ahead; what comes out, and in which
// order, depends on the seed, the epoch and the rank alone.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/augment.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/data/chunk_queue.hpp>
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
  std::uint64_t most_skipped = 100;  // bad samples that are always forgiven
  double skipped_share = 0.01;       // and the share of all samples that is forgiven beyond them
  std::function<void(skipped_sample const&)> on_skip{};  // called by next() for each bad sample, in order
};

/// Batches of a source, epoch after epoch.
///
/// A bad sample (broken image, no caption, not UTF-8) is skipped and counted; the sample after it takes its
/// place. Past the limit next() throws an io::error that repeats the last reason. Ranks whose shards differ in
/// size begin an epoch at different steps: count steps, not ends of epochs, where ranks must agree.
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
  struct chunk {
    std::uint64_t epoch = 0, first = 0;
    std::vector<typename Source::reference> references{};
    std::size_t count = 0;
    bool ends_epoch = false, ends_all = false;
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
        : from{std::move(source)}, tokenize{std::move(tokenizer)}, o{&options}, epoch{o->start.epoch} {
      expects(o->batch > 0 && o->image_size > 0, "loader: batch and image_size are positive");
      expects(o->workers >= 0, "loader: workers is not negative");
      expects(tokenize || !o->want.captions, "loader: captions need a tokenizer");
      from.check(order_of(epoch));
    }

    order order_of(std::uint64_t e) const {
      return {o->seed, e, o->training ? o->shuffle : 0, o->rank, o->ranks};
    }
    worker make_worker() const { return {from.make_reader()}; }

    /// The next references. False after the last epoch.
    bool plan(chunk& c) {
      c.count = 0;
      c.ends_epoch = false;
      if ((c.ends_all = epoch >= o->epochs))
        return false;
      if (!walking) {
        walker.emplace(from.walk(order_of(epoch)));
        walking = true;
        at = 0;
        typename Source::reference passed;
        if (epoch == o->start.epoch)
          while (at < o->start.sample && walker->next(passed)) ++at;
      }
      c.epoch = epoch;
      c.first = at;
      auto const most = static_cast<std::size_t>(chunk_size(*o));
      c.references.resize(most);
      while (c.count < most && walker->next(c.references[c.count])) ++c.count;
      at += c.count;
      if (c.count < most) {
        c.ends_epoch = true;
        walking = false;
        ++epoch;
      }
      return true;
    }

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
        w.prepare.train(w.loaded.image.hwc(), target, o->augment,
                        random_sequence{mix(mix(o->seed, c.epoch), hash("augmentation")),
                                        mix(c.first + i, static_cast<std::uint64_t>(o->rank))});
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
    std::optional<typename Source::walker> walker{};
    std::uint64_t epoch, at = 0;
    bool walking = false;
  };

  bool assemble(batch& b) {
    clear(b);
    b.pixels.resize(static_cast<std::size_t>(options_.batch) * task_.image_bytes());
    auto ended = false;
    while (!ended && b.size() < options_.batch) {
      if (chunk_ == nullptr) {
        chunk_ = &queue_.front();
        in_chunk_ = good_ = token_ = 0;
      }
      if (chunk_->ends_all)
        return false;  // stays at the front, for the next call
      take(b);
      if (in_chunk_ < chunk_->count)
        continue;
      auto const ends_epoch = chunk_->ends_epoch;
      auto const epoch = chunk_->epoch;
      chunk_ = nullptr;
      queue_.pop();
      ended = ends_epoch && end_epoch(b, epoch);
    }
    b.pixels.resize(static_cast<std::size_t>(b.size()) * task_.image_bytes());
    batches_ += ended ? 0 : 1;
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
      b.after = {c.epoch, c.first + in_chunk_ + 1};
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

  /// True when what there is of a batch is to be delivered. In training the rest of an epoch is dropped.
  bool end_epoch(batch& b, std::uint64_t epoch) {
    auto const before = std::exchange(batches_, 0);
    if (b.size() == options_.batch || (!options_.training && b.size() > 0))
      return true;
    auto const whole_epoch = epoch != options_.start.epoch || options_.start.sample == 0;
    if (before == 0 && whole_epoch)
      throw io::error("loader", "epoch " + std::to_string(epoch),
                      "no batch: " + std::to_string(b.size()) + " good samples for a batch of " +
                          std::to_string(options_.batch) +
                          (last_skipped_.empty() ? "" : "; last skipped: " + last_skipped_.back().message()));
    clear(b);
    return false;
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
