// Strict UTF-8 against the table of well-formed sequences.
#include <yoke/text/utf8.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstddef>
#include <string>
#include <string_view>

using yoke::text::first_malformed_utf8;
using namespace std::string_literals;

namespace {
std::string encode(unsigned c) {
  auto tail = [&](unsigned shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80)
    return {static_cast<char>(c)};
  if (c < 0x800)
    return {static_cast<char>(0xC0 | (c >> 6)), tail(0)};
  if (c < 0x10000)
    return {static_cast<char>(0xE0 | (c >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0)};
}
}  // namespace

TEST_CASE("every code point but the surrogates is well formed, and no prefix of one is") {
  std::size_t wrong = 0;
  for (unsigned c = 0; c < 0x120000; ++c) {
    auto const text = encode(c);
    bool const legal = c < 0x110000 && (c < 0xD800 || c > 0xDFFF);
    wrong += yoke::text::is_utf8(text) != legal;
    for (std::size_t n = 1; n < text.size(); ++n)
      wrong += yoke::text::is_utf8(std::string_view(text).substr(0, n));
  }
  CHECK(wrong == 0);
}

TEST_CASE("the first malformed byte is named") {
  auto const [text, at] = GENERATE(table<std::string, std::size_t>({
      {"\x80", 0},                     // a continuation alone
      {"ab\xC0\x80", 2},               // overlong NUL
      {"\xC1\xBF", 0},                 // overlong in two bytes
      {"\xE0\x9F\xBF", 0},             // overlong in three
      {"\xF0\x8F\xBF\xBF", 0},         // overlong in four
      {"x\xED\xA0\x80", 1},            // a surrogate
      {"\xF4\x90\x80\x80", 0},         // above U+10FFFF
      {"\xF5\x80\x80\x80", 0},         // no such lead
      {"\xFF", 0},                     //
      {"\xC3\xA9\xC3(", 2},            // a bad continuation
      {"\xE6\xBC\xA2\xE6\xBC", 3},     // cut
      {"\xF0\x9F\x99\x82\xF0\x9F", 4}  // cut
  }));
  CHECK(first_malformed_utf8(text) == at);
}

TEST_CASE("well-formed text has no malformed byte") {
  CHECK(first_malformed_utf8("") == std::string_view::npos);
  CHECK(first_malformed_utf8("a\0b"s) == std::string_view::npos);
  CHECK(first_malformed_utf8("Zwölf Boxkämpfer, 漢字 🙂") == std::string_view::npos);
}

TEST_CASE("blank captions") {
  CHECK(yoke::text::is_blank(""));
  CHECK(yoke::text::is_blank(" \t\r\n"));
  CHECK_FALSE(yoke::text::is_blank(" . "));
}
