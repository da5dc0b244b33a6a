// What the tools share: class names and prompts, figures in words, and how a program runs.
#pragma once
#include <yoke/eval/prompts.hpp>
#include <yoke/eval/retrieval.hpp>
#include <yoke/eval/zero_shot.hpp>

#include "embedder.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sched.h>
#include <stdlib.h>
#include <string>
#include <unistd.h>
#include <vector>

namespace tools {

using namespace yoke;

/// What a caption's class is called, and the sentences that it is put into.
struct prompts {
  std::vector<std::string> names, templates;

  prompts(std::vector<std::string> n, std::vector<std::string> t)
      : names{std::move(n)}, templates{std::move(t)} {}
  /// Files with one a line; without a file of templates, the library's few.
  prompts(std::string const& names_file, std::string const& templates_file)
      : names{eval::read_class_names(names_file)},
        templates{templates_file.empty() ? eval::default_templates() : eval::read_templates(templates_file)} {
  }
};

/// Prints the figures of a zero-shot classification.
inline void print(eval::zero_shot_result const& r, std::vector<std::string> const& names, bool each_class) {
  std::printf("zero-shot on %lld images of %lld classes: top-1 %.1f %%, top-5 %.1f %% (chance %.1f %%)\n",
              static_cast<long long>(r.images), static_cast<long long>(r.classes), 100 * r.top1, 100 * r.top5,
              100 * r.chance);
  if (!each_class)
    return;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (r.per_class[i] == r.per_class[i])
      std::printf("  %-24s %5.1f %%\n", names[i].c_str(), 100 * r.per_class[i]);
    else
      std::printf("  %-24s no images\n", names[i].c_str());
  }
}

/// The cores that a process may use; of one that cannot be asked, 0.
inline int cores_of(pid_t process) {
  cpu_set_t set;
  return ::sched_getaffinity(process, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

/// How many ranks the launcher has started on this machine, as far as it says so; else 1.
inline int ranks_here() {
  for (auto const* const variable :
       {"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"})
    if (auto const* const text = ::getenv(variable); text != nullptr)
      return std::max(1, std::atoi(text));
  return 1;
}

/// How this process uses the cores that it may: several ranks of one machine share out those of their launcher, and threads
/// that wait for each other give theirs away instead of spinning, which on a machine that others use as well, and that is
/// most of them, is several times faster. What the user has set stays. libgomp reads its settings when it is loaded, so
/// the program starts anew.
inline void settle_threads(char** arguments) {
  auto changed = false;
  auto const set = [&](char const* variable, std::string const& value) {
    if (::getenv(variable) == nullptr)
      changed = ::setenv(variable, value.c_str(), 0) == 0 || changed;
  };
  if (auto const ranks = ranks_here(); ranks > 1) {
    auto const mine =
        std::max(1, cores_of(0));  // fewer than all where the launcher has bound this rank to some
    set("OMP_NUM_THREADS",
        std::to_string(std::clamp(std::max(mine, cores_of(::getppid())) / ranks, 1, mine)));
  }
  if (::getenv("GOMP_SPINCOUNT") == nullptr)
    set("OMP_WAIT_POLICY", "passive");
  if (changed)
    ::execv("/proc/self/exe", arguments);  // returns only when it fails, and then nothing is lost
}

/// Runs a tool: what goes wrong is one line on standard error and exit status 1.
template <class F>
int run(char const* tool, F const& f) {
  try {
    f();
    return 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s: %s\n", tool, e.what());
    return 1;
  }
}

}  // namespace tools
