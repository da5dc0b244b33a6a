// The inner loops of depthwise 3 x 3 convolutions with padding 1: along a line of pixels, a block of channels at a
// time, so that a pixel is loaded once for all that it is part of.
#pragma once
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/stream.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace yoke::cpu::detail {

/// Two vectors of channels. Numbers in bf16 are split into those at even and at odd places, which takes one instruction
/// a vector where to widen them takes two; what they meet is split alike.
template <class A>
struct channel_block {
  static constexpr extent_t count = 2 * lanes<A>::count;
  lanes_t<A> first{}, second{};

  /// this += a b
  [[gnu::always_inline]] void add(channel_block const& a, channel_block const& b) {
    first += a.first * b.first;
    second += a.second * b.second;
  }
};

using bit_lanes = std::uint32_t __attribute__((vector_size(vector_bytes)));

template <class A>
channel_block<A> load_block(A const* p) {
  return {load(p), load(p + lanes<A>::count)};
}
inline channel_block<float> load_block(bf16 const* p) {
  static_assert(std::endian::native == std::endian::little);
  bit_lanes both;
  std::memcpy(&both, p, sizeof both);
  return {std::bit_cast<lanes_t<float>>(both << 16), std::bit_cast<lanes_t<float>>(both & 0xffff0000u)};
}

/// `streaming`: past the caches, as stream.hpp has it.
template <class A>
void save_block(A* p, channel_block<A> const& b, bool streaming = false) {
  put(p, b.first, streaming);
  put(p + lanes<A>::count, b.second, streaming);
}
inline void save_block(bf16* p, channel_block<float> const& b, bool streaming = false) {
  // As bf16{float}, in the upper halves. NaNs need no care: those made of numbers in bf16 have lower halves of 0.
  auto const rounded = [](lanes_t<float> v) {
    auto const u = std::bit_cast<bit_lanes>(v);
    return u + 0x7fffu + ((u >> 16) & 1u);
  };
  put(p, (rounded(b.first) >> 16) | (rounded(b.second) & 0xffff0000u), streaming);
}

/// Lets the caches fetch a block that is read, or else written, soon.
template <bool Written = false, class T>
[[gnu::always_inline]] inline void fetch_block(T const* p) {
  for (extent_t i = 0; i < channel_block<accumulator_t<T>>::count; i += extent_t{64 / sizeof(T)})
    if constexpr (Written)
      __builtin_prefetch(p + i, 1);
    else
      __builtin_prefetch(p + i, 0, 2);
}

/// The numbers of a block in their order, where those of T are split.
template <class T, class A>
void save_joined(A* p, channel_block<A> const& b) {
  if constexpr (std::is_same_v<T, bf16>) {
    constexpr int n = lanes<A>::count;
    [&]<int... I>(std::integer_sequence<int, I...>) {
      save(p, shuffle<A, (I / 2 + I % 2 * n)...>(b.first, b.second));
      save(p + n, shuffle<A, ((n + I) / 2 + I % 2 * n)...>(b.first, b.second));
    }
    (std::make_integer_sequence<int, n>{});
  } else {
    save_block(p, b);
  }
}

/// What a line of output is made of, and where it goes.
template <class T>
struct depthwise_line {
  T const *from[3]{}, *weights[3]{};  // the lines under the window, and the first tap of each
  int rows = 0;                       // of the three that are within the image
  extent_t width, out_width;
  extent_t channels;  // elements from pixel to pixel
  extent_t tap_step;  // elements from one tap to the next of its line
  T* to;
  bool accumulate, streaming;
  // What the next lines need is fetched meanwhile, in the order of memory, which the processor then runs on with: it
  // cannot guess the pixels of a block of channels, which are far from each other.
  T const* ahead[2]{};
  T* ahead_to;
};

/// The taps of a block of channels in registers, `Rows` lines of three.
template <class T, int Rows>
struct depthwise_taps {
  using block = channel_block<accumulator_t<T>>;
  using pixels = std::array<block, Rows>;  // one below the other

  depthwise_line<T> line;
  block weights[Rows][3];

  depthwise_taps(depthwise_line<T> const& l, extent_t channel) : line{l} {
    for_each_of<Rows, 3>(
        [&](auto r, auto tap) { weights[r][tap] = load_block(l.weights[r] + channel + tap * l.tap_step); });
    for (auto& p : line.from) p += channel;
    for (auto& p : line.ahead) p += channel * l.width;
    line.to += channel;
    line.ahead_to += channel * l.out_width;
  }
  [[gnu::always_inline]] pixels column(extent_t x) const {
    pixels p;
    for_each_of<Rows, 1>([&](auto r, auto) { p[r] = load_block(line.from[r] + x * line.channels); });
    return p;
  }
  template <int Tap>
  [[gnu::always_inline]] void add(block& sum, pixels const& p) const {
    for_each_of<Rows, 1>([&](auto r, auto) { sum.add(weights[r][Tap], p[r]); });
  }
  template <int Lines>
  [[gnu::always_inline]] void fetch(extent_t x) const {
    for (int i = 0; i < Lines; ++i) fetch_block(line.ahead[i] + x * block::count);
  }
  [[gnu::always_inline]] void emit(extent_t x, block sum) const {
    auto* const p = line.to + x * line.channels;
    if (line.accumulate) {
      auto const before = load_block(p);
      sum.first += before.first;
      sum.second += before.second;
    }
    if (!line.streaming)
      fetch_block<true>(line.ahead_to + x * block::count);
    save_block(p, sum, line.streaming);
  }
};

/// to[x] = taps 0, 1, 2 times from[x - 1], from[x], from[x + 1]
struct slide_by_one {
  template <class T, int Rows>
  static void run(depthwise_line<T> const& line, extent_t channel) {
    depthwise_taps<T, Rows> const taps{line, channel};
    typename depthwise_taps<T, Rows>::block sum, next;
    auto const start = taps.column(0);
    taps.template add<1>(sum, start);
    taps.template add<0>(next, start);
    for (extent_t x = 1; x < line.width; ++x) {
      taps.template fetch<1>(x);
      auto const p = taps.column(x);
      taps.template add<2>(sum, p);
      taps.emit(x - 1, sum);
      sum = next;
      next = {};
      taps.template add<1>(sum, p);
      taps.template add<0>(next, p);
    }
    taps.emit(line.width - 1, sum);
  }
};

/// to[x] = taps 0, 1, 2 times from[2 x - 1], from[2 x], from[2 x + 1]
struct slide_by_two {
  template <class T, int Rows>
  static void run(depthwise_line<T> const& line, extent_t channel) {
    depthwise_taps<T, Rows> const taps{line, channel};
    typename depthwise_taps<T, Rows>::block sum;
    for (extent_t x = 0; x < line.width / 2; ++x) {
      taps.template fetch<2>(2 * x);
      taps.template fetch<2>(2 * x + 1);
      taps.template add<1>(sum, taps.column(2 * x));
      auto const p = taps.column(2 * x + 1);
      taps.template add<2>(sum, p);
      taps.emit(x, sum);
      sum = {};
      taps.template add<0>(sum, p);
    }
    if (line.width % 2 != 0) {
      taps.template add<1>(sum, taps.column(line.width - 1));
      taps.emit(line.out_width - 1, sum);
    }
  }
};

/// to[2 x] = tap 1 times from[x], to[2 x + 1] = tap 2 times from[x] + tap 0 times from[x + 1]
struct spread_by_two {
  template <class T, int Rows>
  static void run(depthwise_line<T> const& line, extent_t channel) {
    depthwise_taps<T, Rows> const taps{line, channel};
    typename depthwise_taps<T, Rows>::block odd;
    for (extent_t x = 0; x < line.width; ++x) {
      taps.template fetch<1>(x);
      auto const p = taps.column(x);
      if (x > 0) {
        taps.template add<0>(odd, p);
        taps.emit(2 * x - 1, odd);
      }
      typename depthwise_taps<T, Rows>::block even;
      taps.template add<1>(even, p);
      taps.emit(2 * x, even);
      odd = {};
      taps.template add<2>(odd, p);
    }
    if (line.out_width % 2 == 0)
      taps.emit(line.out_width - 1, odd);
  }
};

/// Calls Loop::run for all whole blocks of channels of a line; the number of channels that are done.
template <class Loop, template <class> class Line, class T>
extent_t run_by_blocks(Line<T> const& line) {
  constexpr auto n = channel_block<accumulator_t<T>>::count;
  extent_t channel = 0;
  for (; channel + n <= line.channels; channel += n)
    if (line.rows == 3)
      Loop::template run<T, 3>(line, channel);
    else if (line.rows == 2)
      Loop::template run<T, 2>(line, channel);
    else
      Loop::template run<T, 1>(line, channel);
  return channel;
}

}  // namespace yoke::cpu::detail
