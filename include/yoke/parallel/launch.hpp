// Who this process is among those that were started together, by the variables that torchrun, Slurm or MPI's launcher
// sets.
#pragma once
#include <yoke/core/errors.hpp>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <optional>
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

/// The first of these that is set; null: none.
inline char const* first_set(std::initializer_list<char const*> names) {
  for (auto const* name : names)
    if (!variable(name).empty())
      return name;
  return nullptr;
}

/// The variable's value, `least` to `most`.
template <class N>
N number_variable(char const* name, N least, N most) {
  auto const text = required_variable(name);
  N value = 0;
  auto const [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem == std::errc::invalid_argument || end != text.data() + text.size())
    throw error(std::string(name) + " is \"" + std::string(text.substr(0, 100)) + "\": it must be a number");
  if (problem != std::errc{} || value < least || value > most)
    throw error(std::string(name) + " is " + std::string(text.substr(0, 100)) + ": it must be " +
                std::to_string(least) + " to " + std::to_string(most));
  return value;
}

inline constexpr int most_ranks = 1 << 20, most_ports = 65535;

/// A rank, that of its machine and their number, which have these names.
inline launch_environment numbered_by(char const* rank, char const* size, char const* local_rank) {
  launch_environment here;
  here.size = number_variable(size, 1, most_ranks);
  if (std::string_view{rank} != "RANK" && variable(rank).empty())
    throw error(std::string(rank) + " is not set, although " + size + " is");
  here.rank = number_variable(rank, 0, most_ranks);
  here.local_rank = local_rank == nullptr ? 0 : number_variable(local_rank, 0, most_ranks);
  for (auto const& [name, number] : {std::pair{rank, here.rank}, std::pair{local_rank, here.local_rank}})
    if (number >= here.size)
      throw error(std::string(name) + " is " + std::to_string(number) + ": " + size + " is " +
                  std::to_string(here.size) + ", so it must be below that");
  return here;
}

}  // namespace detail

/// Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. When torchrun itself listens at
/// MASTER_PORT, which it says with TORCHELASTIC_USE_AGENT_STORE=True, the port is the one after it;
/// YOKE_PORT, if it is set, is the port whatever the others say. Throws parallel::error when one is
/// missing, is no number, or is not within its bounds.
inline launch_environment read_environment() {
  auto here = detail::numbered_by("RANK", "WORLD_SIZE", "LOCAL_RANK");
  here.host = detail::required_variable("MASTER_ADDR");
  if (!detail::variable("YOKE_PORT").empty()) {
    here.port = detail::number_variable("YOKE_PORT", 1, detail::most_ports);
  } else {
    auto const taken = detail::variable("TORCHELASTIC_USE_AGENT_STORE") == "True" ? 1 : 0;
    here.port = detail::number_variable("MASTER_PORT", 1, detail::most_ports - taken) + taken;
  }
  return here;
}

