// Temporary folders, made-up bytes and small shards for the tests of the data pipeline.
#pragma once
#include <yoke/core/tensor.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/png_writer.hpp>
#include <yoke/data/tar_writer.hpp>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

namespace data_files {

/// A folder that is removed with what is in it.
class temporary_folder {
 public:
  temporary_folder() {
    auto name = (std::filesystem::temp_directory_path() / "yoke-data-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  temporary_folder(temporary_folder const&) = delete;
  temporary_folder& operator=(temporary_folder const&) = delete;
  ~temporary_folder() { std::filesystem::remove_all(path_); }
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string read(std::string const& path) {
  std::ifstream file{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{file}, {}};
}
inline void write(std::string const& path, std::string_view content) {
  std::ofstream{path, std::ios::binary}.write(content.data(), static_cast<std::streamsize>(content.size()));
}
inline std::span<std::byte const> bytes(std::string_view text) {
  return std::as_bytes(std::span{text});
}

/// The bytes that tests/golden/make_resize.py makes up.
inline yoke::data::picture noise(yoke::extent_t height, yoke::extent_t width, std::uint32_t seed) {
  yoke::data::picture image;
  image.resize(height, width);
  for (auto& byte : image.pixels) {
    seed = seed * 1664525u + 1013904223u;
    byte = static_cast<std::uint8_t>(seed >> 24);
  }
  return image;
}

inline std::string hashed(std::vector<std::uint8_t> const& pixels) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (auto byte : pixels) h = (h ^ byte) * 0x100000001B3u;
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; h >>= 4) text[i] = "0123456789abcdef"[h & 15];
  return text;
}

inline std::string png(yoke::data::picture const& image) {
  auto const file = yoke::data::encode_png(image.hwc());
  return {file.begin(), file.end()};
}

using members = std::vector<std::pair<std::string, std::string>>;

inline void write_tar(std::string const& path, members const& all) {
  yoke::data::tar_writer writer{path};
  for (auto const& [name, content] : all) writer.add(name, content);
  writer.finish();
}

/// A shard of `count` samples with 8 by 8 images; the caption and the class of each is its number from `first`.
inline void write_shard(std::string const& path, int first, int count) {
  members all;
  for (int i = first; i < first + count; ++i) {
    auto const key = std::to_string(100000 + i);
    all.emplace_back(key + ".png", png(noise(8, 8, static_cast<std::uint32_t>(i))));
    all.emplace_back(key + ".txt", "number " + std::to_string(i));
    all.emplace_back(key + ".cls", std::to_string(i));
  }
  write_tar(path, all);
}

}  // namespace data_files
