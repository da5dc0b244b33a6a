// A training step on 1, 2 and 4 ranks, each with the same number of pairs and at least one thread, together with the same
// number of threads where that is as many as there are ranks: pairs a second, the time that a rank's collectives take, also
// while it computes, and the most that a rank sends, which must be what the plan says, to the byte. Ranks are threads; by
// mpirun, in a build with MPI, processes:
//
//   ranks [threads in all] | mpirun -n 2 ranks mpi [threads in all]
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>
#ifdef YOKE_BENCHMARKS_MPI
#include <yoke/parallel/mpi.hpp>
#endif

#include "measure.hpp"
#include "pairs.hpp"
#include <chrono>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

using namespace yoke;

namespace {

constexpr extent_t batch = 64;  // of a rank

/// What one rank measured.
struct measured {
  double seconds = 0, communication = 0, bytes = 0;  // of a step
};

measured steps(parallel::any all, parallel::mesh_shape across, int threads) {
  omp_set_num_threads(threads);
  parallel::mesh mesh{all, across};
  auto config = *contrastive::clip_preset("tiny");
  config.sharded(across.model > 1 ? nn::model_parallel::tensor : nn::model_parallel::none);
  parameter_list list{model_share{mesh.model().rank(), across.model}};
  auto const model = contrastive::clip(scope{list}, config);
  train::planned_step const planned{.batch = batch,
                                    .image = {{32, 32, 3}},
                                    .caption_length = config.text.context_length,
                                    .mesh = across,
                                    .rank = all.rank()};
  auto const plan = train::plan_step<bf16>(model, list, planned);
  cpu::context<bf16> device{plan.activations, plan.gradients};
  train::trainer trainer{device,
                         mesh.data(),
                         model,
                         list,
                         {.schedule = {.peak = 1e-4, .decay = optim::decay::constant},
                          .clip_norm = 1,
                          .ranks = {.model_axis = mesh.model_axis(), .compare_every = 0}}};
  bench::pairs const pairs{{.batch = batch,
                            .side = 32,
                            .vocabulary = config.text.vocabulary,
                            .context_length = config.text.context_length,
                            .caption_length = config.text.context_length}};
  auto const images = pairs.images();
  auto const captions = pairs.captions();
  constexpr int warm = 2, runs = 5;
  for (int i = 0; i < warm; ++i) trainer.step(images, captions);
  auto const before = trainer.sent() + mesh.model().traffic();
  auto const start = std::chrono::steady_clock::now();
  for (int i = 0; i < runs; ++i) trainer.step(images, captions);
  std::chrono::duration<double> const seconds = std::chrono::steady_clock::now() - start;
  auto const sent = trainer.sent() + mesh.model().traffic() - before;
  if (sent.bytes != runs * plan.sent())
    throw std::runtime_error("rank " + std::to_string(all.rank()) + " sent " +
                             std::to_string(sent.bytes / runs) + " bytes in a step, the plan says " +
                             std::to_string(plan.sent()));
  return {seconds.count() / runs, sent.seconds / runs, sent.bytes / runs};
}

void report(parallel::mesh_shape across, std::string const& kind, int threads, measured const& m,
            double alone) {
  auto const pairs = static_cast<double>(batch * across.data) / m.seconds;
  bench::report("tiny, 64 pairs a rank, " + std::to_string(across.data) + " x " +
                    std::to_string(across.model) + " " + kind,
                std::to_string(threads) + " threads each", pairs, "pairs/s", alone > 0 ? pairs / alone : 1,
                "\"share_of\": \"one rank\", \"communication_ms\": " + std::to_string(1e3 * m.communication) +
                    ", \"step_ms\": " + std::to_string(1e3 * m.seconds) + ", \"sent_bytes\": " +
                    std::to_string(static_cast<long long>(m.bytes)) + ", \"as_planned\": true");
}

void by_threads(int threads) {
  double alone = 0;
  for (parallel::mesh_shape const across :
       {parallel::mesh_shape{1, 1}, parallel::mesh_shape{2, 1}, parallel::mesh_shape{4, 1},
        parallel::mesh_shape{1, 2}, parallel::mesh_shape{2, 2}}) {
    auto const each = std::max(1, threads / across.ranks());
    measured slowest;
    std::mutex mutex;
    parallel::threads_group{across.ranks()}.run([&](parallel::threads& ranks) {
      auto const mine = steps(parallel::any{ranks}, across, each);
      std::lock_guard const lock{mutex};
      auto const bytes = std::max(mine.bytes, slowest.bytes);
      if (mine.seconds > slowest.seconds)
        slowest = mine;
      slowest.bytes = bytes;
    });
    report(across, "thread ranks", each, slowest, alone);
    if (across.ranks() == 1)
      alone = static_cast<double>(batch) / slowest.seconds;
  }
}

#ifdef YOKE_BENCHMARKS_MPI
/// Waits for every process asleep: MPI's own barrier would keep a core busy beside what is measured.
void sleep_until_all_come() {
  MPI_Request all_came = MPI_REQUEST_NULL;
  MPI_Ibarrier(MPI_COMM_WORLD, &all_came);
  for (int came = 0; came == 0; std::this_thread::sleep_for(std::chrono::milliseconds{5}))
    MPI_Test(&all_came, &came, MPI_STATUS_IGNORE);
}

void by_mpi(int threads) {
  parallel::mpi_session session;
  parallel::mpi ranks{session};
  parallel::any all{ranks};
  double alone = 0;
  if (all.rank() == 0) {
    parallel::solo one;
    auto const mine = steps(parallel::any{one}, {}, threads);
    alone = static_cast<double>(batch) / mine.seconds;
    report({}, "one process", threads, mine, 0);
  }
  sleep_until_all_come();
  auto const each = std::max(1, threads / all.size());
  for (parallel::mesh_shape const across :
       {parallel::mesh_shape{all.size(), 1}, parallel::mesh_shape{1, all.size()}}) {
    auto mine = steps(all, across, each);
    all_reduce(all, view<double, 1>{&mine.bytes, {{1}}}, parallel::reduction::maximum);
    if (all.rank() == 0)
      report(across, "MPI ranks", each, mine, alone);
  }
}
#endif

}  // namespace

int main(int count, char** arguments) {
  auto const mpi = count > 1 && std::string_view{arguments[1]} == "mpi";
  auto const given = count > (mpi ? 2 : 1) ? std::atoi(arguments[mpi ? 2 : 1]) : 4;
  if (!mpi)
    by_threads(given);
#ifdef YOKE_BENCHMARKS_MPI
  else
    by_mpi(given);
#else
  else
    return std::fprintf(stderr, "ranks: this build has no MPI\n"), 1;
#endif
}
