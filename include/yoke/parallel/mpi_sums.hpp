// Sums and maxima of what ranks have sent, for MPI: element by element, in the order of the ranks.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/parallel/communicator.hpp>
#include <yoke/parallel/mpi_calls.hpp>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace yoke::parallel::detail {

/// How two ranks' values become one, in the type of the sum.
template <class A>
A combined(A a, A b, reduction how) {
  return how == reduction::sum ? a + b : std::max(a, b);
}

/// out[i] = the sum or maximum of the sources' elements i, from the first source on, rounded once. `out` may be one of
/// the sources.
template <element T>
void combine(std::span<void const* const> sources, extent_t n, reduction how, T* out) {
  using sum_type = accumulator_t<T>;
  constexpr extent_t most = 1024;  // elements at a time, so that their sums stay close to the processor
  std::array<sum_type, static_cast<std::size_t>(most)> sums;
  for (extent_t begin = 0; begin < n; begin += most) {
    auto const count = std::min(most, n - begin);
    for (std::size_t r = 0; r < sources.size(); ++r) {
      auto const* const from = static_cast<T const*>(sources[r]) + begin;
      for (extent_t i = 0; i < count; ++i) {
        auto& sum = sums[static_cast<std::size_t>(i)];
        auto const value = static_cast<sum_type>(from[i]);
        sum = r == 0 ? value : combined(sum, value, how);
      }
    }
    for (extent_t i = 0; i < count; ++i) out[begin + i] = static_cast<T>(sums[static_cast<std::size_t>(i)]);
  }
}

/// An operation of MPI's for pairs of bf16 values: taken in float, rounded after each pair.
template <reduction How>
void combine_pairs(void* from, void* to, int* count, MPI_Datatype*) {
  auto const* const a = static_cast<bf16 const*>(from);
  auto* const b = static_cast<bf16*>(to);
  for (int i = 0; i < *count; ++i)
    b[i] = bf16{combined(static_cast<float>(a[i]), static_cast<float>(b[i]), How)};
}

/// The operations above while they are known to MPI.
class mpi_pair_operations {
 public:
  mpi_pair_operations() {
    check_mpi(MPI_Op_create(combine_pairs<reduction::sum>, 1, &sum_), "MPI_Op_create");
    check_mpi(MPI_Op_create(combine_pairs<reduction::maximum>, 1, &maximum_), "MPI_Op_create");
  }
  mpi_pair_operations(mpi_pair_operations const&) = delete;
  mpi_pair_operations& operator=(mpi_pair_operations const&) = delete;
  ~mpi_pair_operations() {
    if (mpi_has_ended())
      return;
    MPI_Op_free(&sum_);
    MPI_Op_free(&maximum_);
  }

  /// For elements of type T, as MPI has them.
  template <element T>
  std::pair<MPI_Datatype, MPI_Op> of(reduction how) const {
    auto const sums = how == reduction::sum;
    if constexpr (std::is_same_v<T, bf16>)
      return {MPI_UINT16_T, sums ? sum_ : maximum_};
    else
      return {std::is_same_v<T, float> ? MPI_FLOAT : MPI_DOUBLE, sums ? MPI_SUM : MPI_MAX};
  }

 private:
  MPI_Op sum_ = MPI_OP_NULL, maximum_ = MPI_OP_NULL;
};

}  // namespace yoke::parallel::detail
