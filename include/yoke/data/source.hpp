// Where samples come from: what a loader asks of shards, of generated scenes, or of a source of your own.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/data/picture.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace yoke::data {

/// Which samples a rank gets, and in which order.
struct order {
  std::uint64_t seed = 0;
  std::uint64_t epoch = 0;
  std::size_t shuffle = 0;  // samples in the shuffle buffer; 0 keeps the order of the source
  int rank = 0;
  int ranks = 1;
};

/// The names of a sample, for messages.
struct sample_name {
  std::string file{};
  std::string key{};
};

/// A source hands out references, which are cheap, and reads them later on any thread. `check` throws when the
/// ranks cannot be served. `walk` is a rank's epoch: `next` gives one reference after the other. `reader` is
/// what one thread reads with; its `read` throws io::error for a bad sample. `samples` counts an epoch of all
/// ranks together.
template <class S>
concept source = requires(S const& s, order const& o, typename S::reference& r, typename S::walker& walker,
                          typename S::reader& reader, wanted const& what, sample& into) {
  s.check(o);
  { s.walk(o) } -> std::same_as<typename S::walker>;
  { walker.next(r) } -> std::same_as<bool>;
  { s.make_reader() } -> std::same_as<typename S::reader>;
  reader.read(std::as_const(r), what, into);
  { s.name(std::as_const(r)) } -> std::same_as<sample_name>;
  { s.samples() } -> std::convertible_to<std::uint64_t>;
};

}  // namespace yoke::data
