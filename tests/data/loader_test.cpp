// The loader's promises: order, resuming, skipping, ranks, and what it says about bad input.
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>

#include "data_files.hpp"
#include "delivery.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;
using delivery::deliver, delivery::letters, delivery::record, delivery::small;

namespace {

std::vector<std::int32_t> all_labels(std::vector<record> const& records) {
  std::vector<std::int32_t> labels;
  for (auto const& r : records) labels.insert(labels.end(), r.labels.begin(), r.labels.end());
  return labels;
}

/// Shards a-0 … a-4 with samples 0 … 99, 20 each.
struct five_shards {
  data_files::temporary_folder folder{};
  five_shards() {
    for (int i = 0; i < 5; ++i)
      data_files::write_shard(folder / ("a-" + std::to_string(i) + ".tar"), 20 * i, 20);
  }
  shards open() const { return shards{folder / "a-{0..4}.tar"}; }
};

}  // namespace

TEST_CASE("What a loader delivers does not depend on its workers", "[data]") {
  five_shards const files;
  auto options = small(0);
  options.epochs = 3;
  auto const expected = deliver(files.open(), options);
  CHECK(expected.size() == 36);  // 12 whole batches an epoch
  for (auto workers : {1, 2, 7}) {
    options.workers = workers;
    options.prepared = workers;
    CHECK(deliver(files.open(), options) == expected);
  }
  options.seed = 2;
  CHECK(deliver(files.open(), options) != expected);
}

TEST_CASE("An epoch has each sample once, in an order of its own", "[data]") {
  five_shards const files;
  auto options = small();
  options.epochs = 2;
  options.batch = 10;
  auto const labels = all_labels(deliver(files.open(), options));
  REQUIRE(labels.size() == 200);
  std::vector<std::int32_t> first(labels.begin(), labels.begin() + 100),
      second(labels.begin() + 100, labels.end());
  CHECK(first != second);
  CHECK_FALSE(std::is_sorted(first.begin(), first.end()));
  std::vector<std::int32_t> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  CHECK(first == expected);
  CHECK(second == expected);
  CHECK(files.open().samples() == 100);
}

TEST_CASE("Images, captions and labels stay together", "[data]") {
  five_shards const files;
  auto options = small();
  options.augment = {.crop = false};
  batch b;
  loader batches{files.open(), letters, options};
  while (batches.next(b)) {
    REQUIRE(b.images().shape == yoke::shape<4>{{8, 8, 8, 3}});
    REQUIRE(b.offsets.size() == 9);
    REQUIRE(b.token_segments().count == 8);
    REQUIRE(b.token_segments().longest >= 8);
    for (std::size_t i = 0; i < 8; ++i) {
      auto const caption = "number " + std::to_string(b.labels[i]);
      CHECK(b.captions[i] == caption);
      CHECK(std::string(b.tokens.begin() + b.offsets[i], b.tokens.begin() + b.offsets[i + 1]) == caption);
      auto const image = data_files::noise(8, 8, static_cast<std::uint32_t>(b.labels[i]));
      CHECK(std::equal(image.pixels.begin(), image.pixels.end(),
                       b.pixels.begin() + static_cast<std::ptrdiff_t>(i * 192)));
    }
  }
}

TEST_CASE("Evaluation keeps the order and the last batch", "[data]") {
  five_shards const files;
  auto options = small();
  options.training = false;
  options.batch = 32;
  auto const all = deliver(files.open(), options);
  REQUIRE(all.size() == 4);
  CHECK(all.back().labels.size() == 4);
  CHECK(all.back().pixels.size() == 4 * 192);
  auto const labels = all_labels(all);
  CHECK((labels.size() == 100 && std::is_sorted(labels.begin(), labels.end())));
  int count = 0;
  for (auto const& b : loader{files.open(), letters, options}) count += static_cast<int>(b.size());
  CHECK(count == 100);
}

TEST_CASE("A loader that begins at a position goes on as if it had never stopped", "[data]") {
  five_shards const files;
  // A bad sample is behind some positions and ahead of others.
  data_files::write_tar(files.folder / "a-2.tar", {{"1.png", "not an image"},
                                                   {"1.txt", "x"},
                                                   {"1.cls", "3"},
                                                   {"2.png", data_files::png(data_files::noise(9, 5, 1))},
                                                   {"2.txt", "good"},
                                                   {"2.cls", "777"},
                                                   {"3.txt", "no image"},
                                                   {"3.cls", "3"}});
  auto options = small();
  options.epochs = 3;
  auto const whole = deliver(files.open(), options);
  REQUIRE(whole.size() == 30);
  for (std::size_t stop = 0; stop < whole.size(); ++stop) {
    options.start = whole[stop].after;
    options.workers = static_cast<int>(stop % 3);
    auto const rest = deliver(files.open(), options);
    INFO("after batch " << stop);
    REQUIRE(rest == std::vector<record>(whole.begin() + static_cast<std::ptrdiff_t>(stop) + 1, whole.end()));
  }
  auto const of_scenes = scenes{{.samples = 50}};
  auto scene_options_ = small();
  scene_options_.want.labels = false;
  scene_options_.epochs = 2;
  auto const drawn = deliver(of_scenes, scene_options_);
  REQUIRE(drawn.size() == 12);
  scene_options_.start = drawn[7].after;
  CHECK(deliver(of_scenes, scene_options_) == std::vector<record>(drawn.begin() + 8, drawn.end()));
}

