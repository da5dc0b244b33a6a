// Reads JSON (RFC 8259) from front to back and hands over what it meets, without building a tree.
// Strict: UTF-8 throughout, no duplicate keys, bounded depth, nothing after the value.
#pragma once
#include <yoke/core/errors.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace yoke::io {

enum class json_kind { null, boolean, number, string, array, object };

/// An integer that fits keeps all its digits; any other number is a double.
using json_number = std::variant<std::int64_t, std::uint64_t, double>;

/// Appends `s`, which is UTF-8, as a JSON string: in quotes, with escapes where there must be some.
inline void append_json_string(std::string& text, std::string_view s) {
  constexpr std::string_view hex = "0123456789abcdef";
  text += '"';
  for (auto const c : s) {
    auto const byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      text += {'\\', c};
    else if (c == '\n')
      text += "\\n";
    else if (byte < 0x20)
      text += {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};
    else
      text += c;
  }
  text += '"';
}

/// A position in a JSON text. Every function throws io::error with the file's name, the line and the
/// column when the text is not what it reads.
class json_reader {
 public:
  static constexpr int deepest = 64;  // arrays and objects within each other

  /// `text` must outlive the reader; `file` is for messages.
  json_reader(std::string_view text, std::string file) : text_{text}, file_{std::move(file)} {}

  /// The kind of the value that comes next.
  json_kind peek() {
    skip_space();
    switch (position_ < text_.size() ? text_[position_] : '\0') {
      case '{':
        return json_kind::object;
      case '[':
        return json_kind::array;
      case '"':
        return json_kind::string;
      case 't':
      case 'f':
        return json_kind::boolean;
      case 'n':
        return json_kind::null;
      default:
        return json_kind::number;
    }
  }

  void null() { literal("null"); }

  bool boolean() {
    auto const yes = peek() == json_kind::boolean && text_[position_] == 't';
    literal(yes ? "true" : "false");
    return yes;
  }

  json_number number() {
    skip_space();
    auto const begin = position_;
    bool whole = true;
    skip('-');
    if (!skip('0'))
      digits();
    if (skip('.')) {
      whole = false;
      digits();
    }
    if (skip('e') || skip('E')) {
      whole = false;
      skip('+') || skip('-');
      digits();
    }
    auto const* const first = text_.data() + begin;
    auto const* const last = text_.data() + position_;
    whole = whole && text_.substr(begin, position_ - begin) != "-0";  // whose sign an integer would lose
    if (std::int64_t n = 0; whole && std::from_chars(first, last, n).ec == std::errc{})
      return n;
    if (std::uint64_t n = 0; whole && *first != '-' && std::from_chars(first, last, n).ec == std::errc{})
      return n;
    double x = 0;
    if (std::from_chars(first, last, x).ec != std::errc{})
      fail("the number is outside of what a double holds", begin);
    return x;
  }

  std::string string() {
    skip_space();
    auto const begin = position_;
    expect('"', "a string");
    std::string result;
    for (;;) {
      auto const run = position_;
      while (position_ < text_.size() && text_[position_] != '"' && text_[position_] != '\\')
        plain_character();
      result.append(text_.substr(run, position_ - run));
      if (skip('"'))
        return result;
      if (position_ >= text_.size())
        fail("the string does not end", begin);
      ++position_;
      append_escape(result);
    }
  }

  /// Calls element() for each element, which must read one value.
  template <class Element>
  void array(Element&& element) {
    open('[', "an array");
    for (bool more = !close(']'); more; more = !close(']', true)) element();
    --depth_;
  }

  /// Calls member(key) for each member, which must read one value.
  template <class Member>
  void object(Member&& member) {
    open('{', "an object");
    std::set<std::string> keys;
    for (bool more = !close('}'); more; more = !close('}', true)) member(next_key(keys));
    --depth_;
  }

  /// Reads any value and drops it.
  void ignore() {
    switch (peek()) {
      case json_kind::null:
        return null();
      case json_kind::boolean:
        return static_cast<void>(boolean());
      case json_kind::number:
        return static_cast<void>(number());
      case json_kind::string:
        return static_cast<void>(string());
      case json_kind::array:
        return array([&] { ignore(); });
      case json_kind::object:
        return object([&](std::string const&) { ignore(); });
    }
  }

  /// After the outermost value: only white space is left.
  void end() {
    skip_space();
    if (position_ < text_.size())
      fail("nothing may follow the value");
  }

  /// Throws with the present position.
  [[noreturn]] void fail(std::string_view rule) const { fail(rule, position_); }

 private:
  [[noreturn]] void fail(std::string_view rule, std::size_t where) const {
    auto const before = text_.substr(0, std::min(where, text_.size()));
    auto const line = 1 + std::count(before.begin(), before.end(), '\n');
    auto const column = before.size() - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
    throw error(file_, "line " + std::to_string(line) + " column " + std::to_string(column), rule);
  }

