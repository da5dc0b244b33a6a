// TCP connections that never wait longer than they are told and raise no SIGPIPE.
#pragma once
#include <yoke/core/errors.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

namespace yoke::parallel::detail {

using std::chrono::steady_clock;
using moment = steady_clock::time_point;

inline std::string words_of(int number) {
  return std::system_category().message(number);
}

/// A socket that is owned; programs that this one starts do not inherit it.
class endpoint {
 public:
  endpoint() = default;
  explicit endpoint(int descriptor) : descriptor_{descriptor} {}
  endpoint(endpoint&& other) noexcept : descriptor_{std::exchange(other.descriptor_, -1)} {}
  endpoint& operator=(endpoint other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~endpoint() {
    if (descriptor_ >= 0)
      ::close(descriptor_);
  }

  int descriptor() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

  void set(int level, int option, int value) const {
    ::setsockopt(descriptor_, level, option, &value, sizeof value);
  }

 private:
  int descriptor_ = -1;
};

struct address {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);

  sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
  sockaddr const* raw() const { return reinterpret_cast<sockaddr const*>(&storage); }
  friend bool operator==(address const& a, address const& b) {
    return a.size == b.size && std::memcmp(&a.storage, &b.storage, a.size) == 0;
  }
};

/// "10.0.0.7 port 41234"
inline std::string text_of(address const& a) {
  std::array<char, NI_MAXHOST> host{"?"};
  std::array<char, NI_MAXSERV> port{"?"};
  ::getnameinfo(a.raw(), a.size, host.data(), host.size(), port.data(), port.size(),
                NI_NUMERICHOST | NI_NUMERICSERV);
  return std::string(host.data()) + " port " + port.data();
}

/// The addresses of a name, IPv6 or IPv4; none, and `problem` says why, when there are none.
inline std::vector<address> resolve(std::string const& host, int port, std::string& problem) {
  if (host == "localhost") {  // the loopback (RFC 6761), also where no table of names says so
    auto all = resolve("::1", port, problem);
    for (auto const& a : resolve("127.0.0.1", port, problem)) all.push_back(a);
    return all;
  }
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_socktype = SOCK_STREAM;
  if (auto const status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
      status != 0) {
    problem = ::gai_strerror(status);
    return {};
  }
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> const owned{found, ::freeaddrinfo};
  std::vector<address> all;
  for (auto const* a = found; a != nullptr; a = a->ai_next) {
    all.emplace_back();
    all.back().size = a->ai_addrlen;
    std::memcpy(&all.back().storage, a->ai_addr, a->ai_addrlen);
  }
  return all;
}

inline endpoint new_socket(int family) {
  return endpoint{::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
}

/// What lies ahead, in poll's milliseconds: rounded up, so that a wait for it does not end before it.
inline int milliseconds_until(moment until) {
  auto const left = std::chrono::ceil<std::chrono::milliseconds>(until - steady_clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 1'000'000));
}

/// Waits until the socket can be read (POLLIN) or written (POLLOUT), or has failed; false when it was in vain.
inline bool wait_for(endpoint const& e, short what, moment until) {
  pollfd one{e.descriptor(), what, 0};
  int ready = 0;
  do ready = ::poll(&one, 1, milliseconds_until(until));
  while (ready < 0 && errno == EINTR);
  return ready > 0;
}

/// Peers that vanish with their machine are noticed after a quarter of a minute, where nothing is on its way to them.
inline void keep_alive(endpoint const& e) {
  e.set(IPPROTO_TCP, TCP_NODELAY, 1);
  e.set(SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
  e.set(IPPROTO_TCP, TCP_KEEPIDLE, 5);
  e.set(IPPROTO_TCP, TCP_KEEPINTVL, 3);
  e.set(IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
}

inline bool names_loopback(std::string const& host) {
  return host == "localhost" || host == "127.0.0.1" || host == "::1";
}

/// Sockets that listen for peers: on the loopback's addresses for its names, for others on all of the machine's,
/// because a machine may know its own name by another address than its peers do.
inline std::vector<endpoint> listen_at(std::string const& host, int port) {
  std::string problem;
  auto const refuse = [&](std::string const& why) {
    throw error("rank 0 cannot listen at port " + std::to_string(port) + ": " + why +
                (why == words_of(EADDRINUSE) ? "; YOKE_PORT may name another port" : ""));
  };
  auto const local = names_loopback(host);
  std::vector<endpoint> all;
  auto const try_at = [&](address const& a) {
    auto e = new_socket(a.storage.ss_family);
    if (!e) {
      problem = words_of(errno);
      return;
    }
    e.set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (a.storage.ss_family == AF_INET6)
      e.set(IPPROTO_IPV6, IPV6_V6ONLY, local ? 1 : 0);
    if (::bind(e.descriptor(), a.raw(), a.size) == 0 && ::listen(e.descriptor(), SOMAXCONN) == 0)
      all.push_back(std::move(e));
    else if (problem = words_of(errno); errno == EADDRINUSE)
      refuse(problem);
  };
  auto addresses = resolve(local ? host : "::", port, problem);
  for (auto const& a : addresses) try_at(a);
  if (all.empty() && !local)  // a machine without IPv6
    for (auto const& a : resolve("0.0.0.0", port, problem)) try_at(a);
  if (all.empty())
    refuse(problem);
  return all;
}

/// A connection to one of the addresses; none, and `problem` says why, when none answers in time. Each has its share of
/// the time that is left: a firewall may swallow what one of them is sent.
inline endpoint connect_to(std::vector<address> const& addresses, moment until, std::string& problem) {
  auto left = static_cast<int>(addresses.size());
  for (auto const& a : addresses) {
    auto const now = steady_clock::now();
    auto const soon = now + (until - now) / left--;
    auto e = new_socket(a.storage.ss_family);
    if (!e || (::connect(e.descriptor(), a.raw(), a.size) != 0 && errno != EINPROGRESS)) {
      problem = words_of(errno);
      continue;
    }
    int failed = wait_for(e, POLLOUT, soon) ? 0 : ETIMEDOUT;
    socklen_t size = sizeof failed;
    if (failed == 0)
      ::getsockopt(e.descriptor(), SOL_SOCKET, SO_ERROR, &failed, &size);
    address here, there;
    if (failed == 0 && (::getsockname(e.descriptor(), here.raw(), &here.size) != 0 ||
                        ::getpeername(e.descriptor(), there.raw(), &there.size) != 0))
      failed = errno;
    if (failed == 0 && here == there)  // where nobody listens, TCP may connect a socket to itself
      failed = ECONNREFUSED;
    if (failed == 0)
      return e;
    problem = words_of(failed);
  }
  return {};
}

/// Sends all of it; false when the peer is gone, or does not read it in time.
inline bool send_all(endpoint const& e, std::string_view bytes, moment until) {
  while (!bytes.empty()) {
    auto const sent = ::send(e.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (!wait_for(e, POLLOUT, until))
        return false;
    } else if (errno != EINTR)
      return false;
  }
  return true;
}

/// Appends what has come, `most` bytes at most. Returns false when nothing will come any more, and `problem` says why.
inline bool receive(endpoint const& e, std::string& in, std::string& problem, std::size_t most = 1 << 14) {
  std::array<char, 1 << 14> some;
  auto const n = ::recv(e.descriptor(), some.data(), std::min(most, some.size()), 0);
  if (n > 0)
    in.append(some.data(), static_cast<std::size_t>(n));
  else if (n == 0)
    problem = "its connection closed";
  else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
    problem = "its connection broke: " + words_of(errno);
  else
    return true;
  return n > 0;
}

}  // namespace yoke::parallel::detail
