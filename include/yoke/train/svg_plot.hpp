// Line plots and heat maps as inline SVG. Colours come from the page's style sheet by class name, so that one
// picture suits light, dark and paper.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/train/format.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace yoke::train {

/// Points of a curve, left to right. A point that is not finite leaves a gap.
struct curve {
  std::vector<double> x{}, y{};
  std::vector<double> error{};  // of each y, drawn as a bar that far up and down; empty: no bars
};

/// One of several curves in a plot; a name puts it into the legend.
struct named_curve {
  std::string name{};
  curve points{};
};

/// How a plot of lines looks.
struct line_plot_options {
  std::string x_label = "step";
  std::string description{};  // for those who cannot see the picture
  bool percent = false;       // y is a share of 1, and 0 is on the axis
  bool smoothed = false;      // the points faint, with a running mean over them
  bool doublings = false;     // x > 0 by its logarithm, with a tick at each: for sizes that double
  double reference = std::numeric_limits<double>::quiet_NaN();  // a dashed horizontal line
  std::string reference_label{};
};

namespace detail {

/// Round numbers that cover [low, high]: multiples of step from first on.
struct ticks {
  double first = 0, step = 1;
  int count = 2;

  double at(int i) const { return first + step * i; }
  double last() const { return at(count - 1); }
};

/// 1, 2, 2.5 or 5 times a power of ten, about `wanted` of them; the first and the last lie outside the range.
inline ticks round_ticks(double low, double high, int wanted) {
  if (!(high - low > 1e-12 * std::max(std::abs(low), std::abs(high)))) {
    auto const margin = low == 0 ? 1 : std::abs(low) / 10;
    low -= margin;
    high += margin;
  }
  auto const rough = (high - low) / wanted;
  auto const power = std::pow(10, std::floor(std::log10(rough)));
  auto step = 10 * power;
  for (double nice : {5., 2.5, 2., 1.})
    if (nice * power >= rough * 0.999)
      step = nice * power;
  auto const first = std::floor(low / step + 1e-9);
  return {first * step, step, static_cast<int>(std::ceil(high / step - 1e-9) - first) + 1};
}

/// Labels of ticks share their digits; very small or large ones share a power of ten, which `exponent` gets.
inline std::vector<std::string> tick_labels(ticks const& t, int& exponent) {
  auto const largest = std::max(std::abs(t.first), std::abs(t.last()));
  exponent = static_cast<int>(std::floor(std::log10(largest)));
  if (exponent > -3 && exponent < 6)
    exponent = 0;
  auto const unit = std::pow(10, exponent);
  int digits = 0;
  for (auto step = t.step / unit; digits < 6 && std::abs(step - std::round(step)) > 1e-6 * step; ++digits)
    step *= 10;
  std::vector<std::string> labels;
  for (int i = 0; i < t.count; ++i) {
    auto const value = t.at(i) / unit;
    labels.push_back(digits == 0 ? grouped(std::llround(value)) : fixed(value, digits));
  }
  return labels;
}

/// "×10⁻⁴".
inline std::string power_of_ten(int exponent) {
  constexpr std::array<std::string_view, 10> digits{"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "×10⁻" : "×10";
  for (char c : std::to_string(std::abs(exponent))) text += digits[static_cast<std::size_t>(c - '0')];
  return text;
}

struct pixel {
  double x, y;
};

/// A path through the pixels, broken where one is not finite; a point between two gaps is a dot.
inline std::string path(std::vector<pixel> const& pixels, std::string_view style) {
  std::string line;
  auto drawn = [&](std::size_t i) { return i < pixels.size() && std::isfinite(pixels[i].y); };
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    if (!drawn(i))
      continue;
    bool const starts = i == 0 || !drawn(i - 1);
    line += (starts ? "M" : "L") + fixed(pixels[i].x, 1) + " " + fixed(pixels[i].y, 1);
    if (starts && !drawn(i + 1))
      line += "h0";  // drawn as a dot, because line caps are round
  }
  return "<path class='" + std::string(style) + "' d='" + line + "'/>";
}

/// At most four points for each of `columns` pixels: first, lowest, highest, last, so that no spike is lost.
inline std::vector<pixel> thinned(std::vector<pixel> const& pixels, std::size_t columns) {
  if (pixels.size() <= 4 * columns)
    return pixels;
  std::vector<pixel> kept;
  for (std::size_t c = 0; c < columns; ++c) {
    auto const begin = pixels.begin() + static_cast<std::ptrdiff_t>(c * pixels.size() / columns);
    auto const end = pixels.begin() + static_cast<std::ptrdiff_t>((c + 1) * pixels.size() / columns);
    auto lower = [](pixel a, pixel b) { return std::isfinite(a.y) && (!std::isfinite(b.y) || a.y < b.y); };
    auto higher = [](pixel a, pixel b) { return std::isfinite(a.y) && (!std::isfinite(b.y) || a.y > b.y); };
    std::array four{begin, std::min_element(begin, end, lower), std::min_element(begin, end, higher),
                    end - 1};
    std::sort(four.begin(), four.end());
    for (auto at : four) kept.push_back(*at);
  }
  return kept;
}

/// The mean over a window of a twentieth of the points around each, smaller towards the ends so that it stays centred.
inline std::vector<double> running_mean(std::vector<double> const& y) {
  std::vector<double> sums{0}, counts{0}, result;
  for (auto value : y) {
    bool const there = std::isfinite(value);
    sums.push_back(sums.back() + (there ? value : 0));
    counts.push_back(counts.back() + (there ? 1 : 0));
  }
  for (std::size_t i = 0; i < y.size(); ++i) {
    auto const reach = std::min({y.size() / 40, i, y.size() - 1 - i});
    auto const begin = i - reach, end = i + reach + 1;
    result.push_back(std::isfinite(y[i]) ? (sums[end] - sums[begin]) / (counts[end] - counts[begin]) : y[i]);
  }
  return result;
}

inline std::string svg_text(double x, double y, std::string_view style, std::string_view text) {
  return "<text class='" + std::string(style) + "' x='" + fixed(x, 1) + "' y='" + fixed(y, 1) + "'>" +
         escape(text) + "</text>";
}

inline std::string svg_line(pixel from, pixel to, std::string_view style) {
  return "<line class='" + std::string(style) + "' x1='" + fixed(from.x, 1) + "' y1='" + fixed(from.y, 1) +
         "' x2='" + fixed(to.x, 1) + "' y2='" + fixed(to.y, 1) + "'/>";
}

inline std::string svg_open(double width, double height, std::string_view style,
                            std::string_view description) {
  return "<svg class='" + std::string(style) + "' viewBox='0 0 " + fixed(width, 0) + " " + fixed(height, 0) +
         "' role='img' aria-label='" + escape(description) + "'>";
}

/// What line_plot draws of a curve: points with a place on both axes, y in the axis's unit, gaps as NaN.
inline curve drawable(curve const& points, line_plot_options const& options) {
  expects(points.x.size() == points.y.size(), "line_plot: as many x as y");
  expects(points.error.empty() || points.error.size() == points.y.size(),
          "line_plot: an error for each y, or none");
  auto const unit = options.percent ? 100. : 1.;
  auto const in_range = [](double value) { return std::abs(value) < 1e300; };
  curve drawn;
  for (std::size_t i = 0; i < points.x.size(); ++i) {
    auto const x = points.x[i];
    if (!std::isfinite(x))
      continue;
    expects(!options.doublings || x > 0, "line_plot: doublings are of positive sizes");
    drawn.x.push_back(options.doublings ? std::log2(x) : x);
    drawn.y.push_back(in_range(points.y[i]) ? points.y[i] * unit : std::nan(""));
    if (!points.error.empty())
      drawn.error.push_back(in_range(points.error[i]) ? std::abs(points.error[i]) * unit : 0);
  }
  return drawn;
}

/// The class by which a plot's curve is coloured: the first is as a page with one curve has it.
inline std::string curve_style(std::string_view base, std::size_t number) {
  constexpr std::array<std::string_view, 4> colours{"", " second", " third", " fourth"};
  return std::string(base).append(colours[number % colours.size()]);
}

/// Short lines with the names behind them.
inline std::string legend(std::span<named_curve const> curves, double left, double y) {
  std::string svg;
  for (std::size_t k = 0; k < curves.size(); ++k) {
    if (curves[k].name.empty())
      continue;
    svg += svg_line({left, y - 4}, {left + 16, y - 4}, curve_style("curve", k));
    svg += svg_text(left + 21, y, "muted", curves[k].name);
    left += 33 + 6.6 * static_cast<double>(characters(curves[k].name));
  }
  return svg;
}

/// A bar from y - error to y + error with short ends.
inline std::string error_bar(double x, double low, double high, std::string const& style) {
  return svg_line({x, low}, {x, high}, style) + svg_line({x - 3, low}, {x + 3, low}, style) +
         svg_line({x - 3, high}, {x + 3, high}, style);
}

}  // namespace detail

