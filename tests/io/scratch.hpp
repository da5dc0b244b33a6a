// What the tests of files share: a folder that goes with the test, and work done in a process of its own.
#pragma once
#include <yoke/io/folder.hpp>

#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

/// A new folder, removed with all it holds.
class scratch_folder {
 public:
  /// In `base` if that can be written, else where temporary files belong.
  explicit scratch_folder(std::string base = {}) {
    auto const* usual = std::getenv("TMPDIR");
    if (base.empty() || ::access(base.c_str(), W_OK) != 0)
      base = usual == nullptr ? "/tmp" : usual;
    path_ = base + "/yoke-io-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr)
      throw std::runtime_error("mkdtemp " + path_);
  }
  scratch_folder(scratch_folder const&) = delete;
  scratch_folder& operator=(scratch_folder const&) = delete;
  ~scratch_folder() { yoke::io::detail::remove_tree(path_); }

  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  std::string const& path() const { return path_; }
  std::vector<std::string> names() const {
    auto all = yoke::io::detail::names_in(path_);
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  std::string path_;
};

/// What `work` throws, in words, or "" when it throws nothing; a child process does it.
template <class Work>
std::string failure_in_child(Work work) {
  int ends[2];
  if (::pipe(ends) != 0)
    return "no pipe";
  auto const child = ::fork();
  if (child == 0) {
    std::string words;
    try {
      work();
    } catch (std::exception const& e) {
      words = e.what();
    }
    auto const written = ::write(ends[1], words.data(), words.size());
    ::_exit(written == static_cast<ssize_t>(words.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string words(4096, '\0');
  std::size_t used = 0;
  for (ssize_t n = 0; (n = ::read(ends[0], words.data() + used, words.size() - used)) > 0;)
    used += static_cast<std::size_t>(n);
  ::close(ends[0]);
  words.resize(used);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? words : "the child died";
}
