// A file that is read at positions, by any number of threads at once.
#pragma once
#include <yoke/core/errors.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <span>
#include <string>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace yoke::data {

/// A regular file open for reading. Throws io::error that names it and says what the system says.
class random_access_file {
 public:
  explicit random_access_file(std::string path)
      : path_{std::move(path)}, fd_{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)} {
    if (fd_ < 0)
      throw io::error(path_, "cannot open", std::generic_category().message(errno));
    struct stat status {};
    auto const code = ::fstat(fd_, &status) != 0 ? errno : 0;
    if (code != 0 || !S_ISREG(status.st_mode)) {
      ::close(fd_);
      throw io::error(path_, "cannot read",
                      code != 0 ? std::generic_category().message(code) : "it is not a regular file");
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
  }
  random_access_file(random_access_file&& other) noexcept
      : path_{std::move(other.path_)}, fd_{std::exchange(other.fd_, -1)}, size_{other.size_} {}
  random_access_file& operator=(random_access_file&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~random_access_file() {
    if (fd_ >= 0)
      ::close(fd_);
  }

  std::string const& path() const { return path_; }
  /// Bytes, when it was opened.
  std::uint64_t size() const { return size_; }

  /// Fills `target` with the bytes from `offset` on.
  void read_at(std::uint64_t offset, std::span<std::byte> target) const {
    while (!target.empty()) {
      auto const n = ::pread(fd_, target.data(), target.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        throw io::error(path_, "cannot read byte " + std::to_string(offset),
                        std::generic_category().message(errno));
      if (n == 0)
        throw io::error(path_, "byte " + std::to_string(offset), "the file was cut short while it was read");
      offset += static_cast<std::uint64_t>(n);
      target = target.subspan(static_cast<std::size_t>(n));
    }
  }

 private:
  std::string path_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace yoke::data
