// Several tensors in one kernel's scratch memory.
#pragma once
#include <yoke/cuda/device.cuh>

#include <cstddef>

namespace yoke::cuda::detail {

/// Takes tensors from scratch memory, each aligned for products.
class scratch_plan {
 public:
  /// Where `count` elements begin, in bytes.
  template <class V>
  extent_t take(extent_t count) {
    auto const at = bytes_;
    bytes_ += (count * static_cast<extent_t>(sizeof(V)) + 255) / 256 * 256;
    return at;
  }
  std::byte* memory(device& c) const { return c.scratch<std::byte>(bytes_); }

 private:
  extent_t bytes_ = 0;
};

}  // namespace yoke::cuda::detail
