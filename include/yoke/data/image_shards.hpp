// WebDataset shards as a loader's source: tar files of images with captions and classes. Component yoke::images.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/caption.hpp>
#include <yoke/data/image.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/source.hpp>
#include <yoke/data/webdataset.hpp>
#include <yoke/io/file.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

namespace yoke::data {

/// Tar files whose samples are an image (jpg, jpeg, png) with a caption (txt, or json's "caption" or "text"), a
/// class (cls), or labels (labels: names, one a line; else cls: one class or several). An epoch is each sample once:
/// the shards in an order of the epoch's own, every ranks-th of them for a rank, and their samples through a shuffle
/// buffer that holds references, not pixels. Only headers are read to walk; a shard that is broken throws, a sample
/// that is broken is for the loader to skip.
class shards {
 public:
  struct part {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool present = false;
  };
  /// A sample that is not read yet.
  struct reference {
    std::size_t shard = 0;
    std::string key{};
    part image{}, text{}, json{}, label{}, names{};
  };
  class walker;
  class reader;

  /// All files that a brace pattern names; see expand_shards. Throws io::error when one does not exist.
  explicit shards(std::string_view patterns) : shards{expand_shards(patterns)} {}
  /// Throws io::error when there is none, or one does not exist.
  explicit shards(std::vector<std::string> paths)
      : paths_{std::make_shared<std::vector<std::string> const>(std::move(paths))} {
    if (paths_->empty())
      throw io::error("shards", "", "there is none");
    for (auto const& path : *paths_)
      if (::access(path.c_str(), R_OK) != 0)
        throw io::error(path, "cannot open the shard", std::generic_category().message(errno));
  }

  std::vector<std::string> const& paths() const { return *paths_; }

  /// Each rank needs a shard. Threads do not: they share a rank's walker.
  void check(order const& o) const {
    expects(o.ranks > 0 && o.rank >= 0 && o.rank < o.ranks, "shards: 0 <= rank < ranks");
    if (paths_->size() < static_cast<std::size_t>(o.ranks))
      throw io::error(paths_->front(), "",
                      "the pattern names " + std::to_string(paths_->size()) + " shards, fewer than the " +
                          std::to_string(o.ranks) + " ranks; each rank needs one of its own");
  }
  walker walk(order const& o) const;
  reader make_reader() const;
  sample_name name(reference const& r) const { return {(*paths_)[r.shard], r.key}; }
  /// Counts by reading all headers.
  std::uint64_t samples() const {
    std::uint64_t count = 0;
    sample_members members;
    for (auto const& path : *paths_) {
      io::input_file const file{path};
      for (shard_reader headers{file}; headers.next(members);) ++count;
    }
    return count;
  }

 private:
  std::shared_ptr<std::vector<std::string> const> paths_;
};

/// One rank's epoch.
class shards::walker {
 public:
  walker(std::shared_ptr<std::vector<std::string> const> paths, order const& o)
      : paths_{std::move(paths)},
        capacity_{std::max<std::size_t>(o.shuffle, 1)},
        draws_{mix(o.seed, o.epoch), mix(hash("samples"), static_cast<std::uint64_t>(o.rank))} {
    std::vector<std::size_t> all(paths_->size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    if (o.shuffle > 0) {
      auto draws = random_sequence{mix(o.seed, o.epoch), hash("shards")};
      for (auto i = all.size(); i > 1; --i) std::swap(all[i - 1], all[draws.below(i)]);
    }
    for (auto i = static_cast<std::size_t>(o.rank); i < all.size(); i += static_cast<std::size_t>(o.ranks))
      mine_.push_back(all[i]);
  }

  bool next(reference& r) {
    while (buffer_.size() < capacity_ && pull(spare_)) buffer_.push_back(std::move(spare_));
    if (buffer_.empty())
      return false;
    auto& chosen = buffer_[buffer_.size() > 1 ? draws_.below(buffer_.size()) : 0];
    std::swap(r, chosen);
    std::swap(chosen, buffer_.back());
    buffer_.pop_back();
    return true;
  }

 private:
  // A walker moves before its first shard is open, and never after: the reader points at the file.
  struct open_shard {
    explicit open_shard(std::string const& path) : file{path} {}
    io::input_file file;
    shard_reader samples{file};
  };

  bool pull(reference& r) {
    for (;;) {
      if (!open_) {
        if (at_ == mine_.size())
          return false;
        open_ = std::make_unique<open_shard>((*paths_)[mine_[at_]]);
      }
      if (open_->samples.next(members_))
        break;
      open_.reset();
      ++at_;
    }
    r = reference{mine_[at_], members_.key, {}, {}, {}, {}, {}};
    for (auto const& m : members_.members) {
      auto const found = part{m.offset, m.size, true};
      if (m.suffix == "jpg" || m.suffix == "jpeg" || m.suffix == "png")
        r.image = r.image.present ? r.image : found;
      else if (m.suffix == "txt")
        r.text = found;
      else if (m.suffix == "json")
        r.json = found;
      else if (m.suffix == "cls")
        r.label = found;
      else if (m.suffix == "labels")
        r.names = found;
    }
    return true;
  }

  std::shared_ptr<std::vector<std::string> const> paths_;
  std::vector<std::size_t> mine_;  // this rank's shards
  std::size_t at_ = 0;
  std::unique_ptr<open_shard> open_;
  sample_members members_{};
  reference spare_{};
  std::vector<reference> buffer_;
  std::size_t capacity_;
  random_sequence draws_;
};

/// What a thread reads samples with.
class shards::reader {
 public:
  explicit reader(std::shared_ptr<std::vector<std::string> const> paths) : paths_{std::move(paths)} {}

