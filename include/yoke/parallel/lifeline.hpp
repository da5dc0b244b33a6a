// Connections that stay open while ranks work, so that all of them learn of it when one fails.
#pragma once
#include <yoke/parallel/contacts.hpp>
#include <yoke/parallel/meeting.hpp>

#include <array>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <optional>

namespace yoke::parallel::detail {

/// A star: rank 0 is connected to all others and passes on what one of them says, the others are connected to rank 0.
/// A thread listens, so that rank 0 passes on bad news whatever its program is doing, and says now and then that this
/// rank lives: one that is stopped, or cut off, sends nothing that could be read.
class lifeline {
 public:
  /// Says every `heartbeat` that it lives, and takes those that say nothing for `silence` for dead.
  lifeline(int rank, int size, std::vector<connection> links, milliseconds heartbeat, milliseconds silence)
      : rank_{rank},
        size_{size},
        heartbeat_{heartbeat},
        silence_{silence},
        heard_(links.size(), steady_clock::now()),
        left_(links.size()),
        cards_(links.size()),
        waits_(static_cast<std::size_t>(size)) {
    std::array<int, 2> pair{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0)
      throw error("a rank cannot listen to the others: " + words_of(errno));
    wake_ = endpoint{pair[0]};
    woken_ = endpoint{pair[1]};
    links_ = std::move(links);
    sigset_t all, before;  // signals are for the program's own threads
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      listener_ = std::thread{[this] { listen(); }};
    } catch (std::system_error const& e) {
      ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw error(std::string("a rank cannot listen to the others: ") + e.what());
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  lifeline(lifeline const&) = delete;
  lifeline& operator=(lifeline const&) = delete;

  ~lifeline() {
    if (!announced_ && !failed_)
      tell({kind::farewell, own_rank(), {}}, rank_);
    send_all(wake_, "x", steady_clock::now());
    listener_.join();
    for (auto const& l : links_) {  // what has come is read, lest the farewell be lost to a reset
      std::array<char, 1 << 12> some;
      ::shutdown(l.at.descriptor(), SHUT_WR);
      while (::recv(l.at.descriptor(), some.data(), some.size(), 0) > 0) {
      }
    }
  }

  /// Throws error when a rank is gone.
  void poll() const {
    if (failed_.load(std::memory_order_acquire))
      throw error(failure_);
  }

  /// Tells all ranks that this one takes no further part.
  void announce(std::string_view why) noexcept {
    try {
      if (!announced_.exchange(true) && !failed_)
        tell({kind::failure, own_rank(), printable(why)}, rank_);
    } catch (std::bad_alloc const&) {  // then they learn it from the connection's end
    }
  }

  /// Tells all ranks for which ones this one waits, some at most; none: it goes on.
  void wait_for(std::vector<int> const& ranks) {
    std::string body;
    for (std::size_t i = 0; i < std::min(ranks.size(), most_named); ++i)
      append_number(body, static_cast<std::uint32_t>(ranks[i]));
    tell({kind::waiting, own_rank(), std::move(body)}, rank_);
  }

  /// Those for which `ranks` wait, and so on: the ones at the end, which wait for nobody. None when they wait for each
  /// other.
  std::vector<int> behind(std::vector<int> const& ranks) const {
    std::lock_guard const lock{mutex_};
    std::vector<int> ends, next = ranks;
    std::vector<bool> seen(waits_.size());
    seen[static_cast<std::size_t>(rank_)] = true;
    while (!next.empty()) {
      auto const r = next.back();
      auto const i = static_cast<std::size_t>(r);
      next.pop_back();
      if (seen[i])
        continue;
      seen[i] = true;
      if (waits_[i].empty())
        ends.push_back(r);
      next.insert(next.end(), waits_[i].begin(), waits_[i].end());
    }
    std::sort(ends.begin(), ends.end());
    return ends;
  }

  /// Rank 0's part of a broadcast.
  void give(std::string bytes) {
    poll();
    tell({kind::data, 0, std::move(bytes)}, 0);
  }

  /// The other ranks' part.
  std::string take(milliseconds timeout) { return next(kind::data, "broadcast", timeout); }

  /// What every rank gives, by rank, and where this one finds it.
  std::vector<contact> gather(std::string card, milliseconds timeout) {
    poll();
    if (rank_ != 0) {
      tell({kind::card, own_rank(), std::move(card)}, rank_);
      std::string list;
      auto part =
          next(kind::contacts, "gathered", timeout + milliseconds{5000});  // it may wait as long for others
      std::string_view head{part};
      if (head.size() < sizeof(std::uint64_t))
        throw error("rank 0 is gone: it sent a list of ranks that is none");
      auto const length = take_number<std::uint64_t>(head);
      for (list = head; list.size() < length;) list += next(kind::contacts, "gathered", timeout);
      try {
        return take_contacts(list, size_, peer_of(links_[0].at));
      } catch (bad_message const& e) {
        throw error(std::string("rank 0 is gone: ") + e.what());
      }
    }
    std::vector<contact> all(1);
    all[0].card = std::move(card);
    await_cards(timeout);
    for (std::size_t i = 0; i < links_.size(); ++i) {
      std::lock_guard const lock{mutex_};
      all.push_back({peer_of(links_[i].at), std::move(cards_[i].front().body)});
      cards_[i].pop_front();
    }
    std::string bytes, list = bytes_of(all);
    append_number(bytes, std::uint64_t{list.size()});
    bytes += list;
    for (std::size_t first = 0; first < bytes.size(); first += longest_body)
      tell({kind::contacts, 0, bytes.substr(first, longest_body)}, 0);
    all[0].at = loopback();
    return all;
  }

 private:
  std::uint32_t own_rank() const { return static_cast<std::uint32_t>(rank_); }

  /// The next message of rank 0's to all, which is of this kind.
  std::string next(kind what, char const* done, milliseconds timeout) {
    std::unique_lock lock{mutex_};
    if (!changed_.wait_for(lock, timeout, [&] { return failed_ || left_[0] || !given_.empty(); }))
      throw error(std::string("rank 0 has ") + done + " nothing for " + text_of(timeout));
    if (given_.empty()) {
      poll();
      throw error("rank 0 has left");
    }
    auto m = std::move(given_.front());
    given_.pop_front();
    if (m.what != what)
      throw error(std::string("ranks disagree: rank 0 has not ") + done + ", and rank " +
                  std::to_string(rank_) + " waits for that");
    return std::move(m.body);
  }

  /// Rank 0 waits for a card of each other rank.
  void await_cards(milliseconds timeout) {
    std::unique_lock lock{mutex_};
    auto const missing = [&] {
      std::string ranks;
      for (std::size_t i = 0; i < links_.size(); ++i)
        if (cards_[i].empty())
          ranks += (ranks.empty() ? "" : ", ") + std::to_string(links_[i].rank);
      return ranks;
    };
    auto const left = [&] {
      for (std::size_t i = 0; i < links_.size(); ++i)
        if (left_[i] && cards_[i].empty())
          return true;
      return false;
    };
    auto const in_time =
        changed_.wait_for(lock, timeout, [&] { return failed_ || missing().empty() || left(); });
    poll();
    if (auto const ranks = missing(); !ranks.empty())
      throw error("rank 0 gathers what all ranks give: of " + ranks + " nothing has come" +
                  (in_time ? ", and a rank has left" : " for " + text_of(timeout)));
  }

  void listen() noexcept {
    try {
      for (std::size_t i = 0; i < links_.size(); ++i) hear(i);  // what came with the last message before
      std::vector<pollfd> watched;
      auto beat = steady_clock::now();
      while (true) {
        watched.assign(1, {woken_.descriptor(), POLLIN, 0});
        for (std::size_t i = 0; i < links_.size(); ++i)
          watched.push_back({left_[i] ? -1 : links_[i].at.descriptor(), POLLIN, 0});
        if (::poll(watched.data(), watched.size(), milliseconds_until(beat)) < 0)
          continue;
        if (watched[0].revents != 0)
          return;
        for (std::size_t i = 0; i < links_.size(); ++i)
          if (watched[i + 1].revents != 0)
            hear(i);
        if (auto const now = steady_clock::now(); now >= beat) {
          tell({kind::alive, own_rank(), {}}, rank_);
          beat = now + heartbeat_;
          for (std::size_t i = 0; i < links_.size(); ++i)  // after all that has come was heard
            if (!left_[i] && now - heard_[i] > silence_)
              give_up(i);
        }
      }
    } catch (std::exception const& e) {
      fail(rank_, std::string("it cannot listen to the others: ") + e.what());
    }
  }

  void hear(std::size_t i) {
    auto& from = links_[i];
    std::string problem;
    try {
      auto const before = from.in.size();
      auto const open = receive(from.at, from.in, problem);
      if (from.in.size() > before)
        heard_[i] = steady_clock::now();
      while (auto const m = take_message(from.in)) understand(i, *m);
      if (open)
        return;
    } catch (bad_message const& e) {
      problem = e.what();
    }
    if (!left_[i])
      fail(from.rank, problem);
    leave(i);
  }

  void understand(std::size_t i, message const& m) {
    auto const passed_on = links_[i].rank == 0;  // what rank 0 says may be of another rank
    auto const rank = passed_on ? static_cast<int>(m.rank) : links_[i].rank;
    if (passed_on && m.what == kind::failure && rank == rank_) {
      remember("the others have given rank " + std::to_string(rank) + " up: " + printable(m.body));
      return;
    }
    if (rank < 0 || rank >= size_ || rank == rank_)
      throw bad_message("it sent a message of no other rank");
    auto& queue = passed_on ? given_ : cards_[i];
    if (m.what == kind::failure) {
      fail(rank, printable(m.body));
    } else if (m.what == kind::farewell && rank == links_[i].rank) {
      leave(i);
    } else if (passed_on ? m.what == kind::data || m.what == kind::contacts : m.what == kind::card) {
      std::lock_guard const lock{mutex_};
      if (queue.size() == most_waiting)
        throw bad_message("it broadcasts more than others take");
      queue.push_back(m);
      changed_.notify_all();
    } else if (m.what == kind::waiting) {
      note(rank, m.body);
      if (!passed_on)
        tell({kind::waiting, static_cast<std::uint32_t>(rank), m.body}, rank);
    } else if (m.what != kind::alive) {
      throw bad_message("it sent a message out of turn");
    }
  }

  void note(int rank, std::string_view numbers) {
    std::vector<int> ranks;
    while (numbers.size() >= sizeof(std::uint32_t))
      if (auto const r = take_number<std::uint32_t>(numbers); r < waits_.size())
        ranks.push_back(static_cast<int>(r));
    std::lock_guard const lock{mutex_};
    waits_[static_cast<std::size_t>(rank)] = std::move(ranks);
  }

  /// Nothing more is expected from this one.
  void leave(std::size_t i) {
    std::lock_guard const lock{mutex_};
    left_[i] = true;
    changed_.notify_all();
  }

  /// The first failure is remembered and passed on; what others then report is its consequence.
  void fail(int rank, std::string const& why) {
    if (remember("rank " + std::to_string(rank) + " is gone: " + why))
      tell({kind::failure, static_cast<std::uint32_t>(rank), why}, rank);
  }

  bool remember(std::string sentence) {
    std::lock_guard const lock{mutex_};
    if (failed_)
      return false;
    failure_ = std::move(sentence);
    failed_.store(true, std::memory_order_release);
    changed_.notify_all();
    return true;
  }

  /// Should it only have been stopped, it learns from rank 0 that the others go on without it.
  void give_up(std::size_t i) {
    auto const& silent = links_[i];
    auto const why = "it has not been heard for " + text_of(silence_);
    fail(silent.rank, why);
    leave(i);
    std::lock_guard const lock{sending_};
    if (rank_ == 0)
      send_all(silent.at, bytes_of(message{kind::failure, static_cast<std::uint32_t>(silent.rank), why}),
               steady_clock::now());
  }

  /// Sends to all that one is connected to, but to `except`.
  void tell(message const& m, int except) {
    auto const bytes = bytes_of(m);
    std::lock_guard const lock{sending_};
    for (auto const& l : links_)
      if (l.rank != except && !send_all(l.at, bytes, steady_clock::now() + milliseconds{500}))
        ::shutdown(l.at.descriptor(),
                   SHUT_RDWR);  // half a message may be there: listeners on both sides notice
  }

  static constexpr std::size_t most_waiting = 256, most_named = 16;

  int rank_, size_;
  milliseconds heartbeat_, silence_;
  std::vector<connection> links_;
  std::vector<moment> heard_;  // when something last came from each
  endpoint wake_, woken_;
  std::mutex sending_;
  mutable std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<message> given_;  // by rank 0, to all
  std::vector<bool> left_;
  std::vector<std::deque<message>> cards_;  // of each other rank, at rank 0
  std::vector<std::vector<int>> waits_;     // by rank: for whom it waits
  std::string failure_;                     // written once, before failed_
  std::atomic<bool> failed_ = false;
  std::atomic<bool> announced_ = false;
  std::thread listener_;
};

}  // namespace yoke::parallel::detail
