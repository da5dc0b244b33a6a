// Folders that are replaced as a whole survive every failure and death at every system call.
#include <yoke/io/folder.hpp>

#include "io/faults.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <vector>

namespace io = yoke::io;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using names = std::vector<std::string>;

namespace {

void save(std::string const& path, std::string const& content) {
  io::folder_writer writer{path, "marker"};
  writer.write("marker", content);
  writer.write("weights", std::string(10'000, content[0]));
  writer.commit();
}

/// The content of a complete folder, or what is wrong with it.
std::string load(std::string const& path) {
  auto const folder = io::committed_folder(path);
  try {
    auto const content = io::read_file(folder + "/marker");
    auto const whole = io::read_file(folder + "/weights") == std::string(10'000, content[0]);
    return whole && io::detail::names_in(folder).size() == 2 ? content : "mixed";
  } catch (io::error const& e) {
    return e.what();
  }
}

bool refuse_exchange() {
  return refuse_call(SYS_renameat2, EINVAL, 4, 2 /* RENAME_EXCHANGE */);
}

}  // namespace

TEST_CASE("folder: a folder is written, then replaced", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  save(path, "one");
  CHECK(load(path) == "one");
  save(path + "/", "two");
  CHECK(load(path) == "two");
  CHECK(base.names() == names{"checkpoint"});
}

TEST_CASE("folder: a file system that cannot exchange names is served by two renames", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  auto const words = failure_in_child([&] {
    if (!refuse_exchange())
      return;
    for (auto const* content : {"one", "two", "three"}) save(path, content);
    if (load(path) != "three" || base.names() != names{"checkpoint"})
      throw std::runtime_error("wrong");
  });
  CHECK(words.empty());
}

TEST_CASE("folder: without commit nothing changes and nothing is left", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  save(path, "one");
  {
    io::folder_writer writer{path, "marker"};
    writer.write("marker", "two");
    REQUIRE(::mkdir(writer.file("folder").c_str(), 0777) == 0);  // what another library may leave
    CHECK(base.names().size() == 2);
  }
  CHECK(load(path) == "one");
  CHECK(base.names() == names{"checkpoint"});
}

TEST_CASE("folder: a folder with other things in it is never replaced", "[io]") {
  scratch_folder const base;
  auto const path = base / "home";
  REQUIRE(::mkdir(path.c_str(), 0777) == 0);
  SECTION("empty: replaced") {
    save(path, "one");
    CHECK(load(path) == "one");
  }
  SECTION("files but no marker") {
    io::write_file_atomically(path + "/letter", "dear");
    CHECK_THROWS_MATCHES(
        save(path, "one"), io::error,
        MessageMatches(ContainsSubstring(path + ": is not replaced, since it has files but no marker")));
    CHECK(io::read_file(path + "/letter") == "dear");
  }
  SECTION("files that came while the writer wrote") {
    {
      io::folder_writer writer{path, "marker"};
      writer.write("marker", "x");
      io::write_file_atomically(path + "/letter", "dear");
      CHECK_THROWS_AS(writer.commit(), io::error);
    }
    CHECK(io::read_file(path + "/letter") == "dear");
  }
  SECTION("a file") {
    io::write_file_atomically(base / "file", "dear");
    CHECK_THROWS_MATCHES(save(base / "file", "one"), io::error,
                         MessageMatches(ContainsSubstring("is not a folder")));
  }
}

TEST_CASE("folder: a link to a folder stays a link", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint", link = base / "latest";
  save(path, "one");
  REQUIRE(::symlink("checkpoint", link.c_str()) == 0);
  save(link, "two");
  CHECK(load(path) == "two");
  CHECK_FALSE(io::detail::is_folder(link));
  CHECK(base.names() == names{"checkpoint", "latest"});

  REQUIRE(::symlink("nowhere", (base / "broken").c_str()) == 0);
  CHECK_THROWS_MATCHES(save(base / "broken", "one"), io::error,
                       MessageMatches(ContainsSubstring("follow the link")));
}

TEST_CASE("folder: removing a folder does not follow links", "[io]") {
  scratch_folder const base;
  io::write_file_atomically(base / "outside", "stays");
  REQUIRE(::mkdir((base / "folder").c_str(), 0777) == 0);
  REQUIRE(::symlink(base.path().c_str(), (base / "folder/link").c_str()) == 0);
  io::detail::remove_tree(base / "folder");
  CHECK(base.names() == names{"outside"});
}

TEST_CASE("folder: a file that was promised must be there, and so must the marker", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  save(path, "one");
  {
    io::folder_writer writer{path, "marker"};
    writer.write("marker", "two");
    writer.file("weights");
    CHECK_THROWS_MATCHES(writer.commit(), io::error,
                         MessageMatches(ContainsSubstring("weights: the file was to be written")));
    CHECK_THROWS_AS(writer.file("a/b"), yoke::precondition_error);
    CHECK_THROWS_AS(writer.file(""), yoke::precondition_error);
  }
  {
    io::folder_writer writer{path, "marker"};
    writer.write("weights", "two");
    CHECK_THROWS_MATCHES(writer.commit(), io::error,
                         MessageMatches(ContainsSubstring("marker: every folder")));
  }
  CHECK(load(path) == "one");
  CHECK(base.names() == names{"checkpoint"});
}

TEST_CASE("folder: what killed writers left is removed, what living ones write is not", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  for (auto const* name : {"checkpoint.tmp-1", "checkpoint.tmp-99-3", "checkpoint.tmp-x", "other.tmp-1"}) {
    REQUIRE(::mkdir((base / name).c_str(), 0777) == 0);
    io::write_file_atomically((base / name) + "/file", "x");
  }
  io::folder_writer living{path, "marker"};
  living.write("marker", "one");
  living.write("weights", std::string(10'000, 'o'));
  CHECK(base.names().size() == 3);  // two that are not ours, and the living one
  save(path, "two");
  CHECK(load(path) == "two");
  living.commit();
  CHECK(load(path) == "one");
  CHECK(base.names() == names{"checkpoint", "checkpoint.tmp-x", "other.tmp-1"});
}

TEST_CASE(
    "folder: killed between two renames: the old folder is read, and the next writer gives it its name back",
    "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  save(path, "one");
  REQUIRE(::rename(path.c_str(), (path + ".tmp-old").c_str()) == 0);
  CHECK(load(path) == "one");
  CHECK(load(path + "/") == "one");
  { io::folder_writer const writer{path, "marker"}; }
  CHECK(base.names() == names{"checkpoint"});
  CHECK(load(path) == "one");
}

TEST_CASE("folder: a full disk leaves the old folder", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  SECTION("files may not grow") {
    save(path, "one");
    CHECK_THAT(failure_in_child([&] {
                 limit_file_size(5'000);
                 save(path, "two");
               }),
               ContainsSubstring("weights: cannot write: File too large"));
    CHECK(load(path) == "one");
    CHECK(base.names() == names{"checkpoint"});
  }
  SECTION("a file system with room for one") {
    CHECK(failure_in_child([&] {
            if (!mount_small(base.path(), "28k"))
              return;  // the section above stands for it
            save(path, "one");
            std::string words;
            try {
              save(path, "two");
            } catch (io::error const& e) {
              words = e.what();
            }
            if (words.find("No space left on device") == std::string::npos)
              throw std::runtime_error("it fitted: " + words);
            if (load(path) != "one" || base.names() != names{"checkpoint"})
              throw std::runtime_error("the old one is " + load(path));
          }).empty());
  }
}

TEST_CASE("folder: a sync that fails leaves the old folder", "[io]") {
  scratch_folder const base;
  auto const path = base / "checkpoint";
  save(path, "one");
  auto const words = failure_in_child([&] {
    io::folder_writer writer{path, "marker"};
    writer.write("marker", "two");
    if (!refuse_call(SYS_fsync, EIO))
      throw std::runtime_error("cannot sync: Input/output error (not tried)");
    writer.commit();
  });
  CHECK_THAT(words, ContainsSubstring("cannot sync: Input/output error"));
  CHECK(load(path) == "one");
  CHECK(base.names() == names{"checkpoint"});
}

TEST_CASE("folder: killed at any system call, one complete folder can be read and the next writer cleans up",
          "[io]") {
  auto const exchange = GENERATE(true, false);
  CAPTURE(exchange);
  scratch_folder const base{"/dev/shm"};  // syncs cost nothing there
  auto const path = base / "checkpoint";
  save(path, "one");
  auto old_seen = 0, new_seen = 0, from_old = 0;
  for (int stops = 0;; ++stops) {
    CAPTURE(stops);
    auto const end = kill_after(stops, [&] {
      if (!exchange && !refuse_exchange())
        ::_exit(2);
      save(path, "two");
    });
    if (end == fate::untraceable) {
      WARN("not tried: this machine does not let a test trace or filter system calls");
      return;
    }
    REQUIRE(end != fate::failed);
    auto const content = load(path);
    REQUIRE((content == "one" || content == "two"));
    (content == "one" ? old_seen : new_seen) += 1;
    from_old += io::committed_folder(path) != path;
    if (end == fate::finished)
      break;
    save(path, "one");
    REQUIRE(load(path) == "one");
    REQUIRE(base.names() == names{"checkpoint"});
  }
  CHECK(old_seen > 20);
  CHECK(new_seen > 5);
  CHECK((from_old > 0) == !exchange);
}
