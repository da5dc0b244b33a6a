// Mixtures of sources: proportions in every window, each source's own epochs, resuming, ranks, and refusals.
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/labels.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/mixture.hpp>
#include <yoke/data/scenes.hpp>

#include "data_files.hpp"
#include "delivery.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;
using delivery::deliver, delivery::record;

namespace {

/// A source of numbers, and of no labels.
struct numbers {
  struct reference {
    std::uint64_t epoch = 0, value = 0;
  };
  struct walker {
    std::uint64_t epoch = 0;
    std::vector<std::uint64_t> left{};
    bool next(reference& r) {
      if (left.empty())
        return false;
      r = {epoch, left.back()};
      left.pop_back();
      return true;
    }
  };
  struct reader {
    void read(reference const& r, wanted const&, sample& into) const {
      into.caption = std::to_string(r.value);
      into.label = static_cast<std::int32_t>(r.value);
      into.image.resize(1, 1);
    }
  };

  std::uint64_t count = 1;

  void check(order const&) const {}
  walker walk(order const& o) const {
    walker w{o.epoch, {}};
    for (auto i = static_cast<std::uint64_t>(o.rank); i < count; i += static_cast<std::uint64_t>(o.ranks))
      w.left.push_back(i);
    std::reverse(w.left.begin(), w.left.end());  // they leave from the back
    yoke::random_sequence draws{yoke::mix(o.seed, o.epoch)};
    for (auto i = o.shuffle > 0 ? w.left.size() : 0; i > 1; --i)
      std::swap(w.left[i - 1], w.left[draws.below(i)]);
    return w;
  }
  reader make_reader() const { return {}; }
  sample_name name(reference const& r) const { return {"numbers", std::to_string(r.value)}; }
  std::uint64_t samples() const { return count; }
};

struct drawn {
  std::size_t part = 0;
  std::uint64_t epoch = 0, value = 0;
  bool operator==(drawn const&) const = default;
};

std::vector<drawn> walk(mixture<numbers> const& from, order const& o) {
  std::vector<drawn> all;
  auto walker = from.walk(o);
  mixture<numbers>::reference r;
  while (walker.next(r)) {
    auto const& number = std::get<numbers::reference>(r.of);
    all.push_back({r.part, number.epoch, number.value});
  }
  REQUIRE_FALSE(walker.next(r));
  return all;
}

mixture<numbers> of_numbers(std::vector<std::pair<std::uint64_t, std::int64_t>> const& counts_and_parts) {
  std::vector<mixture<numbers>::part> parts;
  for (auto [count, share] : counts_and_parts) parts.push_back({numbers{count}, share});
  return mixture<numbers>{parts};
}

/// Captioned shards c-0 … c-3, labelled ones l-0 and l-1 whose classes are twenty in all.
struct corpora {
  data_files::temporary_folder folder{};
  corpora() {
    for (int i = 0; i < 4; ++i)
      data_files::write_shard(folder / ("c-" + std::to_string(i) + ".tar"), 25 * i, 25);
    for (int i = 0; i < 2; ++i) {
      data_files::members all;
      for (int k = 10 * i; k < 10 * i + 10; ++k) {
        auto const key = std::to_string(k);
        all.emplace_back(key + ".png",
                         data_files::png(data_files::noise(8, 8, static_cast<std::uint32_t>(k))));
        all.emplace_back(key + ".cls", key + " " + std::to_string((k + 7) % 20));
      }
      data_files::write_tar(folder / ("l-" + std::to_string(i) + ".tar"), all);
    }
  }
  shards captioned() const { return shards{folder / "c-{0..3}.tar"}; }
  labels_as_text<shards> labelled() const {
    label_options how{.templates = {"a photo of the {}.", "{}, drawn"}};
    for (int i = 0; i < 20; ++i) how.names.push_back("thing " + std::to_string(i));
    return {shards{folder / "l-{0..1}.tar"}, how};
  }
};

loader_options no_labels() {
  auto options = delivery::small();
  options.want.labels = false;
  return options;
}

}  // namespace

TEST_CASE("Turns are shared by parts, in every window", "[data]") {
  std::vector<std::vector<std::int64_t>> const cases{
      {1}, {3, 1}, {1, 1}, {7, 3}, {1, 99}, {5, 3, 2}, {1, 1, 1, 1}, {100, 1, 1, 37}, {1, 2, 3, 4, 5, 6, 7}};
  for (auto const& parts : cases) {
    turns turn{parts};
    auto const all = static_cast<double>(std::accumulate(parts.begin(), parts.end(), std::int64_t{0}));
    constexpr std::size_t length = 1500;
    std::vector<std::vector<int>> before(length + 1, std::vector<int>(parts.size()));  // turns until then
    for (std::size_t t = 0; t < length; ++t) {
      before[t + 1] = before[t];
      ++before[t + 1][turn.next()];
    }
    double worst = 0;
    for (std::size_t from = 0; from < length; ++from)
      for (std::size_t to = from + 1; to <= length; ++to)
        for (std::size_t i = 0; i < parts.size(); ++i)
          worst =
              std::max(worst, std::abs(before[to][i] - before[from][i] -
                                       static_cast<double>(to - from) * static_cast<double>(parts[i]) / all));
    INFO(parts.size() << " parts");
    CHECK(worst < static_cast<double>(parts.size()));
  }
  turns doubled{{6, 2}};
  CHECK(doubled.cycle() == 4);
  CHECK_THROWS_AS((turns{{1, 0}}), yoke::precondition_error);
}

