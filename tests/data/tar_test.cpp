// Tar archives: names and sizes in every form, and archives that are not whole or not sound.
#include <yoke/core/errors.hpp>
#include <yoke/core/random.hpp>
#include <yoke/data/tar.hpp>
#include <yoke/data/tar_writer.hpp>
#include <yoke/io/file.hpp>

#include "data_files.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;

namespace {

struct entry {
  std::string name{}, content{};
  bool regular = true;
  bool operator==(entry const&) const = default;
};

std::vector<entry> read_tar(std::string const& path) {
  yoke::io::input_file const file{path};
  tar_reader reader{file};
  std::vector<entry> all;
  for (tar_entry e; reader.next(e);) {
    std::string content(e.size, '\0');
    file.read_at(e.offset, std::as_writable_bytes(std::span{content}));
    all.push_back({e.name, content, e.regular});
  }
  return all;
}

/// A header by hand: name, size field, type, magic; checksum computed.
std::string header(std::string const& name, std::string const& size, char type,
                   std::string_view magic = {"ustar\0"
                                             "00",
                                             8}) {
  std::string block(512, '\0');
  block.replace(0, name.size(), name);
  block.replace(100, 7, "0000644");
  block.replace(124, size.size(), size);
  block[156] = type;
  block.replace(257, magic.size(), magic);
  block.replace(148, 8, "        ");
  unsigned sum = 0;
  for (auto c : block) sum += static_cast<unsigned char>(c);
  for (std::size_t i = 6; i-- > 0; sum >>= 3) block[148 + i] = static_cast<char>('0' + (sum & 7));
  block[154] = '\0';
  return block;
}
std::string octal(std::uint64_t size) {
  std::string text(11, '0');
  for (std::size_t i = 11; i-- > 0; size >>= 3) text[i] = static_cast<char>('0' + (size & 7));
  return text;
}
std::string padded(std::string text) {
  return text.append((512 - text.size() % 512) % 512, '\0');
}
std::string file_named(std::string const& name, std::string const& content) {
  return header(name, octal(content.size()), '0') + padded(content);
}
std::string const end_marker(1024, '\0');

std::string rule(std::string const& path) {
  try {
    read_tar(path);
  } catch (yoke::io::error const& bad) {
    return bad.what();
  }
  return "it is sound";
}

}  // namespace

TEST_CASE("What is written to a tar file is read back", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  auto const deep = std::string(60, 'd') + "/" + std::string(70, 'n') + ".jpg";       // ustar's prefix
  auto const long_name = std::string(300, 'x') + ".txt";                              // pax
  auto const slashes = std::string(170, 'y') + "/" + std::string(20, 'z') + ".json";  // a prefix too long
  data_files::members const all{{"a.txt", ""},
                                {"b/c.cls", "7"},
                                {deep, std::string(511, 'q')},
                                {long_name, std::string(512, 'r')},
                                {slashes, std::string(1025, 's')},
                                {std::string(100, 'e'), "hundred"},
                                {std::string(97, 'f') + ".txt", "more"}};
  data_files::write_tar(path, all);
  auto const back = read_tar(path);
  REQUIRE(back.size() == all.size());
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(back[i] == entry{all[i].first, all[i].second});
  CHECK(std::filesystem::file_size(path) % 512 == 0);
}

TEST_CASE("Tar headers of other programs are read", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  auto const long_name = std::string(150, 'n') + ".jpg";
  auto const gnu = std::string_view{"ustar  \0", 8};
  std::string base_256(12, '\0');
  base_256[0] = '\x80';
  base_256[11] = 5;
  data_files::write(
      path, header("././@LongLink", octal(long_name.size() + 1), 'L', gnu) + padded(long_name + '\0') +
                header(long_name.substr(0, 100), octal(3), '0', gnu) + padded("GNU") +
                header("folder/", octal(0), '5') + header("link", octal(0), '2') +
                header("hard", octal(77), '1') +  // a size, but no content
                header("old", "        11 ", '\0', "") + padded("nine byte") + header("big", base_256, '0') +
                padded("12345") + header("pax", octal(28), 'x') + padded("16 path=name/é\n12 size=004\n") +
                header("short", octal(1), '0') + padded("four") + header("g", octal(17), 'g') +
                padded("17 comment=hello\n") + file_named("last", "") + end_marker);
  auto const all = read_tar(path);
  REQUIRE(all.size() == 8);
  CHECK(all[0] == entry{long_name, "GNU"});
  CHECK(all[1] == entry{"folder/", "", false});
  CHECK(all[2] == entry{"link", "", false});
  CHECK(all[3] == entry{"hard", "", false});
  CHECK(all[4] == entry{"old", "nine byte"});
  CHECK(all[5] == entry{"big", "12345"});
  CHECK(all[6] == entry{"name/é", "four"});
  CHECK(all[7] == entry{"last", ""});
}

