// Safetensors files: those of the reference implementation are read, what breaks a rule is refused.
#include <yoke/core/random.hpp>
#include <yoke/io/safetensors.hpp>

#include "io/scratch.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace io = yoke::io;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using io::dtype;

namespace {

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string text(sizeof length, '\0');
  std::memcpy(text.data(), &length, sizeof length);
  return text.append(rest);
}

/// A file of a header and `bytes` bytes of data.
std::string file_of(std::string_view header, std::size_t bytes) {
  return with_length(header.size(), std::string(header) + std::string(bytes, '\1'));
}

/// What io::error says of a file's bytes, without its name; "" when it is accepted.
std::string refusal(scratch_folder const& folder, std::string_view content) {
  auto const path = folder / "f";
  {
    std::string const text{content};
    auto const fd = io::descriptor{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666)};
    REQUIRE(::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  try {
    io::safetensors_file const file{path};
    for (auto const& t : file.tensors()) {  // what is accepted can be read
      std::vector<std::byte> bytes(static_cast<std::size_t>(t.bytes()));
      file.read_bytes(t, bytes);
    }
    return {};
  } catch (io::error const& e) {
    std::string const words = e.what();
    REQUIRE(words.rfind(path + ": ", 0) == 0);
    return words.substr(path.size() + 2);
  }
}

std::string entry(std::string_view name, std::string_view type, std::string_view shape,
                  std::string_view range) {
  return "\"" + std::string(name) + R"(":{"dtype":")" + std::string(type) + R"(","shape":)" +
         std::string(shape) + R"(,"data_offsets":)" + std::string(range) + "}";
}
std::string object(std::string_view members) {
  return "{" + std::string(members) + "}";
}

template <class T>
std::vector<T> counted(int first, std::size_t count = 6) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<T>(static_cast<float>(static_cast<int>(i) + first));
  return values;
}

template <class T>
bool same_bytes(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("safetensors: a file of the reference implementation is read", "[io]") {
  io::safetensors_file const file{YOKE_GOLDEN_DIR "/safetensors/python.safetensors"};
  CHECK(file.tensors().size() == 18);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"title", "quotes \" \\ and\nlines, é中😀"}});

  CHECK(same_bytes(file.read<double>("F64"), counted<double>(-3)));
  CHECK(same_bytes(file.read<float>("F32"), counted<float>(-3)));
  CHECK(same_bytes(file.read<yoke::bf16>("BF16"), counted<yoke::bf16>(-3)));
  CHECK(file.read<std::int64_t>("I64") == counted<std::int64_t>(-3));
  CHECK(file.read<std::int32_t>("I32") == counted<std::int32_t>(-3));
  CHECK(file.read<std::int16_t>("I16") == counted<std::int16_t>(-3));
  CHECK(file.read<std::int8_t>("I8") == counted<std::int8_t>(-3));
  CHECK(file.read<std::uint64_t>("U64") == counted<std::uint64_t>(0));
  CHECK(file.read<std::uint32_t>("U32") == counted<std::uint32_t>(0));
  CHECK(file.read<std::uint16_t>("U16") == counted<std::uint16_t>(0));
  CHECK(file.read<std::uint8_t>("U8") == counted<std::uint8_t>(0));
  CHECK(file.read<float>("naïve/图") == std::vector<float>{-3, -2, -1});
  CHECK(file.read<float>("scalar") == std::vector<float>{2.5F});
  CHECK(file.at("scalar").shape.empty());
  CHECK(file.read<float>("empty").empty());
  CHECK(file.at("no rows").shape == std::vector<yoke::extent_t>{0, 4});

  std::vector<std::uint16_t> half(6);
  file.read_bytes(file.expect("F16", dtype::f16, yoke::shape{2, 3}), std::as_writable_bytes(std::span{half}));
  CHECK(half == std::vector<std::uint16_t>{0xC200, 0xC000, 0xBC00, 0, 0x3C00, 0x4000});
  std::vector<std::uint8_t> bytes(6);
  file.read_bytes(file.at("BOOL"), std::as_writable_bytes(std::span{bytes}));
  CHECK(bytes == std::vector<std::uint8_t>{0, 1, 0, 1, 0, 1});
  CHECK(file.at("F8_E4M3").type == dtype::f8_e4m3);
}