namespace detail {

/// The first host of Slurm's list in variable `name`: node03 of "node[03-05,7],login".
inline std::string first_host(char const* name) {
  auto const list = variable(name);
  std::string host;
  auto rest = list;
  while (!rest.empty() && rest.front() != ',') {
    if (rest.front() != '[') {
      host += rest.front();
      rest.remove_prefix(1);
      continue;
    }
    auto const end = rest.find(']');
    auto const number = rest.substr(1, rest.find_first_of("-,]") - 1);
    if (end == rest.npos || number.empty()) {
      host.clear();
      break;
    }
    host += number;
    rest.remove_prefix(end + 1);
  }
  if (host.empty() || host.find(']') != host.npos)
    throw error(std::string(name) + " is \"" + std::string(list.substr(0, 100)) +
                "\": it must be a list of hosts such as node[03-05,7]");
  return host;
}

/// Where rank 0 listens, of ranks that are not torchrun's: what MASTER_ADDR and YOKE_PORT or MASTER_PORT say, else the
/// first host of `hosts` and a port that follows from Slurm's job and step, so that jobs beside each other differ.
inline void meet_at(launch_environment& here, char const* hosts, std::int64_t step) {
  if (auto const host = variable("MASTER_ADDR"); !host.empty())
    here.host = host;
  else if (hosts != nullptr)
    here.host = first_host(hosts);
  if (auto const* port = first_set({"YOKE_PORT", "MASTER_PORT"}))
    here.port = number_variable(port, 1, most_ports);
  else if (auto const* job = first_set({"SLURM_JOB_ID", "SLURM_JOBID"}))
    here.port = static_cast<int>(20'000 + (number_variable<std::int64_t>(job, 0, 1LL << 40) + step) % 10'000);
}

struct mpi_variables {
  char const *rank, *size, *local_rank;  // null: this launcher does not say
};

/// Those of the launcher of Open MPI, or of MPICH and its relatives.
inline std::optional<mpi_variables> variables_of_mpi() {
  if (first_set({"OMPI_COMM_WORLD_SIZE"}) != nullptr)
    return mpi_variables{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                         first_set({"OMPI_COMM_WORLD_LOCAL_RANK"})};
  if (first_set({"PMI_SIZE"}) != nullptr)
    return mpi_variables{"PMI_RANK", "PMI_SIZE", first_set({"MPI_LOCALRANKID"})};
  return std::nullopt;
}

}  // namespace detail

/// How many processes MPI's launcher has started as one program; 1 when it has started this one alone, or nothing.
inline int ranks_of_mpi_launcher() {
  auto const names = detail::variables_of_mpi();
  return names ? detail::number_variable(names->size, 1, detail::most_ranks) : 1;
}

/// What the launcher says, or nothing when this process was started alone:
///   torchrun  RANK or WORLD_SIZE is set: as read_environment()
///   MPI       OMPI_COMM_WORLD_RANK, …_SIZE and …_LOCAL_RANK, or PMI_RANK, PMI_SIZE and MPI_LOCALRANKID. They do not say
///             where rank 0 is: MASTER_ADDR says it, with YOKE_PORT or MASTER_PORT, or on one machine YOKE_PORT alone, or
///             Slurm's list of the job's hosts. Where nothing does, it is as if the process was started alone
///   Slurm     SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID within a step, that is under srun; rank 0 is on the
///             first host of SLURM_STEP_NODELIST. MASTER_ADDR, YOKE_PORT and MASTER_PORT, if set, are stronger
/// MPI's come before Slurm's, which under mpirun are those of MPI's daemons. Throws parallel::error when a variable is
/// missing or wrong.
inline std::optional<launch_environment> find_environment() {
  using detail::first_set;
  if (first_set({"RANK", "WORLD_SIZE"}) != nullptr)
    return read_environment();
  if (auto const names = detail::variables_of_mpi()) {
    auto here = detail::numbered_by(names->rank, names->size, names->local_rank);
    auto const* hosts = first_set({"SLURM_JOB_NODELIST", "SLURM_NODELIST"});
    if (here.size == 1 || (hosts == nullptr && first_set({"MASTER_ADDR", "YOKE_PORT"}) == nullptr))
      return std::nullopt;
    detail::meet_at(here, hosts, 0);
    return here;
  }
  // A batch script is no step: it runs once, whatever the number of tasks.
  auto const* step = first_set({"SLURM_STEP_ID", "SLURM_STEPID"});
  auto const* size = first_set({"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
  if (first_set({"SLURM_PROCID"}) == nullptr || step == nullptr || size == nullptr)
    return std::nullopt;
  auto here = detail::numbered_by("SLURM_PROCID", size, first_set({"SLURM_LOCALID"}));
  if (here.size == 1)
    return std::nullopt;
  auto const* hosts = first_set({"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"});
  if (hosts == nullptr && first_set({"MASTER_ADDR"}) == nullptr)
    throw error(
        "SLURM_STEP_NODELIST is not set, nor is MASTER_ADDR: ranks that Slurm starts cannot find rank 0");
  detail::meet_at(here, hosts, detail::number_variable<std::int64_t>(step, 0, 1LL << 40));
  return here;
}

}  // namespace yoke::parallel
