// Ranks as processes that need nothing but sockets: what torchrun, Slurm or MPI's launcher starts, on one machine or many.
#pragma once
#include <yoke/parallel/communicator.hpp>
#include <yoke/parallel/tcp_algorithms.hpp>
#include <yoke/parallel/tcp_connect.hpp>

#include <chrono>
#include <memory>

namespace yoke::parallel {

/// Of a communicator and those that are split from it; the same on every rank.
struct tcp_options {
  /// How long ranks may have to wait for each other in a collective without a byte that moves, and to be connected. More
  /// than rendezvous_options::silence, lest the ones that wait for a rank that was lost are blamed.
  std::chrono::milliseconds timeout{25'000};
};

namespace detail {
struct tcp_access;
}

/// A rank among processes that have met:
///
///     rendezvous meeting{read_environment(), {.configuration = configuration_hash(settings)}};
///     tcp ranks{meeting};
///
/// Each two ranks have a connection of their own; those of a split are new ones, so that a thread may use one split while
/// another thread uses another one, or the whole. Each communicator is for one thread at a time. No port is open but while
/// connections are made. What goes over them is not encrypted: use it within a network that is trusted.
///
/// A rank that dies, is stopped or cut off, calls something else than the others, or does not come in time ends the
/// collectives of all others in parallel::error that names it, from then on always the same. Ranks are named by their
/// numbers in the whole. Work that one rank does while the others wait is for wait_for_all. The rendezvous outlives its
/// communicators. Payload is what traffic() says; beside it 48 bytes go to each other rank with each collective.
class tcp {
 public:
  explicit tcp(rendezvous& meeting, tcp_options const& options = {});

  int rank() const { return static_cast<int>(state_->links.rank()); }
  int size() const { return static_cast<int>(state_->links.size()); }
  parallel::traffic const& traffic() const { return traffic_; }

 private:
  friend struct detail::tcp_access;

  struct state {
    state(rendezvous& meeting, std::vector<detail::endpoint> connections, int rank, std::vector<int> names,
          std::chrono::milliseconds timeout)
        : links{meeting, std::move(connections), rank, std::move(names), timeout}, algorithms{links} {}
    detail::tcp_links links;
    detail::tcp_algorithms algorithms;
  };
  explicit tcp(std::unique_ptr<state> s) : state_{std::move(s)} {}

  std::unique_ptr<state> state_;
  parallel::traffic traffic_;
};

namespace detail {

/// What the functions below may touch.
struct tcp_access {
  static tcp_links& links(tcp& c) { return c.state_->links; }

  /// Runs one collective, which sends so many bytes.
  template <class Run>
  static void run(tcp& c, collective which, extent_t bytes, Run const& run) {
    auto const begin = steady_clock::now();
    run(c.state_->algorithms);
    c.traffic_.count(which, static_cast<double>(bytes));
    c.traffic_.seconds += std::chrono::duration<double>(steady_clock::now() - begin).count();
  }

  /// Connects this rank to the others of `all`, which it has told where it listens.
  static tcp connect(rendezvous& meeting, introductions& door, int rank, std::vector<contact> const& all,
                     std::vector<int> names, std::chrono::milliseconds timeout) {
    auto connections = door.connect(rank, all, names, timeout, [&] { meeting.poll(); });
    return tcp{
        std::make_unique<tcp::state>(meeting, std::move(connections), rank, std::move(names), timeout)};
  }

  static tcp open(rendezvous& meeting, tcp_options const& options) {
    expects(options.timeout.count() > 0, "tcp: the timeout is positive");
    return announced(meeting, [&] {
      introductions door{meeting.on_loopback()};
      auto const all = meeting.gather(door.mine().card(), options.timeout);
      std::vector<int> names(all.size());
      for (std::size_t r = 0; r < names.size(); ++r) names[r] = static_cast<int>(r);
      return connect(meeting, door, meeting.rank(), all, std::move(names), options.timeout);
    });
  }

  /// A connection of the new communicator is made as its whole's was: the same rank calls, at the same address.
  static tcp split(tcp& c, int color) {
    auto& whole = links(c);
    return announced(whole.meeting(), [&] {
      introductions door{whole.meeting().on_loopback()};
      std::string mine;
      append_number(mine, static_cast<std::uint32_t>(color));
      mine += door.mine().card();
      auto const bytes = mine.size();
      std::string cards(bytes * whole.size(), '\0');
      c.state_->algorithms.gather({.what = {.elements = bytes, .which = split_call, .element_size = 1}},
                                  mine.data(), cards.data(), [&](std::size_t r) { return r * bytes; });
      std::vector<contact> members;
      std::vector<int> names;
      int rank = 0;
      for (std::size_t r = 0; r < whole.size(); ++r) {
        auto card = std::string_view{cards}.substr(r * bytes, bytes);
        if (take_number<std::uint32_t>(card) != static_cast<std::uint32_t>(color))
          continue;
        if (r == whole.rank())
          rank = static_cast<int>(members.size());
        members.push_back({r == whole.rank() ? loopback() : peer_of(whole.at(r)), std::string(card)});
        names.push_back(whole.name(r));
      }
      return connect(whole.meeting(), door, rank, members, std::move(names), whole.patience());
    });
  }

