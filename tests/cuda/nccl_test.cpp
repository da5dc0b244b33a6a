// Collectives by NCCL: on a real card for one rank; for several, and for what goes wrong among them, in the emulator.
#include <yoke/cuda/nccl.cuh>
#include <yoke/parallel/any.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/train/gradient_sum.hpp>

#include "cuda/ranks.hpp"
#include "parallel/processes.hpp"
#include <atomic>

using namespace yoke;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;
using collectives::failures;
using collectives::flat;
using collectives::on_host;
using ranks::on_card;

namespace {

#ifdef YOKE_EMULATED_NCCL
constexpr bool emulated = true;
void break_rank(int rank) {
  emulated_nccl::inject(rank, ncclRemoteError);
}
emulated_nccl::counts seen() {
  return emulated_nccl::look();
}
/// The context's stream has work for so long, or until the flag is set.
void occupy(cuda::context<float>& c, std::chrono::milliseconds time) {
  auto const until = std::chrono::steady_clock::now() + time;
  emulator::enqueue(c.stream(), [until] { return std::chrono::steady_clock::now() > until; });
}
void occupy_until(cuda::context<float>& c, std::atomic<bool> const& flag) {
  emulator::enqueue(c.stream(), [&flag] { return flag.load(); });
}
#else
constexpr bool emulated = false;
struct counts {
  int aborted = 0, destroyed = 0, mismatches = 0;
};
void break_rank(int) {}
counts seen() {
  return {};
}
void occupy(cuda::context<float>&, std::chrono::milliseconds) {}
void occupy_until(cuda::context<float>&, std::atomic<bool> const&) {}
#endif

void needs_emulator() {
  if (!emulated)
    SKIP("several ranks on one card: only in the emulator");
}

std::size_t memory_left() {
  std::size_t left = 0, all = 0;
  cudaDeviceSynchronize();  // what is to be freed is
  cudaMemGetInfo(&left, &all);
  return left;
}

/// Runs function(context, ranks) on each of n ranks, as threads, and returns the sentence of each one's parallel::error;
/// "returned" for those that have none.
template <class F>
std::vector<std::string> on(int n, std::chrono::milliseconds timeout, F const& function) {
  auto const port = processes::free_port();
  std::vector<std::string> said(static_cast<std::size_t>(n));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < n; ++rank)
    threads.emplace_back([&, rank] {
      auto& sentence = said[static_cast<std::size_t>(rank)];
      try {
        auto context = ranks::small_context();
        parallel::rendezvous meeting{processes::local(rank, n, port), {.timeout = 10s}};
        cuda::nccl c{context, meeting, {.timeout = timeout}};
        function(context, c);
        sentence = "returned";
      } catch (parallel::error const& e) {
        sentence = e.what();
      } catch (std::exception const& e) {
        sentence = std::string("not a parallel::error: ") + e.what();
      }
    });
  for (auto& t : threads) t.join();
  return said;
}

/// What every call says, now that a first one has failed.
template <class C>
std::string said_again(cuda::context<float>& context, C& c, failures& wrong, std::string const& first) {
  auto const same = [&](auto const& call) {
    try {
      call();
      wrong.unless(false, "a call after a failure");
    } catch (parallel::error const& e) {
      wrong.unless(e.what() == first, std::string("another sentence: ") + e.what());
    }
  };
  auto buffer = cuda::buffer<float>{context, 1};
  float one = 1;
  same([&] { all_reduce(c, buffer.view()); });
  same([&] { all_reduce(c, view<float, 1>{&one, {{1}}}); });
  same([&] { barrier(c); });
  same([&] { exchange(c, 0, buffer.view(), 0, buffer.view()); });
  return first;
}

