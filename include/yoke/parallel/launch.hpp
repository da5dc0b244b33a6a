// Who this process is among those that were started together, by the variables that torchrun sets.
#pragma once
#include <yoke/core/errors.hpp>

#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace yoke::parallel {

/// One rank of a program that was started `size` times, and where rank 0 listens.
struct launch_environment {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this machine: the number of its card
  std::string host = "localhost";
  int port = 29500;
};

namespace detail {

inline std::string_view variable(char const* name) {
  auto const* const value = std::getenv(name);
  return value == nullptr ? std::string_view{} : std::string_view{value};
}

inline std::string_view required_variable(char const* name) {
  auto const value = variable(name);
  if (value.empty())
    throw error(std::string(name) +
                " is not set: start the program with torchrun, or set RANK, WORLD_SIZE, LOCAL_RANK, "
                "MASTER_ADDR and MASTER_PORT");
  return value;
}

/// The variable's value, `least` to `most`.
inline int number_variable(char const* name, int least, int most) {
  auto const text = required_variable(name);
  int value = 0;
  auto const [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem == std::errc::invalid_argument || end != text.data() + text.size())
    throw error(std::string(name) + " is \"" + std::string(text.substr(0, 100)) + "\": it must be a number");
  if (problem != std::errc{} || value < least || value > most)
    throw error(std::string(name) + " is " + std::string(text.substr(0, 100)) + ": it must be " +
                std::to_string(least) + " to " + std::to_string(most));
  return value;
}

}  // namespace detail

/// Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. When torchrun itself listens at
/// MASTER_PORT, which it says with TORCHELASTIC_USE_AGENT_STORE=True, the port is the one after it;
/// YOKE_PORT, if it is set, is the port whatever the others say. Throws parallel::error when one is
/// missing, is no number, or is not within its bounds.
inline launch_environment read_environment() {
  constexpr int most_ranks = 1 << 20, most_ports = 65535;
  launch_environment here;
  here.size = detail::number_variable("WORLD_SIZE", 1, most_ranks);
  here.rank = detail::number_variable("RANK", 0, most_ranks);
  here.local_rank = detail::number_variable("LOCAL_RANK", 0, most_ranks);
  for (auto const& [name, rank] : {std::pair{"RANK", here.rank}, std::pair{"LOCAL_RANK", here.local_rank}})
    if (rank >= here.size)
      throw error(std::string(name) + " is " + std::to_string(rank) + ": WORLD_SIZE is " +
                  std::to_string(here.size) + ", so it must be below that");
  here.host = detail::required_variable("MASTER_ADDR");
  if (!detail::variable("YOKE_PORT").empty()) {
    here.port = detail::number_variable("YOKE_PORT", 1, most_ports);
  } else {
    auto const taken = detail::variable("TORCHELASTIC_USE_AGENT_STORE") == "True" ? 1 : 0;
    here.port = detail::number_variable("MASTER_PORT", 1, most_ports - taken) + taken;
  }
  return here;
}

}  // namespace yoke::parallel
