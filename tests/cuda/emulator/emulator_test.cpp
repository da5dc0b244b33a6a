// The emulator runs kernels as a card would: threads, barriers, warps, shared memory. And it finds what kernels do wrong.
// Its other tests are beside this one.
#include "cuda/emulator/trial.hpp"
#include <algorithm>
#include <numeric>

using namespace trial;
namespace hw = yoke::cuda::detail;

namespace {

constexpr unsigned all = 0xffffffffu;

// --- barriers

template <bool Barrier>
__global__ void rotate_kernel(int* x, int rounds) {
  __shared__ int s[96];
  auto const i = threadIdx.x;
  for (int round = 0; round < rounds; ++round) {
    s[i] = x[blockIdx.x * 96 + i];
    if (Barrier)
      __syncthreads();
    x[blockIdx.x * 96 + i] = s[(i + 35) % 96];
    if (Barrier)
      __syncthreads();
  }
}
__global__ void some_leave_kernel() {
  if (threadIdx.x < 40)
    __syncthreads();
}
__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void lanes_leave_kernel(int* x) {
  if (threadIdx.x % 32 < 30)
    x[0] = __shfl_sync(all, 1, 0);
}
__global__ void lanes_differ_kernel(int* x) {
  if (threadIdx.x % 32 < 30)
    x[0] = __shfl_sync(all, 1, 0);
  else
    x[1] = __shfl_xor_sync(all, 1, 1);
}
__global__ void few_lanes_kernel(int* x) {
  x[0] = __shfl_sync(0xffffu, 1, 0);
}

std::vector<int> count_up(std::size_t n) {
  std::vector<int> v(n);
  std::iota(v.begin(), v.end(), 0);
  return v;
}

}  // namespace

TEST_CASE("emulator: threads wait for each other at barriers, in whatever order they run") {
  changed_settings const set;
  set->threads = some_order();
  stream const s;
  array<int> const x{s, count_up(5 * 96)};
  launch(s, 5, 96, 0, rotate_kernel<true>, x.data(), 3);
  auto const y = x.read();
  bool same = true;
  for (int b = 0; b < 5; ++b)
    for (int i = 0; i < 96; ++i)
      same = same && y[static_cast<std::size_t>(b * 96 + i)] == b * 96 + (i + 3 * 35) % 96;
  CHECK(same);
}

TEST_CASE("emulator: a missing barrier shows in the order of threads") {
  if (emulator::finds_races)
    SKIP("ThreadSanitizer would say so");
  changed_settings const set;
  std::vector<std::vector<int>> results;
  for (auto const o : {emulator::order::forward, emulator::order::backward}) {
    set->threads = o;
    stream const s;
    array<int> const x{s, count_up(96)};
    launch(s, 1, 96, 0, rotate_kernel<false>, x.data(), 1);
    results.push_back(x.read());
  }
  CHECK(results[0] != results[1]);
}

TEST_CASE("emulator: threads that wait where others do not end the program, and the kernel is named") {
  auto const run = [](void (*kernel)()) {
    stream const s;
    launch(s, 1, 64, 0, kernel);
    s.wait();
  };
  auto const run_with = [](void (*kernel)(int*)) {
    stream const s;
    array<int> const x{s, 2};
    launch(s, 1, 64, 0, kernel, x.data());
    s.wait();
  };
  ends_badly([&] { run(some_leave_kernel); },
             {"some_leave_kernel", "block (0, 0, 0)", "24 of 64 threads, which have ended"});
  ends_badly([&] { run(two_barriers_kernel); },
             {"two_barriers_kernel", "while others wait at that of", "emulator_test.cpp"});
  ends_badly([&] { run_with(lanes_leave_kernel); }, {"lanes_leave_kernel", "30 of 32 lanes", "__shfl_sync"});
  ends_badly([&] { run_with(lanes_differ_kernel); },
             {"lanes_differ_kernel", "__shfl_xor_sync", "__shfl_sync"});
  ends_badly([&] { run_with(few_lanes_kernel); }, {"few_lanes_kernel", "leaves lanes out"});
  ends_badly([] { __syncthreads(); }, {"outside of a kernel"});
}

