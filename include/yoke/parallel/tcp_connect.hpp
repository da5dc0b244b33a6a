// Each two of some ranks get a connection of their own: the lower one listens, the higher one calls.
#pragma once
#include <yoke/parallel/contacts.hpp>
#include <yoke/parallel/meeting.hpp>

#include <cstdint>
#include <random>

namespace yoke::parallel::detail {

/// What a rank that listens hands to those who shall call it: its port, and a word that strangers do not know.
struct invitation {
  int port = 0;
  std::string word;

  static constexpr std::size_t word_bytes = 16, bytes = 2 + word_bytes;

  std::string card() const {
    std::string text;
    append_number(text, static_cast<std::uint16_t>(port));
    return text + word;
  }
  static invitation read(std::string_view card) {
    if (card.size() < bytes)
      throw error("ranks disagree: a rank does not say where it listens");
    invitation i;
    i.port = take_number<std::uint16_t>(card);
    i.word = card.substr(0, word_bytes);
    return i;
  }
};

/// Listens while it exists. Whoever calls says the word of the one that it calls and its own rank, and is answered with
/// the word of its own: so both know that they are ranks of one program, and which. Others are refused.
class introductions {
 public:
  explicit introductions(bool on_loopback) : listener_{listen_anywhere(on_loopback)} {
    std::random_device random;
    mine_.port = own_port(listener_);
    while (mine_.word.size() < invitation::word_bytes)
      append_number(mine_.word, static_cast<std::uint32_t>(random()));
  }

  invitation const& mine() const { return mine_; }

  /// The connections to ranks 0, 1, … of those whose contacts these are, the rank itself left out; errors call them by
  /// `names`. `poll` throws when a rank is gone.
  template <class Poll>
  std::vector<endpoint> connect(int rank, std::vector<contact> const& all, std::vector<int> const& names,
                                milliseconds timeout, Poll const& poll) {
    for (auto const& c : all) peers_.push_back({invitation::read(c.card), {}, {}, {}});
    auto const me = static_cast<std::size_t>(rank);
    peers_[me].done = true;
    missing_ = all.size() - 1;
    until_ = steady_clock::now() + timeout;
    for (std::size_t r = 0; r < me; ++r) call(r, all[r].at);
    while (missing_ > 0) {
      poll();
      if (steady_clock::now() > until_)
        throw error(complaint(me, names));
      look_after(me, all.size());
    }
    std::vector<endpoint> connections;
    for (auto& p : peers_) connections.push_back(std::move(p.at));
    return connections;
  }

 private:
  struct peer {
    invitation theirs;
    endpoint at;
    std::string in, problem;
    bool called = false, done = false;  // the word was said; it was answered
  };
  struct stranger {
    endpoint at;
    std::string in;
    moment until;
  };
  static constexpr std::size_t more_strangers = 64;  // than ranks
  static constexpr std::size_t call_bytes = greeting.size() + invitation::word_bytes + 4;

  void call(std::size_t r, address const& host) {
    auto& p = peers_[r];
    auto const at = with_port(host, p.theirs.port);
    p.at = new_socket(at.storage.ss_family);
    p.problem = "it does not answer at " + text_of(at);
    if (!p.at || (::connect(p.at.descriptor(), at.raw(), at.size) != 0 && errno != EINPROGRESS))
      give_up(p, words_of(errno));
  }

  /// When it has died the lifeline says so, if it is given the time.
  void give_up(peer& p, std::string const& why) {
    p.problem += ": " + why;
    p.at = {};
    until_ = std::min(until_, steady_clock::now() + milliseconds{1000});
  }

