// A rank's connections to each other rank, over which all that a collective sends and receives goes at once.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/parallel/rendezvous.hpp>
#include <yoke/parallel/tcp_call.hpp>

#include <sys/uio.h>

namespace yoke::parallel::detail {

/// Runs of bytes that go, or come, one after the other: what a call says of itself, and what two steps of a collective
/// that overlap send.
template <class Byte>
class runs {
 public:
  void push(Byte* first, std::size_t n) {
    if (n > 0)
      all_[last_++] = {first, n};
  }
  void clear() { first_ = last_ = 0; }
  /// Leaves what is left of the very first run.
  void keep_head() { first_ == 0 ? last_ = std::min<std::size_t>(last_, 1) : (clear(), 0); }
  bool empty() const { return first_ == last_; }
  std::span<Byte> front() const { return all_[first_]; }

  /// These bytes are through.
  void advance(std::size_t n) {
    while (n > 0) {
      auto const some = std::min(n, all_[first_].size());
      all_[first_] = all_[first_].subspan(some);
      n -= some;
      if (all_[first_].empty())
        ++first_;
    }
    if (empty())
      clear();
  }
  int vectors(std::array<iovec, 3>& v) const {
    int n = 0;
    for (auto i = first_; i < last_; ++i)
      v[static_cast<std::size_t>(n++)] = {const_cast<std::byte*>(all_[i].data()), all_[i].size()};
    return n;
  }

 private:
  std::array<std::span<Byte>, 3> all_;
  std::size_t first_ = 0, last_ = 0;
};

/// A collective is begun, which enqueues what this rank says of it for all others; then the runs of each step are
/// enqueued and transferred. For one thread at a time; threads with links of their own do not disturb each other.
class tcp_links {
 public:
  /// Connections to ranks 0, 1, …, of which this rank's own is none. Errors call ranks by `names`.
  tcp_links(rendezvous& meeting, std::vector<endpoint> connections, int rank, std::vector<int> names,
            milliseconds timeout)
      : meeting_{meeting},
        rank_{static_cast<std::size_t>(rank)},
        names_{std::move(names)},
        patience_{timeout},
        peers_(names_.size()),
        calls_(names_.size()),
        watched_(names_.size()) {
    for (std::size_t r = 0; r < peers_.size(); ++r)
      if (r != rank_)
        peers_[r].at = std::move(connections[r]);
  }
  tcp_links(tcp_links const&) = delete;
  tcp_links& operator=(tcp_links const&) = delete;

  std::size_t rank() const { return rank_; }
  std::size_t size() const { return peers_.size(); }
  int name(std::size_t r) const { return names_[r]; }
  endpoint const& at(std::size_t r) const { return peers_[r].at; }
  rendezvous& meeting() const { return meeting_; }
  milliseconds patience() const { return patience_; }
  void patience(milliseconds time) { patience_ = time; }

  /// Bytes that the sockets have taken, but for what the calls say of themselves.
  std::uint64_t payload_sent() const { return sent_ - said_; }

  /// All ranks begin the same call.
  void begin(tcp_call call) {
    if (!failure_.empty())
      throw error(failure_);
    look();
    call.what.number = ++count_;
    calls_.assign(peers_.size(), std::nullopt);
    calls_[rank_] = call;
    begins_ = true;
    differs_ = false;
    for (std::size_t r = 0; r < peers_.size(); ++r) {
      peers_[r].out.clear();
      peers_[r].in.clear();
      if (r == rank_)
        continue;
      peers_[r].out.push(reinterpret_cast<std::byte const*>(&*calls_[rank_]), sizeof(tcp_call));
      said_ += sizeof(tcp_call);
      peers_[r].in.push(reinterpret_cast<std::byte*>(&peers_[r].says), sizeof(tcp_call));
    }
  }

  /// At most two of each, for each rank and transfer.
  void send(std::size_t to, void const* first, std::size_t bytes) {
    peers_[to].out.push(static_cast<std::byte const*>(first), bytes);
  }
  void receive(std::size_t from, void* first, std::size_t bytes) {
    peers_[from].in.push(static_cast<std::byte*>(first), bytes);
  }

