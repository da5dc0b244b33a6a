// What the tests of CUDA's kernels share: tensors in device memory, and comparison with the CPU's kernel of the same name.
// Compiled by g++ against the emulator in this folder, and by nvcc for a real card: the sources are the same.
#pragma once
#include <yoke/cpu/context.hpp>
#include <yoke/cuda/device.cuh>

#include "cpu/checks.hpp"

namespace twins {

using namespace checks;

/// A context of each element type, made when first wanted.
template <class T>
yoke::cuda::context<T>& card() {
  static yoke::cuda::context<T> c{yoke::mebibytes(64), yoke::mebibytes(64)};
  return c;
}

/// Segments whose offsets lie in device memory as well; the host's outlive it.
template <class T>
class packed_on {
 public:
  packed_on(yoke::cuda::context<T>& c, packed const& host)
      : segments_{host.segments()}, copy_{c, static_cast<extent_t>(host.offsets.size())} {
    view<std::int32_t const, 1> const from{host.offsets.data(),
                                           {{static_cast<extent_t>(host.offsets.size())}}};
    upload(c, from, copy_.view());
    segments_.device_offsets = copy_.view().data;
  }
  yoke::segments const& segments() const { return segments_; }

 private:
  yoke::segments segments_;
  yoke::cuda::buffer<std::int32_t> copy_;
};

/// A tensor of the host and its copy on the device, which begins `offset` elements behind an aligned address.
template <class V, int R>
class on {
 public:
  template <class T>
  on(yoke::cuda::context<T>& c, tensor<V, R> const& host, extent_t offset = 0)
      : shape_{host.shape}, offset_{offset}, copy_{c, offset + host.shape.size()} {
    upload(c, host.read(), view());
  }
  yoke::view<V, R> view() const { return {copy_.view().data + offset_, shape_}; }
  yoke::view<V const, R> read() const { return view(); }
  template <class T>
  tensor<V, R> back(yoke::cuda::context<T>& c) const {
    tensor<V, R> host{shape_};
    download(c, read(), host.view());
    return host;
  }

 private:
  yoke::shape<R> shape_;
  extent_t offset_;
  yoke::cuda::buffer<V> copy_;
};

/// The device's result is the CPU's within one rounding of each and `size` times the slack of sums.
template <class V, int R>
void same(tensor<V, R> const& device, tensor<V, R> const& host, double size = 1) {
  REQUIRE(device.shape == host.shape);
  for (std::size_t i = 0; i < host.data.size(); ++i) {
    auto const a = static_cast<double>(device.data[i]), b = static_cast<double>(host.data[i]);
    auto const allowed = 2 * rounding<V>() * std::abs(b) + slack<V>() * size;
    if (!(std::abs(a - b) <= allowed)) {
      INFO("element " << i << ": the device has " << a << ", the CPU " << b << ", allowed " << allowed);
      REQUIRE(false);
    }
  }
  SUCCEED();
}

/// f() gives the same vector, bit by bit, each time.
template <class F>
void same_each_time(F const& f) {
  auto const first = f();
  REQUIRE(same_bits(first, f()));
}

}  // namespace twins
