// What a frozen tower makes of every image of a run, computed once: in memory for the steps, in a file for a run that
// is resumed.
#pragma once
#include <yoke/contrastive/frozen.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/batch.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/io/safetensors_writer.hpp>
#include <yoke/parallel/communicator.hpp>
#include <yoke/train/checkpoint.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace yoke::train {

/// A number that stands for the names and values of all parameters of a store.
template <class C, class Store>
std::uint64_t fingerprint(C& c, parameter_list const& list, Store const& store) {
  std::uint64_t digest = 0;
  parameters_of(list, store)([&]<class V>(tensor_place const& t, int, view<V, 1> values) {
    digest = mix(digest, hash(t.name));
    read_on_host(c, view<V const, 1>{values}, [&](view<V const, 1> v) {
      auto const bytes = static_cast<std::size_t>(v.size()) * sizeof(V);
      auto const* const from = reinterpret_cast<std::byte const*>(v.data);
      for (std::size_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
        std::uint64_t word = 0;
        std::memcpy(&word, from + at, std::min(sizeof word, bytes - at));
        digest = (digest ^ word) * 0x9E3779B97F4A7C15u;
        digest ^= digest >> 29;
      }
    });
  });
  return digest;
}

/// Rows (samples, width) as the tower gives them, by the samples' numbers.
template <element E>
class kept_embeddings {
 public:
  /// Of `samples` samples, which sample_numbers::digest stands for, by the tower whose parameters `tower` stands for.
  kept_embeddings(extent_t samples, extent_t width, std::uint64_t digest, std::uint64_t tower)
      : width_{width},
        digest_{digest},
        tower_{tower},
        rows_(static_cast<std::size_t>(samples * width)),
        present_(static_cast<std::size_t>(samples)) {}

  extent_t count() const { return static_cast<extent_t>(present_.size()); }
  extent_t width() const { return width_; }
  view<E const, 2> rows() const { return {rows_.data(), {{count(), width_}}}; }
  /// 1 for a sample that has a row.
  std::vector<std::uint8_t> const& present() const { return present_; }

  void set(std::int32_t number, E const* row) {
    auto const i = static_cast<std::size_t>(number);
    std::copy_n(row, width_, rows_.data() + i * static_cast<std::size_t>(width_));
    present_[i] = 1;
  }

  /// Where several ranks have set rows, all of them on every rank. Of a row that more than one has set, such as that of a
  /// sample which a mixture repeats, it is the first rank's.
  template <parallel::communicator Ranks>
  void unite(Ranks& ranks) {
    if (ranks.size() == 1)
      return;
    auto const mine = static_cast<float>(ranks.size() - ranks.rank());
    std::vector<float> first(present_.size());
    for (std::size_t i = 0; i < first.size(); ++i) first[i] = present_[i] != 0 ? mine : 0;
    combine_over(ranks, first, parallel::reduction::maximum);
    auto const n = static_cast<std::size_t>(width_);
    for (std::size_t i = 0; i < first.size(); ++i) {
      if (first[i] != mine)
        std::fill_n(rows_.begin() + static_cast<std::ptrdiff_t>(i * n), n, E{});
      present_[i] = first[i] > 0;
    }
    combine_over(ranks, rows_, parallel::reduction::sum);
  }

  /// The rows of a batch, one after the other in `to`, whose storage is reused.
  contrastive::value_batch<E, 2> batch(std::span<std::int32_t const> numbers, std::vector<E>& to) const {
    auto const n = static_cast<std::size_t>(width_);
    to.resize(numbers.size() * n);
    for (std::size_t i = 0; i < numbers.size(); ++i)
      std::copy_n(rows_.data() + static_cast<std::size_t>(numbers[i]) * n, n, to.data() + i * n);
    return {view<E const, 2>{to.data(), {{static_cast<extent_t>(numbers.size()), width_}}}};
  }

  /// Replaces the file in one step; throws io::error.
  void save(std::string const& path) const {
    io::safetensors_writer file{
        path,
        {{"embeddings", io::dtype_of<E>(), {count(), width_}}, {"present", io::dtype::u8, {count()}}},
        {{"samples", std::to_string(digest_)}, {"tower", std::to_string(tower_)}}};
    file.append("embeddings", rows_);
    file.append("present", present_);
    file.finish();
  }

  /// Fills this from a file; io::error when it is of other samples, of another tower, or of another element type.
  void load(std::string const& path) {
    io::safetensors_file const file{path};
    auto const expect_same = [&](char const* name, std::uint64_t here, char const* rule) {
      auto const found = file.metadata().find(name);
      if (found == file.metadata().end() || found->second != std::to_string(here))
        throw io::error(path, name, rule);
    };
    expect_same(
        "samples", digest_,
        "these embeddings are of other samples than this run's; without the file they are computed again");
    expect_same("tower", tower_,
                "these embeddings are of another image tower than this run's; without the file they are "
                "computed again");
    file.read("embeddings", view<E, 2>{rows_.data(), {{count(), width_}}});
    file.read("present", view<std::uint8_t, 1>{present_.data(), {{count()}}});
  }

 private:
  template <class Ranks, class V>
  static void combine_over(Ranks& ranks, std::vector<V>& values, parallel::reduction how) {
    constexpr std::size_t most = 1 << 22;  // communicators keep copies
    for (std::size_t at = 0; at < values.size(); at += most)
      all_reduce(
          ranks,
          view<V, 1>{values.data() + at, {{static_cast<extent_t>(std::min(most, values.size() - at))}}}, how);
  }

  extent_t width_;
  std::uint64_t digest_, tower_;
  std::vector<E> rows_;
  std::vector<std::uint8_t> present_;
};

/// Runs the tower over all images of `from`, a loader of a numbered source that does not augment (training = false), as
/// inputs of the tower that `pixels(batch)` makes of its batches.
template <class C, class Tower, class Store, class Loader, class Pixels>
void keep_embeddings(C& c, Tower const& tower, Store const& store, Loader& from, Pixels const& pixels,
                     kept_embeddings<typename C::element>& to) {
  using E = typename C::element;
  auto const width = to.width();
  data::batch b;
  while (from.next(b)) {
    arena_scope const scratch{c.memory};
    auto const rows = make<E>(c, shape{b.size(), width});
    contrastive::embed_rows(c, tower, store, pixels(b), b.size(), rows);
    read_on_host(c, view<E const, 1>{as_flat(rows)}, [&](view<E const, 1> v) {
      for (extent_t i = 0; i < b.size(); ++i)
        to.set(b.labels[static_cast<std::size_t>(i)], v.data + i * width);
    });
  }
}

}  // namespace yoke::train
