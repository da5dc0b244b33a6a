// Ranks as processes of this machine, and ports that are free on it.
#pragma once
#include <yoke/parallel/rendezvous.hpp>

#include <fcntl.h>
#include <random>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace processes {

using namespace std::chrono_literals;

/// A port that nobody listens at, below those that outgoing connections take.
inline int free_port() {
  static std::minstd_rand random{std::random_device{}()};
  while (true) {
    auto const port = 20000 + static_cast<int>(random() % 10000);
    try {
      yoke::parallel::detail::listen_at("0.0.0.0", port);
      return port;
    } catch (yoke::parallel::error const&) {
    }
  }
}

/// Rank `rank` of `size` ranks of this machine.
inline yoke::parallel::launch_environment local(int rank, int size, int port) {
  return {.rank = rank, .size = size, .local_rank = rank, .host = "localhost", .port = port};
}

/// Runs function(rank) in n processes, and returns what each returned, or the sentence of its parallel::error. A process
/// that ends otherwise has said nothing.
template <class F>
std::vector<std::string> run(int n, F const& function) {
  struct child {
    pid_t process;
    int pipe;
  };
  std::vector<child> children;
  for (int rank = 0; rank < n; ++rank) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw std::runtime_error("no pipe");
    auto const process = ::fork();
    if (process == 0) {
      std::string said;
      try {
        said = function(rank);
      } catch (yoke::parallel::error const& e) {
        said = e.what();
      } catch (std::exception const& e) {
        said = std::string("not a parallel::error: ") + e.what();
      }
      auto const written = ::write(ends[1], said.data(), said.size());
      ::_exit(written == static_cast<ssize_t>(said.size()) ? 0 : 1);
    }
    ::close(ends[1]);
    children.push_back({process, ends[0]});
  }
  std::vector<std::string> said(children.size());
  for (std::size_t i = 0; i < children.size(); ++i) {
    char some[4096];
    for (ssize_t n_read; (n_read = ::read(children[i].pipe, some, sizeof some)) > 0;)
      said[i].append(some, static_cast<std::size_t>(n_read));
    ::close(children[i].pipe);
    int status = 0;
    ::waitpid(children[i].process, &status, 0);
  }
  return said;
}

}  // namespace processes
