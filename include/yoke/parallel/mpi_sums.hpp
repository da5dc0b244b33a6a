// Sums and maxima that MPI takes itself, of bf16 too.
#pragma once
#include <yoke/parallel/combine.hpp>
#include <yoke/parallel/mpi_calls.hpp>

#include <utility>

namespace yoke::parallel::detail {

/// An operation of MPI's for pairs of bf16 values: taken in float, rounded after each pair.
template <reduction How>
void combine_pairs(void* from, void* to, int* count, MPI_Datatype*) {
  auto* const result = static_cast<bf16*>(to);
  combine<bf16>(
      2, [&](std::size_t which) { return which == 0 ? static_cast<bf16 const*>(from) : result; }, *count, How,
      [&](extent_t i, bf16 const* values, extent_t n) { std::copy_n(values, n, result + i); });
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
