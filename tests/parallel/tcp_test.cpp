// Ranks over sockets: their collectives are those of ranks as threads, bit by bit; and whoever dies, stops, hangs or
// disagrees is named on all others.
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/tcp.hpp>
#include <yoke/parallel/threads.hpp>

#include "parallel/collectives.hpp"
#include "parallel/processes.hpp"
#include <atomic>
#include <catch2/catch_all.hpp>
#include <signal.h>
#include <thread>

using namespace yoke;
using namespace yoke::parallel;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;
using collectives::failures;
using collectives::flat;
using processes::free_port;
using processes::local;

namespace {

/// Runs f(ranks, meeting) on n ranks, each of which is a thread that has met the others by itself, and returns what each
/// said: the sentence of its parallel::error, or nothing.
template <class F>
std::vector<std::string> on(int n, F const& f, tcp_options const& options = {.timeout = 5s}) {
  auto const port = free_port();
  std::vector<std::string> said(static_cast<std::size_t>(n));
  std::vector<std::thread> running;
  for (int r = 0; r < n; ++r)
    running.emplace_back([&, r] {
      try {
        rendezvous meeting{local(r, n, port), {.timeout = 10s}};
        tcp ranks{meeting, options};
        f(ranks, meeting);
      } catch (parallel::error const& e) {
        said[static_cast<std::size_t>(r)] = e.what();
      }
    });
  for (auto& t : running) t.join();
  return said;
}

std::vector<std::string> silent(int n) {
  return std::vector<std::string>(static_cast<std::size_t>(n));
}

/// Sums that depend on the order of ranks, and what is sent to all and to some.
template <class T, class C>
std::vector<T> mixture(C& c, std::size_t n) {
  auto const wave = [&](std::size_t i) {
    auto const x = static_cast<double>((i * 2654435761u + static_cast<unsigned>(c.rank()) * 40503u) % 10007);
    return static_cast<T>(i % 97 == 0 ? -0.0 : (x - 5000) / (1 + static_cast<double>(i % 13) * 1e3));
  };
  auto const ranks = static_cast<std::size_t>(c.size());
  std::vector<T> buffer(n), wide(n * ranks), part(n), parts(n * ranks);
  for (std::size_t i = 0; i < n; ++i) buffer[i] = wave(i);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = wave(i + 7);
  auto largest = buffer;
  reduce_scatter(c, view<T const, 1>{flat(wide)}, flat(part));
  all_reduce(c, flat(buffer));
  all_reduce(c, flat(largest), reduction::maximum);
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = wave(i + 3);
  std::vector<extent_t> begins;
  for (std::size_t r = 0; r <= ranks; ++r)
    begins.push_back(static_cast<extent_t>(parts.size() * r * r / (ranks * ranks)));
  all_gather_parts(c, flat(parts), begins);
  for (auto const* more : {&largest, &part, &parts}) buffer.insert(buffer.end(), more->begin(), more->end());
  return buffer;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE("tcp: collectives do what they promise", "[parallel][tcp][ranks]", float, double) {
  auto const n = GENERATE(1, 2, 3, 5);
  failures wrong;
  auto const said = on(n, [&](tcp& c, rendezvous&) {
    for (std::size_t const elements : {0u, 1u, 7u, 1000u})
      collectives::hold<TestType>(c, elements, collectives::on_host{}, collectives::on_host{}, wrong);
  });
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(said == silent(n));
}

TEMPLATE_TEST_CASE("tcp: the bits are those of ranks as threads", "[parallel][tcp][ranks]", float, double,
                   bf16) {
  using T = TestType;
  auto const n = GENERATE(2, 3);
  auto const many = n == 3 && std::is_same_v<T, float> ? 1'000'003u : 4'001u;  // the first in several pieces
  for (std::size_t const elements : {1u, 5u, many}) {
    std::vector<std::vector<T>> here(static_cast<std::size_t>(n)), there(here);
    on(n, [&](tcp& c, rendezvous&) { here[static_cast<std::size_t>(c.rank())] = mixture<T>(c, elements); });
    threads_group{n}.run(
        [&](threads& c) { there[static_cast<std::size_t>(c.rank())] = mixture<T>(c, elements); });
    for (int r = 0; r < n; ++r)
      CHECK(same_bits(here[static_cast<std::size_t>(r)], there[static_cast<std::size_t>(r)]));
  }
}

TEST_CASE("tcp: what goes into the sockets is what traffic says", "[parallel][tcp][ranks]") {
  auto const n = GENERATE(1, 2, 3, 5);
  failures wrong;
  on(n, [&](tcp& c, rendezvous&) {
    auto& links = parallel::detail::tcp_access::links(c);
    auto const sends = [&](double expected, std::string const& what, auto const& call) {
      auto const before = links.payload_sent();
      auto const counted = c.traffic();
      call();
      auto const sent = static_cast<double>(links.payload_sent() - before);
      wrong.unless(sent == expected && (c.traffic() - counted).bytes == expected,
                   what + ": " + std::to_string(sent) + ", not " + std::to_string(expected));
    };
    auto const others = static_cast<double>(n - 1);
    std::vector<float> some(1001), all(1001 * static_cast<std::size_t>(n));
    auto const own = parallel::detail::share_of_elements{1001, c.rank(), n}.size();
    sends(4004 * others, "all_gather", [&] { all_gather(c, flat(some), flat(all)); });
    sends(4004 * others, "reduce_scatter", [&] { reduce_scatter(c, flat(all), flat(some)); });
    sends(4 * (1001. - static_cast<double>(own)) + 4 * static_cast<double>(own) * others, "all_reduce",
          [&] { all_reduce(c, flat(some)); });
    for (int root = 0; root < n; ++root)
      sends(static_cast<double>(parallel::detail::sent_by_broadcast(4004, c.rank(), root, n)), "broadcast",
            [&] { broadcast(c, flat(some), root); });
    auto other = some;
    auto const next = (c.rank() + 1) % n, previous = (c.rank() + n - 1) % n;
    sends(n == 1 ? 0 : 4004, "exchange", [&] { exchange(c, next, flat(some), previous, flat(other)); });
    sends(0, "exchange with oneself", [&] { exchange(c, c.rank(), flat(some), c.rank(), flat(other)); });
    std::vector<extent_t> begins(static_cast<std::size_t>(n) + 1, 1001);
    begins[0] = 0;
    sends(c.rank() == 0 ? 4004 * others : 0, "all_gather_parts",
          [&] { all_gather_parts(c, flat(some), begins); });
    sends(0, "barrier", [&] { barrier(c); });
    wrong.unless(c.traffic().calls_of(parallel::collective::broadcast) == n, "calls");
    wrong.unless(c.traffic().seconds > 0, "seconds");
  });
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("tcp: a mesh's axes are used by two threads at once", "[parallel][tcp][ranks]") {
  failures wrong;
  auto const said = on(4, [&](tcp& c, rendezvous&) {
    mesh grid{c, {.data = 2, .model = 2}};
    wrong.unless(grid.data().rank() == c.rank() / 2 && grid.model().rank() == c.rank() % 2, "places");
    auto const sums = [&](tcp& axis, float expected, int rounds) {
      for (int i = 0; i < rounds; ++i) {
        std::vector<float> one(static_cast<std::size_t>(1 + i * 37), static_cast<float>(c.rank()));
        all_reduce(axis, flat(one));
        wrong.unless(one.front() == expected && one.back() == expected, "a sum along an axis");
      }
    };
    auto same = split(c, 0);  // the same pairs of ranks as the whole
    std::thread background{[&] { sums(grid.data(), static_cast<float>(2 * (c.rank() % 2) + 2), 150); }};
    std::thread another{[&] { sums(same, 6, 150); }};
    sums(grid.model(), static_cast<float>(4 * (c.rank() / 2) + 1), 100);
    sums(c, 6, 100);
    background.join();
    another.join();
    auto alone = split(c, c.rank());
    std::vector<float> one(3, 1.f);
    all_reduce(alone, flat(one));
    wrong.unless(alone.size() == 1 && one[0] == 1, "a rank for itself");
    auto third = split(grid.data(), 5);
    collectives::hold<float>(third, 9, collectives::on_host{}, collectives::on_host{}, wrong);
  });
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(said == silent(4));
}

TEST_CASE("tcp: ranks that disagree all hear it", "[parallel][tcp][ranks]") {
  std::string expected;
  std::vector<std::string> said;
  auto const on_three = [&](auto const& call) {
    said = on(3, [&](tcp& c, rendezvous&) {
      std::vector<float> a(12), b(12);
      std::vector<double> d(12);
      barrier(c);
      call(c, a, b, d);
      barrier(c);
    });
  };
  using floats = std::vector<float>;
  using doubles = std::vector<double>;
  auto const part = [](floats& v, extent_t n) { return view<float, 1>{v.data(), {{n}}}; };

  SECTION("about the size") {
    on_three([&](tcp& c, floats& a, floats& b, doubles&) {
      auto const n = c.rank() == 2 ? 3 : 4;
      all_gather(c, part(a, n), part(b, 3 * n));
    });
    expected =
        "ranks disagree: rank 0 calls all_gather with 4 elements of 4 bytes, rank 2 calls all_gather with 3 "
        "elements of 4 bytes";
  }
  SECTION("about the call") {
    on_three([&](tcp& c, floats& a, floats&, doubles&) {
      c.rank() == 0 ? all_reduce(c, flat(a)) : broadcast(c, flat(a), 1);
    });
    expected =
        "ranks disagree: rank 0 calls all_reduce with 12 elements of 4 bytes, rank 1 calls broadcast with 12 "
        "elements of 4 bytes";
  }
  SECTION("about a large call, of which much is on its way") {
    on_three([&](tcp& c, floats&, floats&, doubles&) {
      floats large(1'000'000), all(3'000'000);
      c.rank() == 1 ? all_reduce(c, flat(all)) : all_gather(c, flat(large), flat(all));
    });
    expected =
        "ranks disagree: rank 0 calls all_gather with 1000000 elements of 4 bytes, rank 1 calls all_reduce "
        "with "
        "3000000 elements of 4 bytes";
  }
  SECTION("about the element") {
    on_three([&](tcp& c, floats& a, floats&, doubles& d) {
      c.rank() == 0 ? all_reduce(c, flat(a)) : all_reduce(c, flat(d));
    });
    expected =
        "ranks disagree: rank 0 calls all_reduce with 12 elements of 4 bytes, rank 1 calls all_reduce with "
        "12 "
        "elements of 8 bytes";
  }
  SECTION("about sum or maximum") {
    on_three([&](tcp& c, floats& a, floats&, doubles&) {
      all_reduce(c, flat(a), c.rank() == 1 ? reduction::maximum : reduction::sum);
    });
    expected =
        "ranks disagree: rank 0 calls all_reduce with 12 elements of 4 bytes, rank 1 calls all_reduce with "
        "12 "
        "elements of 4 bytes: one sums, one takes the maximum";
  }
  SECTION("about the root") {
    on_three([&](tcp& c, floats& a, floats&, doubles&) { broadcast(c, flat(a), c.rank() / 2); });
    expected = "ranks disagree: rank 0 names root 0, rank 2 root 1";
  }
  SECTION("about the parts") {
    on_three([&](tcp& c, floats& a, floats&, doubles&) {
      all_gather_parts(c, flat(a), std::vector<extent_t>{0, c.rank() == 0 ? 1 : 2, 3, 12});
    });
    expected =
        "ranks disagree: rank 0 calls all_gather_parts with 12 elements of 4 bytes, rank 1 calls "
        "all_gather_parts with 12 elements of 4 bytes: their parts differ";
  }
  SECTION("about the ring's direction") {
    on_three([&](tcp& c, floats& a, floats& b, doubles&) {
      auto const next = (c.rank() + 1) % 3;
      exchange(c, next, flat(a), c.rank() == 2 ? next : (c.rank() + 2) % 3, flat(b));
    });
    expected = "ranks disagree: rank 1 sends to rank 2, which waits for rank 0";
  }
  SECTION("about an exchange, before the third of them is there") {
    on_three([&](tcp& c, floats& a, floats& b, doubles&) {
      std::this_thread::sleep_for(c.rank() == 2 ? 1500ms : 0ms);
      exchange(c, c.rank() == 0 ? 1 : 0, flat(a), c.rank() == 1 ? 2 : 1 - c.rank() / 2, flat(b));
    });
    expected = "ranks disagree: rank 0 sends to rank 1, which waits for rank 2";
  }
  SECTION("about a split") {
    on_three([&](tcp& c, floats&, floats&, doubles&) {
      if (c.rank() == 1)
        barrier(c);
      else
        split(c, 0);
    });
    expected = "ranks disagree: rank 0 calls split with 22 elements of 1 bytes, rank 1 calls barrier";
  }
  for (auto const& s : said) CHECK_THAT(s, ContainsSubstring(expected));
}

TEST_CASE("tcp: collectives know their preconditions", "[parallel][tcp]") {
  rendezvous meeting{launch_environment{}};
  tcp c{meeting};
  std::vector<float> four(4), five(5);
  CHECK_THROWS_AS(all_gather(c, flat(four), flat(five)), precondition_error);
  CHECK_THROWS_AS(reduce_scatter(c, flat(four), flat(five)), precondition_error);
  CHECK_THROWS_AS(broadcast(c, flat(four), 1), precondition_error);
  CHECK_THROWS_AS(exchange(c, 1, flat(four), 0, flat(four)), precondition_error);
  CHECK_THROWS_AS((tcp{meeting, {.timeout = 0s}}), precondition_error);
  CHECK_THROWS_AS((rendezvous{launch_environment{}, {.heartbeat = 2s, .silence = 2s}}), precondition_error);
}

TEST_CASE("tcp: a rank that does not come is named when the time is over", "[parallel][tcp]") {
  std::atomic<bool> over = false;
  failures wrong;
  auto const said = on(3,
                       [&](tcp& c, rendezvous&) {
                         std::vector<float> some(5);
                         all_reduce(c, flat(some));
                         if (c.rank() == 1)
                           while (!over) std::this_thread::sleep_for(1ms);
                         try {
                           all_reduce(c, flat(some));
                         } catch (parallel::error const& first) {
                           over = true;
                           try {  // from then on always the same
                             barrier(c);
                             wrong.unless(false, "a barrier without a rank");
                           } catch (parallel::error const& again) {
                             wrong.unless(again.what() == std::string(first.what()), again.what());
                           }
                           throw;
                         }
                       },
                       {.timeout = 300ms});
  for (auto const& s : said)
    CHECK_THAT(s,
               ContainsSubstring("has waited 0.3 s in all_reduce with 5 elements of 4 bytes, its collective "
                                 "number 2: rank 1 does not come"));
  CHECK_THAT(said[1], StartsWith("rank ") && ContainsSubstring(" is gone: "));
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("tcp: on a mesh the rank that hangs is named, not those that wait for it",
          "[parallel][tcp][ranks]") {
  std::atomic<bool> over = false;
  auto const said = on(4,
                       [&](tcp& c, rendezvous&) {
                         mesh grid{c, {.data = 2, .model = 2}};
                         std::vector<float> some(5);
                         all_reduce(grid.data(), flat(some));
                         if (c.rank() == 3) {
                           while (!over) std::this_thread::sleep_for(1ms);
                           return;
                         }
                         if (c.rank() != 0)  // so rank 0 is the first whose time is over
                           std::this_thread::sleep_for(50ms);
                         try {
                           all_reduce(c.rank() == 2 ? grid.model() : grid.data(), flat(some));
                         } catch (parallel::error const&) {
                           over = true;
                           throw;
                         }
                       },
                       {.timeout = 1s});
  for (auto const r : {0u, 1u, 2u})
    CHECK_THAT(said[r], ContainsSubstring(
                            "rank 0 has waited 1 s in all_reduce with 5 elements of 4 bytes, its "
                            "collective number 2: rank 2 does not come; in the end all wait for rank 3"));
}

TEST_CASE("tcp: others wait longer for work that one rank does alone", "[parallel][tcp]") {
  auto const work = [](std::chrono::milliseconds time, std::chrono::milliseconds patience) {
    return on(2,
              [&](tcp& c, rendezvous&) {
                if (c.rank() == 0)
                  std::this_thread::sleep_for(time);
                wait_for_all(c, patience);
                barrier(c);
              },
              {.timeout = 100ms});
  };
  CHECK(work(300ms, 30s) == silent(2));
  for (auto const& s : work(700ms, 400ms))
    CHECK_THAT(s, ContainsSubstring("rank 1 has waited 0.4 s in barrier") &&
                      ContainsSubstring("rank 0 does not come"));
}

TEST_CASE("tcp: a rank that leaves early is named", "[parallel][tcp]") {
  auto const said = on(3, [&](tcp& c, rendezvous&) {
    if (c.rank() != 1)
      barrier(c);
  });
  CHECK(said[1].empty());
  for (auto const r : {0u, 2u}) CHECK_THAT(said[r], ContainsSubstring("rank 1 is gone: its connection "));
}

TEST_CASE("tcp: a rank that dies in the middle is named at once", "[parallel][tcp]") {
  auto const bad = GENERATE(0, 2);
  auto const way = GENERATE(std::string("killed"), std::string("throws"));
  auto const port = free_port();
  auto const said = processes::run(3, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 3, port), {.timeout = 10s}};
    tcp c{meeting};
    auto const begin = std::chrono::steady_clock::now();
    try {
      std::vector<float> much(300'000);
      for (int i = 0;; ++i) {
        if (rank == bad && i == 5 && way == "killed")
          ::kill(::getpid(), SIGKILL);
        if (rank == bad && i == 5)
          throw std::runtime_error("the disk is full");
        all_reduce(c, flat(much));
      }
    } catch (parallel::error const& e) {
      return e.what() + std::string(std::chrono::steady_clock::now() - begin > 3s ? ", late" : "");
    }
  });
  for (int r = 0; r < 3; ++r)
    if (r != bad)
      CHECK_THAT(said[static_cast<std::size_t>(r)],
                 StartsWith("rank " + std::to_string(bad) + " is gone: " +
                            (way == "killed" ? "its connection" : "it left with an exception")) &&
                     !ContainsSubstring("late"));
}

TEST_CASE("tcp: a rank that is stopped is given up by the others, and learns it when it goes on",
          "[parallel][tcp]") {
  auto const bad = GENERATE(0, 1);
  auto const port = free_port();
  auto const said = processes::run(3, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 3, port), {.timeout = 10s, .heartbeat = 50ms, .silence = 400ms}};
    tcp c{meeting};
    if (rank == bad && ::fork() == 0) {
      std::this_thread::sleep_for(50ms);
      ::kill(::getppid(), SIGSTOP);
      std::this_thread::sleep_for(1s);
      ::kill(::getppid(), SIGCONT);
      ::_exit(0);
    }
    std::vector<float> some(10);
    while (true) {
      all_reduce(c, flat(some));
      std::this_thread::sleep_for(1ms);
    }
    return {};
  });
  for (int r = 0; r < 3; ++r)
    if (r != bad)
      CHECK_THAT(said[static_cast<std::size_t>(r)],
                 StartsWith("rank " + std::to_string(bad) + " is gone: it has not been heard for 0.4 s"));
  if (bad == 1)
    CHECK(said[1] == "the others have given rank 1 up: it has not been heard for 0.4 s");
  else
    CHECK_FALSE(said[0].empty());
}