  void skip_space() {
    while (position_ < text_.size() &&
           std::string_view{" \t\r\n"}.find(text_[position_]) != std::string_view::npos)
      ++position_;
  }

  bool skip(char c) {
    auto const found = position_ < text_.size() && text_[position_] == c;
    position_ += found ? 1 : 0;
    return found;
  }

  void expect(char c, char const* what) {
    if (!skip(c))
      fail(std::string("expected ") + what);
  }

  void literal(std::string_view word) {
    skip_space();
    if (text_.substr(position_, word.size()) != word)
      fail("expected " + std::string(word));
    position_ += word.size();
  }

  void digits() {
    auto const begin = position_;
    while (position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9') ++position_;
    if (position_ == begin)
      fail("expected a value");
  }

  void open(char bracket, char const* what) {
    skip_space();
    expect(bracket, what);
    if (++depth_ > deepest)
      fail("more than " + std::to_string(deepest) + " levels of nesting");
  }

  /// True at the closing bracket; otherwise a comma must come first if an element came before.
  bool close(char bracket, bool comma = false) {
    skip_space();
    if (skip(bracket))
      return true;
    if (comma)
      expect(',', bracket == ']' ? "',' or ']'" : "',' or '}'");
    return false;
  }

  /// The key of the next member, which none of `keys` may be.
  std::string const& next_key(std::set<std::string>& keys) {
    skip_space();
    auto const begin = position_;
    auto const [key, is_new] = keys.insert(string());
    if (!is_new)
      fail("the key \"" + *key + "\" is there twice", begin);
    skip_space();
    expect(':', "':' after the key");
    return *key;
  }

  /// One character that stands for itself: well-formed UTF-8 (Unicode 15, table 3-7), no control.
  void plain_character() {
    auto const byte = [&](std::size_t i) {
      return position_ + i < text_.size() ? static_cast<unsigned char>(text_[position_ + i]) : 0U;
    };
    auto const lead = byte(0);
    if (lead < 0x20)
      fail("a control character in a string must be escaped");
    std::size_t const length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    bool good = lead < 0x80 || (lead >= 0xC2 && lead <= 0xF4);
    // The second byte's range is narrower after four leads.
    if (length > 1)
      good = good &&
             byte(1) >= (lead == 0xE0   ? 0xA0U
                         : lead == 0xF0 ? 0x90U
                                        : 0x80U) &&
             byte(1) <= (lead == 0xED   ? 0x9FU
                         : lead == 0xF4 ? 0x8FU
                                        : 0xBFU);
    for (std::size_t i = 2; i < length; ++i) good = good && (byte(i) & 0xC0U) == 0x80U;
    if (!good)
      fail("the text is not UTF-8");
    position_ += length;
  }

  void append_escape(std::string& result) {
    static constexpr std::string_view letters = "\"\\/bfnrt";
    static constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
    auto const begin = position_ - 1;
    if (skip('u')) {
      auto point = four_digits();
      if (point >= 0xDC00 && point < 0xE000)
        fail("half of a surrogate pair", begin);
      if (point >= 0xD800 && point < 0xDC00) {
        auto const low = skip('\\') && skip('u') ? four_digits() : 0;
        if (low < 0xDC00 || low >= 0xE000)
          fail("half of a surrogate pair", begin);
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
      }
      append_utf8(result, point);
      return;
    }
    auto const letter = position_ < text_.size() ? letters.find(text_[position_]) : std::string_view::npos;
    if (letter == std::string_view::npos)
      fail("unknown escape in a string", begin);
    result += meanings[letter];
    ++position_;
  }

  std::uint32_t four_digits() {
    std::uint32_t value = 0;
    auto const hex = text_.substr(position_, 4);
    auto const read = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
    if (hex.size() != 4 || read.ptr != hex.data() + 4)
      fail("\\u takes four hexadecimal digits");
    position_ += 4;
    return value;
  }

  static void append_utf8(std::string& result, std::uint32_t point) {
    auto const add = [&](std::uint32_t byte) { result += static_cast<char>(byte); };
    if (point < 0x80)
      return add(point);
    if (point < 0x800)
      add(0xC0 | (point >> 6));
    else if (point < 0x10000)
      add(0xE0 | (point >> 12));
    else
      add(0xF0 | (point >> 18)), add(0x80 | ((point >> 12) & 0x3F));
    if (point >= 0x800)
      add(0x80 | ((point >> 6) & 0x3F));
    add(0x80 | (point & 0x3F));
  }

  std::string_view text_;
  std::string file_;
  std::size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace yoke::io
