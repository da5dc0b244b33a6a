// The host as a device: its arenas, the primitives and the scratch memory that it keeps. Kernels
// are overloads on this type.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/cpu/matmul_cache.hpp>
#include <yoke/cpu/memory.hpp>

#include <algorithm>

namespace yoke::cpu {

/// T is double (gradient checks; matmuls by Eigen), float or bf16 (by oneDNN). Used by one thread
/// at a time; its kernels run on the OpenMP threads of the calling thread.
template <yoke::element T>
class context {
  pages activations_, gradients_, scratch_;

 public:
  using element = T;
  using accumulator = accumulator_t<T>;
  template <class V>
  using buffer = cpu::buffer<V>;
  static constexpr device_traits traits{};

  stack_arena memory;
  pool_arena gradient_memory;
  host_stack host;
  detail::matmul_cache products;

  /// Bytes of address space for activations and for their gradients; memory is used as it is
  /// touched. A dry run of the same step says how much it takes.
  explicit context(std::size_t activations = gibibytes(4), std::size_t gradients = gibibytes(2))
      : activations_{activations},
        gradients_{gradients},
        memory{"activations", activations_.data(), activations},
        gradient_memory{"activation gradients", gradients_.data(), gradients} {}

  context(context const&) = delete;
  context& operator=(context const&) = delete;

  /// A kernel's own memory until the next kernel asks: kept, and grown when it is too small.
  template <class V>
  V* scratch(extent_t elements) {
    auto const bytes = static_cast<std::size_t>(elements) * sizeof(V);
    if (scratch_.size() < bytes)
      scratch_ = pages{bytes};
    return reinterpret_cast<V*>(scratch_.data());
  }
};

/// A parameter or a result of one element, as the host reads and changes it.
template <yoke::element T>
double scalar(context<T>&, view<accumulator_t<T> const, 1> v) {
  return static_cast<double>(v.data[0]);
}
template <yoke::element T>
void add_scalar(context<T>&, double amount, view<accumulator_t<T>, 1> v) {
  v.data[0] += static_cast<accumulator_t<T>>(amount);
}

/// The device's memory is the host's: plain copies.
template <yoke::element T, class V, int R>
void upload(context<T>&, view<V const, R> from, view<V, R> to) {
  expects(from.shape == to.shape, "upload: both sides have one shape");
  std::copy_n(from.data, from.size(), to.data);
}
template <yoke::element T, class V, int R>
void download(context<T>&, view<V const, R> from, view<V, R> to) {
  expects(from.shape == to.shape, "download: both sides have one shape");
  std::copy_n(from.data, from.size(), to.data);
}

}  // namespace yoke::cpu
