// Ranks that mpirun or its like has started: collectives by MPI, between hosts or on one.
#pragma once
#include <yoke/parallel/communicator.hpp>
#include <yoke/parallel/mpi_transfers.hpp>

#include <memory>

namespace yoke::parallel {

/// The communicator of a program that MPI has started, for tensors of the host:
///
///     parallel::mpi_session session{argc, argv};  // see there how a program ends
///     parallel::mpi ranks{session};
///
/// Collectives are nonblocking ones of MPI's that are asked for until they are done. Sums are Yoke's own, in the order
/// of the ranks (mpi_options::sums), so that a run gives the same bits on threads, on MPI, and on any number of hosts.
///
/// What goes wrong: before each collective the ranks compare what they call (a small all-reduce, microseconds), and if
/// they differ, in the collective or in its sizes, all get parallel::error that says who does. A rank that hangs, or
/// computes for longer than the timeout while others wait for it, is named by them; work that one rank does alone is
/// for wait_for_all. A rank whose process dies is the launcher's to see: mpirun ends the others, and Open MPI's says
/// which one it was. Where MPI reports an error, the sentence has its words. After an error every later call on any
/// communicator of the session throws the same. If data were under way, MPI may write to the tensors of that call until
/// the process ends, so let it end. Ranks in messages are those of MPI_COMM_WORLD.
///
/// For one thread at a time; another one may use another communicator meanwhile. Outlived by its session.
class mpi {
 public:
  /// All ranks of `of`, which stays the caller's. Throws parallel::error when one does not come.
  explicit mpi(mpi_session& session, mpi_options const& options = {}, MPI_Comm of = MPI_COMM_WORLD)
      : ranks_{std::make_unique<detail::mpi_transfers>(session, options, of)} {}
  mpi(mpi&&) noexcept = default;
  mpi& operator=(mpi&&) = delete;
  ~mpi() {
    if (!ranks_)
      return;
    if (std::uncaught_exceptions() > exceptions_)
      ranks_->session().give_up("this rank has left with an exception");
    if (ranks_->session().has_failed())
      static_cast<void>(ranks_.release());  // MPI may still write there
  }

  int rank() const { return ranks_->rank(); }
  int size() const { return ranks_->size(); }
  parallel::traffic traffic() const { return ranks_->traffic(); }

  /// For the collectives below.
  detail::mpi_transfers& transfers() { return *ranks_; }

 private:
  friend mpi split(mpi& c, int color);
  explicit mpi(std::unique_ptr<detail::mpi_transfers> part) : ranks_{std::move(part)} {}