TEST_CASE("safetensors: a tensor is asked for by name, type and shape; the answer names what is there",
          "[io]") {
  std::string const path = YOKE_GOLDEN_DIR "/safetensors/python.safetensors";
  io::safetensors_file const file{path};
  CHECK(file.find("nothing") == nullptr);
  CHECK_NOTHROW(file.expect("F32", dtype::f32, yoke::shape{2, 3}));
  CHECK_NOTHROW(file.expect("scalar", dtype::f32, yoke::shape<0>{}));
  auto const says = [&](std::string const& words) {
    return MessageMatches(Catch::Matchers::Equals(path + ": " + words));
  };
  CHECK_THROWS_MATCHES(file.at("nothing"), io::error, says("nothing: no such tensor"));
  CHECK_THROWS_MATCHES(file.expect("F32", dtype::f32, yoke::shape{3, 2}), io::error,
                       says("F32: wanted F32 [3, 2], found F32 [2, 3]"));
  CHECK_THROWS_MATCHES(file.expect("F32", dtype::bf16, yoke::shape{2, 3}), io::error,
                       says("F32: wanted BF16 [2, 3], found F32 [2, 3]"));
  CHECK_THROWS_MATCHES(file.expect("F32", dtype::f32, yoke::shape{2}), io::error,
                       says("F32: wanted F32 [2], found F32 [2, 3]"));
  CHECK_THROWS_MATCHES(file.expect("F32", dtype::f32, yoke::shape{2, 3, 1}), io::error,
                       says("F32: wanted F32 [2, 3, 1], found F32 [2, 3]"));
  CHECK_THROWS_MATCHES(file.read<double>("F32"), io::error, says("F32: wanted F64, found F32 [2, 3]"));
  std::vector<float> five(5);
  CHECK_THROWS_MATCHES(file.read("F32", std::span{five}), io::error,
                       says("F32: wanted 5 elements, found F32 [2, 3]"));
  CHECK_THROWS_MATCHES(file.read("F32", 2, std::span{five}), io::error, says("F32: elements 2 to 7 of 6"));
  CHECK_THROWS_AS(file.read("F32", ~std::uint64_t{0}, std::span{five}), io::error);
  CHECK_THROWS_AS(file.read_bytes(file.at("F32"), std::as_writable_bytes(std::span{five})),
                  yoke::precondition_error);
}

TEST_CASE("safetensors: parts of a tensor, arrays and views", "[io]") {
  io::safetensors_file const file{YOKE_GOLDEN_DIR "/safetensors/python.safetensors"};
  float two[2];
  file.read("F32", 3, std::span{two});
  CHECK((two[0] == 0 && two[1] == 1));
  file.read("F32", 6, std::span{two, 0});
  float six[6];
  file.read("F32", yoke::view<float, 2>{six, {{2, 3}}});
  CHECK((six[0] == -3 && six[5] == 2));
  CHECK_THROWS_AS(file.read("F32", yoke::view<float, 2>{six, {{3, 2}}}), io::error);
}

TEST_CASE("safetensors: what the format allows is accepted", "[io]") {
  scratch_folder const folder;
  auto const accepted = [&](std::string const& content) { return refusal(folder, content); };
  CHECK(accepted(file_of("{}", 0)).empty());
  CHECK(accepted(file_of("{}      ", 0)).empty());
  CHECK(accepted(file_of(" \n\t{} \r\n", 0)).empty());
  CHECK(accepted(file_of(R"({"__metadata__":{}})", 0)).empty());
  CHECK(accepted(file_of(object(entry("a", "F32", "[]", "[0,4]")), 4)).empty());
  CHECK(accepted(file_of(object(entry("a", "F32", "[0]", "[0,0]")), 0)).empty());
  CHECK(accepted(file_of(object(entry("", "U8", "[1]", "[0,1]")), 1)).empty());
  CHECK(accepted(file_of(object(entry("a", "U8", "[1,1,1,1,1,1,1,1,1,1]", "[0,1]")), 1)).empty());
  // In any order, with empty ones between; keys that nobody knows are passed over.
  CHECK(accepted(file_of(object(entry("z", "U8", "[2]", "[4,6]") + "," + entry("e", "F64", "[3,0]", "[4,4]") +
                                "," + entry("a", "F32", "[1]", "[0,4]")),
                         6))
            .empty());
  CHECK(accepted(file_of(R"({"a":{"data_offsets":[0,1],"more":[{"x":null}],"shape":[1],"dtype":"U8"}})", 1))
            .empty());
}

