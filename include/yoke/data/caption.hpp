// What makes a caption or a class out of the bytes of a file.
#pragma once
#include <yoke/core/errors.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>

namespace yoke::data {

namespace detail {

inline std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\v\f";
  auto const first = text.find_first_not_of(blanks);
  return first == std::string_view::npos ? std::string_view{}
                                         : text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

/// Well-formed UTF-8 (Unicode 15, table 3-7): decodes each character and asks for its shortest form.
inline bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    auto const lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80)
      continue;
    auto const more = lead >= 0xF0 ? 3u : lead >= 0xE0 ? 2u : 1u;
    if (lead < 0xC2 || lead > 0xF4 || text.size() - i < more)
      return false;
    auto character = lead & (0x3Fu >> more);
    for (unsigned k = 0; k < more; ++k, ++i) {
      auto const next = static_cast<unsigned char>(text[i]);
      if ((next & 0xC0) != 0x80)
        return false;
      character = character << 6 | (next & 0x3Fu);
    }
    auto const least = more == 3 ? 0x10000u : more == 2 ? 0x800u : 0x80u;
    if (character < least || character > 0x10FFFF || (character >= 0xD800 && character < 0xE000))
      return false;
  }
  return true;
}

}  // namespace detail

/// Puts `text` without the white space around it into `caption`. Throws io::error when nothing is left or it
/// is not UTF-8.
inline void read_caption(std::string_view text, std::string& caption) {
  caption = detail::trimmed(text);
  if (caption.empty())
    throw io::error("", "caption", "it is empty");
  if (!detail::is_utf8(caption))
    throw io::error("", "caption", "it is not UTF-8");
}

/// The same from JSON: the text of "caption" or else of "text".
inline void read_json_caption(std::string_view text, std::string& caption) {
  auto const parsed = nlohmann::json::parse(text, nullptr, false);
  if (parsed.is_object())
    for (auto const* key : {"caption", "text"})
      if (auto const found = parsed.find(key); found != parsed.end() && found->is_string())
        return read_caption(found->get_ref<std::string const&>(), caption);
  throw io::error("", "json",
                  parsed.is_discarded() ? "it is malformed or not UTF-8" : "it has no caption or text");
}

/// A class: an integer from 0 on, with white space around it.
inline std::int32_t read_label(std::string_view text) {
  text = detail::trimmed(text);
  std::int32_t label = -1;
  auto const [end, code] = std::from_chars(text.data(), text.data() + text.size(), label);
  if (code != std::errc{} || end != text.data() + text.size() || label < 0)
    throw io::error("", "cls", "it is not a class number");
  return label;
}

}  // namespace yoke::data
