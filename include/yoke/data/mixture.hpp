// Several sources in one run, in stated proportions: captions beside labels as text, one corpus beside another.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace yoke::data {

/// Whose turn it is, by the parts of each: a cycle in which everyone has its parts, spread evenly (smooth weighted
/// round robin). Of any n turns in a row each of k has its share of n, give or take fewer than k turns.
class turns {
 public:
  explicit turns(std::vector<std::int64_t> parts) : parts_{std::move(parts)}, credit_(parts_.size()) {
    std::int64_t common = 0;
    for (auto const part : parts_) {
      expects(part > 0, "turns: everyone has at least one part");
      common = std::gcd(common, part);
    }
    for (auto& part : parts_) cycle_ += part /= common;
  }

  /// Turns after which it begins anew.
  std::int64_t cycle() const { return cycle_; }
  /// Turns of number i in a cycle.
  std::int64_t of(std::size_t i) const { return parts_[i]; }
  /// Whose turn it is.
  std::size_t next() {
    for (std::size_t i = 0; i < parts_.size(); ++i) credit_[i] += parts_[i];
    auto const most = std::max_element(credit_.begin(), credit_.end());
    *most -= cycle_;
    return static_cast<std::size_t>(most - credit_.begin());
  }

 private:
  std::vector<std::int64_t> parts_,
      credit_;  // a credit is what one was due and did not get, in turns / cycle
  std::int64_t cycle_ = 0;
};

/// A source that takes turns between others, of different sizes and different kinds:
/// `mixture<shards, labels_as_text<shards>>{{{captioned, 3}, {labelled, 1}}}` gives three samples of the first for
/// each of the second, spread evenly from the first batch to the last.
///
/// An epoch is over when each source has given all of its samples at least once; the last to get there gives each
/// exactly once. A source that is at its end before that begins an epoch of its own, in another order. With the
/// mixture's epoch all of them begin anew: it is a function of (seed, epoch, rank), and to resume takes no more than
/// the place in it. A source's epochs are numbered (mixture's epoch) + 2^32 (how often it began again in it).
///
/// Where two sources have images in common, a batch may hold an image twice, whose two texts the loss sets apart.
template <source... Kinds>
class mixture {
  template <class Kind>
  static constexpr std::size_t place = [] {
    std::size_t i = 0;
    (void)((std::is_same_v<Kind, Kinds> || (++i, false)) || ...);
    return i;
  }();
  template <class Kind>
  static constexpr int occurrences = (0 + ... + static_cast<int>(std::is_same_v<Kind, Kinds>));
  static_assert(sizeof...(Kinds) > 0 && (... && (occurrences<Kinds> == 1)),
                "mixture: name each kind of source once, however many sources of that kind there are");

 public:
  /// A source, and how many of the samples are its, in any unit.
  struct part {
    std::variant<Kinds...> from;
    std::int64_t parts = 1;
  };
  struct reference {
    std::size_t part = 0;
    std::variant<typename Kinds::reference...> of{};
  };
  class walker;
  class reader;

  explicit mixture(std::vector<part> parts)
      : parts_{std::make_shared<std::vector<part> const>(std::move(parts))} {
    expects(!parts_->empty(), "mixture: at least one source");
    for (auto const& p : *parts_)
      expects(p.parts > 0 && p.parts <= 1'000'000, "mixture: parts are between 1 and 1,000,000");
  }

  std::vector<part> const& parts() const { return *parts_; }

  void check(order const& o) const {
    for (std::size_t i = 0; i < parts_->size(); ++i)
      std::visit([&](auto const& from) { from.check(order_of(o, i, 0)); }, (*parts_)[i].from);
  }
  walker walk(order const& o) const { return {parts_, o}; }
  reader make_reader() const { return reader{*parts_}; }
  sample_name name(reference const& r) const {
    return std::visit([&]<class Kind>(Kind const& from) { return from.name(std::get<place<Kind>>(r.of)); },
                      (*parts_)[r.part].from);
  }
  /// Those of an epoch, repeated ones included, where one rank walks it; several ranks' may differ by a few.
  std::uint64_t samples() const {
    auto turn = turns_of(*parts_);
    std::vector<std::int64_t> left;
    std::int64_t cycles = 0;  // that the epoch goes through, its last one not counted
    for (std::size_t i = 0; i < parts_->size(); ++i) {
      left.push_back(std::visit([](auto const& from) { return static_cast<std::int64_t>(from.samples()); },
                                (*parts_)[i].from));
      cycles = std::max(cycles, (left[i] - 1) / turn.of(i));
    }
    for (std::size_t i = 0; i < left.size(); ++i) left[i] -= cycles * turn.of(i);
    auto count = cycles * turn.cycle();
    for (; *std::max_element(left.begin(), left.end()) > 0; ++count) --left[turn.next()];
    return static_cast<std::uint64_t>(count);
  }

