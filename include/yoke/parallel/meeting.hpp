// How ranks meet: rank 0 listens until all have come, the others knock until it opens.
#pragma once
#include <yoke/parallel/launch.hpp>
#include <yoke/parallel/messages.hpp>
#include <yoke/parallel/sockets.hpp>

#include <array>
#include <cstdio>
#include <thread>

namespace yoke::parallel::detail {

using std::chrono::milliseconds;

/// "60 s", "0.25 s"
inline std::string text_of(milliseconds time) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g s", std::chrono::duration<double>(time).count());
  return text.data();
}

/// A connection to a rank, and what has come from it that was not yet understood.
struct connection {
  endpoint at;
  int rank = -1;
  std::string in;
};

inline hello introduction(launch_environment const& here, std::uint64_t configuration) {
  return {this_version, static_cast<std::uint32_t>(here.rank), static_cast<std::uint32_t>(here.size),
          configuration};
}

/// Rank 0's part. Whoever does not greet as a rank does is refused and forgotten.
class reception {
 public:
  reception(launch_environment const& here, std::uint64_t configuration)
      : here_{here},
        mine_{introduction(here, configuration)},
        listeners_{listen_at(here.host, here.port)},
        guests_(static_cast<std::size_t>(here.size)) {}

  /// The connections to ranks 1, 2, … when all have come. When they disagree, or some have not come in time, every rank
  /// that has come is told why, and so is the caller: by parallel::error.
  std::vector<connection> open(milliseconds timeout) {
    auto until = steady_clock::now() + timeout;
    while (arrived_ + refused_.size() < awaited_ && steady_clock::now() < until) {
      look_after(until);
      if (!problems_.empty())  // those who are on their way are told as well
        until = std::min(until, problem_since_ + milliseconds{3000});
    }
    if (auto const text = complaint(timeout); !text.empty()) {
      tell({kind::failure, 0, text});
      throw error(text);
    }
    tell({kind::accepted, 0, {}});
    guests_.erase(guests_.begin());
    return std::move(guests_);
  }

 private:
  struct stranger {
    connection link;
    std::string from;
    moment until;
  };

  /// Waits until something happens, and deals with it.
  void look_after(moment until) {
    std::vector<pollfd> watched;
    auto const watch = [&](endpoint const& e) {
      watched.push_back({e.descriptor(), POLLIN, 0});  // poll skips those that are not there
    };
    auto const room = strangers_.size() < most_strangers();
    for (auto const& l : listeners_) watched.push_back({room ? l.descriptor() : -1, POLLIN, 0});
    for (auto const& g : guests_) watch(g.at);
    for (auto const& s : strangers_) {
      watch(s.link.at);
      until = std::min(until, s.until);
    }
    if (::poll(watched.data(), watched.size(), milliseconds_until(until)) < 0)
      return;

    auto ready = watched.begin();
    auto const listening = ready;
    ready += static_cast<std::ptrdiff_t>(listeners_.size());
    for (auto& g : guests_)
      if ((ready++)->revents !=
          0) {  // a rank says nothing before it is told that all have come: this one is gone
        g = {};
        --arrived_;
      }
    std::vector<stranger> remaining;
    for (auto& s : strangers_)
      if (((ready++)->revents != 0 ? listen_to(s) : true) && steady_clock::now() < s.until)
        remaining.push_back(std::move(s));
    strangers_ = std::move(remaining);
    for (std::size_t i = 0; i < listeners_.size(); ++i)
      if (listening[static_cast<std::ptrdiff_t>(i)].revents != 0)
        let_in(listeners_[i]);
  }