namespace {

// --- warps

template <class V>
__global__ void shuffles_kernel(V const* x, V* y, int width) {
  auto const i = static_cast<int>(threadIdx.x), lane = i % 32;
  y[i] = __shfl_sync(all, x[i], lane * 7 + 3, width);
  y[64 + i] = __shfl_xor_sync(all, x[i], 5, width);
  y[128 + i] = __shfl_down_sync(all, x[i], 3, width);
  y[192 + i] = __shfl_up_sync(all, x[i], 3, width);
}

template <class V>
void check_shuffles(int width) {
  std::vector<V> x(64);
  for (std::size_t i = 0; i < 64; ++i) x[i] = static_cast<V>(i * 1000 + 7);
  stream const s;
  array<V> const from{s, x}, to{s, 256};
  launch(s, 1, 64, 0, shuffles_kernel<V>, from.data(), to.data(), width);
  auto const y = to.read();
  for (int i = 0; i < 64; ++i) {
    int const first = i / width * width, lane = i % 32;
    auto const at = [&](int thread) { return x[static_cast<std::size_t>(thread)]; };
    auto const got = [&](int part) { return y[static_cast<std::size_t>(64 * part + i)]; };
    CHECK(got(0) == at(first + (lane * 7 + 3) % width));
    CHECK(got(1) == at((i ^ 5) / width > i / width ? i : i ^ 5));
    CHECK(got(2) == at(i + 3 < first + width ? i + 3 : i));
    CHECK(got(3) == at(i - 3 >= first ? i - 3 : i));
  }
}

__global__ void votes_kernel(unsigned* y) {
  auto const lane = threadIdx.x % 32;
  auto const warp = threadIdx.x / 32;
  auto* const mine = y + 4 * threadIdx.x;
  mine[0] = __ballot_sync(all, lane % 3 == 0 && warp == 0);
  mine[1] = static_cast<unsigned>(__any_sync(all, lane == 31 && warp == 0));
  mine[2] = static_cast<unsigned>(__all_sync(all, lane < 31 || warp == 0));
  mine[3] = __activemask();
}

__global__ void atomics_kernel(int* counts, unsigned* seen, float* f, double* d, unsigned long long* u) {
  auto const at = atomicAdd(&counts[0], 1);
  seen[at] = blockIdx.x * blockDim.x + threadIdx.x;
  atomicMax(&counts[1], static_cast<int>(threadIdx.x) - 100);
  atomicMin(&counts[2], -static_cast<int>(threadIdx.x));
  atomicOr(&counts[3], 1 << threadIdx.x % 30);
  if (atomicCAS(&counts[4], 0, 1) == 0)
    atomicAdd(&counts[5], 1);
  atomicExch(&counts[6], 77);
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicAdd(u, 1ull << 32);
}

__global__ void where_kernel(unsigned* y) {
  auto const block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  auto const thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

}  // namespace

TEST_CASE("emulator: shuffles") {
  changed_settings const set;
  set->threads = some_order();
  auto const width = GENERATE(32, 8);
  check_shuffles<int>(width);
  check_shuffles<unsigned>(width);
  check_shuffles<float>(width);
  check_shuffles<double>(width);
  check_shuffles<long long>(width);
}

TEST_CASE("emulator: votes") {
  stream const s;
  array<unsigned> const y{s, 256};
  launch(s, 1, 64, 0, votes_kernel, y.data());
  auto const v = y.read();
  for (std::size_t i = 0; i < 64; ++i) {
    CHECK(v[4 * i] == (i < 32 ? 0x49249249u : 0u));
    CHECK(v[4 * i + 1] == (i < 32 ? 1u : 0u));
    CHECK(v[4 * i + 2] == (i < 32 ? 1u : 0u));
    CHECK(v[4 * i + 3] == all);
  }
}

TEST_CASE("emulator: atomic functions") {
  changed_settings const set;
  set->threads = some_order();
  stream const s;
  array<int> const counts{s, std::vector<int>(7, 0)};
  array<unsigned> const seen{s, 384};
  array<float> const f{s, std::vector<float>{1}};
  array<double> const d{s, std::vector<double>{1}};
  array<unsigned long long> const u{s, std::vector<unsigned long long>{5}};
  launch(s, 3, 128, 0, atomics_kernel, counts.data(), seen.data(), f.data(), d.data(), u.data());
  CHECK(counts.read() == std::vector<int>{384, 27, -127, (1 << 30) - 1, 1, 1, 77});
  auto order = seen.read();
  std::sort(order.begin(), order.end());
  bool each_once = true;
  for (unsigned i = 0; i < 384; ++i) each_once = each_once && order[i] == i;
  CHECK(each_once);
  CHECK(f.read()[0] == 193.0f);
  CHECK(d.read()[0] == 97.0);
  CHECK(u.read()[0] == (384ull << 32) + 5);
}

TEST_CASE("emulator: indices of threads and blocks in three dimensions") {
  changed_settings const set;
  set->threads = some_order();
  stream const s;
  array<unsigned> const y{s, 24 * 30};
  launch(s, {2, 3, 4}, {5, 3, 2}, 0, where_kernel, y.data());
  auto const v = y.read();
  bool same = true;
  for (unsigned i = 0; i < v.size(); ++i) same = same && v[i] == 1000 * (i / 30) + i % 30;
  CHECK(same);
}

namespace {

// --- shared memory, launches, what kernels do wrong

__global__ void shared_kernel(int bytes, int* y) {
  auto* const s = hw::dynamic_shared();
  y[0] = reinterpret_cast<std::uintptr_t>(s) % 128 == 0;
  y[1] = 1;
  for (int i = 0; i < bytes; ++i) {
    y[1] = y[1] != 0 && s[i] == emulator::garbage;
    s[i] = 0;
  }
}
__global__ void past_shared_kernel(int bytes) {
  hw::dynamic_shared()[bytes] = 1;
}
__global__ void write_kernel(char* x, int at) {
  x[at] = 1;
}
template <int Barriers>
__global__ void racing_kernel(int* x) {
  __shared__ int s[64];
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (Barriers > 0)
    __syncthreads();
  x[threadIdx.x] = s[63 - threadIdx.x];
}

}  // namespace

TEST_CASE(
    "emulator: dynamic shared memory is as long as launched, aligned, and full of garbage for each block") {
  changed_settings const set;
  stream const s;
  array<int> const y{s, 2};
  int const bytes = GENERATE(1, 1000, 48 * 1024, 227 * 1024);
  auto const* const kernel = reinterpret_cast<void const*>(&shared_kernel);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  launch(s, 2, 1, static_cast<std::size_t>(bytes), shared_kernel, bytes, y.data());
  CHECK(y.read() == std::vector<int>{1, 1});
  ends_badly(
      [&] {
        auto const* const past = reinterpret_cast<void const*>(&past_shared_kernel);
        check(cudaFuncSetAttribute(past, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
        launch(s, 1, 1, static_cast<std::size_t>(bytes), past_shared_kernel, bytes);
        s.wait();
      },
      {emulator::finds_bad_accesses ? "AddressSanitizer" : "dynamic shared memory"});
}

TEST_CASE("emulator: launches that a card refuses") {
  stream const s;
  auto const with = [&](dim3 blocks, dim3 threads, std::size_t shared) {
    auto const c = shape(s, blocks, threads, shared);
    return cudaLaunchKernelEx(&c, past_shared_kernel, 0);
  };
  refused(with(0, 32, 0), cudaErrorInvalidConfiguration);
  refused(with(1, 0, 0), cudaErrorInvalidConfiguration);
  refused(with(1, 1025, 0), cudaErrorInvalidConfiguration);
  refused(with({1, 65536}, 32, 0), cudaErrorInvalidConfiguration);
  refused(with({1, 1, 65536}, 32, 0), cudaErrorInvalidConfiguration);
  refused(with(1, {1, 1, 65}, 0), cudaErrorInvalidConfiguration);
  refused(with(1, 32, 48 * 1024 + 1), cudaErrorInvalidValue);
  refused(cudaFuncSetAttribute(reinterpret_cast<void const*>(&past_shared_kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024 + 1),
          cudaErrorInvalidValue);
}

TEST_CASE("emulator: kernels that write outside of device memory are found") {
  auto const size = GENERATE(1, 100, 256, 4096);
  ends_badly(
      [&] {
        stream const s;
        {
          array<char> const x{s, static_cast<std::size_t>(size)};
          launch(s, 1, 1, 0, write_kernel, x.data(), size);
        }
        s.wait();
      },
      {emulator::finds_bad_accesses ? "AddressSanitizer"
                                    : "behind an allocation of " + std::to_string(size)});
  if (emulator::finds_bad_accesses)
    ends_badly(
        [&] {
          stream const s;
          array<char> const x{s, static_cast<std::size_t>(size)};
          launch(s, 1, 1, 0, write_kernel, x.data(), -1);
          s.wait();
        },
        {"AddressSanitizer", "write_kernel"});
}

TEST_CASE("emulator: ThreadSanitizer sees accesses of threads with no barrier between them") {
  if (!emulator::finds_races)
    SKIP("without ThreadSanitizer");
  auto const run = [](void (*kernel)(int*)) {
    return end_of([&] {
      stream const s;
      array<int> const x{s, 64};
      launch(s, 2, 64, 0, kernel, x.data());
      s.wait();
    });
  };
  CHECK_THAT(run(racing_kernel<0>).words, Catch::Matchers::ContainsSubstring("data race"));
  CHECK(run(racing_kernel<1>).words == "");
}
