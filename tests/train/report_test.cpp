// The report: self-contained, well-formed, escaped; plots of awkward data.
#include <yoke/train/report.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <unistd.h>
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

/// The first tag that is not closed in order, or "". Attributes are quoted and hold no bare angle.
std::string unbalanced(std::string_view html) {
  std::vector<std::string> open;
  for (auto at = html.find('<'); at != std::string_view::npos; at = html.find('<', at + 1)) {
    auto const end = html.find('>', at);
    if (end == std::string_view::npos)
      return "<";
    auto const tag = html.substr(at + 1, end - at - 1);
    auto const name = std::string(tag.substr(0, tag.find_first_of(" /", 1)));
    if (name == "!DOCTYPE" || name == "meta" || name == "img" || tag.ends_with('/'))
      continue;
    if (name[0] != '/')
      open.push_back(name);
    else if (open.empty() || "/" + open.back() != name)
      return name;
    else
      open.pop_back();
  }
  return open.empty() ? "" : open.back();
}

/// A PNG's signature and header for so many columns; a report looks no further.
std::vector<std::uint8_t> fake_png(std::uint8_t columns) {
  return {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A,    '\n', 0, 0, 0, 13, 'I',
          'H',  'D', 'R', 0,   0,    0,    columns, 0,    0, 0, 1, 8};
}

report full_report() {
  report run;
  run.title = "<b>run</b> & \"more\"";
  run.summary = "a </p><script>x</script> summary";
  run.headlines = {{"<1>", "<2>", "<3>"}};
  run.facts = {{"<name>", "'value'"}, {"", ""}};
  for (int step = 1; step <= 500; ++step) {
    run.loss.x.push_back(step);
    run.loss.y.push_back(step % 50 == 0 ? not_a_number : 5. / step);
    run.learning_rate.x.push_back(step);
    run.learning_rate.y.push_back(1e-4 * step);
  }
  run.zero_shot = {{100, 200, 300}, {.1, .5, .75}};
  run.chance = .1;
  run.classes = {"<cat>", "dog & co"};
  run.confusion = {8, 2, 0, 0};
  run.retrievals = {
      {"a <red> \"square\"", {{fake_png(32), false, "<0.4>"}, {fake_png(100), true, ""}}, 2, {}},
      {"missed", {{fake_png(32), false, ""}}, 1234, fake_png(48)},
  };
  run.footer = "<footer>";
  return run;
}

}  // namespace

TEST_CASE("a full report is well formed, escaped and needs nothing from elsewhere") {
  auto const html = to_html(full_report());
  CHECK(unbalanced(html) == "");
  CHECK(text::is_utf8(html));
  CHECK(count(html, "<script") == 0);
  CHECK(count(html, "http") == 0);
  CHECK(count(html, "<link") + count(html, "url(") + count(html, "@import") == 0);
  CHECK(count(html, "src=") == count(html, "src='data:image/png;base64,"));
  CHECK(count(html, "<img") == 4);
  CHECK(count(html, "class='small'") == 3);
  CHECK(count(html, "<figure class='right'>") == 2);
  CHECK(count(html, "✓ right") == 1);
  CHECK(count(html, "<svg") == 4);
  for (std::string_view part :
       {"&lt;b&gt;run&lt;/b&gt; &amp; &quot;more&quot;", "&lt;/p&gt;&lt;script&gt;", "&lt;1&gt;",
        "&lt;name&gt;", "&#39;value&#39;", "&lt;cat&gt;", "dog &amp; co", "a &lt;red&gt; &quot;square&quot;",
        "&lt;0.4&gt;", "&lt;footer&gt;", "chance, 10.0 %", "at place 2", "at place 1,234",
        "the image that was wanted"})
    CHECK_THAT(html, ContainsSubstring(std::string(part)));
  CHECK(count(html, "nan") + count(html, "inf") == 0);
}

TEST_CASE("an empty report is a page without the parts it lacks") {
  auto const html = to_html({});
  CHECK(unbalanced(html) == "");
  CHECK(count(html, "no data") == 2);
  CHECK(count(html, "<h2>") == 1);
  CHECK(count(html, "<img") + count(html, "<dl") + count(html, "<footer") == 0);
}