TEST_CASE("Bad samples are skipped, counted and named", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  auto const image = data_files::png(data_files::noise(8, 8, 1));
  auto const jpeg = data_files::read(YOKE_GOLDEN_DIR "/images/color_420.jpg");
  data_files::write_tar(path, {{"cmyk.jpg", data_files::read(YOKE_GOLDEN_DIR "/images/cmyk.jpg")},
                               {"cmyk.txt", "  four inks\n"},
                               {"cmyk.cls", "1"},
                               {"gray.jpg", data_files::read(YOKE_GOLDEN_DIR "/images/gray.jpg")},
                               {"gray.json", R"({"text": "one channel"})"},
                               {"gray.cls", " 2\n"},
                               {"half.jpg", jpeg.substr(0, jpeg.size() / 2)},
                               {"half.txt", "x"},
                               {"half.cls", "1"},
                               {"blank.png", image},
                               {"blank.txt", " \n"},
                               {"blank.cls", "1"},
                               {"latin.png", image},
                               {"latin.txt", "caf\xE9"},
                               {"latin.cls", "1"},
                               {"bare.png", image},
                               {"bare.cls", "1"},
                               {"odd.png", image},
                               {"odd.json", R"({"caption": 3})"},
                               {"odd.cls", "1"},
                               {"torn.png", image},
                               {"torn.json", R"({"caption": "x)"},
                               {"torn.cls", "1"},
                               {"blind.txt", "x"},
                               {"blind.cls", "1"},
                               {"class.png", image},
                               {"class.txt", "x"},
                               {"class.cls", "cat"},
                               {"none.png", image},
                               {"none.txt", "x"},
                               {"last.png", image},
                               {"last.json", R"({"caption": "déjà vu", "text": "no"})"},
                               {"last.cls", "3"}});
  auto options = small();
  options.training = false;
  std::vector<std::string> messages;
  options.on_skip = [&](skipped_sample const& s) { messages.push_back(s.message()); };
  loader batches{shards{path}, letters, options};
  batch b;
  REQUIRE(batches.next(b));
  CHECK(b.captions == std::vector<std::string>{"four inks", "one channel", "déjà vu"});
  CHECK(b.labels == std::vector<std::int32_t>{1, 2, 3});
  CHECK(b.after == position{1, 0});
  CHECK_FALSE(batches.next(b));
  CHECK_FALSE(batches.next(b));
  REQUIRE(messages.size() == 9);
  CHECK(batches.skipped() == 9);
  CHECK(batches.last_skipped().size() == 9);
  CHECK_THAT(messages[0], ContainsSubstring(path + ": half: JPEG: "));
  CHECK(messages[1] == path + ": blank: caption: it is empty");
  CHECK(messages[2] == path + ": latin: caption: it is not UTF-8");
  CHECK(messages[3] == path + ": bare: no caption: neither txt nor json");
  CHECK(messages[4] == path + ": odd: json: it has no caption or text");
  CHECK(messages[5] == path + ": torn: json: line 1 column 13: the string does not end");
  CHECK(messages[6] == path + ": blind: no image: neither jpg, jpeg nor png");
  CHECK(messages[7] == path + ": class: cls: it is not a class number");
  CHECK(messages[8] == path + ": none: no class: no cls");
}

TEST_CASE("Past the limit bad samples stop the loader", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  data_files::members bare;
  for (int i = 0; i < 300; ++i)
    bare.emplace_back(std::to_string(i) + ".png", data_files::png(data_files::noise(8, 8, 1)));
  data_files::write_tar(path, bare);
  auto options = small();
  options.shuffle = 0;
  options.want.labels = false;
  batch b;
  {
    loader batches{shards{path}, letters, options};
    auto const expected =
        path + ": 100: no caption: neither txt nor json (bad sample 101 of 101, more than the limit)";
    CHECK_THROWS_WITH(batches.next(b), expected);
    CHECK_THROWS_WITH(batches.next(b), expected);
  }
  options.most_skipped = 1000;
  {
    loader batches{shards{path}, letters, options};
    CHECK_THROWS_WITH(
        batches.next(b),
        ContainsSubstring("no batch: 0 good samples for a batch of 8; last skipped: " + path + ": 299"));
  }
  options.most_skipped = 0;
  options.skipped_share = 0.5;  // of many, half may be bad
  data_files::members mixed;
  for (int i = 0; i < 40; ++i) {
    mixed.emplace_back(std::to_string(i) + ".png", data_files::png(data_files::noise(8, 8, 1)));
    mixed.emplace_back(std::to_string(i) + (i % 3 == 1 ? ".text" : ".txt"), "x");
  }
  data_files::write_tar(path, mixed);
  CHECK(deliver(shards{path}, options).size() == 3);
}

