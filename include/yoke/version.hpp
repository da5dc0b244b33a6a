// The version of the library. The build reads it from here and from nowhere else.
#pragma once

#include <string_view>

namespace yoke {

inline constexpr int version_major = 0;
inline constexpr int version_minor = 1;
inline constexpr int version_patch = 0;

/// The three numbers as text, as a checkpoint or a `--version` option shows them.
inline constexpr std::string_view version = "0.1.0";

}  // namespace yoke
