// Numbers, times and text as people read them, in any locale: for progress lines and reports.
#pragma once
#include <yoke/text/utf8.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace yoke::train {

/// "0.1250": `digits` after the point; "nan", "inf" or "-inf" where there is no number.
inline std::string fixed(double value, int digits) {
  std::array<char, 400> text{};  // the largest double has 309 digits
  auto const end =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, digits);
  return {text.data(), end.ptr};
}

/// "5.00e-04", for learning rates.
inline std::string scientific(double value, int digits) {
  std::array<char, 64> text{};
  auto const end =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::scientific, digits);
  return {text.data(), end.ptr};
}

/// The shortest text that reads back as the same double.
inline std::string shortest(double value) {
  std::array<char, 64> text{};
  auto const end = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end.ptr};
}

/// "1,234,567".
inline std::string grouped(std::int64_t value) {
  auto text = std::to_string(value);
  std::size_t const sign = value < 0 ? 1 : 0;
  for (auto at = text.size(); at > sign + 3;) text.insert(at -= 3, ",");
  return text;
}

/// "12.3 %" of a share of 1; a dash where there is none.
inline std::string percent(double share, int digits = 1) {
  return std::isfinite(share) ? fixed(100 * share, digits) + " %" : "–";
}

/// "8s", "3m20s", "2h05m", "4d07h"; "?" when it cannot be known.
inline std::string duration(double seconds) {
  if (!(seconds >= 0 && seconds < 1e10))
    return "?";
  auto const s = static_cast<std::int64_t>(std::llround(seconds));
  auto two = [&](std::int64_t large, char const* a, std::int64_t small, char const* b) {
    return std::to_string(large) + a + (small < 10 ? "0" : "") + std::to_string(small) + b;
  };
  if (s < 60)
    return std::to_string(s) + "s";
  if (s < 3600)
    return two(s / 60, "m", s % 60, "s");
  if (s < 86400)
    return two(s / 3600, "h", s % 3600 / 60, "m");
  return two(s / 86400, "d", s % 86400 / 3600, "h");
}

/// Code points of well-formed UTF-8.
inline std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// The first `most` code points, with "…" in place of what is cut.
inline std::string shortened(std::string_view text, std::size_t most) {
  if (characters(text) <= most)
    return std::string(text);
  std::size_t bytes = 0;
  for (std::size_t seen = 0; bytes < text.size(); ++bytes)
    if ((static_cast<unsigned char>(text[bytes]) & 0xC0) != 0x80 && ++seen == most)
      break;
  return std::string(text.substr(0, bytes)) + "…";
}

/// Text for HTML and SVG, inside elements and quoted attributes. What is not UTF-8 or is a control
/// character becomes U+FFFD.
inline std::string escape(std::string_view text) {
  constexpr std::string_view replacement = "\xEF\xBF\xBD";
  std::string result;
  while (!text.empty()) {
    auto const malformed = text::first_malformed_utf8(text);
    for (char c : text.substr(0, malformed)) switch (c) {
        case '&':
          result += "&amp;";
          break;
        case '<':
          result += "&lt;";
          break;
        case '>':
          result += "&gt;";
          break;
        case '"':
          result += "&quot;";
          break;
        case '\'':
          result += "&#39;";
          break;
        default:
          if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
            result += replacement;
          else
            result += c;
      }
    if (malformed == std::string_view::npos)
      break;
    result += replacement;
    text.remove_prefix(malformed + 1);
  }
  return result;
}

}  // namespace yoke::train
