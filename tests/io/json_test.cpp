// JSON: what is accepted, what is refused and how, and that values come back as they were.
#include <yoke/core/random.hpp>
#include <yoke/io/json_fields.hpp>

#include "io/scratch.hpp"
#include <bit>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <limits>

namespace io = yoke::io;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using io::json;
using io::json_kind;
using namespace std::string_view_literals;

namespace {
json parse(std::string_view text) {
  return io::parse_json(text, "f.json");
}

/// What io::error says of a text, "" when it is accepted.
std::string refusal(std::string_view text) {
  try {
    parse(text);
    return {};
  } catch (io::error const& e) {
    return e.what();
  }
}
}  // namespace

TEST_CASE("json: every kind of value is read", "[io]") {
  auto const j = parse(
      R"( {"n": null, "t": true, "f": false, "i": -12, "d": 2.5e3, "s": "x", "a": [1, [], {}], "o": {"k": 1}} )");
  CHECK(j.kind() == json_kind::object);
  CHECK(j.keys() == std::vector<std::string>{"n", "t", "f", "i", "d", "s", "a", "o"});
  CHECK(j.find("n")->kind() == json_kind::null);
  CHECK(j.find("t")->as<bool>() == true);
  CHECK(j.find("f")->as<bool>() == false);
  CHECK(j.find("i")->as<int>() == -12);
  CHECK(j.find("d")->as<double>() == 2500);
  CHECK(j.find("s")->as<std::string>() == "x");
  CHECK(j.find("a")->elements().size() == 3);
  CHECK(j.find("a")->elements()[1].kind() == json_kind::array);
  CHECK(j.find("o")->find("k")->as<int>() == 1);
  CHECK(j.find("missing") == nullptr);
  CHECK(j.find("s")->find("k") == nullptr);
  CHECK(parse("\t\r\n 7 ").as<int>() == 7);
}

