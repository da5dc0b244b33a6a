// Connections that stay open while ranks work, so that all of them learn of it when one fails.
#pragma once
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
/// A thread listens, so that rank 0 passes on bad news whatever its program is doing.
class lifeline {
 public:
  lifeline(int rank, int size, std::vector<connection> links)
      : rank_{rank}, size_{size}, left_(links.size()) {
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
      if (!std::exchange(announced_, true) && !failed_)
        tell({kind::failure, own_rank(), printable(why)}, rank_);
    } catch (std::bad_alloc const&) {  // then they learn it from the connection's end
    }
  }

  /// Rank 0's part of a broadcast.
  void give(std::string bytes) {
    poll();
    tell({kind::data, 0, std::move(bytes)}, 0);
  }

  /// The other ranks' part.
  std::string take(milliseconds timeout) {
    std::unique_lock lock{mutex_};
    if (!changed_.wait_for(lock, timeout, [&] { return failed_ || left_[0] || !data_.empty(); }))
      throw error("rank 0 has broadcast nothing for " + text_of(timeout));
    if (data_.empty()) {
      poll();
      throw error("rank 0 has left");
    }
    auto bytes = std::move(data_.front());
    data_.pop_front();
    return bytes;
  }

 private:
  std::uint32_t own_rank() const { return static_cast<std::uint32_t>(rank_); }

  void listen() noexcept {
    try {
      for (std::size_t i = 0; i < links_.size(); ++i) hear(i);  // what came with the last message before
      std::vector<pollfd> watched;
      while (true) {
        watched.assign(1, {woken_.descriptor(), POLLIN, 0});
        for (std::size_t i = 0; i < links_.size(); ++i)
          watched.push_back({left_[i] ? -1 : links_[i].at.descriptor(), POLLIN, 0});
        if (::poll(watched.data(), watched.size(), -1) < 0)
          continue;
        if (watched[0].revents != 0)
          return;
        for (std::size_t i = 0; i < links_.size(); ++i)
          if (watched[i + 1].revents != 0)
            hear(i);
      }
    } catch (std::exception const& e) {
      fail(rank_, std::string("it cannot listen to the others: ") + e.what());
    }
  }

  void hear(std::size_t i) {
    auto& from = links_[i];
    std::string problem;
    try {
      auto const open = receive(from.at, from.in, problem);
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
    if (rank < 0 || rank >= size_ || rank == rank_)
      throw bad_message("it sent a message of no other rank");
    if (m.what == kind::failure) {
      fail(rank, printable(m.body));
    } else if (m.what == kind::farewell && rank == links_[i].rank) {
      leave(i);
    } else if (m.what == kind::data && passed_on) {
      std::lock_guard const lock{mutex_};
      if (data_.size() == 64)
        throw bad_message("it broadcasts more than others take");
      data_.push_back(m.body);
      changed_.notify_all();
    } else {
      throw bad_message("it sent a message out of turn");
    }
  }

  /// Nothing more is expected from this one.
  void leave(std::size_t i) {
    std::lock_guard const lock{mutex_};
    left_[i] = true;
    changed_.notify_all();
  }

  /// The first failure is remembered and passed on; what others then report is its consequence.
  void fail(int rank, std::string const& why) {
    {
      std::lock_guard const lock{mutex_};
      if (failed_)
        return;
      failure_ = "rank " + std::to_string(rank) + " is gone: " + why;
      failed_.store(true, std::memory_order_release);
      changed_.notify_all();
    }
    tell({kind::failure, static_cast<std::uint32_t>(rank), why}, rank);
  }

  /// Sends to all that one is connected to, but to `except`.
  void tell(message const& m, int except) {
    auto const bytes = bytes_of(m);
    std::lock_guard const lock{sending_};
    for (auto const& l : links_)
      if (l.rank != except)
        send_all(l.at, bytes, steady_clock::now() + milliseconds{500});  // in vain: its listener notices
  }

  int rank_, size_;
  std::vector<connection> links_;
  endpoint wake_, woken_;
  std::mutex sending_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<std::string> data_;
  std::vector<bool> left_;
  std::string failure_;  // written once, before failed_
  std::atomic<bool> failed_ = false;
  bool announced_ = false;
  std::thread listener_;
};

}  // namespace yoke::parallel::detail