TEST_CASE("tcp: ranks that only compute live on", "[parallel][tcp]") {
  auto const port = free_port();
  auto const said = processes::run(3, [&](int rank) -> std::string {
    rendezvous meeting{local(rank, 3, port), {.timeout = 10s, .heartbeat = 20ms, .silence = 200ms}};
    tcp c{meeting};
    std::this_thread::sleep_for(800ms);
    barrier(c);
    return "peace";
  });
  CHECK(said == std::vector<std::string>(3, "peace"));
}

TEST_CASE("tcp: strangers at a rank's port are refused", "[parallel][tcp]") {
  using namespace parallel::detail;
  introductions door{true};
  std::vector<contact> all(2);
  introductions other{true};
  all[0] = {loopback(), door.mine().card()};
  all[1] = {loopback(), other.mine().card()};
  std::vector<int> const names{0, 1};
  std::string problem;
  auto const call = [&](std::string const& words) {
    auto e = connect_to({with_port(loopback(), door.mine().port)}, steady_clock::now() + 1s, problem);
    REQUIRE(e);
    send_all(e, words, steady_clock::now() + 1s);
    return e;
  };
  std::string const greets{greeting};
  std::vector<endpoint> strangers;
  strangers.push_back(call("GET / HTTP/1.1\r\n\r\n"));
  strangers.push_back(call(greets + std::string(16, 'x') + std::string("\1\0\0\0", 4)));  // another word
  strangers.push_back(call(greets + door.mine().word + std::string("\0\0\0\0", 4)));      // the rank itself
  strangers.push_back(call(greets + door.mine().word + std::string("\2\0\0\0", 4)));      // no rank
  strangers.push_back(
      call(greets + door.mine().word + std::string("\1\0\0\x80", 4) + "!"));  // no rank either
  strangers.push_back(call(""));
  std::vector<endpoint> lower, higher;
  std::thread one{[&] { lower = door.connect(0, all, names, 5s, [] {}); }};
  std::this_thread::sleep_for(50ms);
  higher = other.connect(1, all, names, 5s, [] {});
  one.join();
  REQUIRE(lower[1]);
  REQUIRE(higher[0]);
  CHECK(send_all(higher[0], "it is me", steady_clock::now()));
  CHECK(wait_for(lower[1], POLLIN, steady_clock::now() + 1s));
  std::string heard;
  CHECK(receive(lower[1], heard, problem));
  CHECK(heard == "it is me");
  for (std::size_t i = 0; i + 1 < strangers.size(); ++i) {
    std::string answer;
    CHECK(wait_for(strangers[i], POLLIN, steady_clock::now() + 1s));
    CHECK_FALSE(receive(strangers[i], answer, problem));
    CHECK(answer.empty());
  }
}

TEST_CASE("tcp: whoever calls where something else listens says so", "[parallel][tcp]") {
  using namespace parallel::detail;
  introductions door{true}, other{true}, third{true};
  std::vector<contact> all{{loopback(), door.mine().card()}, {loopback(), other.mine().card()}};
  auto const error_of = [&](auto const& run) -> std::string {
    try {
      run();
    } catch (parallel::error const& e) {
      return e.what();
    }
    return {};
  };
  CHECK(error_of([&] {
          door.connect(0, all, {4, 7}, 100ms, [] {});
        }) == "rank 4 is not connected to all others: rank 7: it has not called");
  all[0].card = invitation{1, std::string(16, 'x')}.card();
  CHECK_THAT(
      error_of([&] {
        other.connect(1, all, {4, 7}, 5s, [] {});
      }),
      StartsWith("rank 7 is not connected to all others: rank 4: it does not answer at 127.0.0.1 port 1: "));
  all[0].card = invitation{third.mine().port, std::string(16, 'x')}.card();
  CHECK_THAT(error_of([&] {
               introductions again{true};
               again.connect(1, all, {4, 7}, 100ms, [] {});
             }),
             ContainsSubstring("it does not answer at 127.0.0.1 port "));
}
