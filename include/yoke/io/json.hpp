// JSON values for configurations and metrics: read, made, written, and read field by field with
// errors that name file, key and rule.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/io/file.hpp>
#include <yoke/io/json_reader.hpp>

#include <array>
#include <cmath>
#include <concepts>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

namespace yoke::io {

namespace detail {
template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;
}  // namespace detail

/// A JSON value. Objects keep the order in which their keys came.
class json {
 public:
  // So that j["key"] = 1 does what it says. NOLINTBEGIN(google-explicit-constructor)
  json() = default;  // null
  template <class Number>
  requires std::is_arithmetic_v<Number> json(Number n)
      : kind_{std::is_same_v<Number, bool> ? json_kind::boolean : json_kind::number}, number_{wide(n)} {}
  template <class Text>
  requires std::convertible_to<Text, std::string_view> json(Text const& text)
      : kind_{json_kind::string}, text_{std::string_view(text)} {}
  template <class T>
  json(std::vector<T> const& elements)
      : kind_{json_kind::array}, elements_(elements.begin(), elements.end()) {}
  // NOLINTEND(google-explicit-constructor)

  static json array() { return json{json_kind::array}; }
  static json object() { return json{json_kind::object}; }

  json_kind kind() const { return kind_; }

  /// The value as a T, or nothing when it is of another kind or does not fit: bool; an integer type,
  /// from a number written without fraction and exponent; float or double, from any number;
  /// std::string; std::vector of these.
  template <class T>
  std::optional<T> as() const;

  /// The elements of an array, or the values of an object in the order of keys().
  std::vector<json> const& elements() const { return elements_; }
  std::vector<std::string> const& keys() const { return keys_; }

  /// The value of a key, or null when this is not an object or has no such key.
  json const* find(std::string_view key) const {
    for (std::size_t i = 0; i < keys_.size(); ++i)
      if (keys_[i] == key)
        return &elements_[i];
    return nullptr;
  }

  /// The value of a key, which is added when there is none; null becomes an object.
  json& operator[](std::string_view key) {
    expects(kind_ == json_kind::null || kind_ == json_kind::object, "json: only an object has keys");
    kind_ = json_kind::object;
    if (auto const* found = find(key))
      return elements_[static_cast<std::size_t>(found - elements_.data())];
    keys_.emplace_back(key);
    return elements_.emplace_back();
  }

  /// Appends an element; null becomes an array.
  void push_back(json element) {
    expects(kind_ == json_kind::null || kind_ == json_kind::array, "json: only an array has elements");
    kind_ = json_kind::array;
    elements_.push_back(std::move(element));
  }

  /// As text: `indent` spaces a level, or all on one line; arrays of numbers and the like are on one line
  /// always. What is not finite is written as null.
  std::string dump(int indent = -1) const {
    std::string text;
    append_to(text, indent, 0);
    return text;
  }

  /// The value that comes next in `reader`.
  static json read(json_reader& reader);

 private:
  explicit json(json_kind kind) : kind_{kind} {}

  template <class Number>
  static json_number wide(Number n) {
    if constexpr (std::is_floating_point_v<Number>)
      return static_cast<double>(n);
    else if constexpr (std::is_signed_v<Number> || std::is_same_v<Number, bool>)
      return static_cast<std::int64_t>(n);
    else
      return static_cast<std::uint64_t>(n);
  }

  void append_to(std::string& text, int indent, int level) const;

