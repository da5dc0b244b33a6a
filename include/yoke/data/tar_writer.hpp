// Writes tar archives: the shards of a data set. ustar, with pax headers for names that it cannot hold.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace yoke::data {

/// Appends members to a new tar file. Equal members make equal files: owner, mode and time are fixed. Throws
/// io::error; an archive that is not finished is one that a reader refuses.
class tar_writer {
 public:
  explicit tar_writer(std::string path) : path_{std::move(path)}, file_{std::fopen(path_.c_str(), "wb")} {
    if (file_ == nullptr)
      fail("cannot create");
  }

  /// Adds a file. `name` is relative, with "/" between folders.
  void add(std::string_view name, std::span<std::byte const> content) {
    expects(!name.empty() && name.back() != '/' && name.find('\0') == std::string_view::npos,
            "tar_writer: a member has a name");
    expects(content.size() < std::size_t{1} << 33, "tar_writer: a member is smaller than 8 GiB");
    if (auto const cut = split(name); cut != std::string_view::npos) {
      auto const prefix = cut == 0 ? std::string_view{} : name.substr(0, cut);
      header(prefix, cut == 0 ? name : name.substr(cut + 1), content.size(), '0');
    } else {
      auto const record = pax_record("path", name);
      header("", "pax", record.size(), 'x');
      padded(std::as_bytes(std::span{record}));
      header("", name.substr(0, 100), content.size(), '0');
    }
    padded(content);
  }
  void add(std::string_view name, std::string_view content) { add(name, std::as_bytes(std::span{content})); }

  /// Writes the end marker and closes the file.
  void finish() {
    std::array<std::byte, 1024> const zeros{};
    write(zeros);
    if (std::fclose(file_.release()) != 0)
      fail("cannot write");
  }

 private:
  struct close_file {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  [[noreturn]] void fail(std::string_view action) const {
    throw io::error(path_, action, std::generic_category().message(errno));
  }

  /// Where "/" parts a name into prefix and name; 0 for none needed, npos when it does not fit.
  static std::size_t split(std::string_view name) {
    if (name.size() <= 100)
      return 0;
    auto const cut = name.find('/', name.size() - 101);
    return cut != std::string_view::npos && cut > 0 && cut <= 155 ? cut : std::string_view::npos;
  }

  static std::string pax_record(std::string_view key, std::string_view value) {
    auto const body = key.size() + value.size() + 3;  // " ", "=", "\n"
    auto length = body + 1;
    while (std::to_string(length).size() + body != length) ++length;
    return std::to_string(length).append(" ").append(key).append("=").append(value).append("\n");
  }

  void header(std::string_view prefix, std::string_view name, std::size_t size, char type) {
    std::array<char, 512> block{};
    auto put = [&](std::size_t at, std::string_view text) {
      std::copy(text.begin(), text.end(), block.begin() + static_cast<std::ptrdiff_t>(at));
    };
    auto octal = [&](std::size_t at, std::size_t digits, std::uint64_t value) {
      for (auto i = digits; i-- > 0; value >>= 3) block[at + i] = static_cast<char>('0' + (value & 7));
    };
    put(0, name);
    put(345, prefix);
    octal(100, 7, 0644);
    octal(108, 7, 0);
    octal(116, 7, 0);
    octal(124, 11, size);
    octal(136, 11, 0);
    block[156] = type;
    put(257, std::string_view{"ustar\0"
                              "00",
                              8});
    std::uint64_t sum = 8 * ' ';
    for (auto c : block) sum += static_cast<unsigned char>(c);
    octal(148, 6, sum);
    block[155] = ' ';
    write(std::as_bytes(std::span{block}));
  }

  void padded(std::span<std::byte const> content) {
    std::array<std::byte, 512> const zeros{};
    write(content);
    write(std::span{zeros}.first((512 - content.size() % 512) % 512));
  }

  void write(std::span<std::byte const> bytes) {
    expects(file_ != nullptr, "tar_writer: nothing is added after finish()");
    if (!bytes.empty() && std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size())
      fail("cannot write");
  }

  std::string path_;
  std::unique_ptr<std::FILE, close_file> file_;
};

}  // namespace yoke::data