 private:
  /// The others learn what is wrong.
  template <class Make>
  static tcp announced(rendezvous& meeting, Make const& make) {
    try {
      return make();
    } catch (error const& e) {
      meeting.announce(e.what());
      throw;
    }
  }
};

}  // namespace detail

inline tcp::tcp(rendezvous& meeting, tcp_options const& options)
    : tcp{detail::tcp_access::open(meeting, options)} {}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void all_gather(tcp& c, view<T, R> mine, view<U, S> all) {
  expects(all.size() == mine.size() * c.size(), "all_gather: `all` holds `mine` once for each rank");
  auto const each = static_cast<std::size_t>(mine.size()) * sizeof(U);
  detail::tcp_access::run(c, collective::all_gather,
                          detail::bytes_of<U>(detail::sent_by_gather(mine.size(), c.size())),
                          [&](auto& ranks) {
                            ranks.gather({detail::call_of<U>(collective::all_gather, mine.size())}, mine.data,
                                         all.data, [&](std::size_t r) { return r * each; });
                          });
}

/// `mine` may be this rank's part of `all`.
template <class T, int R, class U, int S>
requires detail::sums_to<T, U>
void reduce_scatter(tcp& c, view<T, R> all, view<U, S> mine) {
  expects(all.size() == mine.size() * c.size(), "reduce_scatter: `all` holds a part for each rank");
  detail::tcp_access::run(c, collective::reduce_scatter,
                          detail::bytes_of<U>(detail::sent_by_gather(mine.size(), c.size())),
                          [&](auto& ranks) {
                            ranks.reduce_scatter({detail::call_of<U>(collective::reduce_scatter, all.size())},
                                                 all.data, mine.data, static_cast<std::size_t>(mine.size()),
                                                 detail::combine_parts<U, reduction::sum>);
                          });
}

template <element T, int R>
void all_reduce(tcp& c, view<T, R> buffer, reduction how = reduction::sum) {
  auto call = detail::call_of<T>(collective::all_reduce, buffer.size());
  call.how = static_cast<std::uint32_t>(how);
  detail::tcp_access::run(
      c, collective::all_reduce,
      detail::bytes_of<T>(detail::sent_by_all_reduce(buffer.size(), c.rank(), c.size())), [&](auto& ranks) {
        ranks.all_reduce({call}, buffer.data, static_cast<std::size_t>(buffer.size()),
                         how == reduction::sum ? detail::combine_parts<T, reduction::sum>
                                               : detail::combine_parts<T, reduction::maximum>);
      });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> && !std::is_const_v<T>) void broadcast(tcp& c, view<T, R> buffer,
                                                                                int root) {
  expects(root >= 0 && root < c.size(), "the root is one of the ranks");
  auto call = detail::call_of<T>(collective::broadcast, buffer.size());
  call.root = static_cast<std::uint32_t>(root);
  auto const bytes = detail::bytes_of<T>(buffer.size());
  detail::tcp_access::run(
      c, collective::broadcast, detail::sent_by_broadcast(bytes, c.rank(), root, c.size()), [&](auto& ranks) {
        ranks.broadcast({call}, buffer.data, static_cast<std::size_t>(bytes), static_cast<std::size_t>(root));
      });
}

/// `send` and `receive` do not overlap; every rank sends once and receives once.
template <class T, int R, class U, int S>
requires detail::copies_to<T, U>
void exchange(tcp& c, int to, view<T, R> send, int from, view<U, S> receive) {
  expects(to >= 0 && to < c.size() && from >= 0 && from < c.size(), "peers are ranks of the communicator");
  expects(send.size() == receive.size(), "exchange: as many elements come as go");
  detail::tcp_call const call{
      .what = detail::call_of<U>(collective::exchange, send.size()),
      .peers = {.to = static_cast<std::uint32_t>(to), .from = static_cast<std::uint32_t>(from)}};
  auto const bytes = detail::bytes_of<U>(send.size());
  detail::tcp_access::run(c, collective::exchange, to == c.rank() ? 0 : bytes, [&](auto& ranks) {
    ranks.exchange(call, send.data, receive.data, static_cast<std::size_t>(bytes));
  });
}

template <class T, int R>
requires(std::is_trivially_copyable_v<T> &&
         !std::is_const_v<T>) void all_gather_parts(tcp& c, view<T, R> buffer,
                                                    std::span<extent_t const> begins) {
  detail::expect_parts(begins, c.size(), buffer.size());
  auto call = detail::call_of<T>(collective::all_gather_parts, buffer.size());
  call.parts = detail::hash_of_parts(begins);
  auto const me = static_cast<std::size_t>(c.rank());
  detail::tcp_access::run(
      c, collective::all_gather_parts,
      detail::bytes_of<T>(detail::sent_by_gather(begins[me + 1] - begins[me], c.size())), [&](auto& ranks) {
        ranks.gather({call}, buffer.data + begins[me], buffer.data,
                     [&](std::size_t r) { return static_cast<std::size_t>(begins[r]) * sizeof(T); });
      });
}

inline void barrier(tcp& c) {
  detail::tcp_access::run(c, collective::barrier, 0, [](auto& ranks) {
    ranks.barrier({{.which = static_cast<std::uint32_t>(collective::barrier)}});
  });
}

/// A barrier to which ranks may come that much later than others, because they did something alone: wrote a file,
/// evaluated a model. A rank that dies meanwhile is noticed as soon as ever.
inline void wait_for_all(tcp& c, std::chrono::milliseconds patience) {
  auto& links = detail::tcp_access::links(c);
  auto const before = links.patience();
  links.patience(std::max(before, patience));
  barrier(c);
  links.patience(before);
}

/// All ranks of `c` call it. The ranks of one color get connections of their own.
inline tcp split(tcp& c, int color) {
  return detail::tcp_access::split(c, color);
}

static_assert(communicator<tcp>);

}  // namespace yoke::parallel