TEST_CASE("safetensors: what breaks a rule is refused by name", "[io]") {
  scratch_folder const folder;
  auto const says = [&](std::string const& content, std::string const& words) {
    CAPTURE(content);
    CHECK_THAT(refusal(folder, content), ContainsSubstring(words));
  };
  says("", "header: a safetensors file begins with 8 bytes");
  says("1234567", "header: a safetensors file begins with 8 bytes");
  says(with_length(0, ""), "header: line 1 column 1: expected an object");
  says(with_length(3, "{}"), "its 3 bytes do not fit into the file");
  says(with_length(100'000'001, "{}"), "longer than 100000000 bytes: 100000001");
  says(with_length(~std::uint64_t{0}, "{}"), "longer than 100000000 bytes: 18446744073709551615");
  says(with_length(100'000'000, "{}"), "do not fit into the file");
  says(file_of("[]", 0), "expected an object");
  says(file_of("{} x", 0), "nothing may follow");
  says(file_of("{}\1", 0), "nothing may follow");
  says(file_of("{\"\xff\":1}", 0), "not UTF-8");
  says(file_of("\xef\xbb\xbf{}", 0), "expected an object");
  says(file_of("{}", 1), "has 1 bytes of data where its header says 0");
  says(file_of(R"({"__metadata__":{"a":1}})", 0), "expected a string");
  says(file_of(R"({"__metadata__":[]})", 0), "expected an object");
  says(file_of(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "the key \"a\" is there twice");
  says(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "is there twice");

  auto const one = [&](std::string_view type, std::string_view shape, std::string_view range,
                       std::size_t bytes, std::string const& words) {
    says(file_of(object(entry("name", type, shape, range)), bytes), words);
  };
  one("F31", "[1]", "[0,4]", 4, "name: unknown type \"F31\"");
  one("f32", "[1]", "[0,4]", 4, "name: unknown type");
  one("F32", "[2]", "[0,4]", 4, "name: F32 [2] takes 8 bytes, not those from 0 to 4");
  one("F32", "[1]", "[0,8]", 8, "takes 4 bytes");
  one("F32", "[1]", "[4,0]", 4, "not those from 4 to 0");
  one("F32", "[1]", "[4,8]", 8, "name: begins at byte 4 of the data, not at 0");
  one("F32", "[1]", "[0,4]", 3, "has 3 bytes of data where its header says 4: it was cut short");
  one("F32", "[1]", "[0,4]", 5, "has 5 bytes of data where its header says 4");
  one("F32", "[-1]", "[0,4]", 4, "whole number from 0");
  one("F32", "[1.0]", "[0,4]", 4, "whole number from 0");
  one("F32", "[1e0]", "[0,4]", 4, "whole number from 0");
  one("F32", "[-0]", "[0,0]", 0, "whole number from 0");
  one("F32", "[\"1\"]", "[0,4]", 4, "expected a value");
  one("F32", "1", "[0,4]", 4, "expected an array");
  one("F32", "[[1]]", "[0,4]", 4, "expected a value");
  one("F32", "[1]", "[0]", 4, "two numbers");
  one("F32", "[1]", "[0,4,4]", 4, "two numbers");
  one("F32", "[1]", "[-4,0]", 4, "whole number from 0");
  one("F32", "[1]", "[0.0,4.0]", 4, "whole number from 0");
  one("F32", "[9223372036854775808]", "[0,4]", 4, "whole number from 0");
  one("F32", "[99999999999999999999]", "[0,4]", 4, "whole number from 0");
  one("F32", "[4611686018427387904,4]", "[0,0]", 0, "is more than can be counted");
  one("F32", "[4294967296,4294967296]", "[0,0]", 0, "is more than can be counted");
  one("F64", "[2305843009213693952]", "[0,0]", 0, "is more than can be counted");
  one("F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]", 0, "is more than can be counted");
  one("U8", "[9223372036854775807]", "[0,9223372036854775807]", 8, "its header says 9223372036854775807");
  says(file_of(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1),
       "a: a tensor has dtype, shape and data_offsets");
  says(file_of(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1),
       "a: a tensor has dtype, shape and data_offsets");
  says(file_of(R"({"a":{"dtype":"U8","shape":[1]}})", 1), "a: a tensor has dtype, shape and data_offsets");
  says(file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), "is there twice");
  says(file_of(R"({"a":[]})", 1), "expected an object");

  auto const a = entry("a", "F32", "[1]", "[0,4]");
  says(file_of(object(a + "," + a), 4), "the key \"a\" is there twice");
  says(file_of(object(a + "," + entry("b", "F32", "[1]", "[5,9]")), 9),
       "b: begins at byte 5 of the data, not at 4");
  says(file_of(object(a + "," + entry("b", "F32", "[1]", "[3,7]")), 7),
       "b: begins at byte 3 of the data, not at 4");
  says(file_of(object(a + "," + entry("b", "F32", "[1]", "[0,4]")), 4),
       "b: begins at byte 0 of the data, not at 4");
  says(file_of(object(a + "," + entry("b", "U8", "[0]", "[2,2]")), 4),
       "b: begins at byte 2 of the data, not at 4");
  // Two huge tensors whose sizes add up to 0 again.
  says(
      file_of(object(entry("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]") + "," +
                     entry("b", "U8", "[9223372036854775807]", "[9223372036854775807,18446744073709551614]")),
              0),
      "whole number from 0");
}