TEST_CASE("Ranks share the shards, and each needs one", "[data]") {
  five_shards const files;
  auto options = small();
  options.training = false;
  options.ranks = 3;
  std::vector<std::int32_t> all;
  for (options.rank = 0; options.rank < 3; ++options.rank) {
    auto const labels = all_labels(deliver(files.open(), options));
    CHECK(labels.size() == (options.rank == 2 ? 20 : 40));
    all.insert(all.end(), labels.begin(), labels.end());
  }
  CHECK(std::set<std::int32_t>(all.begin(), all.end()).size() == 100);
  options.rank = 0;
  options.ranks = 6;
  CHECK_THROWS_WITH(deliver(files.open(), options),
                    ContainsSubstring("the pattern names 5 shards, fewer than the 6 ranks"));
}

TEST_CASE("Missing and broken shards are named", "[data]") {
  five_shards const files;
  CHECK_THROWS_WITH(shards{files.folder / "a-{3..7}.tar"},
                    ContainsSubstring("a-5.tar: cannot open the shard"));
  auto const last = files.folder / "a-4.tar";
  std::filesystem::resize_file(last, 19000);
  auto options = small();
  options.training = false;
  loader batches{files.open(), letters, options};
  batch b;
  int good = 0;
  std::string message;
  try {
    while (batches.next(b)) ++good;
  } catch (yoke::io::error const& broken) {
    message = broken.what();
  }
  CHECK(good >= 8);  // what came before it is delivered
  CHECK_THAT(message, ContainsSubstring(last + ": byte 18432"));
  CHECK_THAT(message, ContainsSubstring("the archive is cut short"));
  CHECK_THROWS_WITH(batches.next(b), message);
  std::filesystem::resize_file(last, 0);
  CHECK_THROWS_WITH(files.open().samples(), ContainsSubstring("the archive is cut short"));
}

TEST_CASE("Too few samples for one batch are an error, not an endless search", "[data]") {
  five_shards const files;
  auto options = small();
  options.batch = 101;
  options.epochs = 1000000;
  CHECK_THROWS_WITH(deliver(files.open(), options),
                    ContainsSubstring("epoch 0: no batch: 100 good samples for a batch of 101"));
  data_files::write_tar(files.folder / "empty.tar", {});
  options.training = false;
  CHECK_THROWS_WITH(deliver(shards{files.folder / "empty.tar"}, options), ContainsSubstring("no batch"));
}

TEST_CASE("What a tokenizer throws arrives in next()", "[data]") {
  five_shards const files;
  for (auto workers : {0, 2}) {
    auto options = small(workers);
    loader batches{
        files.open(),
        [](std::string_view, std::vector<std::int32_t>&) { throw std::logic_error("no vocabulary"); },
        options};
    batch b;
    CHECK_THROWS_WITH(batches.next(b), "no vocabulary");
  }
  auto options = small();
  options.most_skipped = 3;
  CHECK_THROWS_WITH(
      (loader{files.open(), [](std::string_view, std::vector<std::int32_t>&) {}, options}.begin()),
      ContainsSubstring("caption: it has no tokens (bad sample 4 of 4"));
  CHECK_THROWS_AS((loader{files.open(), nullptr, options}), yoke::precondition_error);
}

TEST_CASE("A loader can be left at any time", "[data]") {
  five_shards const files;
  for (std::size_t taken = 0; taken < 20; ++taken) {
    auto options = small(static_cast<int>(taken % 4));
    options.epochs = 1000000;
    CHECK(deliver(files.open(), options, taken).size() == taken);
  }
}

TEST_CASE("A batch keeps its storage", "[data]") {
  five_shards const files;
  auto options = small();
  options.epochs = 4;
  loader batches{files.open(), letters, options};
  batch b;
  REQUIRE(batches.next(b));
  auto const* const pixels = b.pixels.data();
  auto const* const labels = b.labels.data();
  while (batches.next(b)) CHECK((b.pixels.data() == pixels && b.labels.data() == labels));
}

TEST_CASE("Captions may be left out", "[data]") {
  five_shards const files;
  auto options = small();
  options.want = {.captions = false, .labels = true};
  options.keep_captions = false;
  loader batches{files.open(), nullptr, options};
  batch b;
  REQUIRE(batches.next(b));
  CHECK((b.tokens.empty() && b.captions.empty() && b.labels.size() == 8));
  CHECK(b.token_segments().rows == 0);
}
