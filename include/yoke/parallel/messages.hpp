// What ranks that meet say to each other, as bytes. Whatever comes from the network is bounded and checked.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace yoke::parallel::detail {

/// The peer does not speak as ranks do.
struct bad_message : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Little-endian.
template <class N>
void append_number(std::string& to, N value) {
  for (std::size_t i = 0; i < sizeof(N); ++i) to += static_cast<char>(value >> (8 * i) & 0xff);
}
template <class N>
N take_number(std::string_view& from) {
  N value = 0;
  for (std::size_t i = 0; i < sizeof(N); ++i)
    value |= static_cast<N>(static_cast<N>(static_cast<unsigned char>(from[i])) << (8 * i));
  from.remove_prefix(sizeof(N));
  return value;
}

/// What both sides of a connection say first.
struct hello {
  std::uint32_t version, rank, size;
  std::uint64_t configuration;
};
inline constexpr std::uint32_t this_version = 2;
inline constexpr std::string_view greeting = "\x89Yoke\r\n\x1a";
inline constexpr std::size_t hello_bytes = 28;  // in all versions to come

inline std::string bytes_of(hello const& h) {
  std::string bytes{greeting};
  append_number(bytes, h.version);
  append_number(bytes, h.rank);
  append_number(bytes, h.size);
  append_number(bytes, h.configuration);
  return bytes;
}

/// Takes the hello from the front of what has come; none when it has not all come. Throws bad_message as soon as it
/// cannot become one.
inline std::optional<hello> take_hello(std::string& in) {
  if (std::string_view{in}.substr(0, greeting.size()) != greeting.substr(0, in.size()))
    throw bad_message("it does not greet as a rank does");
  if (in.size() < hello_bytes)
    return std::nullopt;
  auto rest = std::string_view{in}.substr(greeting.size());
  hello h{};
  h.version = take_number<std::uint32_t>(rest);
  h.rank = take_number<std::uint32_t>(rest);
  h.size = take_number<std::uint32_t>(rest);
  h.configuration = take_number<std::uint64_t>(rest);
  in.erase(0, hello_bytes);
  return h;
}

enum class kind : std::uint32_t {
  accepted = 1,  // rank 0's: all ranks are there
  failure,       // rank `rank` takes no further part; the body says why
  data,          // rank 0's: the body is for broadcast_bytes
  farewell,      // rank `rank` has done its work and leaves
  card,          // rank `rank`'s: the body is for all
  contacts,      // rank 0's: the next part of the list of all that they gave
  alive,         // rank `rank`'s, now and then
  waiting        // rank `rank` waits for those whose numbers are the body; for none: no longer
};

struct message {
  kind what;
  std::uint32_t rank = 0;
  std::string body;
};
inline constexpr std::size_t longest_body = 1 << 16;

inline std::string bytes_of(message const& m) {
  std::string bytes;
  append_number(bytes, static_cast<std::uint32_t>(m.what));
  append_number(bytes, m.rank);
  append_number(bytes, static_cast<std::uint32_t>(m.body.size()));
  return bytes += m.body;
}

/// Takes a message from the front of what has come; none when it has not all come. Throws bad_message.
inline std::optional<message> take_message(std::string& in) {
  constexpr std::size_t head_bytes = 12;
  if (in.size() < head_bytes)
    return std::nullopt;
  std::string_view rest{in};
  auto const what = take_number<std::uint32_t>(rest);
  auto const rank = take_number<std::uint32_t>(rest);
  auto const length = take_number<std::uint32_t>(rest);
  if (what < static_cast<std::uint32_t>(kind::accepted) || what > static_cast<std::uint32_t>(kind::waiting))
    throw bad_message("it sent no message that a rank sends");
  if (length > longest_body)
    throw bad_message("it sent a message that is too long");
  if (rest.size() < length)
    return std::nullopt;
  message m{static_cast<kind>(what), rank, std::string(rest.substr(0, length))};
  in.erase(0, head_bytes + length);
  return m;
}

/// A peer's sentence as others may show it: of bounded length, without control characters.
inline std::string printable(std::string_view text) {
  std::string shown{text.substr(0, 1000)};
  for (auto& c : shown)
    if (auto const byte = static_cast<unsigned char>(c); byte < 0x20 || byte == 0x7f)
      c = ' ';
  return shown;
}

}  // namespace yoke::parallel::detail
