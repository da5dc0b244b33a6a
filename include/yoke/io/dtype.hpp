// The element types of a safetensors file, and those of them that C++ has.
#pragma once
#include <yoke/core/numeric.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace yoke::io {

/// What one element of a stored tensor is. Types without a C++ twin are read and written as bytes.
enum class dtype {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

namespace detail {
struct dtype_facts {
  std::string_view name;  // in the file
  std::size_t bytes;
};
inline constexpr auto dtypes = std::to_array<dtype_facts>({
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"F8_E8M0", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"C64", 8},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
});
}  // namespace detail

/// The name that a file gives a type: "F32".
constexpr std::string_view name_of(dtype type) {
  return detail::dtypes[static_cast<std::size_t>(type)].name;
}

/// Bytes of one element.
constexpr std::size_t size_of(dtype type) {
  return detail::dtypes[static_cast<std::size_t>(type)].bytes;
}

/// The type of a name, or nothing.
constexpr std::optional<dtype> dtype_named(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtypes.size(); ++i)
    if (detail::dtypes[i].name == name)
      return static_cast<dtype>(i);
  return {};
}

/// The stored type of a C++ type: the fixed-width integers, float, double, yoke::bf16. Not bool, whose
/// bytes a file could set to anything: read those as std::uint8_t.
template <class T>
constexpr dtype dtype_of() {
  using U = std::remove_cv_t<T>;
  constexpr auto integer = [] {
    return sizeof(U) == 1   ? (std::is_signed_v<U> ? dtype::i8 : dtype::u8)
           : sizeof(U) == 2 ? (std::is_signed_v<U> ? dtype::i16 : dtype::u16)
           : sizeof(U) == 4 ? (std::is_signed_v<U> ? dtype::i32 : dtype::u32)
                            : (std::is_signed_v<U> ? dtype::i64 : dtype::u64);
  };
  if constexpr (std::is_same_v<U, float>)
    return dtype::f32;
  else if constexpr (std::is_same_v<U, double>)
    return dtype::f64;
  else if constexpr (std::is_same_v<U, yoke::bf16>)
    return dtype::bf16;
  else {
    static_assert(std::is_integral_v<U> && !std::is_same_v<U, bool>,
                  "dtype_of: no stored type for this C++ type");
    return integer();
  }
}

}  // namespace yoke::io