  void look_after(std::size_t me, std::size_t size) {
    auto const room = strangers_.size() < size + more_strangers;
    std::vector<pollfd> watched{{room ? listener_.descriptor() : -1, POLLIN, 0}};
    for (std::size_t r = 0; r < me; ++r) {
      auto const& p = peers_[r];
      watched.push_back(
          {p.done ? -1 : p.at.descriptor(), static_cast<short>(p.called ? POLLIN : POLLOUT), 0});
    }
    for (auto const& s : strangers_) watched.push_back({s.at.descriptor(), POLLIN, 0});
    if (::poll(watched.data(), watched.size(), 100) < 0)
      return;
    auto ready = watched.begin() + 1;
    for (std::size_t r = 0; r < me; ++r)
      if ((ready++)->revents != 0)
        go_on(peers_[r], static_cast<std::uint32_t>(me));
    std::vector<stranger> remaining;
    for (auto& s : strangers_)
      if (((ready++)->revents == 0 || listen_to(s, me, size)) && steady_clock::now() < s.until)
        remaining.push_back(std::move(s));
    strangers_ = std::move(remaining);
    if (watched[0].revents != 0)
      let_in(size);
  }

  /// Of the calls that this rank makes.
  void go_on(peer& p, std::uint32_t me) {
    if (!p.called) {
      int failed = 0;
      socklen_t size = sizeof failed;
      ::getsockopt(p.at.descriptor(), SOL_SOCKET, SO_ERROR, &failed, &size);
      std::string words{greeting};
      append_number(words += p.theirs.word, me);
      if (failed != 0 || !send_all(p.at, words, steady_clock::now()))
        return give_up(p, words_of(failed != 0 ? failed : errno));
      p.called = true;
      return;
    }
    std::string problem;
    auto const open = receive(p.at, p.in, problem, invitation::word_bytes - p.in.size());
    if (p.in == mine_.word) {
      prepare(p);
    } else if (!open || mine_.word.substr(0, p.in.size()) != p.in) {
      give_up(p, open ? "something else answers there" : problem);
    }
  }

  void let_in(std::size_t size) {
    while (strangers_.size() < size + more_strangers) {
      endpoint e{::accept4(listener_.descriptor(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
      if (!e) {
        if (errno == EMFILE || errno == ENFILE)
          throw error("a rank cannot take up a connection: " + words_of(errno));
        return;
      }
      strangers_.push_back({std::move(e), {}, steady_clock::now() + milliseconds{3000}});
    }
  }

  /// False when there is no more to hear from this stranger.
  bool listen_to(stranger& s, std::size_t me, std::size_t size) {
    std::string ignored;
    auto const open = receive(s.at, s.in, ignored, call_bytes - s.in.size());
    auto const expected = std::string(greeting) + mine_.word;
    if (s.in.compare(0, expected.size(), expected, 0, s.in.size()) != 0)
      return false;
    if (s.in.size() < call_bytes)
      return open;
    auto last = std::string_view{s.in}.substr(expected.size());
    auto const r = std::size_t{take_number<std::uint32_t>(last)};
    if (r > me && r < size && !peers_[r].done && send_all(s.at, peers_[r].theirs.word, steady_clock::now())) {
      peers_[r].at = std::move(s.at);
      prepare(peers_[r]);
    }
    return false;
  }

  void prepare(peer& p) {
    keep_alive(p.at);
    p.done = true;
    --missing_;
  }

  std::string complaint(std::size_t me, std::vector<int> const& names) const {
    std::string text;
    int count = 0;
    for (std::size_t r = 0; r < peers_.size(); ++r)
      if (!peers_[r].done && ++count <= 8)
        text += (count == 1 ? "rank " : "; rank ") + std::to_string(names[r]) + ": " +
                (peers_[r].problem.empty() ? "it has not called" : peers_[r].problem);
    return "rank " + std::to_string(names[me]) + " is not connected to all others: " + text +
           (count > 8 ? "; …" : "");
  }

  endpoint listener_;
  invitation mine_;
  std::vector<peer> peers_;
  std::vector<stranger> strangers_;
  std::size_t missing_ = 0;
  moment until_{};
};

}  // namespace yoke::parallel::detail
