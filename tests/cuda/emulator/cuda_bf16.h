// bfloat16 as CUDA has it: the upper half of a float.
#pragma once
#include "emulator/types.hpp"
#include <bit>

struct __nv_bfloat16 {
  std::uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 v) {
  return std::bit_cast<float>(std::uint32_t{v.bits} << 16);
}
/// Ties to even; every NaN becomes 0x7fff.
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  auto const b = std::bit_cast<std::uint32_t>(v);
  if (v != v)
    return {0x7fff};
  return {static_cast<std::uint16_t>((b + 0x7fff + ((b >> 16) & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float v) {
  return __float2bfloat16_rn(v);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) {
  return v.bits;
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) {
  return {v};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
}
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) {
  return v.x;
}
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) {
  return v.y;
}
inline float __low2float(__nv_bfloat162 v) {
  return __bfloat162float(v.x);
}
inline float __high2float(__nv_bfloat162 v) {
  return __bfloat162float(v.y);
}
inline float2 __bfloat1622float2(__nv_bfloat162 v) {
  return {__low2float(v), __high2float(v)};
}
