// Class names and prompt templates, as lines of files: read, and checked line by line.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/data/caption.hpp>
#include <yoke/io/file.hpp>
#include <yoke/text/utf8.hpp>

#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace yoke::data {

/// A few prompts that suit most pictures, for want of a file of better ones.
inline std::vector<std::string> default_templates() {
  return {"a photo of a {}.", "a picture of a {}.", "an image showing a {}.", "a {}."};
}

namespace detail {

/// The lines of a file without the white space around them. Blank, repeated and malformed lines,
/// and an empty file, are io::errors; `rule(line)` returns what else is wrong with one, or "".
template <class Rule>
std::vector<std::string> read_lines(std::string const& path, Rule rule) {
  std::istringstream file(io::read_file(path));
  std::vector<std::string> lines;
  std::unordered_map<std::string, std::size_t> seen;
  for (std::string line; std::getline(file, line);) {
    if (lines.empty() && line.starts_with("\xEF\xBB\xBF"))  // a byte order mark
      line.erase(0, 3);
    auto const text = trimmed(line);
    auto const number = lines.size() + 1;
    auto refuse = [&](std::string_view why) { throw io::error(path, "line " + std::to_string(number), why); };
    if (text.empty())
      refuse("is blank");
    if (!text::is_utf8(text))
      refuse("is not UTF-8");
    if (std::string_view const broken = rule(text); !broken.empty())
      refuse(broken);
    auto const [first, fresh] = seen.emplace(text, number);
    if (!fresh)
      refuse("repeats line " + std::to_string(first->second) + ", \"" + std::string(text) + "\"");
    lines.emplace_back(text);
  }
  if (lines.empty())
    throw io::error(path, "", "is empty");
  return lines;
}

/// Where the class name goes: "{}", or "%s". Its length is 2 either way; npos unless exactly one.
inline std::size_t placeholder(std::string_view text) {
  std::size_t found = std::string_view::npos;
  for (std::string_view mark : {"{}", "%s"})
    for (auto at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + 2)) {
      if (found != std::string_view::npos)
        return std::string_view::npos;
      found = at;
    }
  return found;
}

}  // namespace detail

/// Class names, one a line: line i names the class that `cls` files call i, from 0. A blank or
/// repeated line is an io::error that names it.
inline std::vector<std::string> read_class_names(std::string const& path) {
  return detail::read_lines(path, [](std::string_view) { return std::string_view{}; });
}

/// Prompt templates, one a line, each with one "{}" (or "%s") where the class name goes.
inline std::vector<std::string> read_templates(std::string const& path) {
  return detail::read_lines(path, [](std::string_view line) -> std::string_view {
    return detail::placeholder(line) == std::string_view::npos ? "needs exactly one {} or %s" : "";
  });
}

}  // namespace yoke::data