  json_kind kind_ = json_kind::null;
  json_number number_;  // a boolean's, too
  std::string text_;
  std::vector<std::string> keys_;  // of an object: as many as elements
  std::vector<json> elements_;
};

template <class T>
std::optional<T> json::as() const {
  if constexpr (std::is_same_v<T, bool>) {
    if (kind_ == json_kind::boolean)
      return *std::get_if<std::int64_t>(&number_) != 0;
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (kind_ == json_kind::string)
      return text_;
  } else if constexpr (std::is_arithmetic_v<T>) {
    if (kind_ != json_kind::number)
      return {};
    auto const* n = std::get_if<std::int64_t>(&number_);
    auto const* u = std::get_if<std::uint64_t>(&number_);
    if constexpr (std::is_integral_v<T>) {
      if (n != nullptr && std::in_range<T>(*n))
        return static_cast<T>(*n);
      if (u != nullptr && std::in_range<T>(*u))
        return static_cast<T>(*u);
    } else {
      return n != nullptr   ? static_cast<T>(*n)
             : u != nullptr ? static_cast<T>(*u)
                            : static_cast<T>(*std::get_if<double>(&number_));
    }
  } else {
    static_assert(detail::is_vector<T>, "json: bool, numbers, std::string and std::vector of these");
    if (kind_ != json_kind::array)
      return {};
    T result;
    for (auto const& element : elements_) {
      auto value = element.as<typename T::value_type>();
      if (!value)
        return {};
      result.push_back(std::move(*value));
    }
    return result;
  }
  return {};
}

inline json json::read(json_reader& reader) {
  json value{reader.peek()};
  switch (value.kind_) {
    case json_kind::null:
      reader.null();
      break;
    case json_kind::boolean:
      value.number_ = std::int64_t{reader.boolean()};
      break;
    case json_kind::number:
      value.number_ = reader.number();
      break;
    case json_kind::string:
      value.text_ = reader.string();
      break;
    case json_kind::array:
      reader.array([&] { value.elements_.push_back(read(reader)); });
      break;
    case json_kind::object:
      reader.object([&](std::string const& key) {
        value.keys_.push_back(key);
        value.elements_.push_back(read(reader));
      });
  }
  return value;
}

inline void json::append_to(std::string& text, int indent, int level) const {
  std::array<char, 32> digits{};
  auto const number = [&](auto n) {
    auto const end = std::to_chars(digits.data(), digits.data() + digits.size(), n).ptr;
    text.append(digits.data(), end);
  };
  auto const new_line = [&](int depth) {
    if (indent >= 0)
      text.append(1, '\n').append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
  };
  switch (kind_) {
    case json_kind::null:
      text += "null";
      return;
    case json_kind::boolean:
      text += *as<bool>() ? "true" : "false";
      return;
    case json_kind::string:
      return append_json_string(text, text_);
    case json_kind::number:
      if (auto const* n = std::get_if<std::int64_t>(&number_))
        number(*n);
      else if (auto const* u = std::get_if<std::uint64_t>(&number_))
        number(*u);
      else if (auto const* x = std::get_if<double>(&number_); std::isfinite(*x))
        number(*x);
      else
        text += "null";
      return;
    case json_kind::array:
    case json_kind::object:
      break;
  }
  auto const is_object = kind_ == json_kind::object;
  auto const is_flat = [](json const& e) {
    return e.kind_ != json_kind::array && e.kind_ != json_kind::object;
  };
  if (!is_object && std::all_of(elements_.begin(), elements_.end(), is_flat))
    indent = -1;
  text += is_object ? '{' : '[';
  for (std::size_t i = 0; i < elements_.size(); ++i) {
    text += i == 0 ? "" : indent >= 0 ? "," : ", ";
    new_line(level + 1);
    if (is_object)
      append_json_string(text, keys_[i]), text += ": ";
    elements_[i].append_to(text, indent, level + 1);
  }
  if (!elements_.empty())
    new_line(level);
  text += is_object ? '}' : ']';
}

/// Parses a whole text; `file` is for messages. Throws io::error with line, column and rule.
inline json parse_json(std::string_view text, std::string const& file) {
  auto reader = json_reader{text, file};
  auto value = json::read(reader);
  reader.end();
  return value;
}

/// Reads a file of at most 4 MiB.
inline json read_json(std::string const& path) {
  return parse_json(read_file(path, std::uint64_t{4} << 20), path);
}

/// Writes a file, indented, with a new line at its end; the file appears complete or not at all.
inline void write_json(std::string const& path, json const& value) {
  write_file_atomically(path, value.dump(2) + "\n");
}

}  // namespace yoke::io
