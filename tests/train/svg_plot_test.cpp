// Plots of several curves: error bars, legend, sizes that double; plots as files of their own.
#include <yoke/train/svg_file.hpp>
#include <yoke/train/svg_plot.hpp>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

using namespace yoke;
using namespace yoke::train;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

namespace {

constexpr auto not_a_number = std::numeric_limits<double>::quiet_NaN();

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// The numbers of an attribute of the lines of a class, in their order.
std::vector<double> of_lines(std::string_view svg, std::string_view style, std::string_view attribute) {
  std::vector<double> values;
  auto const opening = "<line class='" + std::string(style) + "'";
  auto const name = std::string(attribute) + "='";
  for (auto at = svg.find(opening); at != std::string_view::npos; at = svg.find(opening, at + 1))
    values.push_back(std::stod(std::string(svg.substr(svg.find(name, at) + name.size(), 12))));
  return values;
}

}  // namespace

TEST_CASE("an error bar reaches as far up as down, and the axis holds it") {
  auto const svg = line_plot({{1, 2}, {10, 20}, {5, 0}}, {});
  auto const from = of_lines(svg, "curve", "y1"), to = of_lines(svg, "curve", "y2");
  REQUIRE(from.size() == 6);  // for each point the bar and its two ends
  // From 5 to 20 the axis has 5, 10, 15, 20 between 190 and 10: 12 pixels a unit.
  CHECK(std::abs(from[0] - 190) < 0.11);
  CHECK(std::abs(to[0] - 70) < 0.11);
  CHECK(std::abs(from[3] - 10) < 0.11);
  CHECK(from[3] == to[3]);
  CHECK(count(svg, "<circle") == 2);
}

TEST_CASE("errors are in the unit of y; an unknown one leaves no bar of length") {
  auto const svg = line_plot({{1, 2}, {.5, .25}, {.25, not_a_number}}, {.percent = true});
  auto const from = of_lines(svg, "curve", "y1"), to = of_lines(svg, "curve", "y2");
  REQUIRE(from.size() == 6);
  // From 0 % to 75 % in four steps of 20: 2.25 pixels a percent.
  CHECK(std::abs(from[0] - to[0] - 2.25 * 50) < 0.11);
  CHECK(from[3] == to[3]);
  CHECK(count(svg, "nan") == 0);
}

TEST_CASE("curves that are named have a legend and a colour each") {
  std::array const curves{named_curve{"train", {{1, 2}, {1, 2}}},
                          named_curve{"<held out>", {{1, 2}, {2, 4}}}};
  auto const svg = line_plot(curves, {});
  CHECK(count(svg, "<path class='curve'") == 1);
  CHECK(count(svg, "<path class='curve second'") == 1);
  CHECK(count(svg, "<line class='curve second'") == 1);  // the legend's
  CHECK(count(svg, "<circle class='dot second'") == 2);
  CHECK_THAT(svg, ContainsSubstring(">train<") && ContainsSubstring(">&lt;held out&gt;<"));
  CHECK(count(line_plot(curves[0].points, {}), "train") == 0);
}

TEST_CASE("bars of several curves stand beside each other") {
  curve const points{{1, 2}, {1, 2}, {1, 1}};
  std::array const curves{named_curve{"", points}, named_curve{"", points}};
  auto const svg = line_plot(curves, {});
  auto const first = of_lines(svg, "curve", "x1"), second = of_lines(svg, "curve second", "x1");
  REQUIRE(first.size() == 6);
  REQUIRE(second.size() == 6);
  CHECK(std::abs(second[0] - first[0] - 4) < 0.11);
}

TEST_CASE("the axis covers all curves") {
  std::array const curves{named_curve{"", {{1, 2}, {1, 2}}}, named_curve{"", {{0, 3}, {0, 100}}}};
  auto const svg = line_plot(curves, {});
  CHECK_THAT(svg, ContainsSubstring(">100</text>"));
  CHECK(count(svg, "L350.0 10.0'") == 1);  // the point (3, 100) is the corner
}

TEST_CASE("sizes that double stand equally far apart, each with its tick") {
  auto const svg = line_plot({{16, 32, 64, 1024}, {1, 1, 1, 1}}, {.doublings = true});
  for (auto const* label : {">16</text>", ">32</text>", ">64</text>", ">1,024</text>"})
    CHECK(count(svg, label) == 1);
  auto const ticks = of_lines(svg, "axis", "x1");
  REQUIRE(ticks.size() == 5);  // the axis itself first
  CHECK(std::abs((ticks[2] - ticks[1]) - (ticks[3] - ticks[2])) < 0.11);
  CHECK(std::abs((ticks[4] - ticks[3]) - 4 * (ticks[2] - ticks[1])) < 0.3);
  // Labels that would touch are left out.
  CHECK(count(line_plot({{1, 1.05, 1024}, {1, 1, 1}}, {.doublings = true}), ">1</text>") == 1);
}

TEST_CASE("what line_plot refuses") {
  CHECK_THROWS_MATCHES(line_plot({{1, 2}, {1}}, {}), precondition_error,
                       MessageMatches(ContainsSubstring("as many x as y")));
  CHECK_THROWS_MATCHES(line_plot({{1, 2}, {1, 2}, {1}}, {}), precondition_error,
                       MessageMatches(ContainsSubstring("an error for each y")));
  CHECK_THROWS_MATCHES(line_plot({{0, 2}, {1, 2}}, {.doublings = true}), precondition_error,
                       MessageMatches(ContainsSubstring("positive sizes")));
}

TEST_CASE("a plot is a file with its style") {
  auto const file = svg_file(line_plot({{1, 2}, {1, 2}}, {.description = "a > b"}));
  CHECK(file.starts_with("<svg xmlns='http://www.w3.org/2000/svg' class='plot'"));
  CHECK_THAT(file, ContainsSubstring("'><style>") && ContainsSubstring("prefers-color-scheme:dark"));
  CHECK(file.ends_with("</svg>\n"));
  CHECK(file.find("<style>") < file.find("<path"));
  CHECK_THROWS_AS(svg_file("<html>"), precondition_error);
}
