// Failures of the world, not of the caller: files, memory, peers. Each says what, where, and which
// rule.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

namespace yoke::io {

/// A file could not be read, written or understood. what() is "file: place: rule", empty parts left
/// out.
struct error : std::runtime_error {
  error(std::string_view file, std::string_view place, std::string_view rule)
      : std::runtime_error(join(file, place, rule)) {}

 private:
  static std::string join(std::string_view file, std::string_view place, std::string_view rule) {
    std::string text{file};
    for (auto part : {place, rule})
      if (!part.empty())
        text.append(text.empty() ? "" : ": ").append(part);
    return text;
  }
};

}  // namespace yoke::io

namespace yoke::parallel {

/// A peer is missing, died, or disagrees.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace yoke::parallel
