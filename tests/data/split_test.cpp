// Ranks that share out an epoch, by shards and by samples: nothing is lost, nothing comes twice, and runs go on elsewhere.
#include <yoke/core/errors.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/labels.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/mixture.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/train/sources.hpp>

#include "data_files.hpp"
#include "delivery.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;
using delivery::deliver, delivery::record, delivery::small;

namespace {

/// Shards a-0 … a-4 of different sizes, 80 samples 0 … 79 in all.
struct uneven_shards {
  data_files::temporary_folder folder{};
  uneven_shards() {
    int first = 0;
    for (int const size : {11, 20, 13, 9, 27}) {
      data_files::write_shard(folder / ("a-" + std::to_string(shards_) + ".tar"), first, size);
      first += size;
      ++shards_;
    }
  }
  shards open() const { return shards{folder / "a-{0..4}.tar"}; }

 private:
  int shards_ = 0;
};

/// What each of `ranks` ranks delivers of global batches of `batch` samples.
template <class Source>
std::vector<std::vector<record>> on_ranks(Source const& from, loader_options o, int ranks,
                                          yoke::extent_t batch) {
  std::vector<std::vector<record>> all;
  o.ranks = ranks;
  o.batch = batch / ranks;
  for (o.rank = 0; o.rank < ranks; ++o.rank) {
    o.workers = (o.rank + ranks) % 4;
    all.push_back(deliver(from, o));
  }
  return all;
}

/// The ranks' parts of each batch, one after the other.
std::vector<record> joined(std::vector<std::vector<record>> const& ranks) {
  auto whole = ranks[0];
  for (std::size_t r = 1; r < ranks.size(); ++r) {
    REQUIRE(ranks[r].size() == whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i) {
      auto& to = whole[i];
      auto const& part = ranks[r][i];
      auto const tokens = static_cast<std::int32_t>(to.tokens.size());
      to.pixels.insert(to.pixels.end(), part.pixels.begin(), part.pixels.end());
      to.tokens.insert(to.tokens.end(), part.tokens.begin(), part.tokens.end());
      for (std::size_t k = 1; k < part.offsets.size(); ++k) to.offsets.push_back(tokens + part.offsets[k]);
      to.labels.insert(to.labels.end(), part.labels.begin(), part.labels.end());
      to.captions.insert(to.captions.end(), part.captions.begin(), part.captions.end());
      CHECK(part.after == to.after);
    }
  }
  return whole;
}

std::vector<std::int32_t> labels_of(std::vector<std::vector<record>> const& ranks) {
  std::vector<std::int32_t> labels;
  for (auto const& records : ranks)
    for (auto const& r : records) labels.insert(labels.end(), r.labels.begin(), r.labels.end());
  std::sort(labels.begin(), labels.end());
  return labels;
}

std::vector<record> behind(std::vector<record> const& all, std::size_t n) {
  return {all.begin() + static_cast<std::ptrdiff_t>(n), all.end()};
}

}  // namespace

TEST_CASE("Each sample of an epoch is some rank's, and no other's", "[data]") {
  uneven_shards const files;
  auto const how = GENERATE(split::by_shards, split::by_samples);
  for (int ranks = 1; ranks <= 4; ++ranks) {
    CAPTURE(static_cast<int>(how), ranks);
    auto options = small();
    options.split = how;
    options.training = false;
    std::vector<std::int32_t> expected(80);
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(labels_of(on_ranks(files.open(), options, ranks, 4 * ranks)) == expected);

    options.training = true;
    for (options.start.epoch = 0; options.start.epoch < 3; ++options.start.epoch) {
      options.epochs = options.start.epoch + 1;
      auto const labels = labels_of(on_ranks(files.open(), options, ranks, 8 * ranks));
      CHECK(std::set<std::int32_t>(labels.begin(), labels.end()).size() == labels.size());
      auto const dropped = 80 - static_cast<int>(labels.size());
      if (how == split::by_samples)
        CHECK(dropped == 80 % (8 * ranks));
      else
        CHECK(dropped <= 7 * ranks);
    }
  }
}