TEST_CASE("safetensors: a header that nests endlessly does not end the program", "[io]") {
  scratch_folder const folder;
  CHECK_THAT(refusal(folder, file_of("{\"a\":" + std::string(5'000'000, '['), 0)),
             ContainsSubstring("expected an object"));
  CHECK_THAT(refusal(folder, file_of("{\"a\":{\"x\":" + std::string(5'000'000, '['), 0)),
             ContainsSubstring("levels of nesting"));
}

TEST_CASE("safetensors: what is not a file is refused", "[io]") {
  scratch_folder const folder;
  CHECK_THROWS_MATCHES(io::safetensors_file(folder / "missing"), io::error,
                       MessageMatches(ContainsSubstring("missing: cannot open: No such file")));
  CHECK_THROWS_MATCHES(io::safetensors_file(folder.path()), io::error,
                       MessageMatches(ContainsSubstring("Is a directory")));
  CHECK_THROWS_MATCHES(io::safetensors_file("/dev/null"), io::error,
                       MessageMatches(ContainsSubstring("is not a regular file")));
}

TEST_CASE("safetensors: a file that is cut short while it is open is reported", "[io]") {
  scratch_folder const folder;
  REQUIRE(refusal(folder, file_of(object(entry("a", "F32", "[100]", "[0,400]")), 400)).empty());
  io::safetensors_file const file{folder / "f"};
  REQUIRE(::truncate((folder / "f").c_str(), 300) == 0);
  CHECK_THROWS_MATCHES(file.read<float>("a"), io::error,
                       MessageMatches(ContainsSubstring("byte 300: the file was cut short")));
}

TEST_CASE("safetensors: cut anywhere, a file is refused", "[io]") {
  scratch_folder const folder;
  auto const whole =
      file_of(object(entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "U8", "[3]", "[8,11]")), 11);
  REQUIRE(refusal(folder, whole).empty());
  for (std::size_t length = 0; length < whole.size(); ++length)
    REQUIRE_FALSE(refusal(folder, whole.substr(0, length)).empty());
}

TEST_CASE("safetensors: a damaged file is read or refused, never anything else", "[io]") {
  scratch_folder const folder{"/dev/shm"};
  auto const header =
      object(R"("__metadata__":{"k":"v"},)" + entry("a", "F32", "[2,1]", "[0,8]") + "," +
             entry("b", "U8", "[3]", "[8,11]") + "," + entry("c", "BF16", "[0,9]", "[11,11]"));
  constexpr std::string_view bytes = "{}[]\",:\\0123456789e+-.U8F";
  std::uint64_t draw = 7;
  auto const next = [&](std::size_t below) { return static_cast<std::size_t>(yoke::mix(draw++) % below); };
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    auto text = header;
    for (auto edits = next(3); edits > 0; --edits) {
      auto const at = next(text.size());
      switch (next(3)) {
        case 0:
          text[at] = bytes[next(bytes.size())];
          break;
        case 1:
          text.erase(at, 1 + next(3));
          break;
        default:
          text.insert(at, 1, bytes[next(bytes.size())]);
      }
    }
    auto content = file_of(text, 11);
    if (next(4) == 0)
      content[next(10)] = static_cast<char>(next(256));
    accepted += refusal(folder, content).empty();
  }
  CHECK(accepted > 2'000);
  CHECK(accepted < 15'000);
}
