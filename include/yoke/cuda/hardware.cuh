// Instructions that C++ has no words for: asynchronous copies into shared memory and products on the tensor cores.
// All inline assembly is here; the kernels above it are plain C++.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace yoke::cuda::detail {

/// The block's dynamic shared memory, 128-byte aligned.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char yoke_dynamic_shared[];
  return yoke_dynamic_shared;
}

/// Copies 16 bytes from global to shared memory without waiting, or writes zeros there when not `valid` (`global` is
/// not read then). Both addresses are multiples of 16.
__device__ inline void copy_16_async(void* shared, void const* global, bool valid) {
  auto const to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(valid ? 16 : 0));
}
/// Closes the group of the copies that this thread has begun.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;\n");
}
/// Waits until at most `Pending` of this thread's latest groups are under way; others' copies need a barrier as well.
template <int Pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending));
}

/// Four 8 x 8 matrices of 16-bit numbers, spread over the warp: lane l gives the address of row l % 8 of matrix l / 8
/// (16 bytes, aligned) and receives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each.
__device__ inline void load_matrices(std::uint32_t (&to)[4], void const* shared) {
  auto const from = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
/// The same with each matrix transposed.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], void const* shared) {
  auto const from = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

/// d (16 x 8, float) += a (16 x 16, bf16, row by row) b (16 x 8, bf16, column by column), spread over the warp as PTX's
/// mma.m16n8k16 lays them out: lane l holds rows l / 4 and l / 4 + 8 of a and d, column l / 4 of b.
__device__ inline void multiply_add(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, "
      "%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace yoke::cuda::detail