TEMPLATE_TEST_CASE("By samples, N ranks deliver what one does, from any kind of source", "[data]", shards,
                   scenes, (mixture<shards, labels_as_text<scenes>>), yoke::train::numbered<shards>) {
  uneven_shards const files;
  auto options = small();
  options.split = split::by_samples;
  options.epochs = 2;
  options.want.labels = std::is_same_v<TestType, shards>;
  auto const from = [&] {
    if constexpr (std::is_same_v<TestType, shards>) {
      return files.open();
    } else if constexpr (std::is_same_v<TestType, scenes>) {
      return scenes{{.samples = 80}};
    } else if constexpr (std::is_same_v<TestType, yoke::train::numbered<shards>>) {
      using rules = typename TestType::rules;
      return TestType{files.open(),
                      std::make_shared<rules const>(rules{yoke::train::sample_numbers{files.open()}})};
    } else {
      labels_as_text<scenes> const named{scenes{{.samples = 50}}, {.names = scene_class_names()}};
      return TestType{{{files.open(), 3}, {named, 2}}};
    }
  }();
  auto const one = joined(on_ranks(from, options, 1, 12));
  REQUIRE(one.size() >= 12);
  for (int ranks = 2; ranks <= 4; ++ranks) {
    CAPTURE(ranks);
    CHECK(joined(on_ranks(from, options, ranks, 12)) == one);
  }
  if (std::is_same_v<TestType, shards>) {  // which is what one rank has had all along
    options.split = split::by_shards;
    CHECK(joined(on_ranks(from, options, 1, 12)) == one);
  }
}

TEST_CASE("By samples a run goes on at any step on any number of ranks", "[data]") {
  uneven_shards const files;
  auto options = small();
  options.split = split::by_samples;
  options.epochs = 2;
  auto const one = joined(on_ranks(files.open(), options, 1, 12));
  REQUIRE(one.size() == 12);
  CHECK(one[4].after == position{0, 60});
  CHECK(one[5].after == position{1, 0});
  CHECK(one[11].after == position{2, 0});
  for (std::size_t stop = 1; stop < one.size(); ++stop) {
    options.start = one[stop - 1].after;
    auto const ranks = 1 + static_cast<int>(stop % 4);
    CAPTURE(stop, ranks);
    CHECK(joined(on_ranks(files.open(), options, ranks, 12)) == behind(one, stop));
  }
  // Another global batch begins where the old one left off.
  options.start = {0, 60};
  options.epochs = 1;
  auto const rest = joined(on_ranks(files.open(), options, 2, 8));
  REQUIRE(rest.size() == 2);
  auto labels = one[5].labels;
  labels.resize(8);
  CHECK(rest[0].labels == labels);
}

