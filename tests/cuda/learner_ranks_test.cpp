// Trainers on several cards by NCCL: gradients summed beside the backward pass, or after it, or on one rank of the CPU's.
#include <yoke/cpu/context.hpp>
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/nccl.cuh>
#include <yoke/parallel/any.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/trainer.hpp>

#include "contrastive/small_step.hpp"
#include "parallel/processes.hpp"
#include <thread>

using namespace yoke;

namespace {

struct course {
  std::vector<double> losses;
  std::vector<float> values;
  double sent_beside = 0;

  bool operator==(course const& o) const { return losses == o.losses && values == o.values; }
};

/// Five steps of a rank.
template <class C>
course train_on(C& device, parallel::any& ranks, bool overlap) {
  parameter_list list;
  auto const model = made_up::small_model(scope{list});
  made_up::data const data;
  train::trainer trainer{device,
                         ranks,
                         model,
                         list,
                         {.micro_batch = 2,
                          .schedule = {.peak = 5e-3, .steps = 20},
                          .clip_norm = 1,
                          .seed = 4,
                          .ranks = {.overlap = overlap, .bucket_bytes = 1024, .compare_every = 2}}};
  auto const local = made_up::batch / ranks.size(), first = local * ranks.rank();
  course result;
  for (int step = 0; step < 5; ++step)
    result.losses.push_back(trainer.step(data.images(first, local), data.captions(first, local)).loss);
  result.sent_beside = trainer.sent().bytes - ranks.traffic().bytes;
  read_on_host(device, view<float const, 1>{trainer.store().master()},
               [&](auto v) { result.values.assign(v.data, v.data + v.size()); });
  return result;
}

/// That of the last of n ranks.
course on_cards(int n, bool overlap, cuda::context_options const& options = {}) {
  auto const port = processes::free_port();
  course result;
  std::vector<std::thread> threads;
  std::vector<std::string> said(static_cast<std::size_t>(n), "returned");
  for (int rank = 0; rank < n; ++rank)
    threads.emplace_back([&, rank] {
      try {
        cuda::context<float> device{mebibytes(16), mebibytes(4), options};
        parallel::rendezvous meeting{processes::local(rank, n, port)};
        cuda::nccl cards{device, meeting};
        parallel::any ranks{cards};
        auto mine = train_on(device, ranks, overlap);
        if (rank == n - 1)
          result = std::move(mine);
      } catch (std::exception const& e) {
        said[static_cast<std::size_t>(rank)] = e.what();
      }
    });
  for (auto& t : threads) t.join();
  CHECK(said == std::vector<std::string>(said.size(), "returned"));
  return result;
}

}  // namespace

TEST_CASE("gradients summed beside the backward pass of a card are those summed after it", "[cuda][nccl]") {
  auto const beside = on_cards(2, true), after = on_cards(2, false);
  CHECK(beside == after);
  CHECK(beside.sent_beside > 0);
  CHECK(after.sent_beside == 0);

  cpu::context<float> device{mebibytes(16), mebibytes(4)};
  parallel::solo alone;
  parallel::any one{alone};
  auto const whole = train_on(device, one, true);
  REQUIRE(whole.losses.size() == beside.losses.size());
  for (std::size_t i = 0; i < whole.losses.size(); ++i)
    CHECK(std::abs(whole.losses[i] - beside.losses[i]) < 1e-3 * whole.losses[i]);

  // A graph is recorded once and has no collectives: sums come after it.
  auto const graphs = on_cards(2, true, {.graphs = true});
  CHECK(graphs == after);
  CHECK(graphs.sent_beside == 0);
}
