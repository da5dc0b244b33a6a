// The emulator's words for the card's instructions: asynchronous copies and products on the tensor cores, lane by
// lane as PTX describes them. It stands before Yoke's header of the same name on the search path.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace yoke::cuda::detail {

/// The block's dynamic shared memory, 128-byte aligned.
inline unsigned char* dynamic_shared() {
  return reinterpret_cast<unsigned char*>(emulator::blocks().dynamic_shared());
}

/// Until it is waited for, the destination holds garbage.
inline void copy_16_async(void* shared, void const* global, bool valid) {
  auto& r = emulator::blocks();
  r.demand("copy_16_async");
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0)
    r.wrong("copy_16_async to shared memory that is not aligned to 16 bytes");
  if (valid && reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    r.wrong("copy_16_async from memory that is not aligned to 16 bytes");
  std::memset(shared, emulator::garbage, 16);
  r.current().copies.push_back({shared, valid ? global : nullptr});
}
inline void commit_copies() {
  auto& t = emulator::blocks().current();
  std::size_t closed = 0;
  for (auto const n : t.groups) closed += n;
  t.groups.push_back(t.copies.size() - closed);
}
template <int Pending>
void wait_for_copies() {
  static_assert(Pending >= 0);
  auto& t = emulator::blocks().current();
  std::size_t finished = 0;
  auto const leave = static_cast<std::size_t>(Pending);
  auto const groups = t.groups.size() > leave ? t.groups.size() - leave : 0;
  for (std::size_t g = 0; g < groups; ++g) finished += t.groups[g];
  for (std::size_t i = 0; i < finished; ++i) {
    auto const& c = t.copies[i];
    if (c.from == nullptr)
      std::memset(c.to, 0, 16);
    else
      std::memcpy(c.to, c.from, 16);
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(finished));
  t.groups.erase(t.groups.begin(), t.groups.begin() + static_cast<std::ptrdiff_t>(groups));
}

namespace emulated {

struct four_words {
  std::uint32_t at[4];
};
struct row {
  std::uint16_t at[8];
};
inline void load(char const* name, bool transposed, std::uint32_t (&to)[4], void const* shared) {
  emulator::blocks().demand(name);
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0)
    emulator::blocks().wrong(std::string(name) + " from memory that is not aligned to 16 bytes");
  row mine;  // of matrix lane / 8
  std::memcpy(&mine, shared, sizeof mine);
  auto const got =
      emulator::warp_collective<four_words>(name, mine, [transposed](row const* rows, four_words* out) {
        for (int lane = 0; lane < 32; ++lane)
          for (int m = 0; m < 4; ++m) {
            auto const* const matrix = rows + 8 * m;
            int const i = lane / 4, j = 2 * (lane % 4);
            std::uint32_t const first = transposed ? matrix[j].at[i] : matrix[i].at[j];
            std::uint32_t const second = transposed ? matrix[j + 1].at[i] : matrix[i].at[j + 1];
            out[lane].at[m] = first | second << 16;
          }
      });
  for (int m = 0; m < 4; ++m) to[m] = got.at[m];
}

struct fragments {
  std::uint32_t a[4], b[2];
  float d[4];
};
inline float half_of(std::uint32_t word, int which) {
  return __uint_as_float(which == 0 ? word << 16 : word & 0xffff0000u);
}

}  // namespace emulated

inline void load_matrices(std::uint32_t (&to)[4], void const* shared) {
  emulated::load("load_matrices", false, to, shared);
}
inline void load_matrices_transposed(std::uint32_t (&to)[4], void const* shared) {
  emulated::load("load_matrices_transposed", true, to, shared);
}

inline void multiply_add(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct four {
    float at[4];
  };
  emulated::fragments const mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  auto const got =
      emulator::warp_collective<four>("multiply_add", mine, [](emulated::fragments const* in, four* out) {
        float a_of[16][16], b_of[16][8];  // (row, k), (k, column)
        for (int lane = 0; lane < 32; ++lane) {
          int const g = lane / 4, t = 2 * (lane % 4);
          auto const& f = in[lane];
          for (int h = 0; h < 2; ++h) {
            a_of[g][t + h] = emulated::half_of(f.a[0], h);
            a_of[g + 8][t + h] = emulated::half_of(f.a[1], h);
            a_of[g][t + 8 + h] = emulated::half_of(f.a[2], h);
            a_of[g + 8][t + 8 + h] = emulated::half_of(f.a[3], h);
            b_of[t + h][g] = emulated::half_of(f.b[0], h);
            b_of[t + 8 + h][g] = emulated::half_of(f.b[1], h);
          }
        }
        float product[16][8] = {};
        for (int i = 0; i < 16; ++i)
          for (int k = 0; k < 16; ++k)
            for (int j = 0; j < 8; ++j) product[i][j] += a_of[i][k] * b_of[k][j];
        for (int lane = 0; lane < 32; ++lane)
          for (int e = 0; e < 4; ++e)
            out[lane].at[e] = in[lane].d[e] + product[lane / 4 + 8 * (e / 2)][2 * (lane % 4) + e % 2];
      });
  for (int e = 0; e < 4; ++e) d[e] = got.at[e];
}

}  // namespace yoke::cuda::detail
