// The emulated cards' memory: out of the host's reach, full of garbage, limited; and what a program asks about cards.
#include "cuda/emulator/trial.hpp"

using namespace trial;

TEST_CASE("emulator: the host cannot touch a card's memory") {
  stream const s;
  array<int> const x{s, std::vector<int>{1}};
  s.wait();
  ends_badly([&] { *x.data() = 2; }, {});
  ends_badly([&] { _exit(*x.data() == 1 ? 0 : 1); }, {});
  CHECK(x.read()[0] == 1);
}

TEST_CASE("emulator: fresh memory is full of garbage, and aligned") {
  stream const s;
  array<unsigned char> const used{s, std::vector<unsigned char>(1000, 1)};
  for (std::size_t n : {1u, 255u, 257u, 100000u}) {
    array<unsigned char> const x{s, n};
    CHECK(reinterpret_cast<std::uintptr_t>(x.data()) % 256 == 0);
    CHECK(x.read() == std::vector<unsigned char>(n, emulator::garbage));
  }
}

TEST_CASE("emulator: copies and fills beyond an allocation, and copies the wrong way, are refused") {
  stream const s;
  array<int> const x{s, 4}, y{s, 4};
  std::vector<int> host(8);
  refused(cudaMemcpyAsync(x.data(), host.data(), 20, cudaMemcpyHostToDevice, s), cudaErrorInvalidValue);
  refused(cudaMemcpyAsync(host.data(), x.data() + 1, 16, cudaMemcpyDeviceToHost, s), cudaErrorInvalidValue);
  refused(cudaMemcpyAsync(y.data(), x.data(), 16, cudaMemcpyHostToDevice, s), cudaErrorInvalidValue);
  refused(cudaMemcpyAsync(x.data(), host.data(), 16, cudaMemcpyDeviceToHost, s), cudaErrorInvalidValue);
  refused(cudaMemsetAsync(x.data(), 0, 17, s), cudaErrorInvalidValue);
  refused(cudaMemsetAsync(host.data(), 0, 8, s), cudaErrorInvalidValue);
  refused(cudaFreeAsync(x.data() + 1, s), cudaErrorInvalidValue);
  check(cudaMemcpyAsync(y.data(), x.data(), 16, cudaMemcpyDefault, s));
}

TEST_CASE("emulator: what a pointer points to") {
  stream const s;
  array<int> const x{s, 4};
  pinned const fixed{0};
  int pageable = 0;
  cudaPointerAttributes a{};
  check(cudaPointerGetAttributes(&a, x.data() + 1));
  CHECK(a.type == cudaMemoryTypeDevice);
  CHECK(a.device == 0);
  CHECK(a.devicePointer == x.data() + 1);
  CHECK(a.hostPointer == nullptr);
  check(cudaPointerGetAttributes(&a, fixed.data()));
  CHECK(a.type == cudaMemoryTypeHost);
  check(cudaPointerGetAttributes(&a, &pageable));
  CHECK(a.type == cudaMemoryTypeUnregistered);
}

TEST_CASE("emulator: a card has so much memory and no more, and gives back what is freed") {
  changed_settings const set;
  stream const s;
  check(cudaDeviceSynchronize());
  std::size_t before = 0, left = 0, all = 0;
  check(cudaMemGetInfo(&before, &all));
  CHECK(all == set->memory);
  set->memory = all - before + 1000000;  // what others hold, and a megabyte
  void *p = nullptr, *q = nullptr;
  check(cudaMallocAsync(&p, 600000, s));
  check(cudaMemGetInfo(&left, &all));
  CHECK(left == 400000);
  refused(cudaMallocAsync(&q, 400001, s), cudaErrorMemoryAllocation);
  CHECK(q == nullptr);
  refused(cudaMalloc(&q, std::size_t{1} << 60), cudaErrorMemoryAllocation);
  check(cudaFreeAsync(p, s));
  check(cudaMallocAsync(&q, 1000000, s));  // waits for what is being freed
  check(cudaFreeAsync(q, s));
  s.wait();
}

TEST_CASE("emulator: devices and what they say of themselves") {
  changed_settings const set;
  int n = -1;
  cudaStream_t s = nullptr;
  void* p = nullptr;
  set->devices = 0;
  refused(cudaGetDeviceCount(&n), cudaErrorNoDevice);
  CHECK(n == 0);
  refused(cudaSetDevice(0), cudaErrorNoDevice);
  refused(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaErrorNoDevice);
  refused(cudaMalloc(&p, 4), cudaErrorNoDevice);
  set->devices = 2;
  set->processors = 5;
  check(cudaGetDeviceCount(&n));
  CHECK(n == 2);
  check(cudaSetDevice(1));
  refused(cudaSetDevice(2), cudaErrorInvalidDevice);
  check(cudaGetDevice(&n));
  CHECK(n == 1);
  check(cudaSetDevice(0));
  check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 1));
  CHECK(n == 5);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  CHECK(properties.totalGlobalMem == set->memory);
  CHECK(properties.name == std::string{"an emulated card"});
  check(cudaRuntimeGetVersion(&n));
  CHECK(n == 13000);
}
