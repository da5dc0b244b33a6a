// Sources as the phases want them: samples with one class each, and samples that say which row of kept embeddings is
// their image's.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/source.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace yoke::train {

/// A source whose samples have one class each, of `classes`, for phase 1. A sample without class, or with one that is
/// not among them, is a bad sample. That the list of names suits the data is known before any work: of each rank's
/// first `checked` samples some must have a class, and none another than those.
template <data::source Source>
class labelled {
 public:
  using reference = typename Source::reference;
  using walker = typename Source::walker;
  class reader;

  /// `names` is what messages call the list of classes: its file.
  labelled(Source from, std::size_t classes, std::string names, std::size_t checked = 256)
      : from_{std::move(from)}, classes_{classes}, names_{std::move(names)}, checked_{checked} {}

  void check(data::order o) const {
    from_.check(o);
    o.shuffle = 0;
    auto walk = from_.walk(o);
    auto read = from_.make_reader();
    reference r;
    data::sample s;
    std::string without;  // why the first sample has no class
    std::size_t looked_at = 0, found = 0;
    for (; looked_at < checked_ && walk.next(r); ++looked_at) {
      auto const [file, key] = from_.name(r);
      try {
        read.read(r, {.captions = false, .labels = true, .images = false}, s);
        if (s.label < 0)
          throw io::error("", "", "it has not one class");
        ++found;
      } catch (io::error const& bad) {
        if (without.empty())
          without = io::error(file, key, bad.what()).what();
        continue;
      }
      if (auto const problem = rule(s.label); !problem.empty())
        throw io::error(file, key, problem);
    }
    if (found == 0 && looked_at > 0)
      throw io::error(without, "",
                      "none of the " + std::to_string(looked_at) +
                          " samples looked at has a class, from which phase image learns");
  }
  walker walk(data::order const& o) const { return from_.walk(o); }
  reader make_reader() const { return {from_.make_reader(), *this}; }
  data::sample_name name(reference const& r) const { return from_.name(r); }
  std::uint64_t samples() const { return from_.samples(); }

 private:
  /// What is wrong with a class; empty when nothing is.
  std::string rule(std::int32_t label) const {
    if (label >= 0 && static_cast<std::size_t>(label) < classes_)
      return {};
    return "class " + std::to_string(label) + " has no name: " + names_ + " has " + std::to_string(classes_) +
           " names, from 0";
  }

  Source from_;
  std::size_t classes_;
  std::string names_;
  std::size_t checked_;
};

/// What a thread reads with.
template <data::source Source>
class labelled<Source>::reader {
 public:
  reader(typename Source::reader from, labelled rules) : from_{std::move(from)}, rules_{std::move(rules)} {}

  void read(reference const& r, data::wanted what, data::sample& into) {
    what.labels = true;
    from_.read(r, what, into);
    if (auto const problem = rules_.rule(into.label); !problem.empty())
      throw io::error("", "", problem);
  }

 private:
  typename Source::reader from_;
  labelled rules_;
};

/// The numbers of a source's samples: 0, 1, … in the source's own order, each found by the sample's names (file and
/// key). A name that comes again is the same sample again, as in a mixture whose smaller source has to be repeated.
class sample_numbers {
 public:
  template <data::source Source>
  explicit sample_numbers(Source const& from) {
    auto walk = from.walk({});
    typename Source::reference r;
    while (walk.next(r)) {
      auto const key = key_of(from.name(r));
      if (numbers_.emplace(key, count()).second)
        digest_ = mix(digest_, key);
    }
    if (numbers_.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
      throw io::error("samples", "", "more than 2^31 of them cannot be numbered");
  }

  std::int32_t count() const { return static_cast<std::int32_t>(numbers_.size()); }
  /// Stands for all names in their order.
  std::uint64_t digest() const { return digest_; }
  /// Throws io::error when the name is of no sample.
  std::int32_t of(data::sample_name const& name) const {
    auto const found = numbers_.find(key_of(name));
    if (found == numbers_.end())
      throw io::error("", "", "was not there when the samples were numbered");
    return found->second;
  }

 private:
  static std::uint64_t key_of(data::sample_name const& name) { return mix(hash(name.file), hash(name.key)); }

  std::unordered_map<std::uint64_t, std::int32_t> numbers_;
  std::uint64_t digest_ = 0;
};

/// A source whose samples have their number as label. With `images` they are as they were; without, their image is one
/// black pixel that nobody reads, in place of one that is decoded, and only samples that are in `present` are good.
template <data::source Source>
class numbered {
 public:
  using reference = typename Source::reference;
  using walker = typename Source::walker;
  class reader;

  struct rules {
    sample_numbers numbers;
    std::vector<std::uint8_t>
        present{};  // (numbers.count()): 1 where there is a row; empty: images are wanted
  };

  numbered(Source from, std::shared_ptr<rules const> how) : from_{std::move(from)}, how_{std::move(how)} {}

  void check(data::order const& o) const { from_.check(o); }
  walker walk(data::order const& o) const { return from_.walk(o); }
  reader make_reader() const { return {from_.make_reader(), from_, how_}; }
  data::sample_name name(reference const& r) const { return from_.name(r); }
  std::uint64_t samples() const { return from_.samples(); }

 private:
  Source from_;
  std::shared_ptr<rules const> how_;
};

/// What a thread reads with.
template <data::source Source>
class numbered<Source>::reader {
 public:
  reader(typename Source::reader reads, Source names, std::shared_ptr<rules const> how)
      : reads_{std::move(reads)}, names_{std::move(names)}, how_{std::move(how)} {}

  void read(reference const& r, data::wanted what, data::sample& into) {
    auto const number = how_->numbers.of(names_.name(r));
    what.labels = false;
    if (!how_->present.empty()) {
      if (how_->present[static_cast<std::size_t>(number)] == 0)
        throw io::error("", "", "its image has no embedding, since it could not be read");
      what.images = false;
    }
    reads_.read(r, what, into);
    if (!how_->present.empty()) {
      into.image.resize(1, 1);
      into.image.pixels.assign(3, 0);
    }
    into.label = number;
  }

 private:
  typename Source::reader reads_;
  Source names_;
  std::shared_ptr<rules const> how_;
};

}  // namespace yoke::train
