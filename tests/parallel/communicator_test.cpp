// Collectives of every communicator against what they promise, and peers that fail, leave or
// disagree, in groups and in parts of them: nobody hangs.
#include <yoke/parallel/any.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "parallel/collectives.hpp"
#include <atomic>
#include <catch2/catch_all.hpp>
#include <chrono>
#include <string>
#include <thread>
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

TEMPLATE_TEST_CASE("collectives do what they promise", "[parallel][ranks]", float, double, bf16) {
  using T = TestType;
  auto const n = GENERATE(0, 1, 2, 3, 4, 5);
  failures wrong;
  on(n, [&](auto& c) {
    wrong.unless(c.size() == std::max(n, 1) && c.rank() >= 0 && c.rank() < c.size(), "rank of size");
    any reference{c};
    for (std::size_t const elements : {0u, 1u, 5u, 7u, 1000u, 3001u}) {
      collectives::hold<T>(c, elements, collectives::on_host{}, collectives::on_host{}, wrong);
      collectives::hold<T>(reference, elements, collectives::on_host{}, collectives::on_host{}, wrong);
    }
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("splits make communicators of parts", "[parallel][ranks]") {
  auto const n = GENERATE(0, 1, 2, 3, 5);
  failures wrong;
  on(n, [&](auto& c) {
    collectives::split_holds(c, wrong);
    any reference{c};
    collectives::split_holds(reference, wrong);
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEMPLATE_TEST_CASE("sums take the ranks in their order", "[parallel][ranks]", float, bf16) {
  using T = TestType;
  failures wrong;
  on(3, [&](auto& c) {
    // (2^25 + 1) - 2^25 is nothing in float, (2^25 - 2^25) + 1 would be one; 256 + 1 + 1 is 256 when each sum is rounded
    // to bf16.
    float const large[] = {33554432, 1, -33554432}, small[] = {256, 1, 1};
    auto const me = static_cast<std::size_t>(c.rank());
    std::vector<T> v{static_cast<T>(large[me]), static_cast<T>(small[me]), T{}};
    std::vector<T> wide(9), part(3);
    for (std::size_t i = 0; i < 9; ++i) wide[i] = v[i % 3];
    all_reduce(c, flat(v));
    reduce_scatter(c, flat(wide), flat(part));
    wrong.unless(static_cast<float>(v[0]) == 0 && static_cast<float>(v[1]) == 258, "all_reduce");
    wrong.unless(part == v, "reduce_scatter");
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("nobody passes a barrier before all have come", "[parallel][ranks]") {
  std::atomic<int> arrived = 0;
  failures wrong;
  on(4, [&](auto& c) {
    for (int round = 1; round <= 20; ++round) {
      ++arrived;
      barrier(c);
      wrong.unless(arrived == 4 * round, "a barrier");
      barrier(c);
    }
    wrong.unless(c.traffic().calls_of(collective::barrier) == 40 && c.traffic().bytes == 0, "what it sends");
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("waiting for others is time spent in collectives", "[parallel][ranks]") {
  using namespace std::chrono_literals;
  failures wrong;
  on(2, [&](auto& c) {
    if (c.rank() == 0)
      std::this_thread::sleep_for(30ms);
    barrier(c);
    wrong.unless(c.rank() == 0 || c.traffic().seconds > 0.02, "seconds");
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("a rank's threads use different communicators at once", "[parallel][ranks]") {
  failures wrong;
  threads_group{4}.run([&](threads& c) {
    auto rows = split(c, c.rank() / 2), columns = split(c, c.rank() % 2);
    auto const sums = [&](threads& part, double own, double expected) {
      for (int i = 0; i < 200; ++i) {
        std::vector<double> v(static_cast<std::size_t>(i), own);
        all_reduce(part, flat(v));
        wrong.unless(v == std::vector<double>(v.size(), expected), "a sum");
      }
    };
    std::thread behind{[&] { sums(rows, c.rank(), c.rank() < 2 ? 1 : 5); }};
    sums(columns, 10, 20);
    sums(c, c.rank(), 6);
    behind.join();
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("tensors of any rank and const sources are sent", "[parallel][ranks]") {
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

TEST_CASE("one rank alone leaves tensors without data alone", "[parallel][ranks]") {
  solo c;
  view<float, 2> const nothing{nullptr, {{3, 4}}};
  all_gather(c, view<float const, 2>{nothing}, nothing);
  reduce_scatter(c, nothing, nothing);
  all_reduce(c, nothing);
  SUCCEED();
}

TEST_CASE("a rank that throws stops the others, and what it threw comes out", "[parallel][ranks]") {
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

TEST_CASE("anything may be thrown", "[parallel][ranks]") {
  CHECK_THROWS_AS(threads_group{2}.run([](threads& c) {
    if (c.rank() == 1)
      throw 42;
    barrier(c);
  }),
                  int);
}

TEST_CASE("a rank that returns early is named", "[parallel][ranks]") {
  auto const said = sentences(3, [](threads& c) {
    if (c.rank() != 1)
      barrier(c);
  });
  CHECK(said[0] == "rank 1 takes no further part: it has returned");
  CHECK(said[2] == said[0]);
}

TEST_CASE("a rank that throws is named in parts of the group, too", "[parallel][ranks]") {
  auto const said = sentences(5, [](threads& c) {
    auto part = split(c, c.rank() % 2);  // 0, 2, 4 and 1, 3
    auto again = split(part, part.rank() / 2);
    barrier(c);
    if (c.rank() == 2)
      throw std::runtime_error("the disk is full");
    if (c.rank() == 1 || c.rank() == 3)
      for (;;) barrier(again);  // never asks for rank 2
    barrier(c.rank() == 4 ? part : again);
  });
  CHECK(said[2].empty());
  for (auto const r : {0u, 1u, 3u}) CHECK(said[r] == "rank 2 takes no further part: the disk is full");
  CHECK(said[4] == said[0]);
}

TEST_CASE("a rank that has done its part ends only those that wait for it", "[parallel][ranks]") {
  failures wrong;
  threads_group{4}.run([&](threads& c) {
    auto part = split(c, c.rank() / 2);
    if (c.rank() < 2)
      return;
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
    std::vector<double> one{1};
    all_reduce(part, flat(one));
    wrong.unless(one[0] == 2, "the others' sum");
  });
  CHECK(wrong.what == std::vector<std::string>{});

  // Rank 0 waits for it in vain; then all hear the same.
  auto const said = sentences(4, [](threads& c) {
    auto part = split(c, c.rank() / 2);
    if (c.rank() == 0)
      barrier(part);
    if (c.rank() > 1)
      for (;;) barrier(part);
  });
  CHECK(said[1].empty());
  for (auto const r : {0u, 2u, 3u}) CHECK(said[r] == "rank 1 takes no further part: it has returned");
}

TEST_CASE("ranks that find the same fault each say so", "[parallel][ranks]") {
  auto const n = 6;
  for (int repeat = 0; repeat < 100; ++repeat) {
    auto const said = sentences(n, [](threads& c) {
      auto pair = split(c, c.rank() / 2);
      std::vector<double> worst{c.rank() == 4 ? 1.0 : 0.0};
      all_reduce(c, flat(worst), reduction::maximum);
      if (c.rank() < 2)  // the others have long found it
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
      all_reduce(pair, flat(worst), reduction::maximum);
      throw parallel::error("a fault of size " + std::to_string(static_cast<int>(worst[0])));
    });
    CHECK(said == std::vector<std::string>(n, "a fault of size 1"));
  }
}

TEST_CASE("nobody leaves while others read his memory", "[parallel][ranks]") {
  for (int repeat = 0; repeat < 100; ++repeat)
    CHECK_THROWS_AS(threads_group{4}.run([&](threads& c) {
      auto part = split(c, c.rank() / 2);
      if (c.rank() == 0) {  // in the midst of the work of ranks 2 and 3
        std::this_thread::sleep_for(std::chrono::microseconds{10 * repeat});
        throw std::out_of_range("rank 0 is gone");
      }
      if (c.rank() == 1)
        barrier(part);
      for (;;) {
        std::vector<double> mine(1000, 1);
        all_reduce(part, flat(mine));
      }
    }),
                    std::out_of_range);
}

TEST_CASE("ranks that disagree all hear it", "[parallel][ranks]") {
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
    for (auto const& s : said)
      CHECK(s ==
            "ranks disagree: rank 0 calls all_reduce with 4 elements of 4 bytes, rank 1 calls all_reduce "
            "with 4 "
            "elements of 4 bytes: one sums, one takes the maximum");
  }
  SECTION("about the parts") {
    auto const said = sentences(2, [&](threads& c) {
      std::vector<float> mine(4);
      all_gather_parts(c, flat(mine), std::vector<extent_t>{0, c.rank() + 1, 4});
    });
    CHECK(said[0].ends_with("rank 1 calls all_gather_parts with 4 elements of 4 bytes: their parts differ"));
    CHECK(said[1] == said[0]);
  }
  SECTION("about splits") {
    auto const said = sentences(2, [&](threads& c) {
      if (c.rank() == 0)
        barrier(c);
      else
        split(c, 0);
    });
    for (auto const& s : said) CHECK(s == "ranks disagree: rank 0 calls barrier, rank 1 calls split");
  }
  SECTION("in a part: they are named by their numbers in the whole") {
    auto const said = sentences(4, [&](threads& c) {
      auto parity = split(c, c.rank() % 2);
      std::vector<float> mine(c.rank() == 3 ? 4 : 5);
      all_reduce(parity, flat(mine));
      barrier(c);  // ranks 0 and 2
    });
    CHECK(
        said[1] ==
        "ranks disagree: rank 1 calls all_reduce with 5 elements of 4 bytes, rank 3 calls all_reduce with 4 "
        "elements of 4 bytes");
    CHECK(said[3] == said[1]);
    CHECK(said[0].ends_with(" takes no further part: " + said[1]));
    CHECK(said[2] == said[0]);
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
    for (auto const& s : said) CHECK(s == "ranks disagree: rank 1 sends to rank 2, which waits for rank 0");
  }
}

TEST_CASE("a disagreement is no deadlock for those who go on", "[parallel][ranks]") {
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

TEST_CASE("collectives know their preconditions", "[parallel][ranks]") {
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
  std::vector<extent_t> const falling{0, 4, 3}, beyond{0, 4, 5}, few{0, 4}, right{0, 4, 4};
  for (auto const& begins : {falling, beyond, few}) {
    CHECK_THROWS_AS(threads_group{2}.run([&](threads& c) { all_gather_parts(c, flat(four), begins); }),
                    precondition_error);
    dry plan{2};
    CHECK_THROWS_AS(all_gather_parts(plan, flat(four), begins), precondition_error);
  }
  CHECK_THROWS_AS(all_gather_parts(alone, flat(four), right), precondition_error);
  CHECK_THROWS_AS(dry(2, 2), precondition_error);
}