TEST_CASE("A broken tar file says where and which rule", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  auto says = [&](std::string const& content) {
    data_files::write(path, content);
    return rule(path);
  };
  auto const good = file_named("a.txt", "caption");
  CHECK(says(good + end_marker) == "it is sound");
  CHECK(says(end_marker) == "it is sound");
  CHECK(says("") == path + ": byte 0: the archive is cut short: its end marker is missing");
  CHECK(says(good) == path + ": byte 1024: the archive is cut short: its end marker is missing");
  CHECK(says(good.substr(0, 515)) ==
        path + ": byte 0: the archive is cut short: \"a.txt\" has 7 bytes, of which 3 are there");
  auto wrong = good + end_marker;
  wrong[3] ^= 1;
  CHECK(says(wrong) == path + ": byte 0: not a tar header: its checksum is wrong");
  CHECK_THAT(says(header("a", "zzz", '0') + end_marker), ContainsSubstring("a size that is not a number"));
  std::string negative(12, '\xFF'), excessive(12, '\x7F');
  excessive[0] = '\x80';
  CHECK_THAT(says(header("a", negative, '0') + end_marker), ContainsSubstring("negative"));
  CHECK_THAT(says(header("a", excessive, '0') + end_marker), ContainsSubstring("excessive size"));
  CHECK_THAT(says(header("a", octal(0), 'S') + end_marker), ContainsSubstring("sparse"));
  CHECK_THAT(says(header("", octal(0), '0') + end_marker), ContainsSubstring("a name that is empty"));
  CHECK_THAT(says(header("p", octal(1 << 21), 'x') + end_marker),
             ContainsSubstring("an extended header of more than"));
  auto pax = [&](std::string const& text) {
    return says(header("p", octal(text.size()), 'x') + padded(text) + good + end_marker);
  };
  CHECK(pax("14 path=b.txt\n") == "it is sound");
  CHECK_THAT(pax("15 path=b.txt\n"), ContainsSubstring("pax header that is malformed"));
  CHECK_THAT(pax("path=b.txt\n"), ContainsSubstring("malformed"));
  CHECK_THAT(pax("3 \n"), ContainsSubstring("pax header that is malformed") || ContainsSubstring("without"));
  CHECK_THAT(pax("99999999999999999999999 path=b\n"), ContainsSubstring("malformed"));
  CHECK_THAT(pax("11 size=-1\n"), ContainsSubstring("a pax size that is not a number"));
  CHECK_THAT(pax("18 size=123456789\n"), ContainsSubstring("123456789 bytes, of which"));
  CHECK_THAT(pax("22 GNU.sparse.major=1\n"), ContainsSubstring("sparse"));
  CHECK_THAT(says(header("p", octal(14), 'x') + padded("14 path=b.txt\n") + end_marker),
             ContainsSubstring("followed by the archive's end"));
  CHECK_THAT(rule(folder / "missing.tar"), ContainsSubstring("missing.tar: cannot open"));
  CHECK_THAT(rule(folder / "."), ContainsSubstring("cannot read: Is a directory"));
  CHECK(rule("/dev/null") == "/dev/null: cannot read: it is not a regular file");
}

TEST_CASE("A tar file cut at any length is an error", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  data_files::write_tar(
      path, {{"a.txt", "caption"}, {std::string(130, 'b'), std::string(700, 'c')}, {"c.cls", "1"}});
  auto const whole = data_files::read(path);
  for (auto n = whole.size() - 1; n > 0; --n) {
    std::filesystem::resize_file(path, n);
    INFO(n << " bytes of " << whole.size());
    // The second half of the end marker carries nothing.
    REQUIRE((rule(path) == "it is sound") == (n >= whole.size() - 512));
  }
}

TEST_CASE("A tar file with changed bytes is read or is an error, nothing else", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  data_files::write_tar(
      path, {{"a.txt", "caption"}, {std::string(130, 'b'), std::string(700, 'c')}, {"c.cls", "1"}});
  auto const whole = data_files::read(path);
  yoke::random_sequence random{3};
  int errors = 0;
  for (int i = 0; i < 1500; ++i) {
    auto changed = whole;
    auto const block = random.below(changed.size() / 512) * 512;
    for (auto n = 1 + random.below(6); n > 0; --n)
      changed[block + random.below(512)] = static_cast<char>(random.bits());
    if (i % 2 == 0) {  // with a right checksum the fields themselves are tried
      changed.replace(block + 148, 8, "        ");
      unsigned sum = 0;
      for (std::size_t k = 0; k < 512; ++k) sum += static_cast<unsigned char>(changed[block + k]);
      for (std::size_t k = 6; k-- > 0; sum >>= 3)
        changed[block + 148 + k] = static_cast<char>('0' + (sum & 7));
    }
    data_files::write(path, changed);
    errors += rule(path) != "it is sound";
  }
  CHECK(errors > 300);
}
