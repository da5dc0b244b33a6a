// A folder that is replaced as a whole: a checkpoint. Whatever fails, and whenever the process is
// killed, one complete folder can be read.
#pragma once
#include <yoke/io/file.hpp>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <memory>
#include <sys/file.h>
#include <time.h>
#include <vector>

namespace yoke::io {

namespace detail {

inline bool is_folder(std::string const& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

/// The path of what a folder has.
inline std::string inside(std::string const& folder, std::string_view name) {
  auto path = folder;
  return path.append("/").append(name);
}

inline bool exists(std::string const& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

/// The names in a folder but "." and "..", in no order; none when it cannot be read.
inline std::vector<std::string> names_in(std::string const& folder) {
  struct close_folder {
    void operator()(DIR* d) const { ::closedir(d); }
  };
  std::vector<std::string> names;
  if (auto const open = std::unique_ptr<DIR, close_folder>{::opendir(folder.c_str())})
    while (auto const* entry = ::readdir(open.get()))
      if (std::string_view const name = entry->d_name; name != "." && name != "..")
        names.emplace_back(name);
  return names;
}

/// Removes a file, or a folder with all that is in it. Links are removed, not followed. What cannot
/// be removed stays.
inline void remove_tree(std::string const& path) {
  if (!is_folder(path)) {
    ::unlink(path.c_str());
    return;
  }
  for (auto const& name : names_in(path)) remove_tree(inside(path, name));
  ::rmdir(path.c_str());
}

/// Syncs every file and folder below `path`, and `path`.
inline void sync_tree(std::string const& path) {
  if (is_folder(path)) {
    for (auto const& name : names_in(path)) sync_tree(inside(path, name));
    sync_folder(path);
    return;
  }
  auto const fd = descriptor{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!fd)
    fail(path, "open");
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != EROFS)
    fail(path, "sync");
}

/// Opens a folder and marks it as in use by this process, as far as the file system can.
inline descriptor lock_folder(std::string const& folder, bool& locked) {
  auto fd = descriptor{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  locked = fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
  return fd;
}

/// Removes the temporary folders that killed writers of `path` left. Those of live ones are locked.
inline void remove_abandoned(std::string const& path) {
  auto const folder = parent_folder(path);
  auto const stem = path.substr(path.rfind('/') + 1) + ".tmp-";
  for (auto const& name : names_in(folder)) {
    auto const whole = inside(folder, name);
    if (name.size() <= stem.size() || name.compare(0, stem.size(), stem) != 0 ||
        name.find_first_not_of("0123456789-", stem.size()) != std::string::npos || !is_folder(whole))
      continue;
    bool locked = false;
    auto const lock = lock_folder(whole, locked);
    if (locked)
      remove_tree(whole);
  }
}

/// The name that the replaced folder has for a moment; not ".old", which people give to what they keep.
inline std::string name_of_old(std::string const& path) {
  return path + ".tmp-old";
}

/// Swaps two names in one step where the file system can: 0, or -1 with errno.
inline int exchange_names(char const* a, char const* b) {
#ifdef RENAME_EXCHANGE
  return ::renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
#else
  (void)a, (void)b;
  errno = ENOSYS;
  return -1;
#endif
}

}  // namespace detail

/// Where a complete folder lies that folder_writer committed as `path`: `path`, or `path`.tmp-old when
/// the process was killed between the two renames of a file system that cannot exchange names.
inline std::string committed_folder(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  auto old = detail::name_of_old(path);
  return !detail::exists(path) && detail::is_folder(old) ? old : path;
}

/// Collects files in a folder beside `path` and gives them the name `path` together. Anything in a folder
/// that is replaced goes, so one without `marker`, the file that every folder of this kind has, is
/// never replaced. One writer a path at a time. Throws io::error.
class folder_writer {
 public:
  folder_writer(std::string path, std::string marker) : path_{std::move(path)}, marker_{std::move(marker)} {
    while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
    expects(!path_.empty() && !marker_.empty(), "folder_writer: a path and the name of a file");
    resolve_link();
    if (auto const old = committed_folder(path_); old != path_ && ::rename(old.c_str(), path_.c_str()) != 0)
      detail::fail(path_, "rename " + old);
    expect_replaceable();
    if (detail::exists(path_))
      detail::remove_tree(detail::name_of_old(path_));
    detail::remove_abandoned(path_);
    temporary_ = detail::make_temporary(
                     path_, "create the folder", [](char const* name) { return ::mkdir(name, 0777); },
                     "-" + std::to_string(nanoseconds()))
                     .second;
    bool locked = false;
    lock_ = detail::lock_folder(temporary_, locked);  // unlocked, what a killed process leaves stays
  }
  folder_writer(folder_writer const&) = delete;
  folder_writer& operator=(folder_writer const&) = delete;
  ~folder_writer() {
    if (!temporary_.empty())
      detail::remove_tree(temporary_);
  }

  std::string const& path() const { return path_; }
  /// The folder beside `path` where the files are until commit(). Its name never comes again: whoever is told it and
  /// writes there later, or reads it from what a network file system remembers, meets no other writer's files.
  std::string const& temporary() const { return temporary_; }

  /// Where to write the file `name`. It must be there when commit() is called.
  std::string file(std::string_view name) {
    expects(!temporary_.empty(), "folder_writer: nothing is written after commit()");
    expects(!name.empty() && name.find('/') == std::string_view::npos, "folder_writer: a name, not a path");
    names_.emplace_back(name);
    return detail::inside(temporary_, name);
  }

  /// Writes the file `name`.
  void write(std::string_view name, std::string_view content) {
    auto const target = file(name);
    write_file_atomically(target, content);
  }

  /// Syncs all files, then puts the folder in place of what was there. When it throws, what was
  /// there still is.
  void commit() {
    expects(!temporary_.empty(), "folder_writer: commit() once");
    for (auto const& name : names_)
      if (!detail::exists(detail::inside(temporary_, name)))
        throw error(path_, name, "the file was to be written and is not there");
    if (!detail::exists(detail::inside(temporary_, marker_)))
      throw error(path_, marker_, "every folder of this kind has this file");
    detail::sync_tree(temporary_);
    expect_replaceable();
    auto const folder = detail::parent_folder(path_);
    auto const old = put_in_place();
    auto const refuse = std::exchange(temporary_, {});
    sync_folder(folder);  // before the only other complete copy goes
    if (!old.empty() &&
        ::rename(old.c_str(), refuse.c_str()) != 0)  // under its name it is complete or not there
      detail::fail(old, "rename");
    detail::remove_tree(refuse);
  }

 private:
  static std::int64_t nanoseconds() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }

  void resolve_link() {
    struct stat status {};
    if (::lstat(path_.c_str(), &status) != 0 || !S_ISLNK(status.st_mode))
      return;
    auto const target = std::unique_ptr<char, void (*)(void*)>{::realpath(path_.c_str(), nullptr), std::free};
    if (target == nullptr)
      detail::fail(path_, "follow the link");
    path_ = target.get();
  }

  void expect_replaceable() const {
    if (!detail::exists(path_))
      return;
    if (!detail::is_folder(path_))
      throw error(path_, "", "is not a folder");
    if (!detail::exists(detail::inside(path_, marker_)) && !detail::names_in(path_).empty())
      throw error(path_, "", "is not replaced, since it has files but no " + marker_);
  }

  /// Returns where the old folder is if it did not take the temporary name.
  std::string put_in_place() const {
    if (!detail::exists(path_)) {
      move(temporary_, path_);
      return {};
    }
    if (detail::exchange_names(temporary_.c_str(), path_.c_str()) == 0)
      return {};
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP && errno != EPERM)
      detail::fail(path_, "replace");
    auto old = detail::name_of_old(path_);
    detail::remove_tree(old);
    move(path_, old);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      auto const code = errno;
      move(old, path_);
      detail::fail(path_, "rename " + temporary_, code);
    }
    return old;
  }

  static void move(std::string const& from, std::string const& to) {
    if (::rename(from.c_str(), to.c_str()) != 0)
      detail::fail(to, "rename " + from);
  }

  std::string path_, marker_, temporary_;
  descriptor lock_;
  std::vector<std::string> names_;
};

}  // namespace yoke::io
