// The collectives over direct connections: every rank sends to each other rank what that one needs, at once.
#pragma once
#include <yoke/parallel/combine.hpp>
#include <yoke/parallel/communicator.hpp>
#include <yoke/parallel/tcp_links.hpp>

namespace yoke::parallel::detail {

/// result = the parts' sum or maximum, element by element in the order of ranks; it may be one of the parts.
using combiner = void (*)(std::span<void const* const> parts, void* result, std::size_t elements);

template <element T, reduction How>
void combine_parts(std::span<void const* const> parts, void* result, std::size_t elements) {
  combine<T>(
      parts.size(), [&](std::size_t r) { return static_cast<T const*>(parts[r]); },
      static_cast<extent_t>(elements), How,
      [&](extent_t i, T const* values, extent_t n) { std::copy_n(values, n, static_cast<T*>(result) + i); });
}

/// Moves bytes only: elements are summed by the combiner that it is given.
class tcp_algorithms {
 public:
  explicit tcp_algorithms(tcp_links& links) : links_{links}, parts_(links.size()) {}

  void barrier(tcp_call const& call) {
    links_.begin(call);
    links_.transfer();
  }

  /// Parts [begins[r], begins[r + 1]) of `all` are rank r's; this rank's may lie elsewhere.
  template <class Begin>
  void gather(tcp_call const& call, void const* mine, void* all, Begin const& begin) {
    links_.begin(call);
    auto const bytes = [&](std::size_t r) { return begin(r + 1) - begin(r); };
    auto const me = links_.rank();
    copy_bytes(at(all, begin(me)), mine, bytes(me));
    for (std::size_t r = 0; r < links_.size(); ++r)
      if (r != me) {
        links_.send(r, mine, bytes(me));
        links_.receive(r, at(all, begin(r)), bytes(r));
      }
    links_.transfer();
  }

  /// `mine` = this rank's part, of `elements`, of the combined `all`.
  void reduce_scatter(tcp_call const& call, void const* all, void* mine, std::size_t elements,
                      combiner combine) {
    links_.begin(call);
    auto const size = std::size_t{call.what.element_size};
    auto const step = elements_at_once(size, elements);
    for (std::size_t first = 0;; first += step) {
      auto const n = std::min(step, elements - first);
      for (std::size_t r = 0; r < links_.size(); ++r)
        if (r != links_.rank()) {
          links_.send(r, at(all, (r * elements + first) * size), n * size);
          links_.receive(r, received(r, step * size), n * size);
        }
      links_.transfer();
      combine(parts(at(all, (links_.rank() * elements + first) * size), step * size), at(mine, first * size),
              n);
      if (first + n == elements)
        return;
    }
  }

  /// `buffer`, of `elements`, becomes the combined ones of all ranks. Each rank combines its share, piece by piece; a
  /// piece that is ready goes out together with what the others need for their next.
  void all_reduce(tcp_call const& call, void* buffer, std::size_t elements, combiner combine) {
    links_.begin(call);
    auto const size = std::size_t{call.what.element_size};
    auto const ranks = static_cast<int>(links_.size());
    auto const largest = (elements + links_.size() - 1) / links_.size();
    auto const step = elements_at_once(size, largest);
    if (ranks == 1)
      return;
    auto const piece = [&](std::size_t r, std::size_t k) {  // piece k of rank r's share
      share_of_elements const share{static_cast<extent_t>(elements), static_cast<int>(r), ranks};
      auto const n = static_cast<std::size_t>(share.size()), first = std::min(n, k * step);
      return std::span{
          static_cast<std::byte*>(at(buffer, (static_cast<std::size_t>(share.first) + first) * size)),
          std::min(step, n - first) * size};
    };
    auto const pieces = (largest + step - 1) / step;
    auto const me = links_.rank();
    for (std::size_t k = 0; k <= pieces; ++k) {
      for (std::size_t r = 0; r < links_.size(); ++r) {
        if (r == me)
          continue;
        if (k > 0) {
          auto const ready = piece(me, k - 1), theirs = piece(r, k - 1);
          links_.send(r, ready.data(), ready.size());
          links_.receive(r, theirs.data(), theirs.size());
        }
        if (k < pieces) {
          auto const theirs = piece(r, k), mine = piece(me, k);
          links_.send(r, theirs.data(), theirs.size());
          links_.receive(r, received(r, step * size), mine.size());
        }
      }
      links_.transfer();
      if (auto const mine = piece(me, k); k < pieces)
        combine(parts(mine.data(), step * size), mine.data(), mine.size() / size);
    }
  }

  /// The root deals out shares of the bytes, then each rank passes its own on.
  void broadcast(tcp_call const& call, void* buffer, std::size_t bytes, std::size_t root) {
    links_.begin(call);
    auto const share = [&](std::size_t r) {
      share_of_elements const s{static_cast<extent_t>(bytes), static_cast<int>(r),
                                static_cast<int>(links_.size())};
      return std::span{static_cast<std::byte*>(at(buffer, static_cast<std::size_t>(s.first))),
                       static_cast<std::size_t>(s.size())};
    };
    auto const me = links_.rank();
    auto const mine = share(me);
    for (std::size_t r = 0; r < links_.size(); ++r)
      if (me == root && r != me)
        links_.send(r, share(r).data(), share(r).size());
    if (me != root)
      links_.receive(root, mine.data(), mine.size());
    links_.transfer();
    for (std::size_t r = 0; r < links_.size(); ++r)
      if (r != me) {
        links_.send(r, mine.data(), mine.size());
        links_.receive(r, share(r).data(), share(r).size());
      }
    links_.transfer();
  }

  void exchange(tcp_call const& call, void const* send, void* receive, std::size_t bytes) {
    links_.begin(call);
    auto const me = links_.rank();
    auto const [to, from] = call.peers;
    if (to == me && from == me)
      copy_bytes(receive, send, bytes);
    if (to != me)
      links_.send(to, send, bytes);
    if (from != me)
      links_.receive(from, receive, bytes);
    links_.transfer();
  }

 private:
  /// What waits to be combined takes this much memory, or, of many ranks, as much as makes a message worth while.
  static constexpr std::size_t most_work = 4 << 20, most_piece = 1 << 19, least_piece = 1 << 16;

  static void* at(void* p, std::size_t bytes) { return static_cast<std::byte*>(p) + bytes; }
  static void const* at(void const* p, std::size_t bytes) { return static_cast<std::byte const*>(p) + bytes; }

  std::size_t elements_at_once(std::size_t size, std::size_t of) const {
    return std::clamp<std::size_t>(of, 1,
                                   std::clamp(most_work / links_.size(), least_piece, most_piece) / size);
  }

  /// Where rank r's part comes to; parts have at most this many bytes.
  void* received(std::size_t r, std::size_t bytes) {
    work_.resize(std::max(work_.size(), (links_.size() - 1) * bytes));
    return work_.data() + (r < links_.rank() ? r : r - 1) * bytes;
  }

  /// The parts that have come, and this rank's own.
  std::span<void const* const> parts(void const* own, std::size_t bytes) {
    for (std::size_t r = 0; r < parts_.size(); ++r) parts_[r] = r == links_.rank() ? own : received(r, bytes);
    return parts_;
  }

  tcp_links& links_;
  std::vector<std::byte> work_;
  std::vector<void const*> parts_;
};

}  // namespace yoke::parallel::detail
