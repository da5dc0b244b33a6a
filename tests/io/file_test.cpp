// Files: read completely or refused, written completely or not at all.
#include <yoke/io/file.hpp>

#include "io/faults.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <vector>

namespace io = yoke::io;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using names = std::vector<std::string>;

TEST_CASE("file: a file comes back as it was written", "[io]") {
  scratch_folder const folder;
  for (auto const size : {0, 1, 65535, 65536, 65537, 3'000'000}) {
    std::string text(static_cast<std::size_t>(size), '\0');
    for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31 >> 3);
    io::write_file_atomically(folder / "file", text);
    CHECK(io::read_file(folder / "file") == text);
    CHECK(io::read_file(folder / "file", text.size()) == text);
    if (size > 0)
      CHECK_THROWS_MATCHES(io::read_file(folder / "file", text.size() - 1), io::error,
                           MessageMatches(ContainsSubstring("larger than")));
  }
  CHECK(folder.names() == names{"file"});
}

TEST_CASE("file: what cannot be read is named, with the system's words", "[io]") {
  scratch_folder const folder;
  CHECK_THROWS_MATCHES(
      io::read_file(folder / "missing"), io::error,
      MessageMatches(ContainsSubstring((folder / "missing") + ": cannot open: No such file")));
  CHECK_THROWS_MATCHES(io::read_file(folder.path()), io::error,
                       MessageMatches(ContainsSubstring(folder.path() + ": cannot read: Is a directory")));
  CHECK_THROWS_MATCHES(io::write_file_atomically(folder / "none/file", "x"), io::error,
                       MessageMatches(ContainsSubstring("none/file: cannot create: No such file")));
}

TEST_CASE("file: a file without a size, such as those of /proc, is read", "[io]") {
  CHECK_THAT(io::read_file("/proc/self/status"), ContainsSubstring("Pid:"));
}

TEST_CASE("file: a file that shrinks while it is read is reported", "[io]") {
  scratch_folder const folder;
  io::write_file_atomically(folder / "file", "0123456789");
  io::input_file const file{folder / "file"};
  std::string part(4, ' ');
  file.read_at(6, std::as_writable_bytes(std::span{part}));
  CHECK(part == "6789");
  REQUIRE(::truncate((folder / "file").c_str(), 8) == 0);
  CHECK_THROWS_MATCHES(file.read_at(6, std::as_writable_bytes(std::span{part})), io::error,
                       MessageMatches(ContainsSubstring("byte 8: the file was cut short")));
}

TEST_CASE("file: without commit nothing changes and nothing is left", "[io]") {
  scratch_folder const folder;
  io::write_file_atomically(folder / "file", "old");
  {
    io::atomic_writer writer{folder / "file"};
    writer.write("new");
    CHECK(io::read_file(folder / "file") == "old");
    CHECK(folder.names().size() == 2);
  }
  CHECK(io::read_file(folder / "file") == "old");
  CHECK(folder.names() == names{"file"});
}

TEST_CASE("file: two writers of one file do not meet; the later commit stays", "[io]") {
  scratch_folder const folder;
  io::atomic_writer first{folder / "file"}, second{folder / "file"};
  second.write("second");
  first.write("first");
  second.commit();
  CHECK(io::read_file(folder / "file") == "second");
  first.commit();
  CHECK(io::read_file(folder / "file") == "first");
  CHECK(folder.names() == names{"file"});
  CHECK_THROWS_AS(first.write("x"), yoke::precondition_error);
  CHECK_THROWS_AS(first.commit(), yoke::precondition_error);
}

TEST_CASE("file: writing at offsets and appending do not disturb each other", "[io]") {
  scratch_folder const folder;
  io::atomic_writer writer{folder / "file"};
  writer.write("abc");
  writer.write_at(4, std::as_bytes(std::span{"XY", 2}));
  writer.write("d");
  writer.commit();
  CHECK(io::read_file(folder / "file") == "abcdXY");
}

TEST_CASE("file: a failed write names the file and says why; the old file stays", "[io]") {
  scratch_folder const folder;
  io::write_file_atomically(folder / "file", "old");
  std::string const large(200'000, 'x');

  SECTION("the file may not grow: a short write, then a failing one") {
    auto const words = failure_in_child([&] {
      limit_file_size(100'000);
      io::write_file_atomically(folder / "file", large);
    });
    CHECK(words == (folder / "file") + ": cannot write: File too large");
  }
  SECTION("no space") {
    auto const words = failure_in_child([&] {
      if (!refuse_call(SYS_pwrite64, ENOSPC))
        throw std::runtime_error("cannot write: No space left on device (not tried)");
      io::write_file_atomically(folder / "file", large);
    });
    CHECK_THAT(words, ContainsSubstring("cannot write: No space left on device"));
  }
  SECTION("the disk fails when synced") {
    auto const words = failure_in_child([&] {
      if (!refuse_call(SYS_fsync, EIO))
        throw std::runtime_error("cannot sync: Input/output error (not tried)");
      io::write_file_atomically(folder / "file", large);
    });
    CHECK_THAT(words, ContainsSubstring("cannot sync: Input/output error"));
  }
  CHECK(io::read_file(folder / "file") == "old");
  CHECK(folder.names() == names{"file"});
}

TEST_CASE("file: a folder's parent", "[io]") {
  CHECK(io::detail::parent_folder("a") == ".");
  CHECK(io::detail::parent_folder("a/b") == "a");
  CHECK(io::detail::parent_folder("a/b///") == "a");
  CHECK(io::detail::parent_folder("/a") == "/");
  CHECK(io::detail::parent_folder("/") == "/");
}
