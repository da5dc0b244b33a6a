// metrics.jsonl: what is written is read back; a resumed run continues it; progress lines.
#include <yoke/train/metrics.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <unistd.h>
#include <vector>

using namespace yoke;
using namespace yoke::train;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

namespace {

struct scratch_file {
  std::string path =
      (std::filesystem::temp_directory_path() / ("yoke_metrics_test." + std::to_string(getpid()) + ".jsonl"))
          .string();
  scratch_file() { std::filesystem::remove(path); }
  explicit scratch_file(std::string const& text) { std::ofstream(path, std::ios::binary) << text; }
  ~scratch_file() { std::filesystem::remove(path); }
  std::string text() const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

constexpr auto not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("a record is one line of JSON") {
  CHECK(to_json({.step = 3, .values = {}}) == R"({"step": 3})");
  CHECK(to_json({3, {{"loss", 2.5}, {"lr", 1e-4}, {"x/y", not_a_number}}}) ==
        R"({"step": 3, "loss": 2.5, "lr": 1e-04, "x/y": null})");
  for (std::string name : {"", "step", "a\"b", "a b", "a\n"})
    CHECK_THROWS_AS(to_json({1, {{name, 1.}}}), precondition_error);
}

TEST_CASE("what is written is in the file at once and reads back to the bit") {
  scratch_file const file;
  auto writer = metrics_writer::create(file.path);
  auto const infinity = std::numeric_limits<double>::infinity();
  std::vector<double> const values{0.1, -1 / 3., 5e-324, 1.7976931348623157e308, 3, not_a_number, infinity};
  for (std::size_t i = 0; i < values.size(); ++i) {
    writer.write({static_cast<std::int64_t>(i), {{"loss", values[i]}}});
    auto const records = read_metrics(file.path);
    REQUIRE(records.size() == i + 1);
    CHECK(records[i].step == static_cast<std::int64_t>(i));
    auto const loss = records[i].find("loss");
    REQUIRE(loss.has_value());
    if (std::isfinite(values[i]))
      CHECK(*loss == values[i]);
    else
      CHECK(std::isnan(*loss));
    CHECK_FALSE(records[i].find("los").has_value());
  }
  metrics_writer::create(file.path);
  CHECK(read_metrics(file.path).empty());
}

TEST_CASE("a resumed run writes each step once") {
  scratch_file const file;
  {
    auto writer = metrics_writer::create(file.path);
    for (int step = 1; step <= 6; ++step) writer.write({step, {{"loss", step}}});
    writer.write({6, {{"zero_shot_top1", .5}}});
  }
  auto const whole = file.text();
  {
    auto writer = metrics_writer::resume(file.path, 4);
    for (int step = 5; step <= 6; ++step) writer.write({step, {{"loss", step}}});
    writer.write({6, {{"zero_shot_top1", .5}}});
  }
  CHECK(file.text() == whole);
  { auto const writer = metrics_writer::resume(file.path, 6); }
  CHECK(file.text() == whole);
  { auto const writer = metrics_writer::resume(file.path, 0); }
  CHECK(file.text().empty());
}

TEST_CASE("a line cut short by a crash is dropped by reader and writer") {
  for (std::string torn : {"{\"step\": 3, \"lo", "{\"step\": 3}", "{"}) {
    scratch_file const file("{\"step\": 1}\n{\"step\": 2}\n" + torn);
    CHECK(read_metrics(file.path).size() == 2);
    metrics_writer::resume(file.path, 5).write({3, {}});
    CHECK(file.text() == "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n");
  }
}

TEST_CASE("resuming without a file starts one") {
  scratch_file const file;
  metrics_writer::resume(file.path, 5).write({6, {}});
  CHECK(file.text() == "{\"step\": 6}\n");
}

TEST_CASE("any order and spacing of JSON is read") {
  scratch_file const file("\t{ \"loss\" :-1.5E-3 ,\"step\":7,\"a\":null, \"host\": [\"b\", {}] } \r\n");
  auto const records = read_metrics(file.path);
  REQUIRE(records.size() == 1);
  CHECK(records[0].step == 7);
  CHECK(records[0].find("loss") == -1.5e-3);
  CHECK(std::isnan(*records[0].find("a")));
  CHECK(records[0].values.size() == 2);
}

TEST_CASE("a malformed line is named, and never cut away") {
  auto const bad =
      GENERATE(as<std::string>{}, "", "{}", "{\"loss\": 1}", "{\"step\": 1.5}", "{\"step\": 1, \"step\": 2}",
               "{\"step\": 1,}", "{\"step\": 1} x", "{\"step\": 1, \"a\": nan}", "{\"step\": 1, \"a\": inf}",
               "{\"step\": 1, \"a\": 1e999}", "{\"step\" 1}", "{\"step\": 1, \"a", "[1]", "{\"step\": \"1\"}",
               "{\"step\": 99999999999999999999}");
  scratch_file const file("{\"step\": 1}\n" + bad + "\n{\"step\": 2}\n");
  auto const before = file.text();
  CHECK_THROWS_MATCHES(read_metrics(file.path), io::error,
                       MessageMatches(ContainsSubstring(file.path + ": line 2: not a record: ")));
  CHECK_THROWS_AS(metrics_writer::resume(file.path, 1), io::error);
  CHECK(file.text() == before);
}

TEST_CASE("files that cannot be opened or written are named") {
  CHECK_THROWS_MATCHES(read_metrics("/nonexistent/m"), io::error,
                       MessageMatches(ContainsSubstring("/nonexistent/m")));
  CHECK_THROWS_MATCHES(metrics_writer::create("/nonexistent/m"), io::error,
                       MessageMatches(ContainsSubstring("/nonexistent/m: cannot be opened: No such")));
  auto full = metrics_writer::create("/dev/full");
  CHECK_THROWS_MATCHES(full.write({1, {}}), io::error,
                       MessageMatches(ContainsSubstring("/dev/full: cannot be written: No space")));
}

TEST_CASE("progress lines") {
  progress now{.step = 120,
               .steps = 1000,
               .batch = 256,
               .loss = 2.34561,
               .learning_rate = 5e-4,
               .samples_per_second = 1234.4};
  CHECK(progress_line(now) == "step  120/1000  12 %  loss  2.3456  lr 5.00e-04   1,234 samples/s  ETA 3m03s");
  now.step = 1000;
  CHECK_THAT(progress_line(now), ContainsSubstring("step 1000/1000 100 %"));
  CHECK_THAT(progress_line(now), ContainsSubstring("ETA 0s"));
  now.loss = not_a_number;
  now.samples_per_second = 0;
  CHECK_THAT(progress_line(now), ContainsSubstring("loss     nan"));
  CHECK_THAT(progress_line(now), ContainsSubstring("? samples/s  ETA ?"));
  CHECK_FALSE(progress_line({}).empty());
}

TEST_CASE("durations, grouped digits, shares") {
  CHECK(duration(0.4) == "0s");
  CHECK(duration(59.6) == "1m00s");
  CHECK(duration(3599) == "59m59s");
  CHECK(duration(2 * 3600 + 5 * 60 + 59) == "2h05m");
  CHECK(duration(4 * 86400 + 7 * 3600) == "4d07h");
  CHECK(duration(-1) == "?");
  CHECK(duration(not_a_number) == "?");
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1000) == "1,000");
  CHECK(grouped(-1234567) == "-1,234,567");
  CHECK(grouped(-123) == "-123");
  CHECK(percent(.1234) == "12.3 %");
  CHECK(percent(not_a_number) == "–");
}

TEST_CASE("escaped text cannot leave its element, attribute or encoding") {
  CHECK(escape("<a href=\"x\">&'") == "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  CHECK(escape("漢\n\t") == "漢\n\t");
  CHECK(escape(std::string("a\0\x1B\x7F", 4)) == "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(escape("a\xFF<\xE6\xBC") == "a\xEF\xBF\xBD&lt;\xEF\xBF\xBD\xEF\xBF\xBD");
}