/// Curves with axes, round ticks and labels as an `<svg>` element; "no data" where no point is finite. Four colours.
inline std::string line_plot(std::span<named_curve const> curves, line_plot_options const& options) {
  using namespace detail;
  constexpr double width = 360, height = 230, left = 46, right = 350, bottom = 190;

  std::array<double, 2> low{HUGE_VAL, HUGE_VAL}, high{-HUGE_VAL, -HUGE_VAL};  // x, y
  auto include = [&](std::size_t axis, double value) {
    low[axis] = std::min(low[axis], value);
    high[axis] = std::max(high[axis], value);
  };
  std::vector<curve> all;
  std::vector<double> sizes;
  bool named = false;
  for (auto const& [name, points] : curves) {
    named = named || !name.empty();
    auto const& drawn = all.emplace_back(drawable(points, options));
    for (std::size_t i = 0; i < drawn.x.size(); ++i)
      if (std::isfinite(drawn.y[i])) {
        auto const error = drawn.error.empty() ? 0 : drawn.error[i];
        include(0, drawn.x[i]);
        include(1, drawn.y[i] - error);
        include(1, drawn.y[i] + error);
        sizes.push_back(drawn.x[i]);
      }
  }
  auto svg = svg_open(width, height, "plot", options.description);
  if (low[0] > high[0])
    return svg + svg_text(width / 2, height / 2, "muted middle", "no data") + "</svg>";

  auto const reference = options.reference * (options.percent ? 100 : 1);
  if (std::isfinite(reference))
    include(1, reference);
  if (options.percent)
    include(1, 0);
  auto const across = round_ticks(low[0], high[0], 5), up = round_ticks(low[1], high[1], 4);
  int exponent = 0;
  auto const y_labels = tick_labels(up, exponent);
  double const top = exponent == 0 && !named ? 10 : 28;
  auto x_of = [&](double x) {
    return high[0] > low[0] ? left + (right - left) * (x - low[0]) / (high[0] - low[0]) : (left + right) / 2;
  };
  auto y_of = [&](double y) { return bottom - (bottom - top) * (y - up.first) / (up.last() - up.first); };

  for (int i = 0; i < up.count; ++i) {
    auto const y = y_of(up.at(i));
    svg += svg_line({left, y}, {right, y}, i == 0 ? "axis" : "grid");
    svg += svg_text(left - 8, y + 4, "muted end",
                    y_labels[static_cast<std::size_t>(i)] + (options.percent ? " %" : ""));
  }
  if (exponent != 0)
    svg += svg_text(left - 8, 12, "muted end", power_of_ten(exponent));
  svg += legend(curves, exponent == 0 ? 8 : left, 14);
  auto const x_tick = [&](double x, std::string const& label) {
    svg += svg_line({x, bottom}, {x, bottom + 5}, "axis");
    svg += svg_text(x, bottom + 19, x > right - 12 ? "muted end" : "muted middle", label);
  };
  exponent = 0;
  if (options.doublings) {
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    for (double free = -HUGE_VAL; auto size : sizes)  // labels that would touch are left out
      if (auto const x = x_of(size); x > free) {
        x_tick(x, grouped(std::llround(std::exp2(size))));
        free = x + 30;
      }
  } else {
    auto const x_labels = tick_labels(across, exponent);
    for (int i = 0; i < across.count; ++i)
      if (auto const x = x_of(across.at(i)); x > left - 1 && x < right + 1)
        x_tick(x, x_labels[static_cast<std::size_t>(i)]);
  }
  svg += svg_text((left + right) / 2, height - 3, "muted middle",
                  options.x_label + (exponent != 0 ? "  " + power_of_ten(exponent) : ""));
  if (std::isfinite(reference)) {
    svg += svg_line({left, y_of(reference)}, {right, y_of(reference)}, "reference");
    svg += svg_text(right, y_of(reference) - 6, "muted end", options.reference_label);
  }

  for (std::size_t k = 0; k < all.size(); ++k) {
    auto const& drawn = all[k];
    auto const style = curve_style("curve", k);
    // Bars of several curves stand beside each other.
    auto const beside =
        drawn.error.empty() ? 0 : 4 * static_cast<double>(k) - 2 * static_cast<double>(all.size() - 1);
    auto to_pixels = [&](std::vector<double> const& ys) {
      std::vector<pixel> pixels;
      for (std::size_t i = 0; i < ys.size(); ++i) pixels.push_back({x_of(drawn.x[i]) + beside, y_of(ys[i])});
      return thinned(pixels, static_cast<std::size_t>(right - left));
    };
    bool const smooth = options.smoothed && drawn.y.size() > 80;
    svg += path(to_pixels(drawn.y), smooth ? style + " faint" : style);
    if (smooth)
      svg += path(to_pixels(running_mean(drawn.y)), style);
    for (std::size_t i = 0; i < drawn.error.size(); ++i)
      if (std::isfinite(drawn.y[i]))
        svg += error_bar(x_of(drawn.x[i]) + beside, y_of(drawn.y[i] - drawn.error[i]),
                         y_of(drawn.y[i] + drawn.error[i]), style);
    if (drawn.y.size() <= 40)
      for (auto const& p : to_pixels(drawn.y))
        if (std::isfinite(p.y))
          svg += "<circle class='" + curve_style("dot", k) + "' cx='" + fixed(p.x, 1) + "' cy='" +
                 fixed(p.y, 1) + "' r='3'/>";
  }
  return svg + "</svg>";
}

