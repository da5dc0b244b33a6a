// Strict UTF-8: what a caption must be before a tokenizer sees it.
#pragma once
#include <cstddef>
#include <string_view>

namespace yoke::text {

/// The offset of the first byte that is not part of a well-formed UTF-8 sequence, or npos. Overlong
/// forms, surrogates, values above U+10FFFF and cut sequences are malformed (Unicode 15, table
/// 3-7).
constexpr std::size_t first_malformed_utf8(std::string_view text) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t i = 0; i < text.size();) {
    auto const lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    if (lead < 0xC2 || lead > 0xF4)
      return i;
    std::size_t const length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (text.size() - i < length)
      return i;
    // The second byte's range is narrower after four leads; that is all that strictness takes.
    auto const low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    auto const high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(i + 1) < low || byte(i + 1) > high)
      return i;
    for (std::size_t k = 2; k < length; ++k)
      if ((byte(i + k) & 0xC0) != 0x80)
        return i;
    i += length;
  }
  return std::string_view::npos;
}

/// True when all of `text` is well-formed UTF-8.
constexpr bool is_utf8(std::string_view text) {
  return first_malformed_utf8(text) == std::string_view::npos;
}

/// ASCII white space.
inline constexpr std::string_view white_space = " \t\r\n\v\f";

/// True when `text` holds nothing but ASCII white space: no caption.
constexpr bool is_blank(std::string_view text) {
  return text.find_first_not_of(white_space) == std::string_view::npos;
}

}  // namespace yoke::text
