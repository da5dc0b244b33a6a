// The inner loops of the gradients of depthwise 3 x 3 weights with padding 1: nine sums for a block of channels in
// registers, along a line of pixels.
#pragma once
#include <yoke/cpu/depthwise_lines.hpp>

namespace yoke::cpu::detail {

/// A line of the gradient of the output, the lines of the input under its windows, and the sums for the first tap of
/// each, which T splits as its blocks.
template <class T>
struct depthwise_pair {
  T const* from[3]{};
  accumulator_t<T>* sums[3]{};
  int rows = 0;
  extent_t width, up_width, channels;
  T const* up;
  T const* ahead[2]{};
  T const* ahead_up;
};

/// The sums of a block of channels in registers.
template <class T, int Rows>
struct tap_sums {
  using block = channel_block<accumulator_t<T>>;

  depthwise_pair<T> line;
  block sums[Rows][3];

  tap_sums(depthwise_pair<T> const& l, extent_t channel) : line{l} {
    for (auto& p : line.from) p += channel;
    for (auto& p : line.sums) p += channel;
    for (auto& p : line.ahead) p += channel * l.width;
    line.up += channel;
    line.ahead_up += channel * l.up_width;
    for_each_of<Rows, 3>(
        [&](auto r, auto tap) { sums[r][tap] = load_block(line.sums[r] + tap * line.channels); });
  }
  ~tap_sums() {
    for_each_of<Rows, 3>(
        [&](auto r, auto tap) { save_block(line.sums[r] + tap * line.channels, sums[r][tap]); });
  }
  [[gnu::always_inline]] block up(extent_t x) const { return load_block(line.up + x * line.channels); }
  /// Each of the taps gets the pixels at x times its own number of `ups`.
  template <int... Tap>
  [[gnu::always_inline]] void add(extent_t x, std::integer_sequence<int, Tap...>, auto const&... ups) {
    for_each_of<Rows, 1>([&](auto r, auto) {
      auto const pixel = load_block(line.from[r] + x * line.channels);
      (sums[r][Tap].add(pixel, ups), ...);
    });
  }
  template <int Lines>
  [[gnu::always_inline]] void fetch(extent_t x) const {
    for (int i = 0; i < Lines; ++i) fetch_block(line.ahead[i] + x * block::count);
  }
  [[gnu::always_inline]] void fetch_up(extent_t x) const { fetch_block(line.ahead_up + x * block::count); }
};

template <int... Tap>
using taps = std::integer_sequence<int, Tap...>;

/// Pixel x is under the windows of x + 1, x and x - 1.
struct sum_by_one {
  template <class T, int Rows>
  static void run(depthwise_pair<T> const& line, extent_t channel) {
    tap_sums<T, Rows> sums{line, channel};
    typename tap_sums<T, Rows>::block before, here = sums.up(0);
    for (extent_t x = 0; x + 1 < line.width; ++x) {
      sums.template fetch<1>(x);
      sums.fetch_up(x);
      auto const after = sums.up(x + 1);
      sums.add(x, taps<0, 1, 2>{}, after, here, before);
      before = here;
      here = after;
    }
    sums.add(line.width - 1, taps<1, 2>{}, here, before);
  }
};

/// Pixel 2 x is under the window of x, pixel 2 x + 1 under those of x + 1 and x.
struct sum_by_two {
  template <class T, int Rows>
  static void run(depthwise_pair<T> const& line, extent_t channel) {
    tap_sums<T, Rows> sums{line, channel};
    auto here = sums.up(0);
    for (extent_t x = 0; x + 1 < line.up_width; ++x) {
      sums.template fetch<2>(2 * x);
      sums.template fetch<2>(2 * x + 1);
      sums.fetch_up(x);
      auto const after = sums.up(x + 1);
      sums.add(2 * x, taps<1>{}, here);
      sums.add(2 * x + 1, taps<0, 2>{}, after, here);
      here = after;
    }
    sums.add(2 * line.up_width - 2, taps<1>{}, here);
    if (line.width % 2 == 0)
      sums.add(line.width - 1, taps<2>{}, here);
  }
};

}  // namespace yoke::cpu::detail
