// Collectives of every communicator against what they promise, and peers that fail, leave or
// disagree: nobody hangs.
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "parallel/collectives.hpp"
#include <atomic>
#include <catch2/catch_all.hpp>
#include <string>
#include <vector>

using namespace yoke;
using namespace yoke::parallel;
using collectives::failures;
using collectives::flat;

namespace {

/// Runs `function` on each rank of `ranks`; 0 means solo.
template <class F>
void on(int ranks, F const& function) {
  if (ranks == 0) {
    solo alone;
    function(alone);
  } else {
    threads_group{ranks}.run(function);
  }
}

/// The sentence with which each rank leaves.
template <class F>
std::vector<std::string> sentences(int n, F const& function) {
  std::vector<std::string> said(static_cast<std::size_t>(n));
  threads_group group{n};
  try {
    group.run([&](threads& c) {
      try {
        function(c);
      } catch (parallel::error const& e) {
        said[static_cast<std::size_t>(c.rank())] = e.what();
        throw;
      }
    });
  } catch (std::exception const&) {
  }
  return said;
}

}  // namespace

TEMPLATE_TEST_CASE("collectives do what they promise", "[parallel]", float, double) {
  using T = TestType;
  auto const n = GENERATE(0, 1, 2, 3, 5);
  auto const elements = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{1000});
  failures wrong;
  on(n, [&](auto& c) {
    wrong.unless(c.size() == std::max(n, 1) && c.rank() >= 0 && c.rank() < c.size(), "rank of size");
    collectives::hold<T>(c, elements, collectives::on_host{}, collectives::on_host{}, wrong);
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("tensors of any rank and const sources are sent", "[parallel]") {
  failures wrong;
  on(2, [&](auto& c) {
    std::vector<std::int32_t> const mine{c.rank(), 7};
    std::vector<std::int32_t> all(4);
    all_gather(c, view<std::int32_t const, 2>{mine.data(), {{1, 2}}},
               view<std::int32_t, 2>{all.data(), {{2, 2}}});
    wrong.unless(all == std::vector<std::int32_t>{0, 7, 1, 7}, "integers");
  });
  CHECK(wrong.what.empty());
}

TEST_CASE("one rank alone leaves tensors without data alone", "[parallel]") {
  solo c;
  view<float, 2> const nothing{nullptr, {{3, 4}}};
  all_gather(c, view<float const, 2>{nothing}, nothing);
  reduce_scatter(c, nothing, nothing);
  all_reduce(c, nothing);
  SUCCEED();
}

TEST_CASE("a rank that throws stops the others, and what it threw comes out", "[parallel]") {
  auto const n = GENERATE(1, 2, 4);
  auto const bad = GENERATE_COPY(range(0, n));
  auto const after = GENERATE(0, 3);
  failures wrong;
  threads_group group{n};
  auto const run = [&] {
    group.run([&](threads& c) {
      std::vector<double> one(1, 1.0);
      try {
        for (int i = 0; i < after; ++i) all_reduce(c, flat(one));
        if (c.rank() == bad)
          throw std::out_of_range("the disk is full");
        all_reduce(c, flat(one));
        wrong.unless(false, "a sum without a rank");
      } catch (parallel::error const& e) {
        auto const text = std::string(e.what());
        wrong.unless(text == "rank " + std::to_string(bad) + " takes no further part: the disk is full",
                     text);
        try {  // whoever goes on all the same hears it again
          barrier(c);
          wrong.unless(false, "a barrier without a rank");
        } catch (parallel::error const&) {
        }
        throw;
      }
    });
  };
  for (int repeat = 0; repeat < 20; ++repeat) CHECK_THROWS_AS(run(), std::out_of_range);
  CHECK(wrong.what == std::vector<std::string>{});

  std::atomic<int> done = 0;  // the group is as new
  group.run([&](threads& c) {
    barrier(c);
    ++done;
  });
  CHECK(done == n);
}

TEST_CASE("anything may be thrown", "[parallel]") {
  CHECK_THROWS_AS(threads_group{2}.run([](threads& c) {
    if (c.rank() == 1)
      throw 42;
    barrier(c);
  }),
                  int);
}

TEST_CASE("a rank that returns early is named", "[parallel]") {
  auto const said = sentences(3, [](threads& c) {
    if (c.rank() != 1)
      barrier(c);
  });
  CHECK(said[0] == "rank 1 takes no further part: it has returned");
  CHECK(said[2] == said[0]);
}

TEST_CASE("ranks that disagree all hear it", "[parallel]") {
  std::vector<float> a(12), b(12);
  auto const part = [](std::vector<float>& v, extent_t n) { return view<float, 1>{v.data(), {{n}}}; };

  SECTION("about the size") {
    auto const said = sentences(3, [&](threads& c) {
      std::vector<float> mine(12), all(12);
      auto const n = c.rank() == 2 ? 3 : 4;
      all_gather(c, part(mine, n), part(all, 3 * n));
    });
    for (auto const& s : said)
      CHECK(s ==
            "ranks disagree: rank 0 calls all_gather with 4 elements of 4 bytes, rank 2 calls "
            "all_gather with 3 elements of 4 bytes");
  }
  SECTION("about the call") {
    auto const said = sentences(2, [&](threads& c) {
      std::vector<float> mine(4);
      if (c.rank() == 0)
        all_reduce(c, flat(mine));
      else
        broadcast(c, flat(mine), 0);
    });
    for (auto const& s : said)
      CHECK(s ==
            "ranks disagree: rank 0 calls all_reduce with 4 elements of 4 bytes, rank 1 calls "
            "broadcast with 4 elements of 4 bytes");
  }
  SECTION("about the element") {
    auto const said = sentences(2, [&](threads& c) {
      std::vector<float> mine(4);
      std::vector<double> other(4);
      if (c.rank() == 0)
        all_reduce(c, flat(mine));
      else
        all_reduce(c, flat(other));
    });
    CHECK(said[0].find("rank 1 calls all_reduce with 4 elements of 8 bytes") != std::string::npos);
    CHECK(said[1] == said[0]);
  }
  SECTION("about sum or maximum") {
    auto const said = sentences(2, [&](threads& c) {
      std::vector<float> mine(4);
      all_reduce(c, flat(mine), c.rank() == 0 ? reduction::sum : reduction::maximum);
    });
    CHECK(said[0].starts_with("ranks disagree"));
    CHECK(said[1] == said[0]);
  }
  SECTION("about the root") {
    auto const said = sentences(2, [&](threads& c) {
      std::vector<float> mine(4);
      broadcast(c, flat(mine), c.rank());
    });
    for (auto const& s : said) CHECK(s == "ranks disagree: rank 0 names root 0, rank 1 root 1");
  }
  SECTION("about the ring's direction") {
    auto const said = sentences(3, [&](threads& c) {
      std::vector<float> send(4), receive(4);
      auto const next = (c.rank() + 1) % 3;
      exchange(c, next, flat(send), c.rank() == 2 ? next : (c.rank() + 2) % 3, flat(receive));
    });
    for (auto const& s : said) CHECK(s == "ranks disagree: rank 2 waits for rank 0, which sends to rank 1");
  }
}

TEST_CASE("a disagreement is no deadlock for those who go on", "[parallel]") {
  failures wrong;
  threads_group{3}.run([&](threads& c) {
    for (int round = 0; round < 50; ++round) {
      std::vector<double> mine(c.rank() == round % 3 ? 2 : 1, 1.0);
      try {
        all_reduce(c, flat(mine));
        wrong.unless(false, "sizes differ");
      } catch (parallel::error const&) {
      }
      mine.assign(1, 1.0);
      all_reduce(c, flat(mine));
      wrong.unless(mine[0] == 3, "the next sum is right");
    }
  });
  CHECK(wrong.what.empty());
}

TEST_CASE("collectives know their preconditions", "[parallel]") {
  std::vector<float> four(4), five(5);
  solo alone;
  CHECK_THROWS_AS(all_gather(alone, flat(four), flat(five)), precondition_error);
  CHECK_THROWS_AS(broadcast(alone, flat(four), 1), precondition_error);
  CHECK_THROWS_AS(exchange(alone, 1, flat(four), 0, flat(four)), precondition_error);
  CHECK_THROWS_AS(threads_group{0}, precondition_error);
  CHECK_THROWS_AS(threads_group{-1}, precondition_error);
  CHECK_THROWS_AS(threads_group{2}.run([&](threads& c) { all_gather(c, flat(four), flat(five)); }),
                  precondition_error);
  CHECK_THROWS_AS(threads_group{2}.run([&](threads& c) { broadcast(c, flat(four), 2); }), precondition_error);
}