TEST_CASE("json: numbers keep their digits and do not change their type silently", "[io]") {
  CHECK(parse("9223372036854775807").as<std::int64_t>() == std::numeric_limits<std::int64_t>::max());
  CHECK(parse("-9223372036854775808").as<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(parse("18446744073709551615").as<std::uint64_t>() == std::numeric_limits<std::uint64_t>::max());
  CHECK_FALSE(parse("18446744073709551615").as<std::int64_t>());
  CHECK_FALSE(parse("18446744073709551616").as<std::uint64_t>());
  CHECK(parse("18446744073709551616").as<double>() == 18446744073709551616.);
  CHECK_FALSE(parse("-1").as<unsigned>());
  CHECK(parse("255").as<std::uint8_t>() == 255);
  CHECK_FALSE(parse("256").as<std::uint8_t>());
  CHECK_FALSE(parse("1.0").as<int>());
  CHECK_FALSE(parse("1e2").as<int>());
  CHECK_FALSE(parse("true").as<int>());
  CHECK_FALSE(parse("1").as<bool>());
  CHECK_FALSE(parse("\"1\"").as<int>());
  CHECK_FALSE(parse("1").as<std::string>());
  CHECK(parse("3").as<float>() == 3.f);
  CHECK(std::signbit(*parse("-0").as<double>()));
  CHECK(std::signbit(*parse("-0.0").as<double>()));
  CHECK(parse("0.1").as<double>() == 0.1);
  CHECK(parse("[1, 2]").as<std::vector<int>>() == std::vector{1, 2});
  CHECK_FALSE(parse("[1, 2.5]").as<std::vector<int>>());
  CHECK_FALSE(parse("{}").as<std::vector<int>>());
}

TEST_CASE("json: escapes become UTF-8", "[io]") {
  CHECK(parse(R"("\"\\\/\b\f\n\r\t")").as<std::string>() == "\"\\/\b\f\n\r\t");
  CHECK(parse(R"("\u0041\u00e9\u4E2d\ud83d\ude00")").as<std::string>() == "Aé中😀");
  CHECK(parse(R"("\u0000")").as<std::string>() == std::string(1, '\0'));
  CHECK(parse("\"é中😀\"").as<std::string>() == "é中😀");
  CHECK(parse("\"\x7f\"").as<std::string>() == "\x7f");
}

TEST_CASE("json: what is not JSON is refused with line and column", "[io]") {
  for (auto const* text : {"",
                           " ",
                           "nul",
                           "tru",
                           "TRUE",
                           "True",
                           "nan",
                           "NaN",
                           "Infinity",
                           "-",
                           "+1",
                           ".5",
                           "1.",
                           "01",
                           "-01",
                           "1e",
                           "1e+",
                           "0x10",
                           "1 2",
                           "[1,]",
                           "[,1]",
                           "[1 2]",
                           "[",
                           "]",
                           "[1",
                           "{",
                           "}",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{1:1}",
                           "{\"a\":1 \"b\":2}",
                           "\"",
                           "\"abc",
                           "\"\\",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12G4\"",
                           "\"\\u+123\"",
                           "\"\\ud800\"",
                           "\"\\ud800x\"",
                           "\"\\ud800\\n\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"a\nb\"",
                           "\"\t\"",
                           "'a'",
                           "// c\n1",
                           "1 // c",
                           "[1]]",
                           "{} {}",
                           "\xef\xbb\xbf{}",
                           "1e999",
                           "-1e999",
                           "\x01",
                           "[1;2]"}) {
    CAPTURE(text);
    CHECK_THAT(refusal(text), ContainsSubstring("f.json: line "));
  }
  CHECK(refusal("{\n  \"a\": 1,\n  \"b\": x\n}") == "f.json: line 3 column 8: expected a value");
  CHECK(refusal("{\"a\": 1, \"b\": 2, \"a\": 3}") ==
        "f.json: line 1 column 18: the key \"a\" is there twice");
  CHECK(refusal("{\"a\": {\"x\": 1}, \"b\": {\"x\": 1}}").empty());
  CHECK(refusal("{\"a\": 1, \"\\u0061\": 3}").find("twice") != std::string::npos);
  CHECK_THAT(refusal("\"\\ud83d\""), ContainsSubstring("surrogate"));
  CHECK_THAT(refusal(std::string_view("\"a\0b\"", 5)), ContainsSubstring("control character"));
  CHECK_THAT(refusal(std::string_view("[1]\0", 4)), ContainsSubstring("nothing may follow"));
}

TEST_CASE("json: only well-formed UTF-8 is accepted in strings", "[io]") {
  for (auto const* bytes : {"\x80", "\xBF", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x80\xAF",
                            "\xE0\x9F\xBF", "\xE4\xB8", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF",
                            "\xF0\x9F\x98", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    CHECK_THAT(refusal("\"" + std::string(bytes) + "\""), ContainsSubstring("not UTF-8"));
    CHECK_THAT(refusal("\"" + std::string(bytes)), ContainsSubstring("not UTF-8"));
  }
  for (auto const* bytes : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                            "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK(parse("\"" + std::string(bytes) + "\"").as<std::string>() == bytes);
}

TEST_CASE("json: nesting is bounded, so that no text overflows the stack", "[io]") {
  auto const nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(refusal(nested(io::json_reader::deepest)).empty());
  CHECK_THAT(refusal(nested(io::json_reader::deepest + 1)), ContainsSubstring("64 levels"));
  CHECK_THAT(refusal(std::string(10'000'000, '[')), ContainsSubstring("64 levels"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK_THAT(refusal(objects), ContainsSubstring("64 levels"));
}

TEST_CASE("json: a value comes back from its own text", "[io]") {
  json j;
  j["null"] = json{};
  j["yes"] = true;
  j["least"] = std::numeric_limits<std::int64_t>::min();
  j["most"] = std::numeric_limits<std::uint64_t>::max();
  j["text"] = "quotes \" \\ / \n\t\x01\x1f é😀";
  j["numbers"] = std::vector<float>{0.1F, 1, -2.5F};
  j["none"] = json::array();
  j["nothing"] = json::object();
  j["inner"]["deep"]["value"] = 3;
  j["list"].push_back(1);
  j["list"].push_back(json::object());
  j["yes"] = false;  // again: replaced, not added
  auto const indent = GENERATE(-1, 0, 2);
  auto const text = j.dump(indent);
  auto const again = parse(text);
  CHECK(again.dump(indent) == text);
  CHECK(again.keys() == j.keys());
  CHECK(again.find("yes")->as<bool>() == false);
  CHECK(again.find("least")->as<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(again.find("most")->as<std::uint64_t>() == std::numeric_limits<std::uint64_t>::max());
  CHECK(again.find("text")->as<std::string>() == "quotes \" \\ / \n\t\x01\x1f é😀");
  CHECK(again.find("numbers")->as<std::vector<float>>() == std::vector<float>{0.1F, 1, -2.5F});
  CHECK((text.find('\n') == std::string::npos) == (indent < 0));
}

TEST_CASE("json: the text is what people expect to see", "[io]") {
  json j;
  j["a"] = 1;
  j["b"] = std::vector{1, 2};
  j["c"]["d"] = "x\ny";
  j["e"] = json::object();
  CHECK(j.dump() == R"({"a": 1, "b": [1, 2], "c": {"d": "x\ny"}, "e": {}})");
  CHECK(j.dump(2) ==
        "{\n  \"a\": 1,\n  \"b\": [1, 2],\n  \"c\": {\n    \"d\": \"x\\ny\"\n  },\n  \"e\": {}\n}");
  CHECK(json{std::numeric_limits<double>::quiet_NaN()}.dump() == "null");
  CHECK(json{-std::numeric_limits<float>::infinity()}.dump() == "null");
  CHECK(json{1e300}.dump() == "1e+300");
  CHECK_THROWS_AS(j["a"]["b"], yoke::precondition_error);
  CHECK_THROWS_AS(j["c"].push_back(1), yoke::precondition_error);
}

TEST_CASE("json: any double comes back bit for bit", "[io]") {
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    auto const x = std::bit_cast<double>(yoke::mix(i));
    if (!std::isfinite(x) || (x != 0 && std::abs(x) < std::numeric_limits<double>::min()))
      continue;
    auto const again = parse(json{x}.dump()).as<double>();
    REQUIRE(again);
    REQUIRE(std::bit_cast<std::uint64_t>(*again) == std::bit_cast<std::uint64_t>(x));
  }
  CHECK(parse(json{5e-324}.dump()).as<double>() == 5e-324);
}

TEST_CASE("json: a damaged text gives a value or io::error, never anything else", "[io]") {
  std::string const seed =
      R"({"a": [1, -2.5e3, true, null], "text \u00e9 é": {"x": "\ud83d\ude00", "y": []}, "n": 18446744073709551615})";
  constexpr auto bytes = "{}[]\",:\\u0d8e+-.tfn \x00\x1f\x80\xc3\xed\xff"sv;
  std::size_t accepted = 0;
  std::uint64_t draw = 1;
  auto const next = [&](std::size_t below) { return static_cast<std::size_t>(yoke::mix(draw++) % below); };
  for (int round = 0; round < 50'000; ++round) {
    auto text = seed.substr(0, next(4) == 0 ? next(seed.size() + 1) : seed.size());
    for (auto edits = next(4); edits > 0 && !text.empty(); --edits) {
      auto const at = next(text.size());
      switch (next(3)) {
        case 0:
          text[at] = bytes[next(bytes.size())];
          break;
        case 1:
          text.erase(at, 1 + next(4));
          break;
        default:
          text.insert(at, 1, bytes[next(bytes.size())]);
      }
    }
    try {
      auto const value = parse(text);
      REQUIRE(parse(value.dump()).dump() == value.dump());
      ++accepted;
    } catch (io::error const&) {
    }
  }
  CHECK(accepted > 1000);
  CHECK(accepted < 40'000);
}

TEST_CASE("json: files: written and read, and their size bounded", "[io]") {
  scratch_folder const folder;
  json j;
  j["a"] = 1;
  io::write_json(folder / "f.json", j);
  CHECK(io::read_file(folder / "f.json") == "{\n  \"a\": 1\n}\n");
  CHECK(io::read_json(folder / "f.json").find("a")->as<int>() == 1);
  io::write_file_atomically(folder / "large", std::string((4 << 20) + 1, ' '));
  CHECK_THROWS_MATCHES(io::read_json(folder / "large"), io::error,
                       MessageMatches(ContainsSubstring("larger than")));
}

TEST_CASE("json: fields: errors name file, key and rule", "[io]") {
  auto const j = parse(
      R"({"width": 64, "ratio": 4, "name": "x", "flag": null, "sizes": [1, 2], "inner": {"eps": "small"}, "other": 1})");
  io::json_fields fields{j, "c.json"};
  CHECK(fields.required<int>("width") == 64);
  CHECK(fields.required<double>("ratio") == 4);
  CHECK(fields.optional<std::string>("name", "y") == "x");
  CHECK(fields.optional("flag", true));
  CHECK(fields.optional("absent", 7) == 7);
  CHECK(fields.required<std::vector<int>>("sizes") == std::vector{1, 2});
  CHECK(fields.in_range<int>("width", 1, 64) == 64);
  CHECK(fields.in_range<int>("absent", 1, 64, 5) == 5);
  CHECK_FALSE(fields.has("flag"));

  auto const words = [](auto work) -> std::string {
    try {
      work();
    } catch (io::error const& e) {
      return e.what();
    }
    return {};
  };
  CHECK(words([&] { fields.required<int>("absent"); }) == "c.json: absent: is missing");
  CHECK(words([&] { fields.required<int>("flag"); }) == "c.json: flag: is missing");
  CHECK(words([&] { fields.required<int>("name"); }) == "c.json: name: must be a whole number, not \"x\"");
  CHECK(words([&] { fields.optional<bool>("width", true); }) ==
        "c.json: width: must be true or false, not 64");
  CHECK(words([&] { fields.required<std::vector<std::string>>("sizes"); }) ==
        "c.json: sizes: must be a list, each a string, not [1, 2]");
  CHECK(words([&] { fields.in_range<int>("width", 1, 63); }) ==
        "c.json: width: must be from 1 to 63, not 64");
  CHECK(words([&] { fields.in_range<double>("ratio", 0, 0.5); }) ==
        "c.json: ratio: must be from 0 to 0.5, not 4");
  CHECK(words([&] { fields.object("width"); }) == "c.json: width: must be an object, {...}");
  CHECK(words([&] { fields.object("absent"); }) == "c.json: absent: is missing");
  auto inner = fields.object("inner");
  CHECK(words([&] { inner.required<double>("eps"); }) ==
        "c.json: inner.eps: must be a number, not \"small\"");
  CHECK(words([&] { fields.expect_no_others(); }) == "c.json: other: is not a key that is known here");
  fields.ignore("other");
  CHECK_NOTHROW(fields.expect_no_others());
  CHECK(words([&] { io::json_fields(parse("[]"), "c.json"); }) == "c.json: must be an object, {...}");

  auto const large = parse("{\"a\": \"" + std::string(59, 'x') + "éééé\"}");
  auto const message = words([&] { io::json_fields(large, "c.json").required<int>("a"); });
  CHECK(message == "c.json: a: must be a whole number, not \"" + std::string(59, 'x') + "...");
}
