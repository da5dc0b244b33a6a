// Which samples of an epoch a rank prepares, in runs, and from where another run could go on after each.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/data/source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace yoke::data {

/// How ranks share out an epoch.
enum class split {
  /// Each has samples of its own, as the source deals them out (every ranks-th shard), and never looks at another's.
  by_shards,
  /// Each has its part of every batch that one rank with a batch `ranks` times as large would have. All walk the whole
  /// epoch, of shards that is all headers, and read what is theirs.
  by_samples
};

/// What there is to deal out.
struct deal {
  order samples{};  // of the first epoch, and which of the ranks this is
  data::split split = data::split::by_shards;
  extent_t batch = 0;    // of one rank
  bool training = true;  // batches are whole: what is left of an epoch is not dealt by samples
  std::uint64_t epochs = 1;
  position start{};

  bool by_samples() const { return split == split::by_samples; }
  /// Ranks as the source sees them.
  int parts() const { return by_samples() ? 1 : samples.ranks; }
  /// Samples that follow one another in a part's epoch and make up a batch.
  std::uint64_t stride() const {
    return static_cast<std::uint64_t>(batch) * static_cast<std::uint64_t>(by_samples() ? samples.ranks : 1);
  }
  order of_epoch(std::uint64_t epoch) const {
    auto o = samples;
    o.epoch = epoch;
    if (by_samples())
      o.rank = 0, o.ranks = 1;
    return o;
  }
};

/// Walks a source, epoch after epoch. It looks a batch ahead: that a batch is an epoch's last is known with it, not after
/// it, so that a run that goes on from there, on whatever ranks, begins with the next epoch.
template <source Source>
class dealer {
 public:
  using reference = typename Source::reference;

  /// Consecutive samples for one rank. `first` is the place of the first in the epoch, or in the rank's part of it.
  struct hand {
    std::uint64_t epoch = 0, first = 0;
    std::vector<reference> references{};
    std::size_t count = 0;
    std::uint64_t following = 0;  // samples known to come in this epoch; exact below a batch's
    position after{};             // by samples: where the batch that this hand ends leaves off
    bool ends_batch = false;      // by samples
    bool ends_epoch = false, ends_all = false;
  };

  /// Throws io::error when the source cannot serve the ranks, or the start is within an epoch that was shared otherwise.
  dealer(Source const& from, deal const& how) : from_{&from}, how_{how}, epoch_{how.start.epoch} {
    expects(how.samples.ranks > 0 && how.samples.rank >= 0 && how.samples.rank < how.samples.ranks,
            "loader: 0 <= rank < ranks");
    auto const read = [](int parts) {
      return parts == 1 ? std::string("as a whole") : "by " + std::to_string(parts) + " ranks by shards";
    };
    if (how.start.sample != 0 && how.start.ranks != how.parts())
      throw io::error("loader", "start",
                      "epoch " + std::to_string(how.start.epoch) + " was being read " +
                          read(how.start.ranks) + " and would go on " + read(how.parts()) +
                          "; that is possible from the beginning of an epoch, not within one");
    from.check(how.of_epoch(epoch_));
    ahead_.resize(how.training ? how.stride() : 1);
  }

  deal const& how() const { return how_; }

  /// The next samples, at most so many. False after the last epoch.
  bool next(hand& h, std::size_t most) {
    h.count = 0;
    h.ends_batch = h.ends_epoch = false;
    if ((h.ends_all = epoch_ >= how_.epochs))
      return false;
    if (!walking_)
      begin();
    h.epoch = epoch_;
    h.references.resize(most);
    if (how_.by_samples())
      next_of_batch(h);
    else
      take(h, most);
    h.following = coming_;
    if (h.ends_epoch) {
      walking_ = false;
      ++epoch_;
    }
    return true;
  }

  /// Where a run goes on that has the first `sample` samples of an epoch behind it, if `following` come after them.
  position place(std::uint64_t epoch, std::uint64_t sample, std::uint64_t following) const {
    if (following < ahead_.size())
      return {epoch + 1, 0, how_.parts()};
    return {epoch, sample, how_.parts()};
  }

 private:
  void begin() {
    walker_.emplace(from_->walk(how_.of_epoch(epoch_)));
    walking_ = true;
    at_ = in_batch_ = 0;
    oldest_ = coming_ = 0;
    while (coming_ < ahead_.size() && walker_->next(ahead_[coming_])) ++coming_;
    at_end_ = coming_ < ahead_.size();
    if (epoch_ == how_.start.epoch)
      while (at_ < how_.start.sample && pull(passed_)) continue;
  }

  bool pull(reference& r) {
    if (coming_ == 0)
      return false;
    std::swap(r, ahead_[oldest_]);
    at_end_ = at_end_ || !walker_->next(ahead_[oldest_]);
    coming_ -= at_end_ ? 1 : 0;
    oldest_ = (oldest_ + 1) % ahead_.size();
    ++at_;
    return true;
  }

  void take(hand& h, std::size_t most) {
    h.first = at_;
    while (h.count < most && pull(h.references[h.count])) ++h.count;
    h.ends_epoch = h.count < most;
  }

  /// Samples of other ranks are passed over, before this rank's part of the batch and behind it.
  void next_of_batch(hand& h) {
    auto const batch = static_cast<std::uint64_t>(how_.batch);
    auto const first = batch * static_cast<std::uint64_t>(how_.samples.rank), last = first + batch;
    if (in_batch_ == 0 && coming_ < ahead_.size()) {
      h.first = at_;
      h.ends_epoch = true;
      return;
    }
    while (in_batch_ < first && pull(passed_)) ++in_batch_;
    auto const wanted = std::min<std::uint64_t>(h.references.size(), last - std::min(last, in_batch_));
    take(h, static_cast<std::size_t>(wanted));
    in_batch_ += h.count;
    h.ends_batch = h.ends_epoch || in_batch_ == last;
    h.ends_epoch = false;  // the next hand says so
    if (!h.ends_batch)
      return;
    while (in_batch_ < how_.stride() && pull(passed_)) ++in_batch_;
    in_batch_ = 0;
    h.after = place(epoch_, at_, coming_);
  }

  Source const* from_;
  deal how_;
  std::optional<typename Source::walker> walker_{};
  std::uint64_t epoch_, at_ = 0;  // samples of the epoch that were pulled
  std::uint64_t in_batch_ = 0;    // of the global batch
  bool walking_ = false;

  // A ring of what comes; the walker fills a place when it is free.
  std::vector<reference> ahead_{};
  std::size_t oldest_ = 0, coming_ = 0;
  bool at_end_ = false;
  reference passed_{};
};

}  // namespace yoke::data