TEST_CASE("what a report refuses") {
  report run;
  run.classes = {"cat"};
  CHECK_THROWS_AS(to_html(run), precondition_error);
  run.classes.clear();
  run.loss = {{1}, {}};
  CHECK_THROWS_AS(to_html(run), precondition_error);
  run.loss = {};
  run.retrievals = {{"a", {{{1, 2, 3}, false, ""}}, 0, {}}};
  CHECK_THROWS_MATCHES(to_html(run), precondition_error, MessageMatches(ContainsSubstring("PNG")));
}

TEST_CASE("many classes: those with the most mistakes are shown") {
  report run;
  for (int i = 0; i < 100; ++i) run.classes.push_back("class" + std::to_string(i) + ".");
  run.confusion.assign(100 * 100, 0);
  for (std::size_t i = 0; i < 100; ++i) {
    run.confusion[i * 100 + i] = 10;
    if (i >= 60)
      run.confusion[i * 100 + (i + 1 < 100 ? i + 1 : 60)] = 1;
  }
  auto const html = to_html(run);
  CHECK(unbalanced(html) == "");
  CHECK_THAT(html, ContainsSubstring("The 40 of 100 classes"));
  CHECK(count(html, ">class60.<") == 2);
  CHECK(count(html, ">class99.<") == 2);
  CHECK(count(html, "class59.") == 0);
}

TEST_CASE("base64 of every remainder") {
  auto encode = [](std::string_view text) {
    return train::detail::base64(std::vector<std::uint8_t>(text.begin(), text.end()));
  };
  CHECK(encode("") == "");
  CHECK(encode("f") == "Zg==");
  CHECK(encode("fo") == "Zm8=");
  CHECK(encode("foo") == "Zm9v");
  CHECK(encode("foob") == "Zm9vYg==");
  CHECK(train::detail::base64(std::vector<std::uint8_t>{0xFB, 0xEF, 0xFF}) == "++//");
}

TEST_CASE("curves come from metrics by name") {
  std::vector<metric_record> const records{
      {1, {{"loss", 3}}}, {2, {{"loss", not_a_number}, {"top1", .5}}}, {3, {{"loss", 2}}}};
  auto const loss = curve_of(records, "loss");
  CHECK(loss.x == std::vector<double>{1, 2, 3});
  CHECK(std::isnan(loss.y[1]));
  CHECK(curve_of(records, "top1").x == std::vector<double>{2});
  CHECK(curve_of(records, "none").x.empty());
}

TEST_CASE("ticks are round and cover the range") {
  auto const [low, high] = GENERATE(table<double, double>({{0, 1},
                                                           {0.13, 0.97},
                                                           {-3, 7},
                                                           {1e-9, 4e-9},
                                                           {0, 123456789},
                                                           {5, 5},
                                                           {0, 0},
                                                           {-2, -2},
                                                           {1e300, 1.0001e300}}));
  auto const t = train::detail::round_ticks(low, high, 4);
  CAPTURE(low, high, t.first, t.step, t.count);
  CHECK(t.at(0) <= low + 1e-6 * t.step);
  CHECK(t.last() >= high - 1e-6 * t.step);
  CHECK(t.count >= 2);
  CHECK(t.count <= 8);
  auto const mantissa = t.step / std::pow(10, std::floor(std::log10(t.step) + 1e-9));
  bool round = false;
  for (double nice : {1., 2., 2.5, 5.}) round = round || std::abs(mantissa - nice) < 1e-6;
  CHECK(round);
}