/// Waits for the stream, or for a collective of tensors of the host, whichever is wanted, until it fails.
template <class C>
void wait_in_vain(cuda::context<float>& context, C& c, bool device, failures& wrong) {
  auto const since = std::chrono::steady_clock::now();
  auto buffer = cuda::buffer<float>{context, 5};
  std::vector<float> five(5);
  try {
    if (device) {
      all_reduce(c, buffer.view());
      context.wait();
    } else {
      all_reduce(c, flat(five));
    }
    wrong.unless(false, "a sum without a rank");
  } catch (parallel::error const& e) {
    wrong.unless(std::chrono::steady_clock::now() - since < 10s, "nobody waits long");
    said_again(context, c, wrong, e.what());
    throw;
  }
}

}  // namespace

TEST_CASE("nccl: one rank alone", "[cuda][parallel][nccl]") {
  auto context = ranks::small_context();
  parallel::rendezvous meeting{parallel::launch_environment{}};
  cuda::nccl c{context, meeting};
  CHECK(c.rank() == 0);
  CHECK(c.size() == 1);
  failures wrong;
  on_card const card{context};
  on_host const host;
  for (auto const elements : {0, 1, 7, 1000}) {
    auto const n = static_cast<std::size_t>(elements);
    collectives::hold<float>(c, n, card, card, wrong);
    collectives::hold<double>(c, n, card, card, wrong);
    collectives::hold<float>(c, n, host, host, wrong);
    collectives::hold<double>(c, n, host, card, wrong);
    collectives::hold<float>(c, n, card, host, wrong);
  }
  ranks::copies_hold(context, c, wrong);
  ranks::order_holds(context, c, wrong);
  auto part = split(c, 7);
  CHECK(part.size() == 1);
  ranks::order_holds(context, part, wrong);
  auto bits = card(std::vector<bf16>(5, bf16{3.0f}));
  all_reduce(part, bits.view());
  all_gather_parts(part, bits.view(), std::vector<extent_t>{1, 4});
  wrong.unless(static_cast<float>(bits.back()[4]) == 3, "a sum of one rank");
  wait_for_all(part, 1s);
  CHECK(wrong.what == std::vector<std::string>{});

  auto four = card(std::vector<float>(4));
  auto five = card(std::vector<float>(5));
  CHECK_THROWS_AS(all_gather(c, four.view(), five.view()), precondition_error);
  CHECK_THROWS_AS(reduce_scatter(c, four.view(), five.view()), precondition_error);
  CHECK_THROWS_AS(broadcast(c, four.view(), 1), precondition_error);
  CHECK_THROWS_AS(exchange(c, 0, four.view(), 1, four.view()), precondition_error);
  CHECK_THROWS_AS(exchange(c, 0, four.view(), 0, five.view()), precondition_error);
  CHECK_THROWS_AS((cuda::nccl{context, meeting, {.timeout = 0ms}}), precondition_error);
}