TEST_CASE("An epoch ends when each source has given all of its samples", "[data]") {
  auto const cases = std::vector<std::vector<std::pair<std::uint64_t, std::int64_t>>>{
      {{100, 3}, {10, 1}}, {{10, 3}, {100, 1}},        {{1, 1}, {1, 1}},    {{50, 1}},
      {{40, 2}, {20, 1}},  {{7, 5}, {31, 3}, {12, 2}}, {{33, 1}, {1, 1000}}};
  for (auto const& sizes : cases) {
    auto const from = of_numbers(sizes);
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      auto const all = walk(from, {.seed = 5, .epoch = epoch, .shuffle = 1});
      CHECK(all.size() == from.samples());
      std::vector<std::uint64_t> given(sizes.size());
      std::vector<std::set<std::uint64_t>> now(sizes.size());  // of the source's epoch at hand
      for (std::size_t at = 0; at < all.size(); ++at) {
        auto const& d = all[at];
        auto const size = sizes[d.part].first;
        // Each of a source's own epochs has each number once, and its number says which it is.
        CHECK(d.epoch == epoch + ((given[d.part] / size) << 32));
        CHECK(now[d.part].insert(d.value).second);
        if (++given[d.part] % size == 0)
          now[d.part].clear();
        auto finished = true;
        for (std::size_t i = 0; i < sizes.size(); ++i) finished = finished && given[i] >= sizes[i].first;
        CHECK(finished == (at + 1 == all.size()));
      }
      CHECK(given[all.back().part] == sizes[all.back().part].first);
    }
  }
}

TEST_CASE("Epochs differ, and so do a source's own, and two sources of the same", "[data]") {
  auto const from = of_numbers({{60, 1}, {20, 1}, {20, 1}});
  auto const first = walk(from, {.seed = 1, .shuffle = 1});
  CHECK(walk(from, {.seed = 1, .shuffle = 1}) == first);
  CHECK(walk(from, {.seed = 2, .shuffle = 1}) != first);
  auto values = [](std::vector<drawn> const& all, std::size_t part, std::size_t begin, std::size_t count) {
    std::vector<std::uint64_t> found;
    for (auto const& d : all)
      if (d.part == part)
        found.push_back(d.value);
    REQUIRE(found.size() >= begin + count);
    return std::vector(found.begin() + static_cast<std::ptrdiff_t>(begin),
                       found.begin() + static_cast<std::ptrdiff_t>(begin + count));
  };
  auto const second = walk(from, {.seed = 1, .epoch = 1, .shuffle = 1});
  CHECK(values(first, 0, 0, 60) != values(second, 0, 0, 60));
  CHECK(values(first, 1, 0, 20) != values(first, 1, 20, 20));
  CHECK(values(first, 1, 0, 20) != values(first, 2, 0, 20));
  CHECK(values(first, 1, 20, 20) != values(second, 1, 0, 20));
}

TEST_CASE("Each batch is mixed as stated", "[data]") {
  corpora const files;
  using sources = mixture<shards, labels_as_text<shards>>;
  sources const from{{{files.captioned(), 3}, {files.labelled(), 1}}};
  auto options = no_labels();
  options.epochs = 2;
  auto const all = deliver(from, options);
  CHECK(from.samples() == 133);  // the 100th caption comes before its round's label
  REQUIRE(all.size() == std::size_t{2} * (133 / 8));
  for (auto const& b : all) {
    auto const captions = std::count_if(b.captions.begin(), b.captions.end(),
                                        [](auto const& text) { return text.starts_with("number "); });
    auto const labels = std::count_if(b.captions.begin(), b.captions.end(),
                                      [](auto const& text) { return text.find("thing ") != text.npos; });
    CHECK(captions == 6);
    CHECK(labels == 2);
  }
}

TEST_CASE("A mixture resumes anywhere, with any number of workers", "[data]") {
  corpora const files;
  data_files::write_tar(files.folder / "c-3.tar",
                        {{"1.png", "not an image"}, {"1.txt", "x"}, {"2.txt", "no image"}});
  using sources = mixture<shards, labels_as_text<shards>, scenes>;
  sources const from{
      {{files.captioned(), 2}, {files.labelled(), 1}, {scenes{{.samples = 30, .size = 8}}, 2}}};
  auto options = no_labels();
  options.epochs = 3;
  options.workers = 0;
  auto const whole = deliver(from, options);
  REQUIRE(whole.size() > 60);
  for (auto workers : {1, 2, 5}) {
    options.workers = workers;
    CHECK(deliver(from, options) == whole);
  }
  for (std::size_t stop = 0; stop < whole.size(); stop += stop < 4 ? 1 : 3) {
    options.start = whole[stop].after;
    options.workers = static_cast<int>(stop % 4);
    INFO("after batch " << stop);
    REQUIRE(deliver(from, options) ==
            std::vector<record>(whole.begin() + static_cast<std::ptrdiff_t>(stop) + 1, whole.end()));
  }
}

