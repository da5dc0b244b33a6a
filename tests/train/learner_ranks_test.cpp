// Trainers on several ranks: summed beside the backward pass or after it, master values shared out or not, they stay one
// run; and ranks that are not one run are found, and named.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/trainer.hpp>

#include "contrastive/small_step.hpp"
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;

namespace {

using model_type = decltype(made_up::small_model(std::declval<scope>()));

/// Six steps of one rank; `before` may make it odd.
template <class C>
struct ranked_run {
  parameter_list list;
  model_type model = made_up::small_model(scope{list});
  C device{mebibytes(16), mebibytes(4)};
  made_up::data data;
  train::trainer<C, parallel::any, model_type> trainer;
  extent_t first, local;

  ranked_run(parallel::any& ranks, train::trainer_options options)
      : trainer{device, ranks, model, list, options},
        first{made_up::batch / ranks.size() * ranks.rank()},
        local{made_up::batch / ranks.size()} {}
  double step() { return trainer.step(data.images(first, local), data.captions(first, local)).loss; }
};

train::trainer_options options(bool overlap = true) {
  return {.micro_batch = 1,
          .optimizer = optim::adafactor_w_options{.epsilon = 1e-8, .smallest_factored = 4},
          .schedule = {.peak = 5e-3, .steps = 20},
          .clip_norm = 1,
          .seed = 4,
          .ranks = {.overlap = overlap, .bucket_bytes = 1024, .compare_every = 1}};
}

/// Losses of six steps on so many ranks, and the values that all ranks have in common at the end.
template <class C>
std::pair<std::vector<double>, std::vector<float>> train_on(int count, bool overlap) {
  std::vector<double> losses;
  std::vector<float> values;
  std::mutex mutex;
  parallel::threads_group{count}.run([&](parallel::threads& ranks) {
    parallel::any all{ranks};
    ranked_run<C> run{all, options(overlap)};
    std::vector<double> mine;
    for (int i = 0; i < 6; ++i) mine.push_back(run.step());
    std::lock_guard const lock{mutex};
    losses = mine;
    run.trainer.store().visit_shared([&](auto v) {
      values.clear();
      for (extent_t i = 0; i < v.size(); ++i) values.push_back(static_cast<float>(v.data[i]));
    });
  });
  return {losses, values};
}

/// What ranks say when rank 1 of three is odd.
std::string complaint(std::function<train::trainer_options(int)> const& of_rank,
                      std::function<void(int, train::trainer_state&)> const& before = {}) {
  try {
    parallel::threads_group{3}.run([&](parallel::threads& ranks) {
      parallel::any all{ranks};
      ranked_run<cpu::context<double>> run{all, of_rank(ranks.rank())};
      if (before) {
        auto state = run.trainer.state();
        before(ranks.rank(), state);
        run.trainer.resume(state);
      }
      run.step();
    });
  } catch (parallel::error const& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("gradients summed beside the backward pass are those summed after it, bit by bit", "[ranks]") {
  auto const beside = train_on<cpu::context<bf16>>(3, true), after = train_on<cpu::context<bf16>>(3, false);
  CHECK(beside == after);
}

TEST_CASE("ranks whose master values are shared out, or kept in bf16, learn as one does", "[ranks]") {
  auto const check = [](auto const& one, auto const& several) {
    REQUIRE(one.first.size() == several.first.size());
    for (std::size_t i = 0; i < one.first.size(); ++i)
      CHECK(std::abs(one.first[i] - several.first[i]) < 0.02 * one.first[i]);
    CHECK(several.first.back() < several.first.front());
  };
  check(train_on<cpu::context<bf16>>(1, true), train_on<cpu::context<bf16>>(4, true));
  using compact_context = compact<cpu::context<bf16>>;
  check(train_on<compact_context>(1, true), train_on<compact_context>(4, true));
}

TEST_CASE("a rank that is another run is found and named", "[ranks]") {
  CHECK(complaint([](int) { return options(); }).empty());
  CHECK_THAT(complaint([](int rank) {
               auto o = options();
               o.seed = rank == 1 ? 5 : 4;
               return o;
             }),
             ContainsSubstring("ranks have diverged: rank 1 and the others do not have the same parameters"));
  CHECK_THAT(
      complaint([](int rank) {
        auto o = options();
        o.ranks.configuration = rank == 1 ? 7 : 8;
        return o;
      }),
      ContainsSubstring("ranks have diverged: rank 1 and the others do not have the same configuration"));
  CHECK_THAT(complaint([](int) { return options(); },
                       [](int rank, train::trainer_state& s) { s.step = rank == 1 ? 3 : 2; }),
             ContainsSubstring("ranks have diverged: rank 1 and the others do not have the same step"));
}
