// Segments as kernels see them.
#pragma once
#include <yoke/core/segments.hpp>

#include <cuda_runtime.h>

namespace yoke::cuda::detail {

/// yoke::segments with offsets in device memory; passed to kernels by value.
struct runs {
  std::int32_t const* offsets;  // null: uniform
  std::int32_t base;            // offsets[0]
  int count, longest;
  extent_t rows;

  __device__ extent_t begin(int i) const {
    return offsets == nullptr ? static_cast<extent_t>(i) * longest : offsets[i] - base;
  }
  __device__ int length(int i) const { return offsets == nullptr ? longest : offsets[i + 1] - offsets[i]; }
};

inline runs on_device(segments const& s) {
  expects(s.offsets == nullptr || s.device_offsets != nullptr,
          "packed segments lie in device memory as well: bring a batch there with resident_batch");
  return {s.device_offsets, s.offsets == nullptr ? 0 : s.offsets[0], static_cast<int>(s.count),
          static_cast<int>(s.longest), s.rows};
}

}  // namespace yoke::cuda::detail
