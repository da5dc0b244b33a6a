// What makes a caption, a class, or names of labels out of the bytes of a file.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/io/json.hpp>
#include <yoke/text/utf8.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

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

/// Puts the classes of an image, integers from 0 on with white space or commas between them, into `classes`.
/// Throws io::error for anything else, and when there is none.
inline void read_classes(std::string_view text, std::vector<std::int32_t>& classes) {
  constexpr std::string_view between = " \t\r\n\v\f,";
  classes.clear();
  for (auto at = text.find_first_not_of(between); at != std::string_view::npos;) {
    auto const end = std::min(text.find_first_of(between, at), text.size());
    classes.push_back(read_label(text.substr(at, end - at)));
    at = text.find_first_not_of(between, end);
  }
  if (classes.empty())
    throw io::error("", "cls", "it has no class");
}

/// Puts the names of an image's labels, one a line, into `names`; blank lines do not count. Throws io::error
/// when there is none or one is not UTF-8.
inline void read_label_names(std::string_view text, std::vector<std::string>& names) {
  names.clear();
  for (std::size_t at = 0; at < text.size();) {
    auto const end = std::min(text.find('\n', at), text.size());
    if (auto const name = detail::trimmed(text.substr(at, end - at)); !name.empty())
      names.emplace_back(name);
    at = end + 1;
  }
  if (names.empty())
    throw io::error("", "labels", "it has no name");
  for (auto const& name : names)
    if (!text::is_utf8(name))
      throw io::error("", "labels", "it is not UTF-8");
}

}  // namespace yoke::data
