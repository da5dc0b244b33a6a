// What options of more than one tool say in words of their own: amounts of memory, and meshes.
#pragma once
#include <yoke/io/file.hpp>
#include <yoke/parallel/mesh.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

namespace tools {

using namespace yoke;

/// Bytes: "23GiB", "512MiB" or "80GB"; 0 for an empty text.
inline std::size_t bytes_of(char const* option, std::string const& text) {
  if (text.empty())
    return 0;
  double number = 0;
  std::array<char, 8> unit{};
  auto const read = std::sscanf(text.c_str(), "%lf%7s", &number, unit.data());
  std::string_view const u = unit.data();
  double const factor = u == "GiB" || u == "G"   ? 0x1p30
                        : u == "MiB" || u == "M" ? 0x1p20
                        : u == "GB"              ? 1e9
                                                 : 0;
  if (read != 2 || !(number > 0) || number * factor > 0x1p60 || factor == 0)
    throw io::error(option, text, "is a positive number and GiB, MiB or GB, such as 23GiB");
  return static_cast<std::size_t>(number * factor);
}

/// "8x1", of --mesh.
inline parallel::mesh_shape mesh_of(std::string const& text) {
  parallel::mesh_shape m;
  char rest = 0;
  constexpr int most = 1 << 15;
  if (std::sscanf(text.c_str(), "%dx%d%c", &m.data, &m.model, &rest) != 2 || std::min(m.data, m.model) < 1 ||
      std::max(m.data, m.model) > most)
    throw io::error("--mesh", text, "is DATAxMODEL, two numbers of 1 to 32768 such as 8x1");
  return m;
}

}  // namespace tools
