// Shard patterns and the grouping of members into samples.
#include <yoke/core/errors.hpp>
#include <yoke/data/webdataset.hpp>
#include <yoke/io/file.hpp>

#include "data_files.hpp"
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <string>
#include <string_view>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;
using names = std::vector<std::string>;

TEST_CASE("Patterns name shards", "[data]") {
  CHECK(expand_shards("a.tar") == names{"a.tar"});
  CHECK(expand_shards("a-{008..011}.tar") == names{"a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"});
  CHECK(expand_shards("{8..11}") == names{"8", "9", "10", "11"});
  CHECK(expand_shards("{2..0}") == names{"2", "1", "0"});
  CHECK(expand_shards("{00..10..5}") == names{"00", "05", "10"});
  CHECK(expand_shards("{0..1}{0..1}") == names{"00", "01", "10", "11"});
  CHECK(expand_shards("{a,b{1..2},}x") == names{"ax", "b1x", "b2x", "x"});
  CHECK(expand_shards("a.tar::b-{0..1}.tar::c.tar") == names{"a.tar", "b-0.tar", "b-1.tar", "c.tar"});
  CHECK(expand_shards("{train,test}-{0..1}.tar").size() == 4);
  CHECK(expand_shards("x-{000000..004095}.tar").size() == 4096);
  CHECK_THROWS_WITH(expand_shards(""), ContainsSubstring("names no shard"));
  CHECK_THROWS_WITH(expand_shards("::"), ContainsSubstring("names no shard"));
  CHECK_THROWS_WITH(expand_shards("a-{0..3.tar"), "a-{0..3.tar: shard pattern: a \"{\" without its \"}\"");
  CHECK_THROWS_WITH(expand_shards("a-0..3}.tar"), ContainsSubstring("a \"}\" without its \"{\""));
  CHECK_THROWS_WITH(expand_shards("{0..99999999}"), ContainsSubstring("1,000,000"));
  CHECK_THROWS_WITH(expand_shards("{0..9999}{0..9999}"), ContainsSubstring("1,000,000"));
}

TEST_CASE("A member's name is a key and a suffix", "[data]") {
  auto split = [](std::string_view name) {
    std::string_view key;
    std::string suffix;
    return split_member_name(name, key, suffix) ? std::string(key) + "|" + suffix : "none";
  };
  CHECK(split("000.jpg") == "000|jpg");
  CHECK(split("a.b/c.seg.PNG") == "a.b/c|seg.png");
  CHECK(split("./a/b.txt") == "./a/b|txt");
  CHECK(split("a.") == "a|");
  CHECK(split("README") == "none");
  CHECK(split("a.b/README") == "none");
  CHECK(split(".hidden") == "none");
  CHECK(split("a/._b.jpg") == "none");
  CHECK(split("__meta__.json") == "__meta__|json");  // only a whole part of a path is special
  CHECK(split("__index__/a.json") == "none");
  CHECK(split("__info__") == "none");
}

TEST_CASE("Consecutive members with one key are a sample", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  auto samples = [&](data_files::members const& all) {
    data_files::write_tar(path, all);
    yoke::io::input_file const file{path};
    shard_reader reader{file};
    std::string text;
    for (sample_members s; reader.next(s);) {
      text += s.key + ":";
      for (auto const& m : s.members)
        text += " " + m.suffix + "=" + data_files::read(path).substr(m.offset, m.size);
      text += "\n";
    }
    return text;
  };
  CHECK(samples({{"a.jpg", "1"},
                 {"a.TXT", "2"},
                 {"README", "3"},
                 {"b.x.y", "4"},
                 {"c/a.jpg", "5"},
                 {"a.jpg", "6"}}) == "a: jpg=1 txt=2\nb: x.y=4\nc/a: jpg=5\na: jpg=6\n");
  CHECK(samples({}).empty());
  CHECK_THROWS_WITH(samples({{"k.jpg", "1"}, {"k.JPG", "2"}}), path + ": k: two members with suffix \"jpg\"");
}
