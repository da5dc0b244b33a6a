// Files of class names and templates: what is read, and which line is refused.
#include <yoke/eval/prompts.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>
#include <vector>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using strings = std::vector<std::string>;

namespace {
struct scratch_file {
  std::string path =
      (std::filesystem::temp_directory_path() / ("yoke_prompts_test." + std::to_string(getpid()) + ".txt"))
          .string();
  explicit scratch_file(std::string const& text) { std::ofstream(path, std::ios::binary) << text; }
  ~scratch_file() { std::filesystem::remove(path); }
};
}  // namespace

TEST_CASE("class names keep their order; white space around them does not count") {
  scratch_file const file(
      "\xEF\xBB\xBF"
      "cat\r\n  sea lion \nEidechse, grün");
  CHECK(eval::read_class_names(file.path) == strings{"cat", "sea lion", "Eidechse, grün"});
}

TEST_CASE("a bad line of class names is named") {
  auto const [text, rule] = GENERATE(table<std::string, std::string>({
      {"cat\n\ndog\n", "line 2: is blank"},
      {"cat\n  \t\n", "line 2: is blank"},
      {"cat\ndog\n cat\n", "line 3: repeats line 1"},
      {"cat\nd\xFFg\n", "line 2: is not UTF-8"},
      {"", "is empty"},
  }));
  scratch_file const file(text);
  CHECK_THROWS_MATCHES(eval::read_class_names(file.path), io::error,
                       MessageMatches(ContainsSubstring(file.path) && ContainsSubstring(rule)));
}

TEST_CASE("templates need exactly one place for the name") {
  {
    scratch_file const file("a photo of a {}.\n%s, drawn\n");
    CHECK(eval::read_templates(file.path) == strings{"a photo of a {}.", "%s, drawn"});
  }
  for (std::string bad : {"a photo", "{} and {}", "{} and %s", "{ }"}) {
    scratch_file const file("a {}.\n" + bad);
    CHECK_THROWS_MATCHES(eval::read_templates(file.path), io::error,
                         MessageMatches(ContainsSubstring("line 2: needs exactly one")));
  }
}

TEST_CASE("a file that is not there") {
  CHECK_THROWS_MATCHES(eval::read_templates("/nonexistent/x.txt"), io::error,
                       MessageMatches(ContainsSubstring("/nonexistent/x.txt: cannot open")));
}

TEST_CASE("prompts put the templates of a class side by side") {
  CHECK(eval::prompts(strings{"cat", "{} %s"}, strings{"a {}.", "%s!"}) ==
        strings{"a cat.", "cat!", "a {} %s.", "{} %s!"});
  CHECK_THROWS_AS(eval::prompts(strings{"cat"}, strings{"a photo"}), precondition_error);
  CHECK(eval::prompts(strings{"x"}, eval::default_templates()).size() == 4);
}
