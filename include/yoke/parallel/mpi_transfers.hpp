// What collectives by MPI are made of: parts that go from all ranks to all, and sums of them.
#pragma once
#include <yoke/parallel/mpi_handle.hpp>
#include <yoke/parallel/mpi_sums.hpp>

#include <memory>
#include <span>

namespace yoke::parallel::detail {

class mpi_transfers : public mpi_handle {
 public:
  mpi_transfers(mpi_session& session, mpi_options const& options, MPI_Comm of)
      : mpi_handle{session, options, of}, operations_{needed(options)} {}
  mpi_transfers(mpi_transfers& whole, int color)
      : mpi_handle{whole, color}, operations_{needed(whole.options())} {}

  /// Bytes [begins[r], begins[r + 1]) of the buffer become those of rank r.
  void gather_bytes(std::byte* buffer, std::span<extent_t const> begins) {
    auto const bytes = begins.back() - begins.front();
    if (bytes == 0 || size() == 1)
      return;
    if (bytes <= most_bytes()) {  // MPI has displacements of 31 bits
      counts_.clear();
      displacements_.clear();
      for (std::size_t r = 0; r + 1 < begins.size(); ++r) {
        counts_.push_back(static_cast<int>(begins[r + 1] - begins[r]));
        displacements_.push_back(static_cast<int>(begins[r] - begins.front()));
      }
      start([&](MPI_Request* request) {
        return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffer + begins.front(), counts_.data(),
                               displacements_.data(), MPI_BYTE, get(), request);
      });
      wait();
      return;
    }
    auto const slice = std::max<extent_t>(1, most_bytes() / size());
    extent_t longest = 0;
    for (std::size_t r = 0; r + 1 < begins.size(); ++r)
      longest = std::max(longest, begins[r + 1] - begins[r]);
    for (extent_t done = 0; done < longest; done += slice) {
      auto const piece_of = [&](int rank) {
        auto const r = static_cast<std::size_t>(rank);
        auto const from = std::min(begins[r] + done, begins[r + 1]);
        return std::span{buffer + from, static_cast<std::size_t>(std::min(slice, begins[r + 1] - from))};
      };
      trade([&](int) { return std::span<std::byte const>{piece_of(rank())}; }, piece_of);
    }
  }

  /// Sends so many bytes to one rank while as many come from another.
  void pass_on(int to, std::byte const* outgoing, int from, std::byte* incoming, extent_t bytes) {
    for (extent_t done = 0; done < bytes; done += most_bytes()) {
      auto const n = static_cast<std::size_t>(std::min(most_bytes(), bytes - done));
      receive(from, incoming + done, n);
      send(to, outgoing + done, n);
      wait();
    }
  }

  /// Each rank's part becomes the sum or maximum of what all have for it.
  template <element T>
  void scatter_sums(T const* all, extent_t part, reduction how, T* mine) {
    auto const bytes = part * size() * static_cast<extent_t>(sizeof(T));
    if (operations_ && bytes <= most_bytes()) {
      auto const [type, operation] = operations_->of<T>(how);
      auto* const result = room<T>(part);  // `mine` may be a part of `all`
      start([&, type = type, operation = operation](MPI_Request* r) {
        return MPI_Ireduce_scatter_block(all, result, static_cast<int>(part), type, operation, get(), r);
      });
      wait();
      std::copy_n(result, part, mine);
      return;
    }
    auto const slice = std::max<extent_t>(1, most<T>() / size());
    for (extent_t done = 0; done < part; done += slice) {
      auto const elements = std::min(slice, part - done);
      sum_pieces<T>(
          [&](int r) {
            return std::span{all + r * part + done, static_cast<std::size_t>(elements)};
          },
          how, mine + done);
    }
  }

  /// The buffer becomes the sum or maximum of all ranks'.
  template <element T>
  void reduce(T* buffer, extent_t elements, reduction how) {
    for (extent_t done = 0; done < elements; done += most<T>()) {
      auto const n = std::min(most<T>(), elements - done);
      auto* const piece = buffer + done;
      if (operations_) {
        auto const [type, operation] = operations_->of<T>(how);
        start([&, type = type, operation = operation](MPI_Request* r) {
          return MPI_Iallreduce(MPI_IN_PLACE, piece, static_cast<int>(n), type, operation, get(), r);
        });
        wait();
        continue;
      }
      sum_pieces<T>(
          [&](int r) {
            share_of_elements const share{n, r, size()};
            return std::span<T const>{piece + share.first, static_cast<std::size_t>(share.size())};
          },
          how, piece + share_of_elements{n, rank(), size()}.first);
      begins_.clear();
      for (int r = 0; r <= size(); ++r)
        begins_.push_back(share_of_elements{n, r, size()}.first * static_cast<extent_t>(sizeof(T)));
      gather_bytes(reinterpret_cast<std::byte*>(piece), begins_);
    }
  }

  /// The most elements, bytes, that are under way at a time.
  template <class T>
  extent_t most() const {
    return std::max<extent_t>(1, most_bytes() / static_cast<extent_t>(sizeof(T)));
  }
  extent_t most_bytes() const { return static_cast<extent_t>(options().piece); }

 private:
  static std::unique_ptr<mpi_pair_operations> needed(mpi_options const& options) {
    return options.sums == mpi_sums::by_library ? std::make_unique<mpi_pair_operations>() : nullptr;
  }

  /// Every other rank r gets give(r), and what it gives comes to take(r). Ranks begin with their neighbours, so that
  /// not all send to one.
  template <class Give, class Take>
  void trade(Give const& give, Take const& take) {
    for (int i = 1; i < size(); ++i) {
      auto const from = (rank() + size() - i) % size();
      auto const place = take(from);
      receive(from, place.data(), place.size_bytes());
    }
    for (int i = 1; i < size(); ++i) {
      auto const to = (rank() + i) % size();
      auto const block = give(to);
      send(to, block.data(), block.size_bytes());
    }
    wait();
  }

  /// Sums the ranks' piece_of(this rank), which all have for it, in the order of the ranks.
  template <element T, class Pieces>
  void sum_pieces(Pieces const& piece_of, reduction how, T* sum) {
    auto const mine = piece_of(rank());
    auto const n = static_cast<extent_t>(mine.size());
    auto* const others = room<T>(n * size());
    auto const place_of = [&](int r) { return std::span{others + r * n, mine.size()}; };
    trade(piece_of, place_of);
    combine<T>(
        static_cast<std::size_t>(size()),
        [&](std::size_t r) {
          auto const one = static_cast<int>(r);
          return one == rank() ? mine.data() : place_of(one).data();
        },
        n, how, [&](extent_t i, T const* values, extent_t count) { std::copy_n(values, count, sum + i); });
  }

  template <class T>
  T* room(extent_t elements) {
    auto const bytes = static_cast<std::size_t>(elements) * sizeof(T);
    if (room_.size() < bytes)
      room_.resize(bytes);
    return reinterpret_cast<T*>(room_.data());
  }

  std::unique_ptr<mpi_pair_operations> operations_;
  std::vector<std::byte> room_;
  std::vector<int> counts_, displacements_;
  std::vector<extent_t> begins_;
};

}  // namespace yoke::parallel::detail