/// One curve.
inline std::string line_plot(curve const& points, line_plot_options const& options) {
  named_curve const alone{{}, points};
  return line_plot(std::span{&alone, 1}, options);
}

/// A confusion picture: one cell for each (true, predicted) pair of `names`, as deep as its share of the row's
/// counts. Small ones carry their percentage; all of them say it when pointed at.
inline std::string heat_map(std::span<std::string const> names, std::span<std::int64_t const> counts) {
  using namespace detail;
  auto const n = names.size();
  expects(counts.size() == n * n, "heat_map: a count for each pair of names");
  double const cell = n <= 12 ? 40 : n <= 20 ? 28 : 18;
  std::vector<std::string> labels;
  double longest = 0;
  for (auto const& name : names) {
    labels.push_back(shortened(name, 20));
    longest = std::max(longest, 7.2 * static_cast<double>(characters(labels.back())));
  }
  double const left = longest + 34, top = longest * 0.72 + 40, side = cell * static_cast<double>(n);
  // Column names lean to the right of their column, the last one the furthest.
  double const width = left + side + longest * 0.72 + 8, height = top + side + 8;
  auto svg = svg_open(width, height, "heat", "confusion of true and predicted classes");
  svg.insert(4,
             " style='max-width:" + fixed(width * 1.1, 0) + "px;min-width:" + fixed(width * 0.6, 0) + "px'");
  svg += svg_text(left + side / 2, 14, "muted middle", "predicted");
  svg += "<text class='muted middle' transform='translate(14 " + fixed(top + side / 2, 1) +
         ") rotate(-90)'>true</text>";
  for (std::size_t row = 0; row < n; ++row) {
    auto const along = (static_cast<double>(row) + .5) * cell;
    svg += svg_text(left - 8, top + along + 4, "end", labels[row]);
    svg += "<text transform='translate(" + fixed(left + along + 3, 1) + " " + fixed(top - 8, 1) +
           ") rotate(-45)'>" + escape(labels[row]) + "</text>";
    double total = 0;
    for (std::size_t c = 0; c < n; ++c) total += static_cast<double>(counts[row * n + c]);
    for (std::size_t c = 0; c < n; ++c) {
      auto const count = counts[row * n + c];
      auto const share = total > 0 ? static_cast<double>(count) / total : 0;
      auto const x = left + static_cast<double>(c) * cell, y = top + static_cast<double>(row) * cell;
      svg += "<g><title>" + escape(names[row] + " taken for " + names[c]) + ": " + grouped(count) + " of " +
             grouped(std::llround(total)) + "</title><rect class='ground' x='" + fixed(x, 1) + "' y='" +
             fixed(y, 1) + "' width='" + fixed(cell - 2, 1) + "' height='" + fixed(cell - 2, 1) + "'/>";
      if (count > 0)
        svg += "<rect class='" + std::string(row == c ? "right" : "wrong") + "' fill-opacity='" +
               fixed(.08 + .92 * share, 3) + "' x='" + fixed(x, 1) + "' y='" + fixed(y, 1) + "' width='" +
               fixed(cell - 2, 1) + "' height='" + fixed(cell - 2, 1) + "'/>";
      if (cell >= 28 && share >= .005)
        svg += svg_text(x + cell / 2 - 1, y + cell / 2 + 3, share > .5 ? "cell deep" : "cell",
                        fixed(100 * share, 0));
      svg += "</g>";
    }
  }
  return svg + "</svg>";
}

}  // namespace yoke::train
