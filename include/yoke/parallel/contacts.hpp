// Where ranks find each other: rank 0 saw from which address each of them came.
#pragma once
#include <yoke/parallel/messages.hpp>
#include <yoke/parallel/sockets.hpp>

#include <arpa/inet.h>

namespace yoke::parallel::detail {

/// What a rank has given to all, and where it is. The address has no port of use: what it gave may name one.
struct contact {
  address at;
  std::string card;
};

inline address loopback() {
  address a;
  auto& in = reinterpret_cast<sockaddr_in&>(a.storage);
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  a.size = sizeof in;
  return a;
}

/// The same address, as one of IPv4 where it is one that IPv6 only wraps.
inline address plain(address const& a) {
  auto const& from = reinterpret_cast<sockaddr_in6 const&>(a.storage);
  if (a.storage.ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&from.sin6_addr))
    return a;
  auto inner = loopback();
  auto& in = reinterpret_cast<sockaddr_in&>(inner.storage);
  std::memcpy(&in.sin_addr, from.sin6_addr.s6_addr + 12, sizeof in.sin_addr);
  in.sin_port = from.sin6_port;
  return inner;
}

inline bool is_loopback(address const& any) {
  auto const a = plain(any);
  if (a.storage.ss_family == AF_INET)
    return ntohl(reinterpret_cast<sockaddr_in const&>(a.storage).sin_addr.s_addr) >> 24 == 127;
  return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<sockaddr_in6 const&>(a.storage).sin6_addr);
}

inline int port_of(address const& a) {  // in both families at one place
  return ntohs(reinterpret_cast<sockaddr_in const&>(a.storage).sin_port);
}
inline address with_port(address a, int port) {
  reinterpret_cast<sockaddr_in&>(a.storage).sin_port = htons(static_cast<std::uint16_t>(port));
  return a;
}

inline address peer_of(endpoint const& e) {
  address a;
  if (::getpeername(e.descriptor(), a.raw(), &a.size) != 0)
    a = loopback();  // it is gone, which those who connect to it will learn
  return plain(a);
}

/// A socket that listens at a port that the system chooses: on the loopback, or on all of the machine's addresses.
inline endpoint listen_anywhere(bool on_loopback) {
  std::string problem;
  for (std::string const host : {on_loopback ? "127.0.0.1" : "::", "0.0.0.0"}) {
    for (auto const& a : resolve(host, 0, problem)) {
      auto e = new_socket(a.storage.ss_family);
      if (e && a.storage.ss_family == AF_INET6)
        e.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
      if (e && ::bind(e.descriptor(), a.raw(), a.size) == 0 && ::listen(e.descriptor(), SOMAXCONN) == 0)
        return e;
      problem = words_of(errno);
    }
    if (on_loopback)
      break;
  }
  throw error("a rank cannot listen for the others: " + problem);
}

inline int own_port(endpoint const& listener) {
  address a;
  ::getsockname(listener.descriptor(), a.raw(), &a.size);
  return port_of(a);
}

/// Rank 0's list: the addresses that it saw, of ranks 0, 1, …, and what they gave. Addresses of its own machine, and its
/// own, mean something to ranks of this machine only: they go as none.
inline std::string bytes_of(std::vector<contact> const& all) {
  std::string bytes;
  for (auto const& c : all) {
    auto const a = plain(c.at);
    auto const none = a.storage.ss_family == AF_UNSPEC || is_loopback(a);
    auto const four = a.storage.ss_family == AF_INET;
    bytes += none ? '0' : four ? '4' : '6';
    if (!none && four)
      bytes.append(reinterpret_cast<char const*>(&reinterpret_cast<sockaddr_in const&>(a.storage).sin_addr),
                   4);
    else if (!none)
      bytes.append(reinterpret_cast<char const*>(&reinterpret_cast<sockaddr_in6 const&>(a.storage).sin6_addr),
                   16);
    append_number(bytes, static_cast<std::uint32_t>(c.card.size()));
    bytes += c.card;
  }
  return bytes;
}

/// The list as a rank reads it that reached rank 0 at `rank_0`; this is also where those are that have no address. A rank
/// that came there by the loopback finds the others of its machine by the loopback. Throws bad_message.
inline std::vector<contact> take_contacts(std::string_view in, int size, address const& rank_0) {
  auto const here = is_loopback(rank_0) ? loopback() : plain(rank_0);
  std::vector<contact> all(static_cast<std::size_t>(size));
  auto const take = [&](std::size_t n) {
    if (in.size() < n)
      throw bad_message("its list of ranks ends too early");
    auto const taken = in.substr(0, n);
    in.remove_prefix(n);
    return taken;
  };
  for (auto& c : all) {
    auto const family = take(1).front();
    c.at = here;
    if (family == '4') {
      c.at = loopback();
      auto& a = reinterpret_cast<sockaddr_in&>(c.at.storage);
      std::memcpy(&a.sin_addr, take(sizeof a.sin_addr).data(), sizeof a.sin_addr);
    } else if (family == '6') {
      c.at = {};
      auto& a = reinterpret_cast<sockaddr_in6&>(c.at.storage);
      a.sin6_family = AF_INET6;
      std::memcpy(&a.sin6_addr, take(sizeof a.sin6_addr).data(), sizeof a.sin6_addr);
      c.at.size = sizeof a;
      if (IN6_IS_ADDR_LINKLOCAL(&a.sin6_addr) &&
          rank_0.storage.ss_family == AF_INET6)  // on the way to rank 0
        a.sin6_scope_id = reinterpret_cast<sockaddr_in6 const&>(rank_0.storage).sin6_scope_id;
    }
    auto head = take(sizeof(std::uint32_t));
    c.card = take(take_number<std::uint32_t>(head));
  }
  return all;
}

}  // namespace yoke::parallel::detail