  std::unique_ptr<detail::mpi_transfers> ranks_;
  int exceptions_ = std::uncaught_exceptions();
};

namespace detail {

template <class T, int R>
std::byte* bytes_at(view<T, R> v) {
  return reinterpret_cast<std::byte*>(v.data);
}

}  // namespace detail

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(mpi& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  auto const bytes = detail::bytes_of<T>(mine.size());
  c.transfers().run(detail::call_of<U>(collective::all_gather, mine.size()),
                    static_cast<double>(detail::sent_by_gather(bytes, c.size())), [&] {
                      detail::copy_bytes(all.data + c.rank() * mine.size(), mine.data,
                                         static_cast<std::size_t>(bytes));
                      std::vector<extent_t> begins;
                      for (int r = 0; r <= c.size(); ++r) begins.push_back(r * bytes);
                      c.transfers().gather_bytes(detail::bytes_at(all), begins);
                    });
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(mpi& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  c.transfers().run(detail::call_of<U>(collective::reduce_scatter, all.size()),
                    static_cast<double>(detail::sent_by_gather(detail::bytes_of<T>(mine.size()), c.size())),
                    [&] { c.transfers().scatter_sums<U>(all.data, mine.size(), reduction::sum, mine.data); });
}

template <element T, int R>
void all_reduce(mpi& c, view<T, R> buffer, reduction how = reduction::sum) {
  auto const elements = detail::sent_by_all_reduce(buffer.size(), c.rank(), c.size());
  auto call = detail::call_of<T>(collective::all_reduce, buffer.size());
  call.how = static_cast<std::uint32_t>(how);
  c.transfers().run(call, static_cast<double>(detail::bytes_of<T>(elements)),
                    [&] { c.transfers().reduce(buffer.data, buffer.size(), how); });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(mpi& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  auto const bytes = detail::bytes_of<T>(buffer.size());
  auto call = detail::call_of<T>(collective::broadcast, buffer.size());
  call.root = static_cast<std::uint32_t>(root);
  c.transfers().run(
      call, static_cast<double>(detail::sent_by_broadcast(bytes, c.rank(), root, c.size())), [&] {
        auto& ranks = c.transfers();
        for (extent_t done = 0; c.size() > 1 && done < bytes; done += ranks.most_bytes()) {
          auto const count = static_cast<int>(std::min(ranks.most_bytes(), bytes - done));
          ranks.start([&](MPI_Request* r) {
            return MPI_Ibcast(detail::bytes_at(buffer) + done, count, MPI_BYTE, root, ranks.get(), r);
          });
          ranks.wait();
        }
      });
}

/// `send` and `receive` do not overlap; every rank sends once and receives once.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(mpi& c, int to, view<T, R> send, int from, view<U, S> receive) {
  expects(to >= 0 && to < c.size() && from >= 0 && from < c.size(), "peers are ranks of the communicator");
  expects(send.size() == receive.size(), "exchange: as many elements come as go");
  auto const bytes = detail::bytes_of<T>(send.size());
  c.transfers().run(detail::call_of<U>(collective::exchange, send.size()),
                    to == c.rank() ? 0.0 : static_cast<double>(bytes), [&] {
                      auto& ranks = c.transfers();
                      if (to == c.rank() && from == c.rank())
                        detail::copy_bytes(receive.data, send.data, static_cast<std::size_t>(bytes));
                      else
                        ranks.pass_on(to, reinterpret_cast<std::byte const*>(send.data), from,
                                      detail::bytes_at(receive), bytes);
                    });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> &&
         !std::is_const_v<T>) void all_gather_parts(mpi& c, view<T, R> buffer,
                                                    std::span<extent_t const> begins) {
  detail::expect_parts(begins, c.size(), buffer.size());
  auto const r = static_cast<std::size_t>(c.rank());
  auto call = detail::call_of<T>(collective::all_gather_parts, buffer.size());
  call.parts = detail::hash_of_parts(begins);
  c.transfers().run(
      call,
      static_cast<double>(detail::sent_by_gather(detail::bytes_of<T>(begins[r + 1] - begins[r]), c.size())),
      [&] {
        std::vector<extent_t> in_bytes(begins.begin(), begins.end());
        for (auto& b : in_bytes) b = detail::bytes_of<T>(b);
        c.transfers().gather_bytes(detail::bytes_at(buffer), in_bytes);
      });
}

inline void barrier(mpi& c) {
  c.transfers().run({.which = static_cast<std::uint32_t>(collective::barrier)}, 0,
                    [] {});  // who has compared has met
}

/// A barrier at which ranks wait for what one of them does alone, such as an evaluation: `patience` long, where that is
/// more than the timeout.
inline void wait_for_all(mpi& c, std::chrono::milliseconds patience) {
  c.transfers().meet(patience);
}

/// Ranks of one color keep their order, and the whole's options.
inline mpi split(mpi& c, int color) {
  return mpi{std::make_unique<detail::mpi_transfers>(c.transfers(), color)};
}

static_assert(communicator<mpi>);

/// Where the ranks' rendezvous is: at rank 0's host, as MPI calls it. For communicators that are not MPI's, such as
/// NCCL's, in a program that mpirun has started; all ranks call it.
inline launch_environment environment_of(mpi& ranks, int port = launch_environment{}.port) {
  launch_environment here{.rank = ranks.rank(),
                          .size = ranks.size(),
                          .local_rank = ranks.transfers().session().local_rank(),
                          .host = {},
                          .port = port};
  std::array<char, MPI_MAX_PROCESSOR_NAME> host{};
  int length = 0;
  detail::check_mpi(MPI_Get_processor_name(host.data(), &length), "the name of this machine");
  broadcast(ranks, view<char, 1>{host.data(), {{MPI_MAX_PROCESSOR_NAME}}}, 0);
  here.host = host.data();
  return here;
}

}  // namespace yoke::parallel
