// WebDataset: brace patterns that name shards, and the members of a shard grouped into samples.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/data/tar.hpp>
#include <yoke/io/file.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::data {

namespace detail {

inline constexpr std::size_t most_shards = 1'000'000;

/// The position of the "}" that closes the "{" at `open`.
inline std::size_t closing_brace(std::string_view pattern, std::size_t open) {
  std::size_t depth = 0;
  for (auto i = open; i < pattern.size(); ++i) {
    if (pattern[i] == '{')
      ++depth;
    else if (pattern[i] == '}' && --depth == 0)
      return i;
  }
  throw io::error(pattern, "shard pattern", "a \"{\" without its \"}\"");
}

/// "000..123" or "0..8..2": its numbers, as wide as the wider of the two where one begins with 0. False for
/// anything else.
inline bool expand_range(std::string_view body, std::vector<std::string>& choices) {
  auto const dots = body.find("..");
  if (dots == std::string_view::npos)
    return false;
  auto const second = body.find("..", dots + 2);
  auto const from = body.substr(0, dots);
  auto const to = body.substr(dots + 2, second == std::string_view::npos ? second : second - dots - 2);
  auto const by = second == std::string_view::npos ? std::string_view{"1"} : body.substr(second + 2);
  auto number = [](std::string_view text, std::int64_t& value) {
    auto const [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    return code == std::errc{} && end == text.data() + text.size() && value >= 0 && text.size() < 16;
  };
  std::int64_t first = 0, last = 0, step = 0;
  if (!number(from, first) || !number(to, last) || !number(by, step))
    return false;
  step = std::max<std::int64_t>(step, 1);
  auto const padded = (from.size() > 1 && from[0] == '0') || (to.size() > 1 && to[0] == '0');
  auto const width = padded ? std::max(from.size(), to.size()) : 0;
  auto const count = std::abs(last - first) / step + 1;
  if (static_cast<std::size_t>(count) > most_shards)
    throw io::error(body, "shard pattern", "a range of more than 1,000,000 shards");
  for (std::int64_t i = 0; i < count; ++i) {
    auto text = std::to_string(last >= first ? first + i * step : first - i * step);
    choices.push_back(std::string(text.size() < width ? width - text.size() : 0, '0') + text);
  }
  return true;
}

inline std::vector<std::string> expand_braces(std::string_view pattern) {
  auto const open = pattern.find('{');
  if (open == std::string_view::npos) {
    if (pattern.find('}') != std::string_view::npos)
      throw io::error(pattern, "shard pattern", "a \"}\" without its \"{\"");
    return {std::string(pattern)};
  }
  auto const close = closing_brace(pattern, open);
  auto const body = pattern.substr(open + 1, close - open - 1);
  std::vector<std::string> choices;
  if (!expand_range(body, choices)) {
    std::size_t depth = 0, begin = 0;
    for (std::size_t i = 0; i <= body.size(); ++i) {
      if (i == body.size() || (body[i] == ',' && depth == 0)) {
        for (auto& choice : expand_braces(body.substr(begin, i - begin)))
          choices.push_back(std::move(choice));
        begin = i + 1;
      } else {
        depth += body[i] == '{' ? 1u : 0u;
        depth -= body[i] == '}' ? 1u : 0u;
      }
    }
  }
  auto const rests = expand_braces(pattern.substr(close + 1));
  if (choices.size() > most_shards / rests.size())
    throw io::error(pattern, "shard pattern", "more than 1,000,000 shards");
  std::vector<std::string> all;
  all.reserve(choices.size() * rests.size());
  for (auto const& choice : choices)
    for (auto const& rest : rests) all.push_back(std::string(pattern.substr(0, open)) + choice + rest);
  return all;
}

}  // namespace detail

/// The files that a pattern names: "{000..123}" counts (zero-padded, "{0..8..2}" in steps), "{a,b}" chooses,
/// braces nest, "::" joins patterns. Names only: whether the files exist is not looked at. Throws io::error
/// for a pattern that names nothing or whose braces do not match.
inline std::vector<std::string> expand_shards(std::string_view patterns) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= patterns.size();) {
    auto const end = std::min(patterns.find("::", begin), patterns.size());
    if (end > begin)
      for (auto& name : detail::expand_braces(patterns.substr(begin, end - begin)))
        names.push_back(std::move(name));
    begin = end + 2;
  }
  if (names.empty())
    throw io::error(patterns, "shard pattern", "it names no shard");
  return names;
}

/// A member of a sample: its lower-cased suffix, such as "jpg", and which bytes of the shard it is.
struct sample_member {
  std::string suffix{};
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// The members with one key, in the shard's order.
struct sample_members {
  std::string key{};
  std::vector<sample_member> members{};
};

/// Splits a member's name at the first dot of its last part: "a.b/c.seg.PNG" is key "a.b/c", suffix "seg.png".
/// False for names that belong to no sample: hidden ones, those without a dot, and "__…__".
inline bool split_member_name(std::string_view name, std::string_view& key, std::string& suffix) {
  auto const top = name.substr(0, name.find('/'));
  if (top.size() >= 4 && top.starts_with("__") && top.ends_with("__"))
    return false;
  auto const slash = name.rfind('/');
  auto const base = slash == std::string_view::npos ? 0 : slash + 1;
  auto const dot = name.find('.', base);
  if (dot == std::string_view::npos || dot == base)
    return false;
  key = name.substr(0, dot);
  suffix.assign(name.substr(dot + 1));
  for (auto& c : suffix)
    if (c >= 'A' && c <= 'Z')
      c = static_cast<char>(c - 'A' + 'a');
  return true;
}

/// Walks the samples of a shard by its headers alone.
class shard_reader {
 public:
  /// Reads `file`, which must outlive the reader.
  explicit shard_reader(io::input_file const& file) : file_{&file}, tar_{file} {}

  /// The next sample, or false at the end. Throws io::error for a broken archive and for a suffix that a
  /// sample has twice.
  bool next(sample_members& sample) {
    sample.members.clear();
    sample.key = std::move(pending_key_);
    pending_key_.clear();
    if (!sample.key.empty())
      sample.members.push_back(std::move(pending_));
    std::string_view key;
    while (tar_.next(entry_)) {
      sample_member member{{}, entry_.offset, entry_.size};
      if (!entry_.regular || !split_member_name(entry_.name, key, member.suffix))
        continue;
      if (sample.members.empty()) {
        sample.key = key;
      } else if (sample.key != key) {
        pending_key_ = key;
        pending_ = std::move(member);
        return true;
      }
      for (auto const& other : sample.members)
        if (other.suffix == member.suffix)
          throw io::error(file_->path(), sample.key, "two members with suffix \"" + member.suffix + "\"");
      sample.members.push_back(std::move(member));
    }
    return !sample.members.empty();
  }

 private:
  io::input_file const* file_;
  tar_reader tar_;
  tar_entry entry_{};
  std::string pending_key_{};
  sample_member pending_{};
};

}  // namespace yoke::data