TEST_CASE("By samples a part of a batch makes up for its bad samples itself", "[data]") {
  data_files::temporary_folder const folder;
  data_files::members members;
  std::set<int> const bad{1, 6, 7, 13, 20};
  for (int i = 0; i < 26; ++i) {
    auto const key = std::to_string(i);
    if (!bad.contains(i))
      members.emplace_back(key + ".png",
                           data_files::png(data_files::noise(9, 8, static_cast<std::uint32_t>(i))));
    members.emplace_back(key + ".txt", "number " + key);
    members.emplace_back(key + ".cls", key);
  }
  data_files::write_tar(folder / "a.tar", members);
  shards const from{folder / "a.tar"};
  auto options = small();
  options.split = split::by_samples;
  options.shuffle = 0;
  options.epochs = 2;
  auto const two = on_ranks(from, options, 2, 8);
  auto const labels = [&](int rank, std::size_t i) { return two[static_cast<std::size_t>(rank)][i].labels; };
  using numbers = std::vector<std::int32_t>;
  REQUIRE(two[0].size() == 6);
  CHECK(labels(0, 0) == numbers{0, 2, 3, 0});
  CHECK(labels(1, 0) == numbers{4, 5, 4, 5});
  CHECK(labels(0, 1) == numbers{8, 9, 10, 11});
  CHECK(labels(1, 1) == numbers{12, 14, 15, 12});
  CHECK(labels(1, 2) == numbers{21, 22, 23, 21});
  auto const& filled = two[0][0];
  CHECK(std::equal(filled.pixels.begin(), filled.pixels.begin() + 192, filled.pixels.end() - 192));
  CHECK(filled.captions == std::vector<std::string>{"number 0", "number 2", "number 3", "number 0"});
  CHECK(filled.tokens.size() == static_cast<std::size_t>(filled.offsets.back()));
  CHECK(filled.offsets == numbers{0, 8, 16, 24, 32});
  for (std::size_t stop = 1; stop < 6; ++stop) {
    options.start = two[1][stop - 1].after;
    CHECK(options.start == two[0][stop - 1].after);
    auto const rest = on_ranks(from, options, 2, 8);
    CHECK(rest[0] == behind(two[0], stop));
    CHECK(rest[1] == behind(two[1], stop));
  }

  options.start = {};
  options.training = false;  // which repeats nothing
  CHECK(labels_of(on_ranks(from, options, 3, 12)).size() == 2 * (26 - bad.size()));
  options.training = true;
  CHECK_THROWS_WITH(on_ranks(from, options, 4, 8),
                    ContainsSubstring("epoch 0: no batch: none of the 2 samples is good; last skipped: " +
                                      (folder / "a.tar") + ": 7: no image"));
}

TEST_CASE("By shards a run goes on on as many ranks, or on any number from an epoch's beginning", "[data]") {
  data_files::temporary_folder const folder;
  for (int i = 0; i < 6; ++i)
    data_files::write_shard(folder / ("a-" + std::to_string(i) + ".tar"), 20 * i, 20);
  shards const from{folder / "a-{0..5}.tar"};
  auto options = small();
  options.epochs = 2;
  auto const two = on_ranks(from, options, 2, 16);
  REQUIRE((two[0].size() == 14 && two[1].size() == 14));
  CHECK(two[1][5].after == position{0, 48, 2});
  CHECK(two[1][6].after == position{1, 0, 2});  // four samples are dropped

  options.start = two[0][3].after;
  CHECK(on_ranks(from, options, 2, 16)[0] == behind(two[0], 4));
  CHECK_THROWS_WITH(
      on_ranks(from, options, 3, 24),
      "loader: start: epoch 0 was being read by 2 ranks by shards and would go on by 3 ranks by "
      "shards; that is possible from the beginning of an epoch, not within one");
  options.split = split::by_samples;
  CHECK_THROWS_WITH(on_ranks(from, options, 2, 16), ContainsSubstring("would go on as a whole"));

  options.start = two[0][6].after;
  for (auto const how : {split::by_shards, split::by_samples}) {
    options.split = how;
    CHECK(labels_of(on_ranks(from, options, 3, 12)).size() == 120);
  }
  options.start = {0, 24};
  CHECK(joined(on_ranks(from, options, 2, 24)).front().after == position{0, 48});  // one rank's is the whole
}

TEST_CASE("Too few samples for all ranks are an error on each", "[data]") {
  uneven_shards const files;
  auto options = small();
  options.split = split::by_samples;
  options.epochs = 1000000;
  CHECK_THROWS_WITH(on_ranks(files.open(), options, 3, 81),
                    "loader: epoch 0: no batch: 80 samples for a batch of 27 on each of 3 ranks");
  options.rank = options.ranks = 2;
  CHECK_THROWS_AS(deliver(files.open(), options), yoke::precondition_error);
}