  std::size_t most_strangers() const { return guests_.size() + 64; }
  void let_in(endpoint const& listener) {
    while (strangers_.size() < most_strangers()) {
      address from;
      endpoint e{::accept4(listener.descriptor(), from.raw(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK)};
      if (!e) {
        if (errno == EMFILE || errno == ENFILE)
          throw error("rank 0 cannot take up a connection: " + words_of(errno));
        return;
      }
      keep_alive(e);
      strangers_.push_back({{std::move(e), -1, {}}, text_of(from), steady_clock::now() + milliseconds{3000}});
    }
  }

  /// False when there is no more to hear from this stranger.
  bool listen_to(stranger& s) {
    try {
      std::string ignored;
      auto const open = receive(s.link.at, s.link.in, ignored);
      auto const said = take_hello(s.link.in);
      if (said)
        welcome(s, *said);
      return open && !said;
    } catch (bad_message const&) {
      return false;
    }
  }

  void welcome(stranger& s, hello const& said) {
    if (!send_all(s.link.at, bytes_of(mine_), steady_clock::now()))
      return;
    auto const name = "rank " + std::to_string(said.rank);
    if (said.version != mine_.version)
      object(s, name + " (" + s.from + ") speaks version " + std::to_string(said.version) +
                    " of the rendezvous, rank 0 version " + std::to_string(mine_.version));
    else if (said.size != mine_.size) {
      awaited_ = std::max<std::size_t>(awaited_, said.size - std::size_t{1});
      object(s, name + " (" + s.from + ") is one of " + std::to_string(said.size) + " ranks, rank 0 one of " +
                    std::to_string(mine_.size));
    } else if (said.rank >= mine_.size)
      object(s, s.from + " says that it is " + name + ", of " + std::to_string(mine_.size));
    else if (said.rank == 0 || guests_[said.rank].at)
      object(s, "two processes say that they are " + name + ", one of them at " + s.from);
    else if (said.configuration != mine_.configuration)
      object(s, name + " has another configuration than rank 0");
    else {
      s.link.rank = static_cast<int>(said.rank);
      guests_[said.rank] = std::move(s.link);
      ++arrived_;
    }
  }

  void object(stranger& s, std::string problem) {
    if (problems_.empty())
      problem_since_ = steady_clock::now();
    if (problems_.size() < 8)
      problems_.push_back(std::move(problem));
    if (refused_.size() < 1024)
      refused_.push_back(std::move(s.link));
  }

  /// What is wrong when there is no more time; empty: nothing.
  std::string complaint(milliseconds timeout) const {
    std::string text, missing;
    for (auto const& p : problems_) text += (text.empty() ? "" : "; ") + p;
    int count = 0;
    for (std::size_t r = 1; r < guests_.size(); ++r)
      if (!guests_[r].at && ++count <= 16)
        missing += (missing.empty() ? "" : ", ") + std::to_string(r);
    if (problems_.empty() && count > 0)
      text = (count == 1 ? "rank " : "ranks ") + missing + (count > 16 ? ", …" : "") + " of " +
             std::to_string(here_.size) + (count == 1 ? " is" : " are") + " missing after " +
             text_of(timeout);
    return text.empty() ? text
                        : "rendezvous at " + here_.host + ":" + std::to_string(here_.port) + ": " + text;
  }

  void tell(message const& m) {
    auto const bytes = bytes_of(m);
    auto const until = steady_clock::now() + milliseconds{1000};
    for (auto const* all : {&guests_, &refused_})
      for (auto const& g : *all)
        if (g.at)
          send_all(g.at, bytes, until);
  }

  launch_environment here_;
  hello mine_;
  std::vector<endpoint> listeners_;
  std::vector<stranger> strangers_;  // have not said who they are
  std::vector<connection> guests_;   // by rank
  std::vector<connection> refused_;  // ranks that will be told why
  std::vector<std::string> problems_;
  moment problem_since_{};
  std::size_t arrived_ = 0, awaited_ = guests_.size() - 1;
};

/// The other ranks' part.
class visitor {
 public:
  visitor(launch_environment const& here, std::uint64_t configuration)
      : here_{here}, mine_{introduction(here, configuration)} {}

  /// The connection to rank 0 when all have come. parallel::error when rank 0 does not answer in time, or says what is
  /// wrong.
  connection enter(milliseconds timeout) {
    auto const until = steady_clock::now() + timeout;
    for (auto pause = milliseconds{10};; pause = std::min(pause * 2, milliseconds{500})) {
      if (knock(until))
        break;
      if (steady_clock::now() + pause > until)
        throw error("rank " + std::to_string(here_.rank) + " has not found rank 0 at " + here_.host + ":" +
                    std::to_string(here_.port) + " after " + text_of(timeout) + ": " + problem_);
      std::this_thread::sleep_for(pause);
    }
    // Rank 0 may have been started later, and have as much patience as this one had.
    auto const opened = steady_clock::now() + timeout + milliseconds{5000};
    auto const verdict = await(opened, take_message);
    if (!verdict || (verdict->what != kind::accepted && verdict->what != kind::failure))
      throw error(
          "rank 0 is gone: " + (problem_.empty() ? "it sent no message that a rank sends" : problem_) +
          " before all ranks had come");
    if (verdict->what == kind::failure)
      throw error(printable(verdict->body));
    return std::move(link_);
  }

 private:
  /// Whether rank 0 is there and has answered.
  bool knock(moment until) {
    problem_.clear();
    link_ = {connect_to(resolve(here_.host, here_.port, problem_), until, problem_), 0, {}};
    if (!link_.at)
      return false;
    keep_alive(link_.at);
    auto const soon = std::min(until, steady_clock::now() + milliseconds{5000});
    if (!send_all(link_.at, bytes_of(mine_), soon))
      return false;
    auto const said = await(soon, take_hello);
    if (!said || said->rank != 0) {
      problem_ = "something else answers there" + (problem_.empty() ? problem_ : ": " + problem_);
      return false;
    }
    if (said->version != mine_.version)
      throw error("rank 0 speaks version " + std::to_string(said->version) + " of the rendezvous, rank " +
                  std::to_string(here_.rank) + " version " + std::to_string(mine_.version));
    return true;
  }

  /// What `take` makes of what comes; nothing, and problem_ says why, when nothing comes in time.
  template <class Take>
  auto await(moment until, Take take) -> decltype(take(std::declval<std::string&>())) {
    problem_.clear();
    try {
      for (auto open = true;;) {
        if (auto taken = take(link_.in))
          return taken;
        if (!open)
          return std::nullopt;
        if (!wait_for(link_.at, POLLIN, until)) {
          problem_ = "it said nothing";
          return std::nullopt;
        }
        open = receive(link_.at, link_.in, problem_);
      }
    } catch (bad_message const& e) {
      problem_ = e.what();
      return std::nullopt;
    }
  }

  launch_environment here_;
  hello mine_;
  connection link_;
  std::string problem_;
};

}  // namespace yoke::parallel::detail