  /// Returns when all that was enqueued is sent (the system has taken it) and has come.
  void transfer() {
    auto progress = steady_clock::now(), differs_since = progress;
    auto const soon = std::min<milliseconds>(patience_ * 3 / 4, milliseconds{10'000});
    auto told = false;  // the others, that this rank waits
    for (auto& w : watched_) w.revents = POLLIN | POLLOUT;
    while (true) {
      auto moved = false, pending = false, differed = differs_;
      for (std::size_t r = 0; r < peers_.size(); ++r) {
        if (r != rank_ && watched_[r].revents != 0)
          moved |= move(r);
        pending |= watch(r);
      }
      auto const now = steady_clock::now();
      if (moved)
        progress = now;
      if (differs_ && !differed)
        differs_since = now;
      if (!pending || (differs_ && now - differs_since > grace))
        break;
      if (!differs_)  // otherwise the others soon say so, too
        look();
      if (!told && now - progress > soon) {
        told = true;
        meeting_.wait_for(names_of(awaited().ranks));
      }
      if (now - progress > patience_)
        fail(complaint());
      if (::poll(watched_.data(), watched_.size(), 100) < 0)
        for (auto& w : watched_) w.revents = 0;
    }
    if (told)
      meeting_.wait_for({});
    if (std::exchange(begins_, false))
      if (auto const problem = disagreement(calls_, names_); !problem.empty())
        fail(problem);
  }

 private:
  struct peer {
    endpoint at;
    tcp_call says;
    runs<std::byte const> out;
    runs<std::byte> in;
  };
  static constexpr milliseconds grace{1000};

  /// Whether any byte went or came.
  bool move(std::size_t r) {
    auto& p = peers_[r];
    auto moved = false;
    while (!p.in.empty()) {
      auto const some = p.in.front();
      auto const n = ::recv(p.at.descriptor(), some.data(), some.size(), 0);
      if (n == 0)
        lost(r, "its connection closed");
      if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
          lost(r, "its connection broke: " + words_of(errno));
        break;
      }
      p.in.advance(static_cast<std::size_t>(n));
      moved = true;
      if (begins_ && !calls_[r] && static_cast<std::size_t>(n) == some.size())
        compare(r);
      if (static_cast<std::size_t>(n) < some.size())
        break;
    }
    if (!p.out.empty()) {
      std::array<iovec, 3> all{};
      msghdr m{};
      m.msg_iov = all.data();
      m.msg_iovlen = static_cast<decltype(m.msg_iovlen)>(p.out.vectors(all));
      auto const n = ::sendmsg(p.at.descriptor(), &m, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        lost(r, "its connection broke: " + words_of(errno));
      if (n > 0) {
        p.out.advance(static_cast<std::size_t>(n));
        sent_ += static_cast<std::uint64_t>(n);
        moved = true;
      }
    }
    return moved;
  }

  /// Whether there is something to wait for.
  bool watch(std::size_t r) {
    auto const& p = peers_[r];
    short const events = static_cast<short>((p.in.empty() ? 0 : POLLIN) | (p.out.empty() ? 0 : POLLOUT));
    watched_[r] = {events == 0 ? -1 : p.at.descriptor(), events, 0};
    return events != 0;
  }

  /// What rank r has said of its call is here. When it calls something else, nothing is taken from anybody any more but
  /// what the others say: all ranks shall learn who differs.
  void compare(std::size_t r) {
    calls_[r] = peers_[r].says;
    differs_ |=
        !agree(*calls_[rank_], static_cast<std::uint32_t>(rank_), *calls_[r], static_cast<std::uint32_t>(r));
    for (std::size_t i = 0; differs_ && i < peers_.size(); ++i) {
      peers_[i].out.keep_head();
      calls_[i] ? peers_[i].in.clear() : peers_[i].in.keep_head();
    }
  }

  void look() {
    try {
      meeting_.poll();
    } catch (error const& e) {
      failure_ = e.what();
      throw;
    }
  }

  /// A connection that ends is the consequence of something that the lifeline soon knows.
  [[noreturn]] void lost(std::size_t r, std::string const& problem) {
    for (auto const until = steady_clock::now() + grace; steady_clock::now() < until;
         std::this_thread::sleep_for(milliseconds{5}))
      look();
    fail("rank " + std::to_string(names_[r]) + " is gone: " + problem);
  }

  [[noreturn]] void fail(std::string text) {
    failure_ = std::move(text);
    meeting_.announce(failure_);
    throw error(failure_);
  }

  struct waited_for {
    std::vector<std::size_t> ranks;
    char const *does, *all_do;  // what one of them does, or several
  };

  /// Those that have not come to the collective, or else do not go on with it.
  waited_for awaited() const {
    auto const all = [&](auto const& is_one) {
      std::vector<std::size_t> ranks;
      for (std::size_t r = 0; r < peers_.size(); ++r)
        if (r != rank_ && is_one(r))
          ranks.push_back(r);
      return ranks;
    };
    if (auto late = all([&](std::size_t r) { return begins_ && !calls_[r]; }); !late.empty())
      return {std::move(late), " does not come", " do not come"};
    if (auto mute = all([&](std::size_t r) { return !peers_[r].in.empty(); }); !mute.empty())
      return {std::move(mute), " sends no more", " send no more"};
    return {all([&](std::size_t r) { return !peers_[r].out.empty(); }), " takes no more", " take no more"};
  }

  std::vector<int> names_of(std::vector<std::size_t> const& ranks) const {
    std::vector<int> names;
    for (auto const r : ranks) names.push_back(names_[r]);
    return names;
  }

  /// On a mesh, those that do not come may themselves wait for somebody who is not in this communicator.
  std::string complaint() const {
    auto const they = awaited();
    auto const names = names_of(they.ranks), behind = meeting_.behind(names);
    auto const text = "rank " + std::to_string(names_[rank_]) + " has waited " + text_of(patience_) + " in " +
                      calls_[rank_]->what.text() + ", its collective number " + std::to_string(count_) +
                      ": " + text_of_ranks(names) + (names.size() == 1 ? they.does : they.all_do);
    return behind.empty() || behind == names ? text
                                             : text + "; in the end all wait for " + text_of_ranks(behind);
  }

  rendezvous& meeting_;
  std::size_t rank_;
  std::vector<int> names_;
  milliseconds patience_;
  std::vector<peer> peers_;
  std::vector<std::optional<tcp_call>> calls_;  // of the present collective, as far as they are known
  std::vector<pollfd> watched_;
  std::uint64_t count_ = 0, sent_ = 0, said_ = 0;
  bool begins_ = false, differs_ = false;  // in the first transfer of a collective; in a disagreement
  std::string failure_;
};

}  // namespace yoke::parallel::detail
