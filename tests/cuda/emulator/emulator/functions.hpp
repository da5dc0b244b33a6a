// Functions that CUDA has at global scope: mathematics beyond the C library's, bits, reads through the cache,
// atomics.
#pragma once
#include "types.hpp"
#include <bit>
#include <concepts>
#include <type_traits>
#include <utility>

// The C library declares some of the fast functions' names for its own use.
extern "C" {
inline float __expf(float x) noexcept {
  return expf(x);
}
inline float __logf(float x) noexcept {
  return logf(x);
}
inline float __log2f(float x) noexcept {
  return log2f(x);
}
inline float __powf(float x, float y) noexcept {
  return powf(x, y);
}
inline float __sinf(float x) noexcept {
  return sinf(x);
}
inline float __cosf(float x) noexcept {
  return cosf(x);
}
inline float rsqrtf(float x) noexcept {
  return 1 / sqrtf(x);
}
inline double rsqrt(double x) noexcept {
  return 1 / sqrt(x);
}
inline double cospi(double x) noexcept {
  return cos(3.14159265358979323846 * x);
}
inline double sinpi(double x) noexcept {
  return sin(3.14159265358979323846 * x);
}
inline float cospif(float x) noexcept {
  return static_cast<float>(cospi(static_cast<double>(x)));
}
inline float sinpif(float x) noexcept {
  return static_cast<float>(sinpi(static_cast<double>(x)));
}
}
inline float __fdividef(float x, float y) {
  return x / y;
}
inline float __frcp_rn(float x) {
  return 1 / x;
}
inline float __fmul_rn(float x, float y) {
  return x * y;
}
inline float __fadd_rn(float x, float y) {
  return x + y;
}
inline float __fsqrt_rn(float x) {
  return sqrtf(x);
}
inline float __saturatef(float x) {
  return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}
inline float __frsqrt_rn(float x) {
  return 1 / sqrtf(x);
}
inline void sincospif(float x, float* s, float* c) {
  *s = sinpif(x);
  *c = cospif(x);
}
inline void sincospi(double x, double* s, double* c) {
  *s = sinpi(x);
  *c = cospi(x);
}

template <std::integral T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <std::integral T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline unsigned min(unsigned a, int b) {
  return min(a, static_cast<unsigned>(b));
}
inline unsigned min(int a, unsigned b) {
  return min(static_cast<unsigned>(a), b);
}
inline unsigned max(unsigned a, int b) {
  return max(a, static_cast<unsigned>(b));
}
inline unsigned max(int a, unsigned b) {
  return max(static_cast<unsigned>(a), b);
}
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline double min(double a, double b) {
  return fmin(a, b);
}
inline double max(double a, double b) {
  return fmax(a, b);
}

inline unsigned __float_as_uint(float v) {
  return std::bit_cast<unsigned>(v);
}
inline int __float_as_int(float v) {
  return std::bit_cast<int>(v);
}
inline float __uint_as_float(unsigned v) {
  return std::bit_cast<float>(v);
}
inline float __int_as_float(int v) {
  return std::bit_cast<float>(v);
}
inline long long __double_as_longlong(double v) {
  return std::bit_cast<long long>(v);
}
inline double __longlong_as_double(long long v) {
  return std::bit_cast<double>(v);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((std::int64_t{a} * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using wide = unsigned __int128;
  return static_cast<unsigned long long>((static_cast<wide>(a) * b) >> 64);
}
inline int __clz(int v) {
  return std::countl_zero(static_cast<unsigned>(v));
}
inline int __clzll(long long v) {
  return std::countl_zero(static_cast<unsigned long long>(v));
}
inline int __ffs(int v) {
  return v == 0 ? 0 : std::countr_zero(static_cast<unsigned>(v)) + 1;
}
inline int __popc(unsigned v) {
  return std::popcount(v);
}
inline int __popcll(unsigned long long v) {
  return std::popcount(v);
}
inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= ((v >> i) & 1u) << (31 - i);
  return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((((std::uint64_t{high} << 32) | low) << (shift & 31)) >> 32);
}
inline int __float2int_rn(float v) {
  return static_cast<int>(lrintf(v));
}

/// Read once and not kept in the cache, or kept: here all reads are alike.
template <class T>
T __ldg(T const* p) {
  return *p;
}
template <class T>
T __ldcs(T const* p) {
  return *p;
}
template <class T>
T __ldcg(T const* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
void __stcg(T* p, T v) {
  *p = v;
}

// Threads change over only where they wait: plain reads and writes are atomic. All give what was there before.
namespace emulator {
template <class T>
concept atomic_integer =
    std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>;
template <class T>
concept atomic_number = atomic_integer<T> || std::same_as<T, float> || std::same_as<T, double>;

template <class T, class F>
T replace(T* p, F const& f) {
  unseen const not_a_race;
  return std::exchange(*p, static_cast<T>(f(*p)));
}
}  // namespace emulator

template <emulator::atomic_number T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return emulator::replace(p, [v](T) { return v; });
}
template <emulator::atomic_number T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return emulator::replace(p, [v](T old) { return old + v; });
}
template <emulator::atomic_integer T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return emulator::replace(p, [v](T old) { return old < v ? v : old; });
}
template <emulator::atomic_integer T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  return emulator::replace(p, [v](T old) { return v < old ? v : old; });
}
template <emulator::atomic_integer T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return emulator::replace(p, [v](T old) { return old | v; });
}
template <emulator::atomic_integer T>
T atomicAnd(T* p, std::type_identity_t<T> v) {
  return emulator::replace(p, [v](T old) { return old & v; });
}
template <emulator::atomic_integer T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return emulator::replace(p, [expected, v](T old) { return old == expected ? v : old; });
}