 private:
  static turns turns_of(std::vector<part> const& parts) {
    std::vector<std::int64_t> counts;
    counts.reserve(parts.size());
    for (auto const& p : parts) counts.push_back(p.parts);
    return turns{std::move(counts)};
  }
  /// Two sources of the same files do not go through them side by side: each has a seed of its own.
  static order order_of(order o, std::size_t i, std::uint64_t begun_again) {
    o.seed = mix(o.seed, hash("mixture") + i);
    o.epoch += begun_again << 32;
    return o;
  }

  std::shared_ptr<std::vector<part> const> parts_;
};

/// One rank's epoch. Ranks begin at different places of the cycle, so that together they keep the proportions where
/// a rank's share of a batch is too small to.
template <source... Kinds>
class mixture<Kinds...>::walker {
 public:
  walker(std::shared_ptr<std::vector<part> const> parts, order const& o)
      : parts_{std::move(parts)}, order_{o}, turns_{turns_of(*parts_)}, unfinished_{parts_->size()} {
    for (auto ahead = turns_.cycle() * o.rank / o.ranks; ahead > 0; --ahead) turns_.next();
    for (std::size_t i = 0; i < parts_->size(); ++i)
      std::visit(
          [&]<class Kind>(Kind const& from) {
            constexpr auto kind = place<Kind>;
            streams_.push_back({walkers{std::in_place_index<kind>, from.walk(order_of(order_, i, 0))},
                                references{std::in_place_index<kind>}});
          },
          (*parts_)[i].from);
  }

  /// Throws io::error when a source has no sample for this rank.
  bool next(reference& r) {
    if (!begun_) {
      begun_ = true;
      for (std::size_t i = 0; i < streams_.size(); ++i) require(i, pull(i));
    }
    if (unfinished_ == 0)
      return false;
    r.part = turns_.next();
    auto& from = streams_[r.part];
    if (from.at_end) {
      begin_again(r.part);
      require(r.part, pull(r.part));
    }
    std::swap(r.of, from.coming);
    from.at_end = !pull(r.part);
    if (from.at_end && !std::exchange(from.finished, true))
      --unfinished_;
    return true;
  }

 private:
  using walkers = std::variant<typename Kinds::walker...>;
  using references = std::variant<typename Kinds::reference...>;
  struct stream {
    walkers from;
    references coming;  // read ahead: that a sample is the last is known with it, not after it
    std::uint64_t begun_again = 0;
    bool at_end = false, finished = false;
  };

  /// Reads ahead, into the storage that is there where it is of the right kind.
  bool pull(std::size_t i) {
    return std::visit(
        [&]<class Kind>(Kind const&) {
          constexpr auto kind = place<Kind>;
          auto& s = streams_[i];
          auto* into = std::get_if<kind>(&s.coming);
          return std::get<kind>(s.from).next(into != nullptr ? *into : s.coming.template emplace<kind>());
        },
        (*parts_)[i].from);
  }
  void begin_again(std::size_t i) {
    auto& s = streams_[i];
    std::visit(
        [&]<class Kind>(Kind const& from) {
          s.from.template emplace<place<Kind>>(from.walk(order_of(order_, i, ++s.begun_again)));
        },
        (*parts_)[i].from);
  }
  void require(std::size_t i, bool found) const {
    if (!found)
      throw io::error(
          "mixture", "source " + std::to_string(i + 1) + " of " + std::to_string(streams_.size()),
          "it has no sample for rank " + std::to_string(order_.rank) + " of " + std::to_string(order_.ranks));
  }

  std::shared_ptr<std::vector<part> const> parts_;
  order order_;
  turns turns_;
  std::vector<stream> streams_{};
  std::size_t unfinished_;
  bool begun_ = false;
};

/// What a thread reads with.
template <source... Kinds>
class mixture<Kinds...>::reader {
 public:
  explicit reader(std::vector<part> const& parts) {
    for (auto const& p : parts)
      std::visit(
          [&]<class Kind>(Kind const& from) {
            from_.emplace_back(std::in_place_index<place<Kind>>, from.make_reader());
          },
          p.from);
  }

  void read(reference const& r, wanted const& what, sample& into) {
    auto& from = from_[r.part];
    auto as = [&]<std::size_t Kind>(std::integral_constant<std::size_t, Kind>) {
      if (from.index() == Kind)
        std::get<Kind>(from).read(std::get<Kind>(r.of), what, into);
    };
    (as(std::integral_constant<std::size_t, place<Kinds>>{}), ...);
  }

 private:
  std::vector<std::variant<typename Kinds::reader...>> from_;
};

}  // namespace yoke::data
