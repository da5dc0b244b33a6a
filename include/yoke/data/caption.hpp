// What makes a caption or a class out of the bytes of a file.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/io/json.hpp>
#include <yoke/text/utf8.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

namespace yoke::data {

namespace detail {

inline std::string_view trimmed(std::string_view text) {
  if (text::is_blank(text))
    return {};
  auto const first = text.find_first_not_of(text::white_space);
  return text.substr(first, text.find_last_not_of(text::white_space) - first + 1);
}

}  // namespace detail

/// Puts `text` without the white space around it into `caption`. Throws io::error when nothing is left or it
/// is not UTF-8.
inline void read_caption(std::string_view text, std::string& caption) {
  caption = detail::trimmed(text);
  if (caption.empty())
    throw io::error("", "caption", "it is empty");
  if (!text::is_utf8(caption))
    throw io::error("", "caption", "it is not UTF-8");
}

/// The same from JSON: the text of "caption" or else of "text".
inline void read_json_caption(std::string_view text, std::string& caption) {
  auto const parsed = io::parse_json(text, "json");
  for (auto const* key : {"caption", "text"})
    if (auto const* found = parsed.find(key); found != nullptr && found->kind() == io::json_kind::string)
      return read_caption(*found->as<std::string>(), caption);
  throw io::error("", "json", "it has no caption or text");
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
