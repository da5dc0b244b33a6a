// Matrix products as cublasLt defines them, in plain loops: column-major operands of several types, sums in float
// or double.
#pragma once
#include "types.hpp"
#include <bit>
#include <cstdint>
#include <vector>

namespace emulator {

/// A column-major matrix in memory: element (i, j) is number i + j ld.
struct matrix {
  cudaDataType_t type{};
  std::uint64_t rows = 0, columns = 0;
  std::int64_t ld = 0;

  std::size_t element_size() const { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }
  std::size_t bytes() const {
    return (static_cast<std::size_t>(ld) * (columns - 1) + static_cast<std::size_t>(rows)) * element_size();
  }
};

/// D = alpha op(A) op(B) + beta C + bias.
struct product {
  matrix a, b, c, d;
  bool transpose_a = false, transpose_b = false, tf32 = false;
  double alpha = 1, beta = 0;
  void const *a_at = nullptr, *b_at = nullptr, *c_at = nullptr;
  void const* bias = nullptr;  // of D's type, one for each row; null: none
  void* d_at = nullptr;
};

inline double number(cudaDataType_t type, void const* at, std::size_t i) {
  if (type == CUDA_R_64F)
    return static_cast<double const*>(at)[i];
  if (type == CUDA_R_32F)
    return static_cast<double>(static_cast<float const*>(at)[i]);
  return static_cast<double>(
      std::bit_cast<float>(std::uint32_t{static_cast<std::uint16_t const*>(at)[i]} << 16));
}
inline void set_number(cudaDataType_t type, void* at, std::size_t i, double v) {
  auto const single = static_cast<float>(v);
  if (type == CUDA_R_64F) {
    static_cast<double*>(at)[i] = v;
  } else if (type == CUDA_R_32F) {
    static_cast<float*>(at)[i] = single;
  } else {
    auto const bits = std::bit_cast<std::uint32_t>(single);
    static_cast<std::uint16_t*>(at)[i] =
        v != v ? std::uint16_t{0x7fff}
               : static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

/// op(M) in the type of sums, packed: element (i, j) is number i + j rows.
template <class Sum>
std::vector<Sum> unpacked(matrix const& m, void const* at, bool transposed, bool tf32) {
  auto const rows = static_cast<std::size_t>(transposed ? m.columns : m.rows);
  auto const columns = static_cast<std::size_t>(transposed ? m.rows : m.columns);
  auto const ld = static_cast<std::size_t>(m.ld);
  std::vector<Sum> to(rows * columns);
  for (std::size_t j = 0; j < columns; ++j)
    for (std::size_t i = 0; i < rows; ++i) {
      auto v = static_cast<Sum>(number(m.type, at, transposed ? j + i * ld : i + j * ld));
      if constexpr (sizeof(Sum) == 4)
        if (tf32)  // 10 bits of mantissa, the nearest
          v = std::bit_cast<float>((std::bit_cast<std::uint32_t>(v) + 0x1000u) & 0xffffe000u);
      to[i + j * rows] = v;
    }
  return to;
}

template <class Sum>
void multiply(product const& p) {
  auto const a = unpacked<Sum>(p.a, p.a_at, p.transpose_a, p.tf32);
  auto const b = unpacked<Sum>(p.b, p.b_at, p.transpose_b, p.tf32);
  auto const rows = static_cast<std::size_t>(p.d.rows), columns = static_cast<std::size_t>(p.d.columns);
  auto const depth = b.size() / columns;
  constexpr std::size_t strip = 256;  // rows whose sums stay near
  Sum sums[strip];
  for (std::size_t first = 0; first < rows; first += strip) {
    auto const here = rows - first < strip ? rows - first : strip;
    for (std::size_t j = 0; j < columns; ++j) {
      for (std::size_t i = 0; i < here; ++i) sums[i] = 0;
      for (std::size_t k = 0; k < depth; ++k) {
        Sum const* const column = a.data() + first + k * rows;
        Sum const factor = b[k + j * depth];
        for (std::size_t i = 0; i < here; ++i) sums[i] += column[i] * factor;
      }
      for (std::size_t i = 0; i < here; ++i) {
        auto v = static_cast<Sum>(p.alpha) * sums[i];
        auto const row = first + i;
        if (p.beta != 0)
          v +=
              static_cast<Sum>(p.beta * number(p.c.type, p.c_at, row + j * static_cast<std::size_t>(p.c.ld)));
        if (p.bias != nullptr)
          v += static_cast<Sum>(number(p.d.type, p.bias, row));
        set_number(p.d.type, p.d_at, row + j * static_cast<std::size_t>(p.d.ld), static_cast<double>(v));
      }
    }
  }
}

}  // namespace emulator