TEST_CASE("Ranks keep the proportions together, and share what there is", "[data]") {
  auto const from = of_numbers({{400, 7}, {40, 1}});
  std::vector<std::vector<drawn>> ranks;
  for (int rank = 0; rank < 4; ++rank) ranks.push_back(walk(from, {.shuffle = 1, .rank = rank, .ranks = 4}));
  std::set<std::uint64_t> large, small;
  for (auto const& all : ranks)
    for (auto const& d : all) (d.part == 0 ? large : small).insert(d.value);
  CHECK(large.size() == 400);
  CHECK(small.size() == 40);
  // Two samples a rank, eight in all: seven of the one, one of the other.
  for (std::size_t at = 0; at + 2 <= 100; at += 2) {
    int of_small = 0;
    for (auto const& all : ranks) of_small += (all[at].part == 1) + (all[at + 1].part == 1);
    CHECK(of_small == 1);
  }
}

TEST_CASE("What cannot be mixed is named", "[data]") {
  corpora const files;
  CHECK_THROWS_AS(mixture<numbers>{{}}, yoke::precondition_error);
  CHECK_THROWS_AS(of_numbers({{5, 1}, {5, 0}}), yoke::precondition_error);
  CHECK_THROWS_AS(of_numbers({{5, -1}}), yoke::precondition_error);
  CHECK_THROWS_AS(of_numbers({{5, 1'000'001}}), yoke::precondition_error);
  CHECK_THROWS_WITH(walk(of_numbers({{5, 1}, {0, 2}}), {}),
                    "mixture: source 2 of 2: it has no sample for rank 0 of 1");
  CHECK_THROWS_WITH(walk(of_numbers({{1, 1}, {5, 2}}), {.rank = 1, .ranks = 2}),
                    "mixture: source 1 of 2: it has no sample for rank 1 of 2");
  // What a source refuses, the loader's constructor says.
  using sources = mixture<shards, labels_as_text<shards>>;
  auto options = no_labels();
  options.ranks = 3;
  CHECK_THROWS_WITH(
      (loader{sources{{{files.captioned(), 1}, {files.labelled(), 1}}}, delivery::letters, options}),
      ContainsSubstring("l-0.tar: the pattern names 2 shards, fewer than the 3 ranks"));
  options.ranks = 1;
  labels_as_text const unnamed{shards{files.folder / "l-0.tar"}, {.names = {"thing"}, .list = "names.txt"}};
  CHECK_THROWS_WITH(
      (loader{sources{{{files.captioned(), 1}, {unnamed, 1}}}, delivery::letters, options}),
      ContainsSubstring("l-0.tar: 0: class 7: it has no name: names.txt has 1 name, from 0 to 0"));
  // A bad sample is named by its own source.
  data_files::write_tar(files.folder / "l-1.tar", {{"blind.cls", "3"}});
  std::vector<std::string> messages;
  options.on_skip = [&](skipped_sample const& s) { messages.push_back(s.message()); };
  deliver(sources{{{files.captioned(), 3}, {files.labelled(), 1}}}, options);
  REQUIRE_FALSE(messages.empty());
  for (auto const& m : messages)
    CHECK(m == files.folder / "l-1.tar" + ": blind: no image: neither jpg, jpeg nor png");
}

TEST_CASE("A reference takes over the storage of the one before, whatever its kind", "[data]") {
  corpora const files;
  using sources = mixture<shards, scenes>;
  sources const from{{{files.captioned(), 1}, {scenes{{.samples = 100, .size = 8}}, 1}}};
  auto walker = from.walk({});
  sources::reference r;
  auto reader = from.make_reader();
  sample s;
  for (int i = 0; walker.next(r); ++i) {
    CHECK(r.of.index() == r.part);
    reader.read(r, {}, s);
    CHECK((from.name(r).file == "scenes") == (i % 2 == 1));
    CHECK((s.label == -1) == !(i % 2 == 1 && s.classes.size() == 1));
  }
  CHECK(from.samples() == 200);
}

TEST_CASE("Sources that give no labels are told from those that do", "[data]") {
  label_options const how{.names = scene_class_names(), .templates = {"{}"}};
  CHECK_THROWS_WITH(
      (labels_as_text{numbers{5}, how}.check({})),
      "numbers: 0: no labels: its source gives none: none of the 5 samples looked at has labels");
  using sources = mixture<scenes, numbers>;
  labels_as_text const from{sources{{{scenes{{.samples = 20, .size = 8}}, 1}, {numbers{20}, 1}}}, how};
  from.check({});
  auto walker = from.walk({});
  auto reader = from.make_reader();
  decltype(from)::reference r;
  sample s;
  for (int i = 0; walker.next(r); ++i) {
    if (i % 2 == 0)
      reader.read(r, {}, s);
    else
      CHECK_THROWS_WITH(reader.read(r, {}, s), "no labels: its source gives none");
  }
}
