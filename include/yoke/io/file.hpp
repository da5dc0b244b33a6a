// Files as descriptors that close themselves: positioned reads, and writes that either happen
// completely or leave what was there.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <span>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace yoke::io {

namespace detail {

/// Throws io::error "file: cannot <action>: <the system's words>". Call it before errno changes.
[[noreturn]] inline void fail(std::string_view file, std::string_view action, int code = errno) {
  throw error(file, "cannot " + std::string(action), std::generic_category().message(code));
}

/// The folder that holds `path`.
inline std::string parent_folder(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  auto const slash = path.rfind('/');
  if (slash == std::string_view::npos)
    return ".";
  return std::string(path.substr(0, slash == 0 ? 1 : slash));
}

/// A name beside `path` that nothing else has: `make` gets names until it no longer sets EEXIST.
/// Returns make's result and the name, in which `more` follows the process.
template <class Make>
std::pair<int, std::string> make_temporary(std::string_view path, std::string_view action, Make make,
                                           std::string_view more = {}) {
  auto const stem = std::string(path).append(".tmp-").append(std::to_string(::getpid())).append(more);
  for (int n = 0; n < 1000; ++n) {
    auto name = n == 0 ? stem : stem + "-" + std::to_string(n);
    if (auto const made = make(name.c_str()); made >= 0)
      return {made, std::move(name)};
    if (errno != EEXIST)
      break;
  }
  fail(path, action);
}

}  // namespace detail

/// An open file; -1 is none. Closes itself, ignoring what close() says: who writes calls close().
class descriptor {
 public:
  descriptor() = default;
  explicit descriptor(int fd) : fd_{fd} {}
  descriptor(descriptor&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~descriptor() {
    if (fd_ >= 0)
      ::close(fd_);
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  /// False, with errno set, when the file system reports a write that failed late.
  bool close() {
    auto const fd = std::exchange(fd_, -1);
    return fd < 0 || ::close(fd) == 0 || errno == EINTR;
  }

 private:
  int fd_ = -1;
};

/// Makes what was created, renamed or removed in a folder survive a loss of power.
inline void sync_folder(std::string const& folder) {
  auto const fd = descriptor{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!fd)
    detail::fail(folder, "open the folder");
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != EROFS)  // some file systems sync by themselves
    detail::fail(folder, "sync the folder");
}

/// A file on disk, read at positions. Throws io::error; what it cannot read it names.
class input_file {
 public:
  explicit input_file(std::string path)
      : path_{std::move(path)}, fd_{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)} {
    struct stat status {};
    if (!fd_ || ::fstat(fd_.get(), &status) != 0)
      detail::fail(path_, "open");
    if (S_ISDIR(status.st_mode))
      detail::fail(path_, "read", EISDIR);
    regular_ = S_ISREG(status.st_mode);
    size_ = static_cast<std::uint64_t>(status.st_size);
  }

  std::string const& path() const { return path_; }
  /// Bytes, when it was opened; 0 for pipes and devices.
  std::uint64_t size() const { return size_; }
  /// Neither a pipe nor a device: it has a size and positions.
  bool regular() const { return regular_; }

  /// Fills `target` with the bytes from `offset` on.
  void read_at(std::uint64_t offset, std::span<std::byte> target) const {
    while (!target.empty()) {
      auto const n = ::pread(fd_.get(), target.data(), target.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        detail::fail(path_, "read");
      if (n == 0)
        throw error(path_, "byte " + std::to_string(offset),
                    "the file was cut short while it was being read");
      offset += static_cast<std::uint64_t>(n);
      target = target.subspan(static_cast<std::size_t>(n));
    }
  }

  /// Up to target.size() bytes from where the last call ended; 0 at the end. Pipes can do this, too.
  std::size_t read_some(std::span<std::byte> target) {
    for (;;) {
      auto const n = ::read(fd_.get(), target.data(), target.size());
      if (n >= 0)
        return static_cast<std::size_t>(n);
      if (errno != EINTR)
        detail::fail(path_, "read");
    }
  }

 private:
  std::string path_;
  descriptor fd_;
  std::uint64_t size_ = 0;
  bool regular_ = false;
};

/// All bytes of a file, pipes included. More than `most` bytes are an io::error.
inline std::string read_file(std::string const& path, std::uint64_t most = std::uint64_t{1} << 30) {
  auto file = input_file{path};
  std::string text;
  for (std::size_t used = 0;;) {
    text.resize(used + std::max<std::size_t>(std::size_t{1} << 16, used / 2));
    auto const n = file.read_some(std::as_writable_bytes(std::span{text}.subspan(used)));
    used += n;
    if (used > most)
      throw error(path, "", "the file is larger than " + std::to_string(most) + " bytes");
    if (n == 0) {
      text.resize(used);
      return text;
    }
  }
}

/// Writes a file under a temporary name in the same folder. commit() gives it its name; until then,
/// and whatever fails, a file of that name stays as it was. The destructor removes what was not
/// committed.
class atomic_writer {
 public:
  explicit atomic_writer(std::string path) : path_{std::move(path)} {
    auto [fd, name] = detail::make_temporary(path_, "create", [](char const* candidate) {
      return ::open(candidate, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    });
    fd_ = descriptor{fd};
    temporary_ = std::move(name);
  }
  atomic_writer(atomic_writer const&) = delete;
  atomic_writer& operator=(atomic_writer const&) = delete;
  ~atomic_writer() {
    if (!temporary_.empty())
      ::unlink(temporary_.c_str());
  }

  std::string const& path() const { return path_; }

  /// Appends.
  void write(std::span<std::byte const> bytes) {
    write_at(position_, bytes);
    position_ += bytes.size();
  }
  void write(std::string_view text) { write(std::as_bytes(std::span{text})); }

  /// Writes at an offset, without moving where write() appends.
  void write_at(std::uint64_t offset, std::span<std::byte const> bytes) {
    expects(static_cast<bool>(fd_), "atomic_writer: nothing is written after commit()");
    while (!bytes.empty()) {
      auto const n = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)  // a short write is followed by one that says why
        detail::fail(path_, "write", n == 0 ? ENOSPC : errno);
      offset += static_cast<std::uint64_t>(n);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }

  /// Syncs the file, renames it, syncs the folder.
  void commit() {
    expects(static_cast<bool>(fd_), "atomic_writer: commit() once");
    if (::fsync(fd_.get()) != 0 && errno != EINVAL)
      detail::fail(path_, "sync");
    if (!fd_.close())
      detail::fail(path_, "close");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0)
      detail::fail(path_, "rename " + temporary_);
    temporary_.clear();
    sync_folder(detail::parent_folder(path_));
  }

 private:
  std::string path_, temporary_;
  descriptor fd_;
  std::uint64_t position_ = 0;
};

/// Replaces a file's content, or throws io::error and leaves it.
inline void write_file_atomically(std::string const& path, std::string_view content) {
  auto writer = atomic_writer{path};
  writer.write(content);
  writer.commit();
}

}  // namespace yoke::io