  void read(reference const& r, wanted const& what, sample& into) {
    auto const& file = open(r.shard);
    into.label = -1;
    into.caption.clear();
    into.classes.clear();
    into.names.clear();
    if (what.captions) {
      if (r.text.present)
        read_caption(text(file, r.text, "txt"), into.caption);
      else if (r.json.present)
        read_json_caption(text(file, r.json, "json"), into.caption);
      else
        throw io::error("", "", "no caption: neither txt nor json");
    }
    if (what.labels) {
      if (!r.label.present)
        throw io::error("", "", "no class: no cls");
      into.label = read_label(text(file, r.label, "cls"));
    }
    if (what.all_labels) {
      if (r.names.present)
        read_label_names(text(file, r.names, "labels"), into.names);
      else if (r.label.present)
        read_classes(text(file, r.label, "cls"), into.classes);
      else
        throw io::error("", "", "no labels: neither labels nor cls");
    }
    if (!what.images)
      return;
    if (!r.image.present)
      throw io::error("", "", "no image: neither jpg, jpeg nor png");
    (*decode_)(bytes(file, r.image, std::uint64_t{1} << 30, "image"), into.image);
  }

 private:
  struct slot {
    std::size_t shard = 0;
    std::optional<io::input_file> file{};
  };

  /// Sixteen files stay open; a shuffle buffer over very many small shards opens files again and again, but
  /// never runs out of descriptors.
  io::input_file const& open(std::size_t shard) {
    for (auto& s : files_)
      if (s.file && s.shard == shard)
        return *s.file;
    auto& oldest = files_[oldest_++ % files_.size()];
    oldest.file.reset();
    oldest.file.emplace((*paths_)[shard]);
    oldest.shard = shard;
    return *oldest.file;
  }

  std::span<std::byte const> bytes(io::input_file const& file, part const& p, std::uint64_t most,
                                   std::string_view what) {
    if (p.size > most)
      throw io::error("", what, "larger than " + std::to_string(most) + " bytes");
    if (buffer_.size() < p.size)
      buffer_.resize(p.size);
    auto const target = std::span{buffer_}.first(p.size);
    file.read_at(p.offset, target);
    return target;
  }
  std::string_view text(io::input_file const& file, part const& p, std::string_view what) {
    auto const read = bytes(file, p, std::uint64_t{1} << 20, what);
    return {reinterpret_cast<char const*>(read.data()), read.size()};
  }

  std::shared_ptr<std::vector<std::string> const> paths_;
  std::array<slot, 16> files_{};
  std::size_t oldest_ = 0;
  std::vector<std::byte> buffer_{};
  std::unique_ptr<image_decoder> decode_ = std::make_unique<image_decoder>();
};

inline shards::walker shards::walk(order const& o) const {
  return {paths_, o};
}
inline shards::reader shards::make_reader() const {
  return reader{paths_};
}

static_assert(source<shards>);

}  // namespace yoke::data
