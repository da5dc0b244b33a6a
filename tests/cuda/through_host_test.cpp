// Ranks that share a card and talk through the host: the host's collectives, for tensors in device memory and not.
#include <yoke/cuda/through_host.cuh>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/threads.hpp>

#include "cuda/ranks.hpp"

using namespace yoke;
using collectives::failures;
using collectives::flat;
using collectives::on_host;
using ranks::on_card;

namespace {

/// Runs function(context, ranks) on each of n ranks, which have contexts of their own on one card.
template <class F>
void on(int n, F const& function) {
  parallel::threads_group{n}.run([&](parallel::threads& threads) {
    auto context = ranks::small_context();
    cuda::through_host c{context, threads};
    function(context, c);
  });
}

}  // namespace

TEMPLATE_TEST_CASE("through the host: collectives do what they promise", "[cuda][parallel]", float, double) {
  using T = TestType;
  auto const n = GENERATE(1, 2, 3);
  auto const elements = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{1000});
  failures wrong;
  on(n, [&](auto& context, auto& c) {
    wrong.unless(c.size() == n && c.rank() >= 0 && c.rank() < n, "rank of size");
    on_card const card{context};
    on_host const host;
    collectives::hold<T>(c, elements, card, card, wrong);
    collectives::hold<T>(c, elements, host, host, wrong);
    collectives::hold<T>(c, elements, host, card, wrong);
    collectives::hold<T>(c, elements, card, host, wrong);
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("through the host: what cannot be summed can be copied", "[cuda][parallel]") {
  failures wrong;
  on(2, [&](auto& context, auto& c) { ranks::copies_hold(context, c, wrong); });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("through the host: the stream's order is kept without waiting", "[cuda][parallel]") {
  failures wrong;
  on(2, [&](auto& context, auto& c) { ranks::order_holds(context, c, wrong); });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("through the host: a mesh, sums of bf16, and uneven parts", "[cuda][parallel]") {
  failures wrong;
  on(4, [&](auto& context, auto& c) {
    parallel::mesh mesh{c, {.data = 2, .model = 2}};
    on_card const card{context};
    auto sum = card(std::vector<bf16>(3, bf16{static_cast<float>(c.rank())}));
    all_reduce(*mesh.model_axis(), sum.view());
    wrong.unless(static_cast<float>(sum.back()[2]) == static_cast<float>(1 + 4 * (c.rank() / 2)),
                 "all_reduce");
    auto parts = card(std::vector<float>(5, static_cast<float>(mesh.data().rank())));
    all_gather_parts(mesh.data(), parts.view(), std::vector<extent_t>{0, 2, 5});
    wrong.unless(parts.back() == std::vector<float>{0, 0, 1, 1, 1}, "all_gather_parts");
    wait_for_all(mesh.data(), std::chrono::seconds{1});
    wrong.unless(mesh.data().traffic().bytes == 4 * (mesh.data().rank() == 0 ? 2 : 3), "what was sent");
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("through the host: the loss of several ranks is that of one", "[cuda][parallel]") {
  auto const n = GENERATE(1, 2, 3);
  failures wrong;
  on(n, [&](auto& context, auto& c) { ranks::loss_holds(context, c, wrong); });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("through the host: a rank that fails stops the others", "[cuda][parallel]") {
  failures wrong;
  auto const run = [&] {
    on(3, [&](auto& context, auto& c) {
      auto buffer = on_card{context}(std::vector<float>{1, 2});
      all_reduce(c, buffer.view());
      if (c.rank() == 1)
        throw std::out_of_range("the disk is full");
      try {
        all_reduce(c, buffer.view());
        wrong.unless(false, "a sum without a rank");
      } catch (parallel::error const& e) {
        wrong.unless(e.what() == std::string("rank 1 takes no further part: the disk is full"), e.what());
        throw;
      }
    });
  };
  CHECK_THROWS_AS(run(), std::out_of_range);
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("through the host: preconditions are those of the host's communicator", "[cuda][parallel]") {
  on(1, [](auto& context, auto& c) {
    auto four = on_card{context}(std::vector<float>(4));
    auto five = on_card{context}(std::vector<float>(5));
    CHECK_THROWS_AS(all_gather(c, four.view(), five.view()), precondition_error);
    CHECK_THROWS_AS(broadcast(c, four.view(), 1), precondition_error);
  });
}
