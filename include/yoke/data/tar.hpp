// Tar archives: where each member lies, without reading it. ustar, pax and GNU long names; anything that is
// not sound is an error that names the file, the place and the rule.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/io/file.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace yoke::data {

/// A member of a tar file: its name, and which bytes of the file are its content.
struct tar_entry {
  std::string name{};
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  bool regular = false;  // a file; not a folder, a link or a device
};

/// Walks the headers of a tar file. The archive must be whole, its end marker included.
class tar_reader {
 public:
  static constexpr std::uint64_t block = 512;
  static constexpr std::uint64_t longest_name = 4096;  // bytes
  static constexpr std::uint64_t longest_extension = std::uint64_t{1}
                                                     << 20;  // bytes of a pax or long-name header

  /// Reads `file`, which must outlive the reader. Throws io::error for a pipe or a device.
  explicit tar_reader(io::input_file const& file) : file_{&file} {
    if (!file.regular())
      throw io::error(file.path(), "cannot read", "it is not a regular file");
  }

  /// The next member, or false at the end of the archive. Throws io::error.
  bool next(tar_entry& entry) {
    std::optional<std::string> name;
    std::optional<std::uint64_t> size;
    while (!ended_) {
      here_ = at_;
      read(at_, header_, "the archive is cut short: its end marker is missing");
      at_ += block;
      if (header_[0] == 0 && all_zero()) {
        if (name || size)
          fail("an extended header is followed by the archive's end");
        ended_ = true;
        break;
      }
      verify_checksum();
      auto const type = header_[156];
      auto const stored = number(124, 12, "size");
      if (type == 'x' || type == 'g' || type == 'L' || type == 'K') {
        auto const text = extension(stored);
        if (type == 'x')
          read_pax(text, name, size);
        else if (type == 'L')
          name = text.substr(0, text.find('\0'));
        continue;
      }
      if (type == 'S')
        fail("a sparse member, which is not supported");
      fill(entry, type, std::move(name), size.value_or(stored));
      return true;
    }
    return false;
  }

 private:
  [[noreturn]] void fail(std::string_view rule) const {
    throw io::error(file_->path(), "byte " + std::to_string(here_), rule);
  }

  void read(std::uint64_t offset, std::span<char> target, std::string_view rule) const {
    if (offset > file_->size() || file_->size() - offset < target.size())
      fail(rule);
    file_->read_at(offset, std::as_writable_bytes(target));
  }

  bool all_zero() const {
    return std::all_of(header_.begin(), header_.end(), [](char c) { return c == 0; });
  }

  void verify_checksum() const {
    // The field itself counts as blanks. Some old programs summed signed characters.
    std::uint64_t sum = 8 * ' ';
    std::int64_t signed_sum = 8 * ' ';
    for (std::size_t i = 0; i < block; ++i)
      if (i < 148 || i >= 156) {
        sum += static_cast<unsigned char>(header_[i]);
        signed_sum += static_cast<signed char>(header_[i]);
      }
    auto const stored = number(148, 8, "checksum");
    if (stored != sum && static_cast<std::int64_t>(stored) != signed_sum)
      fail("not a tar header: its checksum is wrong");
  }

  /// A field of a header: octal digits, or base 256 where the first bit is set.
  std::uint64_t number(std::size_t first, std::size_t length, char const* what) const {
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(header_[first + i]); };
    constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    std::uint64_t value = 0;
    if ((byte(0) & 0x80) != 0) {
      if (byte(0) != 0x80)
        fail(std::string("a negative or excessive ") + what);
      for (std::size_t i = 1; i < length; ++i) {
        if (value > largest >> 8)
          fail(std::string("an excessive ") + what);
        value = value << 8 | byte(i);
      }
      return value;
    }
    std::size_t i = 0;
    while (i < length && byte(i) == ' ') ++i;
    for (; i < length && byte(i) >= '0' && byte(i) <= '7'; ++i)
      value = value << 3 | static_cast<unsigned>(byte(i) - '0');  // 12 digits have 36 bits
    for (; i < length; ++i)
      if (byte(i) != ' ' && byte(i) != 0)
        fail(std::string("a ") + what + " that is not a number");
    return value;
  }

  /// The content of a header that describes the next one.
  std::string extension(std::uint64_t size) {
    if (size > longest_extension)
      fail("an extended header of more than " + std::to_string(longest_extension) + " bytes");
    std::string text(size, '\0');
    read(at_, text, "the archive is cut short: an extended header ends early");
    at_ += (size + block - 1) / block * block;
    return text;
  }

  /// Records "length key=value\n", the length including itself.
  void read_pax(std::string_view text, std::optional<std::string>& name,
                std::optional<std::uint64_t>& size) const {
    while (!text.empty()) {
      std::size_t length = 0;
      auto const [end, code] = std::from_chars(text.data(), text.data() + text.size(), length);
      auto const digits = static_cast<std::size_t>(end - text.data());
      if (code != std::errc{} || length > text.size() || length < digits + 3 || *end != ' ' ||
          text[length - 1] != '\n')
        fail("a pax header that is malformed");
      auto const record = text.substr(digits + 1, length - digits - 2);
      text.remove_prefix(length);
      auto const equals = record.find('=');
      if (equals == std::string_view::npos)
        fail("a pax record without \"=\"");
      auto const key = record.substr(0, equals), value = record.substr(equals + 1);
      if (key == "path")
        name = std::string(value);
      else if (key == "size")
        size = pax_size(value);
      else if (key.starts_with("GNU.sparse."))
        fail("a sparse member, which is not supported");
    }
  }

  std::uint64_t pax_size(std::string_view value) const {
    std::int64_t size = 0;
    auto const [end, code] = std::from_chars(value.data(), value.data() + value.size(), size);
    if (code != std::errc{} || end != value.data() + value.size() || size < 0)
      fail("a pax size that is not a number");
    return static_cast<std::uint64_t>(size);
  }

  void fill(tar_entry& entry, char type, std::optional<std::string> name, std::uint64_t size) {
    auto field = [&](std::size_t first, std::size_t length) {
      auto const text = std::string_view{header_.data() + first, length};
      return text.substr(0, text.find('\0'));
    };
    if (name) {
      entry.name = std::move(*name);
    } else {
      entry.name.clear();
      // GNU's own format keeps other things where ustar keeps a prefix.
      if (std::memcmp(header_.data() + 257, "ustar\0", 6) == 0 && header_[345] != 0)
        entry.name.append(field(345, 155)).append("/");
      entry.name.append(field(0, 100));
    }
    if (entry.name.empty() || entry.name.size() > longest_name || entry.name.find('\0') != std::string::npos)
      fail("a name that is empty, has a zero byte, or more than " + std::to_string(longest_name) + " bytes");
    entry.regular = (type == '0' || type == 0 || type == '7') && entry.name.back() != '/';
    entry.offset = at_;
    // Links, devices and folders have no content, whatever their size field says.
    entry.size = type >= '1' && type <= '6' ? 0 : size;
    if (entry.size > file_->size() - at_)
      fail("the archive is cut short: \"" + entry.name + "\" has " + std::to_string(entry.size) +
           " bytes, of which " + std::to_string(file_->size() - at_) + " are there");
    at_ += (entry.size + block - 1) / block * block;  // no overflow: size is below that of a file
  }

  io::input_file const* file_;
  std::uint64_t at_ = 0, here_ = 0;
  std::array<char, block> header_{};
  bool ended_ = false;
};

}  // namespace yoke::data