TEST_CASE("tick labels share digits and powers") {
  int exponent = 0;
  auto labels = [&](double low, double high) {
    return train::detail::tick_labels(train::detail::round_ticks(low, high, 4), exponent);
  };
  CHECK(labels(0, 5e-4) == std::vector<std::string>{"0", "2", "4", "6"});
  CHECK(exponent == -4);
  CHECK(labels(0, 1) == std::vector<std::string>{"0.00", "0.25", "0.50", "0.75", "1.00"});
  CHECK(exponent == 0);
  CHECK(labels(0, 4000) == std::vector<std::string>{"0", "1,000", "2,000", "3,000", "4,000"});
  CHECK(labels(0, 4e9) == std::vector<std::string>{"0", "1", "2", "3", "4"});
  CHECK(train::detail::power_of_ten(9) == "×10⁹");
  CHECK(train::detail::power_of_ten(-12) == "×10⁻¹²");
}

TEST_CASE("plots of awkward data") {
  auto const infinity = std::numeric_limits<double>::infinity();
  auto plot = [](curve const& points) {
    auto const svg = line_plot(points, {.smoothed = true});
    CHECK(unbalanced(svg) == "");
    CHECK(count(svg, "nan") + count(svg, "inf") == 0);
    return svg;
  };
  CHECK_THAT(plot({}), ContainsSubstring("no data"));
  CHECK_THAT(plot({{1, 2}, {not_a_number, infinity}}), ContainsSubstring("no data"));
  CHECK_THAT(plot({{not_a_number}, {1}}), ContainsSubstring("no data"));
  CHECK(count(plot({{5}, {2}}), "<circle") == 1);                                // a single point
  CHECK(count(plot({{1, 2, 3}, {7, 7, 7}}), "<circle") == 3);                    // a constant
  CHECK(count(plot({{1, 2, 3}, {0, 0, 0}}), "<circle") == 3);                    // zero
  CHECK_THAT(plot({{1, 2, 3}, {1, not_a_number, 3}}), ContainsSubstring("h0"));  // points between gaps
  plot({{1, 2, 3}, {-1e308, 1e308, 3}});
  plot({{1, 2, 3}, {1e-300, 2e-300, 3e-300}});
  CHECK_THAT(line_plot({{0, 1}, {0, 1}}, {.description = "\"><x"}), ContainsSubstring("&quot;&gt;&lt;x"));
}

TEST_CASE("a long curve is thinned without losing its spikes") {
  curve points;
  for (int i = 0; i < 100'000; ++i) {
    points.x.push_back(i);
    points.y.push_back(i == 43'210 ? 100 : i % 7 == 0 ? not_a_number : 1);
  }
  auto const svg = line_plot(points, {});
  CHECK(svg.size() < 40'000);
  CHECK_THAT(svg, ContainsSubstring(" 10.0L") || ContainsSubstring(" 10.0M"));  // the top of the plot: 100
}

TEST_CASE("the running mean is centred and steps over gaps") {
  std::vector<double> line(200);
  for (std::size_t i = 0; i < line.size(); ++i) line[i] = static_cast<double>(i);
  auto mean = train::detail::running_mean(line);
  for (std::size_t i = 0; i < line.size(); ++i) CHECK(std::abs(mean[i] - line[i]) < 1e-9);
  std::vector<double> level(200, 4.);
  level[100] = not_a_number;
  mean = train::detail::running_mean(level);
  CHECK(std::isnan(mean[100]));
  CHECK(mean[99] == 4);
}

TEST_CASE("long names are cut between characters") {
  CHECK(shortened("automobile", 10) == "automobile");
  CHECK(shortened("automobiles", 10) == "automobil…");
  CHECK(shortened("漢漢漢漢", 3) == "漢漢…");
  CHECK(characters("aé漢🙂") == 4);
}

TEST_CASE("a report is written whole or not at all") {
  auto const path =
      (std::filesystem::temp_directory_path() / ("yoke_report_test." + std::to_string(getpid()) + ".html"))
          .string();
  write_html(full_report(), path);
  {
    std::ifstream file(path, std::ios::binary);
    CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == to_html(full_report()));
  }
  std::filesystem::remove(path);
  CHECK_THROWS_MATCHES(
      write_html({}, "/nonexistent/report.html"), io::error,
      MessageMatches(ContainsSubstring("/nonexistent/report.html: cannot create: No such file")));
}
