// Writes PNG files without a library: for reports and test data, where a few bytes more do not matter.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace yoke::data {

namespace detail {

inline constexpr auto crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t n = 0; n < 256; ++n) {
    auto c = n;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    table[n] = c;
  }
  return table;
}();

inline void append_big_endian(std::vector<std::uint8_t>& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::uint8_t>(value >> shift));
}

inline void append_png_chunk(std::vector<std::uint8_t>& out, std::string_view type,
                             std::span<std::uint8_t const> content) {
  append_big_endian(out, static_cast<std::uint32_t>(content.size()));
  auto const begin = out.size();
  out.insert(out.end(), type.begin(), type.end());
  out.insert(out.end(), content.begin(), content.end());
  std::uint32_t crc = 0xFFFFFFFFu;
  for (auto i = begin; i < out.size(); ++i) crc = crc_table[(crc ^ out[i]) & 0xFF] ^ (crc >> 8);
  append_big_endian(out, ~crc);
}

}  // namespace detail

/// The bytes of a PNG file that shows `image` (height, width, 3). Not compressed.
inline std::vector<std::uint8_t> encode_png(view<std::uint8_t const, 3> image) {
  auto const height = image.extent(0), width = image.extent(1);
  expects(height > 0 && width > 0 && image.extent(2) == 3, "encode_png: (height, width, 3), not empty");
  expects(width < (extent_t{1} << 28) && height < (extent_t{1} << 28) / width,
          "encode_png: fewer than 2^28 pixels");

  std::vector<std::uint8_t> rows;  // each with its filter, "none", in front
  rows.reserve(static_cast<std::size_t>(height * (1 + width * 3)));
  for (extent_t y = 0; y < height; ++y) {
    rows.push_back(0);
    rows.insert(rows.end(), image.data + y * width * 3, image.data + (y + 1) * width * 3);
  }

  std::vector<std::uint8_t> stream{0x78, 0x01};  // zlib (RFC 1950) around stored blocks (RFC 1951, 3.2.4)
  constexpr std::size_t longest = 65535;
  stream.reserve(rows.size() + rows.size() / longest * 5 + 16);
  for (std::size_t at = 0; at < rows.size(); at += longest) {
    auto const n = std::min(longest, rows.size() - at);
    auto const low = static_cast<std::uint8_t>(n), high = static_cast<std::uint8_t>(n >> 8);
    stream.push_back(at + n == rows.size() ? 1 : 0);
    for (auto byte : std::array{low, high, static_cast<std::uint8_t>(~low), static_cast<std::uint8_t>(~high)})
      stream.push_back(byte);
    auto const from = rows.begin() + static_cast<std::ptrdiff_t>(at);
    stream.insert(stream.end(), from, from + static_cast<std::ptrdiff_t>(n));
  }
  std::uint32_t a = 1, b = 0;
  for (auto byte : rows) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  detail::append_big_endian(stream, b << 16 | a);

  std::vector<std::uint8_t> file{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  std::vector<std::uint8_t> header;
  detail::append_big_endian(header, static_cast<std::uint32_t>(width));
  detail::append_big_endian(header, static_cast<std::uint32_t>(height));
  for (auto byte : std::array<std::uint8_t, 5>{8, 2, 0, 0, 0})
    header.push_back(byte);  // 8 bits, RGB, deflate, no interlace
  detail::append_png_chunk(file, "IHDR", header);
  detail::append_png_chunk(file, "IDAT", stream);
  detail::append_png_chunk(file, "IEND", {});
  return file;
}

}  // namespace yoke::data
