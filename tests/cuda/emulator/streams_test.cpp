// The emulator's streams do nothing before somebody waits, and then in the order that streams and events say, from several
// host threads too.
#include "cuda/emulator/trial.hpp"
#include <atomic>
#include <thread>

using namespace trial;

TEST_CASE("emulator: nothing is done before somebody waits") {
  stream const s;
  array<int> const x{s, std::vector<int>{4}};
  pinned const result{-1};
  add(s, x, 5);
  check(cudaMemcpyAsync(result.data(), x.data(), sizeof(int), cudaMemcpyDeviceToHost, s));
  CHECK(*result.data() == -1);
  s.wait();
  CHECK(*result.data() == 45);
}

TEST_CASE("emulator: pageable memory is copied at the call, pinned memory in the stream's order") {
  stream const s;
  array<int> const x{s, 1}, y{s, 1};
  int pageable = 1;
  pinned const fixed{1};
  check(cudaMemcpyAsync(x.data(), &pageable, sizeof(int), cudaMemcpyHostToDevice, s));
  check(cudaMemcpyAsync(y.data(), fixed.data(), sizeof(int), cudaMemcpyHostToDevice, s));
  pageable = 2;
  *fixed.data() = 2;
  CHECK(x.read()[0] == 1);
  CHECK(y.read()[0] == 2);
}

TEST_CASE("emulator: a query lets streams go one step and says whether they are done") {
  stream const s;
  array<int> const x{s, std::vector<int>{0}};
  add(s, x, 1);
  refused(cudaStreamQuery(s), cudaErrorNotReady);
  int questions = 1;
  while (cudaStreamQuery(s) == cudaErrorNotReady) ++questions;
  CHECK(questions == 2);  // allocation, copy, kernel
  CHECK(cudaGetLastError() == cudaErrorNotReady);
  CHECK(x.read()[0] == 1);
}

TEST_CASE("emulator: a stream waits for an event of another, whichever runs first") {
  changed_settings const set;
  set->threads = some_order();
  stream const a, b;
  array<int> const x{a, std::vector<int>{0}};
  a.wait();
  event const first, second;
  check(cudaStreamWaitEvent(b, first));  // was never recorded: nothing to wait for
  for (int i = 0; i < 5; ++i) add(a, x, 1);
  check(cudaEventRecord(first, a));
  check(cudaStreamWaitEvent(b, first));
  add(b, x, 2);
  check(cudaEventRecord(second, b));
  check(cudaStreamWaitEvent(a, second));
  add(a, x, 3);
  refused(cudaEventQuery(second), cudaErrorNotReady);
  check(cudaEventSynchronize(second));
  check(cudaEventQuery(first));
  CHECK(x.read()[0] == 1111123);
}

TEST_CASE("emulator: without an event two streams run in either order") {
  changed_settings const set;
  std::vector<int> results;
  for (auto const o : {emulator::order::forward, emulator::order::backward}) {
    set->threads = o;
    stream const a, b;
    array<int> const x{a, std::vector<int>{0}};
    a.wait();
    add(a, x, 1);
    add(b, x, 2);
    b.wait();
    results.push_back(x.read()[0]);
  }
  CHECK(results == std::vector<int>{12, 21});
}

TEST_CASE("emulator: the time between events") {
  stream const s;
  event const from{cudaEventDefault}, to{cudaEventDefault}, untimed;
  float ms = -1;
  refused(cudaEventElapsedTime(&ms, from, to), cudaErrorInvalidResourceHandle);
  check(cudaEventRecord(from, s));
  check(cudaEventRecord(to, s));
  check(cudaEventRecord(untimed, s));
  refused(cudaEventElapsedTime(&ms, from, to), cudaErrorNotReady);
  s.wait();
  check(cudaEventElapsedTime(&ms, from, to));
  CHECK(ms >= 0);
  refused(cudaEventElapsedTime(&ms, from, untimed), cudaErrorInvalidResourceHandle);
}

TEST_CASE("emulator: the default stream waits for blocking streams, and they for it, but not for others") {
  changed_settings const set;
  set->threads = some_order();
  stream const blocking{cudaStreamDefault};
  array<int> const x{blocking, std::vector<int>{0}};
  add(blocking, x, 1);
  add(nullptr, x, 2);
  add(blocking, x, 3);
  CHECK(x.read()[0] == 123);
  stream const free;
  int got = -1;
  bool open = false;
  check(emulator::enqueue(free, [&open] { return open; }));
  add(free, x, 4);
  check(cudaStreamSynchronize(nullptr));  // returns, though `free` cannot go on
  open = true;
  free.wait();
  check(cudaMemcpy(&got, x.data(), sizeof got, cudaMemcpyDeviceToHost));
  CHECK(got == 1234);
}

TEST_CASE("emulator: an operation may say not yet; others go on") {
  stream const s, other;
  std::atomic<bool> open = false;
  array<int> const x{s, std::vector<int>{0}};
  s.wait();
  check(emulator::enqueue(s, [&] { return open.load(); }));
  add(s, x, 1);
  for (int i = 0; i < 10; ++i) CHECK(cudaStreamQuery(s) == cudaErrorNotReady);
  cudaGetLastError();
  other.wait();
  std::thread late{[&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    open = true;
  }};
  s.wait();
  CHECK(open);
  CHECK(x.read()[0] == 1);
  late.join();
}

TEST_CASE("emulator: several host threads with streams of their own") {
  changed_settings const set;
  set->devices = 3;
  std::vector<std::thread> threads;
  std::atomic<int> right = 0, wrong_device = 0;
  std::vector<std::atomic<int>> turn(3);
  for (int rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      cudaSetDevice(rank);
      cudaStream_t s = nullptr;
      cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
      void* p = nullptr;
      cudaMallocAsync(&p, sizeof(int), s);
      cudaMemsetAsync(p, 0, sizeof(int), s);
      for (int i = 0; i < 50; ++i) {  // each waits in its stream until the others have come as far
        emulator::enqueue(s, [&turn, rank, i] {
          turn[static_cast<std::size_t>(rank)] = i;
          return turn[0] >= i && turn[1] >= i && turn[2] >= i;
        });
        auto const c = shape(s, 1, 1);
        cudaLaunchKernelEx(&c, add_kernel, static_cast<int*>(p), 0);
        cudaLaunchKernelEx(&c, add_kernel, static_cast<int*>(p), i == 49 ? rank + 1 : 0);
      }
      int got = -1;
      cudaMemcpyAsync(&got, p, sizeof got, cudaMemcpyDeviceToHost, s);
      right += got == rank + 1;
      cudaSetDevice((rank + 1) % 3);
      auto const c = shape(s, 1, 1);
      wrong_device +=
          cudaLaunchKernelEx(&c, add_kernel, static_cast<int*>(p), 0) == cudaErrorInvalidResourceHandle;
      cudaFreeAsync(p, s);
      cudaStreamSynchronize(s);
      cudaStreamDestroy(s);
    });
  for (auto& t : threads) t.join();
  CHECK(right == 3);
  CHECK(wrong_device == 3);
}