TEMPLATE_TEST_CASE("nccl: collectives do what they promise", "[cuda][parallel][nccl]", float, double) {
  using T = TestType;
  needs_emulator();
  auto const n = GENERATE(2, 3);
  auto const elements = GENERATE(std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{1000});
  auto const before = seen();
  failures wrong;
  auto const said = on(n, 10s, [&](auto& context, auto& c) {
    wrong.unless(c.size() == n && c.rank() >= 0 && c.rank() < n, "rank of size");
    on_card const card{context};
    on_host const host;
    collectives::hold<T>(c, elements, card, card, wrong);
    collectives::hold<T>(c, elements, host, host, wrong);
    collectives::hold<T>(c, elements, host, card, wrong);
    collectives::hold<T>(c, elements, card, host, wrong);
    ranks::copies_hold(context, c, wrong);
    ranks::order_holds(context, c, wrong);
  });
  CHECK(said == std::vector<std::string>(said.size(), "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(seen().destroyed - before.destroyed == n);
  CHECK(seen().aborted == before.aborted);
}

TEST_CASE("nccl: sums of bf16 are rounded after each pair of ranks", "[cuda][parallel][nccl]") {
  needs_emulator();
  failures wrong;
  auto const said = on(3, 10s, [&](auto& context, auto& c) {
    on_card const card{context};
    auto const value = [](float v) { return std::vector<bf16>(3, bf16{v}); };
    auto const is = [&](std::vector<bf16> const& values, float v) {
      return static_cast<float>(values.back()) == v;
    };
    // 256 + 1 is 256 in bf16, and so is that and another 1; rounded once it were 258.
    auto sum = card(value(c.rank() == 0 ? 256.0f : 1.0f));
    all_reduce(c, sum.view());
    wrong.unless(is(sum.back(), 256), "all_reduce");
    auto largest = value(static_cast<float>(c.rank()));
    all_reduce(c, flat(largest), parallel::reduction::maximum);
    wrong.unless(is(largest, 2), "maximum");
    auto all = card(std::vector<bf16>(9, bf16{0.5f})), mine = card(value(0));
    reduce_scatter(c, all.view(), mine.view());
    wrong.unless(is(mine.back(), 1.5f), "reduce_scatter");
  });
  CHECK(said == std::vector<std::string>(3, "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("nccl: four ranks are a mesh of two by two", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const before = seen();
  failures wrong;
  auto const said = on(4, 10s, [&](auto& context, auto& c) {
    auto const r = c.rank();
    {
      parallel::mesh mesh{c, {.data = 2, .model = 2}};
      on_card const card{context};
      auto one = card(std::vector<float>{static_cast<float>(r)}), other = card(one.back());
      all_reduce(mesh.data(), one.view());
      all_reduce(*mesh.model_axis(), other.view());
      wrong.unless(one.back()[0] == static_cast<float>(2 + 2 * (r % 2)), "along the data axis");
      wrong.unless(other.back()[0] == static_cast<float>(1 + 4 * (r / 2)), "along the model axis");
      ranks::copies_hold(context, mesh.data(), wrong);
      ranks::order_holds(context, mesh.model(), wrong);
    }
    collectives::split_holds(c, wrong);
    barrier(c);
  });
  CHECK(said == std::vector<std::string>(4, "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(seen().destroyed - before.destroyed == 4 * 5);
}

TEST_CASE("nccl: a split and its whole end together", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const before = seen();
  failures wrong;
  auto const said = on(4, 300ms, [&](auto& context, auto& c) {
    auto pair = split(c, c.rank() / 2);
    if (c.rank() == 3)
      return;
    auto more = cuda::buffer<float>{context, 5};
    if (c.rank() == 2)
      all_reduce(pair, more.view());  // what the stream is stuck in; behind it is what wait_in_vain gives it
    try {
      wait_in_vain(context, c, true, wrong);
    } catch (parallel::error const& e) {
      wrong.unless(cuda::detail::drained(context, 5s), "both are aborted at once");
      said_again(context, pair, wrong, e.what());
      throw;
    }
  });
  for (auto const r : {0u, 1u, 2u})
    CHECK_THAT(said[r], ContainsSubstring("has waited 0.3 s in all_reduce with 5 elements"));
  CHECK(said[3] == "returned");
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(seen().aborted - before.aborted == 6);
  CHECK(seen().destroyed - before.destroyed == 2);
}

TEST_CASE("nccl: the rank for which all wait is named across a mesh", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const said = on(4, 2s, [&](auto& context, auto& c) {
    parallel::mesh mesh{c, {.data = 2, .model = 2}};
    if (c.rank() == 3)
      return;
    auto buffer = cuda::buffer<float>{context, 5};
    all_reduce(mesh.model(), buffer.view());
    all_reduce(mesh.data(), buffer.view());
    context.wait();
  });
  for (auto const r : {0u, 1u, 2u})
    CHECK_THAT(said[r], ContainsSubstring("has waited 2 s in all_reduce with 5 elements") &&
                            ContainsSubstring("calls something else; in the end all wait for rank 3"));
}

TEST_CASE("nccl: a rank that does not come to a split ends the others at the deadline",
          "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const said = on(3, 300ms, [&](auto&, auto& c) {
    barrier(c);
    if (c.rank() != 1)
      split(c, 0);
  });
  CHECK(said[1] == "returned");
  for (auto const r : {0u, 2u})
    CHECK_THAT(said[r], ContainsSubstring("has waited 0.3 s in split, its collective number 2: a rank does "
                                          "not come, or calls something else"));
}

TEST_CASE("nccl: a rank that does something alone may come later", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const said = on(2, 200ms, [&](auto&, auto& c) {
    if (c.rank() == 1)
      std::this_thread::sleep_for(700ms);
    wait_for_all(c, 20s);
    if (c.rank() == 0)
      barrier(c);
  });
  CHECK_THAT(said[0], StartsWith("rank 0 has waited 0.2 s in barrier, its collective number 2"));
  CHECK(said[1] == "returned");
}

TEST_CASE("nccl: the loss of several ranks is that of one", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const n = GENERATE(2, 3);
  failures wrong;
  auto const said = on(n, 10s, [&](auto& context, auto& c) { ranks::loss_holds(context, c, wrong); });
  CHECK(said == std::vector<std::string>(said.size(), "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("nccl: many collectives without a wait", "[cuda][parallel][nccl]") {
  needs_emulator();
  failures wrong;
  auto const said = on(2, 10s, [&](auto& context, auto& c) {
    auto buffer = on_card{context}(std::vector<double>{1, 2});
    for (int i = 0; i < 200; ++i) all_reduce(c, buffer.view(), parallel::reduction::maximum);
    all_reduce(c, buffer.view());
    wrong.unless(buffer.back() == std::vector<double>{2, 4}, "the last sum");
    all_reduce(c, buffer.view());  // still under way when the communicator ends
  });
  CHECK(said == std::vector<std::string>(2, "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("nccl: a rank that fails stops the others", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const device = GENERATE(true, false);
  auto const bad = GENERATE(0, 1, 2);
  auto const before = seen();
  failures wrong;
  auto const said = on(3, 20s, [&](auto& context, auto& c) {
    barrier(c);
    if (c.rank() == bad)
      throw std::out_of_range("the disk is full");
    wait_in_vain(context, c, device, wrong);
  });
  for (int r = 0; r < 3; ++r)
    CHECK(said[static_cast<std::size_t>(r)] ==
          (r == bad ? "not a parallel::error: the disk is full"
                    : "rank " + std::to_string(bad) + " is gone: it left with an exception"));
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(seen().aborted - before.aborted == 3);
}

TEST_CASE("nccl: a rank that returns too early ends the others at the deadline", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const device = GENERATE(true, false);
  auto const bad = GENERATE(0, 2);
  auto const before = seen();
  failures wrong;
  auto const said = on(3, 300ms, [&](auto& context, auto& c) {
    barrier(c);
    if (c.rank() != bad)
      wait_in_vain(context, c, device, wrong);
  });
  for (int r = 0; r < 3; ++r)
    if (r == bad)
      CHECK(said[static_cast<std::size_t>(r)] == "returned");
    else
      CHECK_THAT(said[static_cast<std::size_t>(r)],
                 ContainsSubstring(
                     "has waited 0.3 s in all_reduce with 5 elements of 4 bytes, its collective number 2: "
                     "a rank does not come, or calls something else"));
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(seen().aborted - before.aborted == 2);
  CHECK(seen().destroyed - before.destroyed == 1);
}

TEST_CASE("nccl: an error that NCCL finds on one rank ends all", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const bad = GENERATE(0, 1, 2);
  auto const before = seen();
  failures wrong;
  std::atomic<bool> broken = false;
  auto const said = on(3, 20s, [&](auto& context, auto& c) {
    barrier(c);
    if (c.rank() == bad) {
      auto buffer = cuda::buffer<float>{context, 5};
      occupy_until(context, broken);  // so that the others' sums cannot end before
      all_reduce(c, buffer.view());
      break_rank(bad);
      broken = true;
      context.wait();
    } else {
      wait_in_vain(context, c, true, wrong);
    }
  });
  auto const own =
      "rank " + std::to_string(bad) +
      " of 3: all_reduce with 5 elements of 4 bytes: NCCL says remote process exited or there was a network "
      "error (emulated)";
  for (int r = 0; r < 3; ++r)
    CHECK(said[static_cast<std::size_t>(r)] ==
          (r == bad ? own : "rank " + std::to_string(bad) + " is gone: " + own));
  CHECK(wrong.what == std::vector<std::string>{});
  CHECK(seen().aborted - before.aborted == 3);
}

TEST_CASE("nccl: an error that follows from a peer's end is told as that", "[cuda][parallel][nccl]") {
  needs_emulator();
  failures wrong;
  auto const said = on(2, 20s, [&](auto& context, auto& c) {
    barrier(c);
    if (c.rank() == 1) {
      break_rank(0);  // rank 0 sees that before it hears why
      std::this_thread::sleep_for(10ms);
      throw std::out_of_range("the disk is full");
    }
    wait_in_vain(context, c, true, wrong);
  });
  CHECK(said[0] == "rank 1 is gone: it left with an exception");
}

TEST_CASE("nccl: ranks that disagree end at the deadline", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const about =
      GENERATE(std::string("size"), std::string("call"), std::string("reduction"), std::string("peer"));
  auto const before = seen();
  auto const said = on(2, 300ms, [&](auto& context, auto& c) {
    auto a = cuda::buffer<float>{context, 8}, b = cuda::buffer<float>{context, 8};
    auto const odd = c.rank() == 1;
    auto const part = view<float, 1>{a.view().data, {{odd ? 3 : 4}}};
    if (about == "size")
      all_reduce(c, part);
    else if (about == "call" && odd)
      broadcast(c, part, 0);
    else if (about == "call")
      all_reduce(c, part);
    else if (about == "reduction")
      all_reduce(c, a.view(), odd ? parallel::reduction::maximum : parallel::reduction::sum);
    else
      exchange(c, 0, a.view(), odd ? 0 : 1, b.view());  // nobody sends to rank 1
    context.wait();
  });
  auto const rule = about == "peer" ? 1u : 0u;  // rank 0 has all that it waits for
  for (std::size_t r = rule; r < 2; ++r)
    CHECK_THAT(said[r], ContainsSubstring("has waited 0.3 s in ") &&
                            ContainsSubstring("a rank does not come, or calls"));
  if (about != "peer")
    CHECK(seen().mismatches - before.mismatches == 1);
}

TEST_CASE("nccl: results, uploads and downloads are not waited for longer either", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const how = GENERATE(0, 1, 2);
  auto const said = on(2, 300ms, [&](auto& context, auto& c) {
    if (c.rank() == 1)
      return;
    auto buffer = cuda::buffer<float>{context, 5};
    all_reduce(c, buffer.view());
    std::vector<float> five(5);
    view<float, 1> const host{five.data(), {{5}}};
    if (how == 0)
      scalar(context, view<float const, 1>{slice(buffer.view(), 0, 1)});
    else if (how == 1)
      download(context, view<float const, 1>{buffer.view()}, host);
    else
      upload(context, view<float const, 1>{host}, buffer.view());
  });
  CHECK_THAT(said[0], ContainsSubstring("has waited 0.3 s in all_reduce with 5 elements"));
}

TEST_CASE("nccl: time that the stream takes before a collective is not counted", "[cuda][parallel][nccl]") {
  needs_emulator();
  failures wrong;
  auto const said = on(2, 200ms, [&](auto& context, auto& c) {
    auto buffer = on_card{context}(std::vector<float>{1});
    occupy(context, 600ms);
    all_reduce(c, buffer.view());
    wrong.unless(buffer.back() == std::vector<float>{2}, "the sum");
  });
  CHECK(said == std::vector<std::string>(2, "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("nccl: a rank that does not come to the start is not waited for longer than the deadline",
          "[cuda][parallel][nccl]") {
  needs_emulator();
  auto const port = processes::free_port();
  std::thread other{[&] {
    parallel::rendezvous meeting{processes::local(1, 2, port), {.timeout = 10s}};
    std::this_thread::sleep_for(1s);
  }};
  {
    auto context = ranks::small_context();
    parallel::rendezvous meeting{processes::local(0, 2, port), {.timeout = 10s}};
    CHECK_THROWS_WITH((cuda::nccl{context, meeting, {.timeout = 200ms}}),
                      "rank 0 has waited 0.2 s for NCCL to take up the start of NCCL");
    CHECK_NOTHROW(context.wait());  // nobody watches any more
  }
  other.join();
}

TEST_CASE("nccl: tensors of the card take part where they lie", "[cuda][parallel][nccl]") {
  needs_emulator();
  auto context = ranks::small_context();
  parallel::rendezvous meeting{parallel::launch_environment{}};
  cuda::nccl c{context, meeting};
  cuda::buffer<float> a{context, 1000}, b{context, 1000};
  auto const left = memory_left();
  all_gather(c, a.view(), b.view());
  all_reduce(c, b.view());
  CHECK(memory_left() == left);
  barrier(c);  // one number of the host
  CHECK(memory_left() == left - 256);
}

TEST_CASE("nccl: gradients are summed beside the backward pass", "[cuda][parallel][nccl]") {
  needs_emulator();
  failures wrong;
  std::array<std::atomic<bool>, 3> gone_on{};
  auto const said = on(2, 10s, [&](auto& context, auto& c) {
    parameter_list list;
    auto const early = scope{list}.constant("early", shape{20}, 0), late = scope{list}.constant("late", shape{300}, 0);
    parallel::any ranks{c};
    parameter_store<cuda::context<float>> store{context, list};
    train::gradient_sum<cuda::context<float>, parallel::any> sum{context, ranks, list, store, true, 1024};
    auto const of = [&](auto const& p) { return slice(store.gradients(), p.offset, p.shape.size()); };
    auto const add = [&](gradient_watch* watch, auto const& p, double value) {
      watch->asked_for(p.offset);
      fill(context, of(p), value);
      watch->added();
    };
    cuda::detail::own_stream other;
    auto const first_of = [&](auto const& p) {
      float value = 0;
      cudaMemcpyAsync(&value, of(p).data, sizeof value, cudaMemcpyDeviceToHost, other);
      cudaStreamSynchronize(other);
      return value;
    };
    for (int step = 0; step < 3; ++step) {
      auto* const watch = sum.watch(0);
      // Rank 1 comes late to the first sum; meanwhile rank 0's backward pass goes on.
      auto& goes_on = gone_on[static_cast<std::size_t>(step)];
      if (c.rank() == 1)
        occupy_until(context, goes_on);
      add(watch, early, 1 + c.rank());
      add(watch, late, 10 + 10 * c.rank());
      if (c.rank() == 0) {
        auto const until = std::chrono::steady_clock::now() + 5s;
        while (first_of(late) != 10 && std::chrono::steady_clock::now() < until) c.handle().poll();
        wrong.unless(first_of(late) == 10 && first_of(early) == 1, "a backward pass beside a sum");
        goes_on = true;
      }
      sum.finish();
      context.wait();
      wrong.unless(first_of(early) == 3 && first_of(late) == 30, "the sums");
    }
    auto const sent = sum.background_traffic();
    wrong.unless(sent.calls_of(parallel::collective::all_reduce) == 4, "sums from the second step on");
    float number = 1;
    auto beside = split_beside(c);
    try {
      all_reduce(*beside, view<float, 1>{&number, {{1}}});
      wrong.unless(false, "a tensor of the host beside the stream");
    } catch (precondition_error const&) {
    }
  });
  CHECK(said == std::vector<std::string>(2, "returned"));
  CHECK(wrong.what == std::vector<std::string>{});
}

TEST_CASE("nccl: collectives are not captured in a graph", "[cuda][parallel][nccl]") {
  auto context = ranks::small_context();
  parallel::rendezvous meeting{parallel::launch_environment{}};
  cuda::nccl c{context, meeting};
  auto buffer = cuda::buffer<float>{context, 5};
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK_THROWS_AS(all_reduce(c, buffer.view()), precondition_error);
  REQUIRE(cudaStreamEndCapture(context.stream(), &graph) == cudaSuccess);
  cudaGraphDestroy(graph);
  all_reduce(c, buffer.view());
  context.wait();
}
