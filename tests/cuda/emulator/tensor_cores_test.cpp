// The emulator's tensor cores and asynchronous copies against plain matrix products and PTX's own numbering.
#include "cuda/emulator/trial.hpp"
#include <cmath>
#include <numeric>

using namespace trial;
namespace hw = yoke::cuda::detail;

namespace {

__global__ void load_kernel(std::uint16_t const* x, std::uint32_t* y) {
  __shared__ __align__(16) std::uint16_t tile[4 * 64];
  auto const lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) tile[i] = x[i];
  __syncwarp();
  std::uint32_t got[4];
  hw::load_matrices(got, tile + 8 * lane);
  for (unsigned m = 0; m < 4; ++m) y[4 * lane + m] = got[m];
  hw::load_matrices_transposed(got, tile + 8 * lane);
  for (unsigned m = 0; m < 4; ++m) y[128 + 4 * lane + m] = got[m];
}

/// d (16, 8) += a (16, 16) b (16, 8), everything in global memory, by the fragments of PTX's section on m16n8k16.
__global__ void fragments_kernel(std::uint16_t const* a, std::uint16_t const* b, float* d) {
  auto const lane = static_cast<int>(threadIdx.x), group = lane / 4, in_group = lane % 4;
  std::uint32_t fa[4] = {}, fb[2] = {};  // two numbers each, the first one in the lower half
  auto const put = [](std::uint32_t* to, int i, std::uint16_t number) {
    to[i / 2] |= std::uint32_t{number} << 16 * (i & 1);
  };
  for (int i = 0; i < 8; ++i) {
    int const row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    put(fa, i, a[row * 16 + in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)]);
  }
  for (int i = 0; i < 4; ++i) put(fb, i, b[(in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)) * 8 + group]);
  float sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  hw::multiply_add(sums, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = sums[i];
}

/// The same as kernels do it: through shared memory, a by load_matrices, b by load_matrices_transposed.
__global__ void tile_kernel(std::uint16_t const* a, std::uint16_t const* b, float* d) {
  auto* const tile =
      reinterpret_cast<std::uint16_t*>(hw::dynamic_shared());  // a (16, 16), then b (16, 8), then zeros
  auto const lane = threadIdx.x;
  hw::copy_16_async(tile + 8 * lane, a + 8 * lane, true);
  hw::copy_16_async(tile + 256 + 8 * lane, b + 8 * lane, lane < 16);
  hw::commit_copies();
  hw::wait_for_copies<0>();
  __syncwarp();
  std::uint32_t fa[4], fb[4];
  hw::load_matrices(fa, tile + (lane % 16) * 16 + lane / 16 * 8);
  hw::load_matrices_transposed(fb, tile + 256 + (lane % 16) * 8);
  float sums[4] = {};
  hw::multiply_add(sums, fa, fb[0], fb[1]);
  for (unsigned i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

std::vector<std::uint16_t> random_bf16(std::size_t n, std::uint64_t seed) {
  emulator::numbers numbers{seed};
  std::vector<std::uint16_t> v(n);
  for (auto& x : v)
    x = __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(numbers.below(2001)) / 1000 - 1));
  return v;
}
double value(std::uint16_t bits) {
  return static_cast<double>(__bfloat162float(__ushort_as_bfloat16(bits)));
}
bool is_product(std::vector<float> const& d, std::vector<std::uint16_t> const& a,
                std::vector<std::uint16_t> const& b, double before) {
  for (std::size_t i = 0; i < 16; ++i)
    for (std::size_t j = 0; j < 8; ++j) {
      double sum = before;
      for (std::size_t k = 0; k < 16; ++k) sum += value(a[i * 16 + k]) * value(b[k * 8 + j]);
      if (!(std::abs(static_cast<double>(d[i * 8 + j]) - sum) < 1e-5))
        return false;
    }
  return true;
}

__global__ void copies_kernel(int const* x, int* y) {
  __shared__ __align__(16) int s[12];
  hw::copy_16_async(s, x, true);
  hw::commit_copies();
  hw::copy_16_async(s + 4, x + 4, true);
  hw::copy_16_async(s + 8, x + 8, false);
  hw::commit_copies();
  y[0] = s[0];
  hw::wait_for_copies<1>();
  y[1] = s[3];
  y[2] = s[4];
  y[3] = s[8];
  hw::wait_for_copies<0>();
  y[4] = s[4];
  y[5] = s[7];
  y[6] = s[8];
  y[7] = s[11];
}
__global__ void crooked_copy_kernel(int const* x) {
  __shared__ __align__(16) int s[8];
  hw::copy_16_async(s + 1, x, true);
}

}  // namespace

TEST_CASE("emulator: matrices are loaded as ldmatrix spreads them") {
  changed_settings const set;
  set->threads = some_order();
  std::vector<std::uint16_t> x(256);
  std::iota(x.begin(), x.end(), std::uint16_t{0});
  stream const s;
  array<std::uint16_t> const from{s, x};
  array<std::uint32_t> const to{s, 256};
  launch(s, 1, 32, 0, load_kernel, from.data(), to.data());
  auto const y = to.read();
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned m = 0; m < 4; ++m) {
      unsigned const row = lane / 4, column = 2 * (lane % 4);
      CHECK(y[4 * lane + m] == ((64 * m + 8 * row + column) | (64 * m + 8 * row + column + 1) << 16));
      CHECK(y[128 + 4 * lane + m] == ((64 * m + 8 * column + row) | (64 * m + 8 * (column + 1) + row) << 16));
    }
}

TEST_CASE("emulator: the tensor cores' product, by PTX's fragments and as kernels use it") {
  auto const a = random_bf16(256, 1), b = random_bf16(128, 2);
  stream const s;
  array<std::uint16_t> const da{s, a}, db{s, b};
  array<float> const d{s, std::vector<float>(128, 3.0f)}, e{s, 128};
  launch(s, 1, 32, 0, fragments_kernel, da.data(), db.data(), d.data());
  CHECK(is_product(d.read(), a, b, 3));
  launch(s, 1, 32, 1024, tile_kernel, da.data(), db.data(), e.data());
  CHECK(is_product(e.read(), a, b, 0));
}

TEST_CASE("emulator: an asynchronous copy is there when it has been waited for, and not before") {
  stream const s;
  array<int> const x{s, std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, y{s, 8};
  launch(s, 1, 1, 0, copies_kernel, x.data(), y.data());
  int garbage;
  std::memset(&garbage, emulator::garbage, sizeof garbage);
  CHECK(y.read() == std::vector<int>{garbage, 3, garbage, garbage, 4, 7, 0, 0});
  ends_badly(
      [] {
        stream const own;
        array<int> const from{own, 8};
        launch(own, 1, 1, 0, crooked_copy_kernel, from.data());
        own.wait();
      },
      {"crooked_copy_kernel", "aligned to 16 bytes"});
}
