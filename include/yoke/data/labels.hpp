// Labels as text: what an image is labelled with becomes its caption, another one in each epoch, so that labelled
// images train a contrastive model beside captioned ones.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/prompts.hpp>
#include <yoke/data/source.hpp>
#include <yoke/text/utf8.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::data {

/// How labels become text.
struct label_options {
  std::vector<std::string> names{};        // name i is that of class i; none where samples bring names
  std::string list = "the list of names";  // what messages call `names`: its file
  // Each with one "{}" (or "%s"), where the names go.
  std::vector<std::string> templates = default_templates();
  std::size_t checked = 256;  // samples of each rank whose labels are read before any work
};

/// The names of a file, as read_class_names, and the templates of another, where it is given.
inline label_options read_label_options(std::string const& names, std::string const& templates = {}) {
  return {.names = read_class_names(names),
          .list = names,
          .templates = templates.empty() ? default_templates() : read_templates(templates)};
}

/// "a photo of the cat, animal.": puts `names`, which are left in the order that was drawn, ", " between them, into
/// one of the templates (BASIC, arXiv 2111.10050, on JFT's labels). What is drawn depends on `random` alone.
inline void write_labels(std::span<std::string_view> names, std::span<std::string const> templates,
                         random_sequence random, std::string& into) {
  expects(!names.empty() && !templates.empty(), "write_labels: at least one name and one template");
  auto const& frame = templates[random.below(templates.size())];
  for (auto i = names.size(); i > 1; --i) std::swap(names[i - 1], names[random.below(i)]);
  auto const at = detail::placeholder(frame);
  expects(at != std::string_view::npos, "write_labels: exactly one {} or %s in each template");
  into.assign(frame, 0, at);
  for (std::size_t i = 0; i < names.size(); ++i) into.append(i == 0 ? "" : ", ").append(names[i]);
  into.append(frame, at + 2);
}

/// A source whose captions are the labels of another one's images. Order and template are drawn anew for each sample
/// of an epoch, from (seed, epoch, rank, place in the rank's epoch). A text longer than the tokenizer's context is cut
/// there, another time at other names.
///
/// A sample without labels, or of a class that has no name, is a bad sample. A list of names that does not suit the
/// data is found before any work: of the first `checked` samples some must have labels, and none a class without name.
template <source Source>
class labels_as_text {
 public:
  struct reference {
    typename Source::reference of{};
    std::uint64_t key = 0, stream = 0;  // of the draws
  };
  class walker;
  class reader;

  labels_as_text(Source from, label_options how)
      : from_{std::move(from)}, how_{std::make_shared<label_options const>(std::move(how))} {
    expects(!how_->templates.empty(), "labels_as_text: at least one template");
    for (auto const& frame : how_->templates)
      expects(detail::placeholder(frame) != std::string_view::npos,
              "labels_as_text: exactly one {} or %s in each template");
    for (auto const& name : how_->names)
      expects(!text::is_blank(name) && text::is_utf8(name), "labels_as_text: names are UTF-8 and not blank");
  }

  label_options const& options() const { return *how_; }

  /// Throws what the other source throws, and io::error when the first samples have no labels, or not these names.
  void check(order const& o) const {
    from_.check(o);
    auto in_order = o;
    in_order.shuffle = 0;
    auto walk = from_.walk(in_order);
    auto read = from_.make_reader();
    typename Source::reference r;
    sample s;
    std::vector<std::string_view> names;
    std::string without;  // the first sample that has no labels, and why
    std::size_t looked_at = 0, labelled = 0;
    for (; looked_at < how_->checked && walk.next(r); ++looked_at) {
      auto const [file, key] = from_.name(r);
      try {
        read_labels(read, r, {.captions = false, .images = false}, s);
        ++labelled;
      } catch (io::error const& bad) {
        if (without.empty())
          without = io::error(file, key, bad.what()).what();
        continue;
      }
      try {
        find_names(*how_, s, names);
      } catch (io::error const& bad) {
        throw io::error(file, key, bad.what());
      }
    }
    if (labelled == 0 && looked_at > 0)
      throw io::error(without, "",
                      "none of the " + std::to_string(looked_at) + " samples looked at has labels");
  }
  walker walk(order const& o) const { return {from_.walk(o), o}; }
  reader make_reader() const { return {from_.make_reader(), how_}; }
  sample_name name(reference const& r) const { return from_.name(r.of); }
  std::uint64_t samples() const { return from_.samples(); }

 private:
  /// Throws io::error when there is none.
  static void read_labels(typename Source::reader& from, typename Source::reference const& r, wanted what,
                          sample& into) {
    what.all_labels = true;
    into.classes.clear();
    into.names.clear();
    from.read(r, what, into);
    if (into.classes.empty() && into.names.empty())
      throw io::error("", "", "no labels: its source gives none");
  }

  /// Throws io::error for a class without a name.
  static void find_names(label_options const& how, sample const& from, std::vector<std::string_view>& names) {
    names.assign(from.names.begin(), from.names.end());
    if (!names.empty())
      return;
    for (auto const label : from.classes) {
      auto const count = how.names.size();
      if (label < 0 || static_cast<std::size_t>(label) >= count)
        throw io::error("", "class " + std::to_string(label),
                        "it has no name: " + how.list + " has " + std::to_string(count) +
                            (count == 1 ? " name" : " names") +
                            (count == 0 ? "" : ", from 0 to " + std::to_string(count - 1)));
      names.push_back(how.names[static_cast<std::size_t>(label)]);
    }
  }

  Source from_;
  std::shared_ptr<label_options const> how_;
};

/// One rank's epoch of the other source, each sample with a draw of its own.
template <source Source>
class labels_as_text<Source>::walker {
 public:
  walker(typename Source::walker from, order const& o)
      : from_{std::move(from)},
        key_{mix(mix(o.seed, o.epoch), hash("labels as text"))},
        rank_{static_cast<std::uint64_t>(o.rank)} {}

  bool next(reference& r) {
    r.key = key_;
    r.stream = mix(at_++, rank_);
    return from_.next(r.of);
  }

 private:
  typename Source::walker from_;
  std::uint64_t key_, rank_, at_ = 0;
};

/// What a thread reads with.
template <source Source>
class labels_as_text<Source>::reader {
 public:
  reader(typename Source::reader from, std::shared_ptr<label_options const> how)
      : from_{std::move(from)}, how_{std::move(how)} {}

  void read(reference const& r, wanted what, sample& into) {
    auto const text = std::exchange(what.captions, false);
    if (!text)
      return from_.read(r.of, what, into);
    read_labels(from_, r.of, what, into);
    find_names(*how_, into, names_);
    write_labels(names_, how_->templates, random_sequence{r.key, r.stream}, into.caption);
  }

 private:
  typename Source::reader from_;
  std::shared_ptr<label_options const> how_;
  std::vector<std::string_view> names_{};
};

}  // namespace yoke::data
