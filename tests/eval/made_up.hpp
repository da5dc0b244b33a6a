// The embeddings of golden/make_eval.py, and its figures.
#pragma once
#include <yoke/core/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace made_up {

inline constexpr yoke::extent_t width = 24;

inline std::int64_t modulo(std::int64_t a, std::int64_t n) {
  return ((a % n) + n) % n;
}

/// Row i lies near centre centres[i]; the formula of the script.
template <class Int>
std::vector<float> embeddings(std::int64_t seed, std::vector<Int> const& centres) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(centres.size()); ++i)
    for (std::int64_t k = 0; k < width; ++k) {
      std::int64_t const c = centres[static_cast<std::size_t>(i)];
      auto const noise =
          static_cast<double>(modulo(i * 7919 + k * 104729 + i * k * 31 + seed * 613, 2003) - 1001) / 1024;
      auto const centre = static_cast<double>(modulo(c * 5021 + k * 3671 + c * k * 17, 1009) - 504) / 2048;
      values.push_back(static_cast<float>(noise + 2 * centre));
    }
  return values;
}

inline yoke::view<float const, 2> rows(std::vector<float> const& values, yoke::extent_t columns = width) {
  return {values.data(), {{static_cast<yoke::extent_t>(values.size()) / columns, columns}}};
}

inline std::map<std::string, std::vector<double>> figures() {
  std::map<std::string, std::vector<double>> result;
  std::ifstream file(std::string(YOKE_GOLDEN_DIR) + "/eval/figures.txt");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    for (double value; words >> value;) result[name].push_back(value);
  }
  return result;
}

}  // namespace made_up
