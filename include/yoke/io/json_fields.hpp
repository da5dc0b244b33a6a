// Reads the fields of a JSON object one by one; what is wrong is named by file, key and rule.
#pragma once
#include <yoke/io/json.hpp>

namespace yoke::io {

namespace detail {
/// "a whole number", "a list of numbers", …: what a T is read from.
template <class T>
std::string kind_of() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_unsigned_v<T>)
    return "a whole number, not negative";
  else if constexpr (std::is_integral_v<T>)
    return "a whole number";
  else if constexpr (std::is_floating_point_v<T>)
    return "a number";
  else if constexpr (std::is_same_v<T, std::string>)
    return "a string";
  else
    return "a list, each " + kind_of<typename T::value_type>();
}
}  // namespace detail

/// A JSON object that is being read. It remembers which keys were asked for. The object must outlive
/// it.
class json_fields {
 public:
  /// `place` is the path of keys that leads to `object`, for messages. Throws io::error when `object`
  /// is not one.
  json_fields(json const& object, std::string file, std::string place = {})
      : object_{&object}, file_{std::move(file)}, place_{std::move(place)} {
    if (object.kind() != json_kind::object)
      throw error(file_, place_, "must be an object, {...}");
  }

  /// The key's value, or null when it is missing or null.
  json const* find(std::string_view key) {
    asked_.emplace_back(key);
    auto const* value = object_->find(key);
    return value == nullptr || value->kind() == json_kind::null ? nullptr : value;
  }

  /// True when the key is there and not null.
  bool has(std::string_view key) { return find(key) != nullptr; }

  /// The key's value, which must be there. The types are those of json::as.
  template <class T>
  T required(std::string_view key) {
    auto const* value = find(key);
    if (value == nullptr)
      fail(key, "is missing");
    return converted<T>(key, *value);
  }

  /// The key's value, or `fallback` when it is missing or null.
  template <class T>
  T optional(std::string_view key, T fallback) {
    auto const* value = find(key);
    return value == nullptr ? std::move(fallback) : converted<T>(key, *value);
  }

  /// A number from `least` to `most`, ends included.
  template <class T>
  T in_range(std::string_view key, T least, T most, std::optional<T> fallback = {}) {
    auto const value = fallback ? optional<T>(key, *fallback) : required<T>(key);
    if (!(value >= least && value <= most))
      fail(key,
           "must be from " + json(least).dump() + " to " + json(most).dump() + ", not " + json(value).dump());
    return value;
  }

  /// The object that a key holds, which must be there.
  json_fields object(std::string_view key) {
    auto const* value = find(key);
    if (value == nullptr)
      fail(key, "is missing");
    return {*value, file_, path_to(key)};
  }

  /// Marks a key as known, whatever it holds.
  void ignore(std::string_view key) { find(key); }

  /// Throws when there is a key that no other function was asked about.
  void expect_no_others() const {
    for (auto const& key : object_->keys())
      if (std::find(asked_.begin(), asked_.end(), key) == asked_.end())
        fail(key, "is not a key that is known here");
  }

  /// Throws io::error "file: path.to.key: rule".
  [[noreturn]] void fail(std::string_view key, std::string_view rule) const {
    throw error(file_, path_to(key), rule);
  }

  std::string const& file() const { return file_; }

 private:
  template <class T>
  T converted(std::string_view key, json const& value) const {
    auto result = value.as<T>();
    if (!result)
      fail(key, "must be " + detail::kind_of<T>() + ", not " + shortened(value.dump()));
    return std::move(*result);
  }

  static std::string shortened(std::string text) {
    constexpr std::size_t most = 60;
    if (text.size() <= most)
      return text;
    auto end = most;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
      --end;  // a character stays whole
    return text.substr(0, end) + "...";
  }

  std::string path_to(std::string_view key) const {
    return place_ + (place_.empty() ? "" : ".") + std::string(key);
  }

  json const* object_;
  std::string file_, place_;
  std::vector<std::string> asked_;
};

}  // namespace yoke::io
