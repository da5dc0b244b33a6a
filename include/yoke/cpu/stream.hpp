// Stores past the caches, for results that are larger than they are: the processor then does not read from memory what
// it is about to overwrite, which is a third of a kernel's traffic.
#pragma once
#include <yoke/cpu/lanes.hpp>

#include <bit>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace yoke::cpu::detail {

/// Results of so many bytes are not in the caches any more when the next kernel reads them.
inline constexpr extent_t streamed_bytes = extent_t{1} << 25;
/// What the processor writes at a time past the caches. Less is slower than any other way.
inline constexpr extent_t streamed_line = 64;

#if defined(__SSE2__)
inline constexpr bool can_stream = true;

/// The vector goes to p, past the caches when `streaming` says so; p is then a multiple of the vector's size, and the
/// rest of its line follows.
template <class V>
void put(void* p, V const& v, bool streaming) {
  if (!streaming) {
    std::memcpy(p, &v, sizeof v);
    return;
  }
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(p), std::bit_cast<__m512i>(v));
#elif defined(__AVX__)
  _mm256_stream_si256(static_cast<__m256i*>(p), std::bit_cast<__m256i>(v));
#else
  _mm_stream_si128(static_cast<__m128i*>(p), std::bit_cast<__m128i>(v));
#endif
}
/// What this thread has put past the caches is seen by the others from here on.
inline void finish_streaming() {
  _mm_sfence();
}
#else
inline constexpr bool can_stream = false;

template <class V>
void put(void* p, V const& v, bool) {
  std::memcpy(p, &v, sizeof v);
}
inline void finish_streaming() {}
#endif

}  // namespace yoke::cpu::detail
