// Labels as text: what is drawn varies, is the same again, and labels without names are named.
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/data/image_shards.hpp>
#include <yoke/data/labels.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>

#include "data_files.hpp"
#include "delivery.hpp"
#include <algorithm>
#include <catch2/catch_all.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

using namespace yoke::data;
using Catch::Matchers::ContainsSubstring;
using delivery::deliver;
using strings = std::vector<std::string>;

namespace {

strings const animals{"ant", "bear", "cat", "dog", "eel", "fox"};
strings const two_templates{"a photo of the {}.", "%s, drawn"};

label_options named(strings names, strings templates = two_templates) {
  return {.names = std::move(names), .templates = std::move(templates)};
}

/// Sample i has the classes i % 6 and, when i is odd, (i + 1) % 6.
void write_labelled(std::string const& path, int first, int count) {
  data_files::members all;
  for (int i = first; i < first + count; ++i) {
    auto const key = std::to_string(100000 + i);
    all.emplace_back(key + ".png", data_files::png(data_files::noise(8, 8, static_cast<std::uint32_t>(i))));
    auto classes = std::to_string(i % 6);
    if (i % 2 == 1)
      classes += ", " + std::to_string((i + 1) % 6) + "\n";
    all.emplace_back(key + ".cls", classes);
  }
  data_files::write_tar(path, all);
}

struct three_shards {
  data_files::temporary_folder folder{};
  three_shards() {
    for (int i = 0; i < 3; ++i) write_labelled(folder / ("a-" + std::to_string(i) + ".tar"), 20 * i, 20);
  }
  shards open() const { return shards{folder / "a-{0..2}.tar"}; }
};

data_files::members labelled(strings const& classes) {
  data_files::members all;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    all.emplace_back(std::to_string(i) + ".png", data_files::png(data_files::noise(8, 8, 1)));
    all.emplace_back(std::to_string(i) + ".cls", classes[i]);
  }
  return all;
}

/// What each sample is called over some epochs, by its key.
template <class Source>
std::map<std::string, strings> texts(Source const& from, order o, std::uint64_t epochs) {
  std::map<std::string, strings> all;
  auto reader = from.make_reader();
  for (o.epoch = 0; o.epoch < epochs; ++o.epoch) {
    auto walker = from.walk(o);
    typename Source::reference r;
    sample s;
    while (walker.next(r)) {
      reader.read(r, {.images = false}, s);
      all[from.name(r).key].push_back(s.caption);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("All orders and templates are drawn, about equally often", "[data]") {
  std::map<std::string, int> seen;
  std::string text;
  constexpr int draws = 12000;
  for (std::uint64_t i = 0; i < draws; ++i) {
    std::vector<std::string_view> names{"ant", "bear", "cat"};
    write_labels(names, two_templates, yoke::random_sequence{7, i}, text);
    ++seen[text];
  }
  REQUIRE(seen.size() == 12);
  CHECK(seen.contains("a photo of the cat, ant, bear."));
  CHECK(seen.contains("bear, ant, cat, drawn"));
  double chi_square = 0;
  for (auto const& [_, count] : seen)
    chi_square += (count - draws / 12.0) * (count - draws / 12.0) / (draws / 12.0);
  CHECK(chi_square < 31.3);                    // 11 degrees of freedom: exceeded with probability 0.001
  std::vector<std::string_view> one{"{} %s"};  // a name is no template
  write_labels(one, strings{"a {}."}, yoke::random_sequence{1}, text);
  CHECK(text == "a {} %s.");
}

TEST_CASE("Captions are the labels of their image", "[data]") {
  three_shards const files;
  auto options = delivery::small();
  options.want.labels = false;
  options.batch = 20;
  options.epochs = 2;
  options.augment = {.crop = false};
  std::set<std::string> single, both;
  for (auto const& b : deliver(labels_as_text{files.open(), named(animals)}, options))
    for (std::size_t i = 0; i < 20; ++i) {
      std::uint32_t number = 0;  // of the image
      while (!std::equal(b.pixels.begin() + static_cast<std::ptrdiff_t>(i * 192),
                         b.pixels.begin() + static_cast<std::ptrdiff_t>((i + 1) * 192),
                         data_files::noise(8, 8, number).pixels.begin()))
        REQUIRE(++number < 60);
      auto const first = animals[number % 6], second = animals[(number + 1) % 6];
      strings possible;
      for (auto const& names :
           number % 2 == 0 ? strings{first} : strings{first + ", " + second, second + ", " + first}) {
        possible.push_back("a photo of the " + names + ".");
        possible.push_back(names + ", drawn");
      }
      INFO(b.captions[i] << " for image " << number);
      REQUIRE(std::count(possible.begin(), possible.end(), b.captions[i]) == 1);
      CHECK(std::string(b.tokens.begin() + b.offsets[i], b.tokens.begin() + b.offsets[i + 1]) ==
            b.captions[i]);
      (number % 2 == 0 ? single : both).insert(b.captions[i]);
    }
  CHECK(single.size() == 6);
  CHECK(both.size() == 12);
}

TEST_CASE("An image is called differently in each epoch, and the same in each run", "[data]") {
  three_shards const files;
  auto const from = labels_as_text{files.open(), named(animals)};
  order const shuffled{.seed = 3, .shuffle = 8}, in_order{.seed = 3};
  auto const first = texts(from, in_order, 12);
  CHECK(texts(from, in_order, 12) == first);
  CHECK(texts(labels_as_text{files.open(), named(animals)}, in_order, 12) == first);
  for (auto const& o : {shuffled, in_order})
    for (auto const& [key, said] : texts(from, o, 12)) {
      INFO(key);
      auto const different = std::set<std::string>(said.begin(), said.end()).size();
      CHECK(different >= 2);
      CHECK(said.size() == 12);
    }
  CHECK(texts(from, {.seed = 4}, 12) != first);
  // Ranks draw on their own: the same place in the same shard, as rank 0 and as rank 1.
  auto const lonely = labels_as_text{shards{strings(2, files.folder / "a-0.tar")}, named(animals)};
  CHECK(texts(lonely, {.rank = 0, .ranks = 2}, 1) != texts(lonely, {.rank = 1, .ranks = 2}, 1));
}

TEST_CASE("A loader of labels as text resumes anywhere, with any number of workers", "[data]") {
  three_shards const files;
  data_files::write_tar(files.folder / "a-1.tar", labelled({"1 2", "cat", "3", "0,1 2", "", "5"}));
  auto const from = labels_as_text{files.open(), named(animals)};
  auto options = delivery::small();
  options.want.labels = false;
  options.epochs = 3;
  options.workers = 0;
  auto const whole = deliver(from, options);
  REQUIRE(whole.size() == 15);
  for (auto workers : {1, 4}) {
    options.workers = workers;
    CHECK(deliver(from, options) == whole);
  }
  for (std::size_t stop = 0; stop < whole.size(); ++stop) {
    options.start = whole[stop].after;
    options.workers = static_cast<int>(stop % 4);
    INFO("after batch " << stop);
    REQUIRE(
        deliver(from, options) ==
        std::vector<delivery::record>(whole.begin() + static_cast<std::ptrdiff_t>(stop) + 1, whole.end()));
  }
}

TEST_CASE("Samples may bring the names of their labels", "[data]") {
  data_files::temporary_folder const folder;
  auto const image = data_files::png(data_files::noise(8, 8, 1));
  data_files::write_tar(folder / "a.tar", {{"0.png", image},
                                           {"0.labels", "great white shark, white shark\r\n\n  déjà vu \n"},
                                           {"0.cls", "999"},
                                           {"1.png", image},
                                           {"1.labels", " \n"},
                                           {"2.png", image},
                                           {"2.labels", "caf\xE9"},
                                           {"3.png", image},
                                           {"3.txt", "x"}});
  auto options = delivery::small();
  options.want.labels = false;
  options.training = false;
  strings messages;
  options.on_skip = [&](skipped_sample const& s) { messages.push_back(s.message()); };
  auto const path = folder / "a.tar";
  auto const all = deliver(labels_as_text{shards{path}, named({}, {"a {}."})}, options);
  REQUIRE(all.size() == 1);
  REQUIRE(all[0].captions.size() == 1);
  CHECK_THAT(all[0].captions[0], Catch::Matchers::Equals("a great white shark, white shark, déjà vu.") ||
                                     Catch::Matchers::Equals("a déjà vu, great white shark, white shark."));
  CHECK(messages == strings{path + ": 1: labels: it has no name", path + ": 2: labels: it is not UTF-8",
                            path + ": 3: no labels: neither labels nor cls"});
  // Nothing of a sample is left when the next is read.
  auto const files = shards{path};
  auto walker = files.walk({});
  auto reader = files.make_reader();
  shards::reference r;
  sample read;
  REQUIRE(walker.next(r));
  reader.read(r, {.captions = false, .all_labels = true}, read);
  CHECK((read.names == strings{"great white shark, white shark", "déjà vu"} && read.classes.empty()));
  reader.read(r, {.captions = false, .labels = true}, read);
  CHECK((read.names.empty() && read.label == 999));
}

TEST_CASE("Labels without names are refused before any work", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar", names = folder / "names.txt";
  auto refusal = [&](label_options how, order const& o = {}) -> std::string {
    try {
      labels_as_text{shards{path}, std::move(how)}.check(o);
    } catch (yoke::io::error const& bad) {
      return bad.what();
    }
    return "";
  };
  data_files::write(names, "ant\nbear\ncat\n");
  data_files::write_tar(path, labelled({"0", "1 2", "cat", "2,3"}));
  CHECK(refusal(read_label_options(names)) ==
        path + ": 3: class 3: it has no name: " + names + " has 3 names, from 0 to 2");
  CHECK(refusal(named({})) == path + ": 0: class 0: it has no name: the list of names has 0 names");
  auto few = named({"ant", "bear", "cat"});
  few.checked = 3;
  CHECK(refusal(few).empty());
  CHECK(refusal(named(animals)).empty());
  // A loader says so in its constructor, where nothing is read, decoded or tokenized yet.
  CHECK_THROWS_WITH(
      (loader{labels_as_text{shards{path}, read_label_options(names)}, delivery::letters, delivery::small()}),
      ContainsSubstring("class 3: it has no name"));
  data_files::write_shard(path, 0, 2);
  CHECK(refusal(read_label_options(names)).empty());
  data_files::write_tar(path, {{"x.png", "1"}, {"x.txt", "a"}, {"y.png", "2"}, {"y.txt", "b"}});
  CHECK(refusal(read_label_options(names)) ==
        path + ": x: no labels: neither labels nor cls: none of the 2 samples looked at has labels");
  data_files::write_tar(path, labelled({"", "one", "1,-1"}));
  CHECK_THAT(refusal(named(animals)), ContainsSubstring("0: cls: it has no class: none of the 3 samples"));
  data_files::write_tar(path, labelled({",", "1;2", "3000000000", "4"}));
  CHECK(refusal(named(animals)).empty());  // for the loader to skip
  data_files::write(names, "");
  CHECK_THROWS_WITH(read_label_options(names), names + ": is empty");
  CHECK_THROWS_WITH(read_label_options(folder / "none.txt"), ContainsSubstring("none.txt: cannot open"));
  CHECK_THROWS_WITH((labels_as_text{shards{path}, named(animals)}.check({.ranks = 2})),
                    ContainsSubstring("fewer than the 2 ranks"));
  CHECK_THROWS_AS((labels_as_text{shards{path}, named(animals, {"a photo"})}), yoke::precondition_error);
  CHECK_THROWS_AS((labels_as_text{shards{path}, named(animals, {})}), yoke::precondition_error);
  CHECK_THROWS_AS((labels_as_text{shards{path}, named({"ant", " "})}), yoke::precondition_error);
}

TEST_CASE("Behind the samples that are looked at, labels without names are bad samples", "[data]") {
  data_files::temporary_folder const folder;
  auto const path = folder / "a.tar";
  data_files::write_tar(path, labelled({"0", "1", "0 7", "1;2", "5"}));
  auto how = named(animals);
  how.checked = 2;
  auto options = delivery::small();
  options.want.labels = false;
  options.training = false;
  strings messages;
  options.on_skip = [&](skipped_sample const& s) { messages.push_back(s.message()); };
  auto const all = deliver(labels_as_text{shards{path}, how}, options);
  REQUIRE(all.size() == 1);
  CHECK(all[0].captions.size() == 3);
  CHECK(messages == strings{path + ": 2: class 7: it has no name: the list of names has 6 names, from 0 to 5",
                            path + ": 3: cls: it is not a class number"});
  options.most_skipped = 0;
  options.skipped_share = 0;
  CHECK_THROWS_WITH(
      deliver(labels_as_text{shards{path}, how}, options),
      ContainsSubstring("it has no name: the list of names has 6 names, from 0 to 5 (bad sample 1 of 3"));
}

TEST_CASE("Labels stay what they are beside their text", "[data]") {
  data_files::temporary_folder const folder;
  data_files::write_shard(folder / "a.tar", 0, 6);
  auto options = delivery::small();
  options.batch = 6;
  options.training = false;
  auto const from = labels_as_text{shards{folder / "a.tar"}, named(animals, {"{}"})};
  auto const all = deliver(from, options);
  REQUIRE(all.size() == 1);
  CHECK(all[0].captions == animals);
  CHECK(all[0].labels == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5});
  options.want.captions = options.keep_captions = false;
  CHECK(deliver(from, options)[0].labels == all[0].labels);
}

TEST_CASE("Scenes of two objects have two labels", "[data]") {
  auto const from = labels_as_text{scenes{{.samples = 200, .size = 8}}, named(scene_class_names(), {"{}"})};
  int pairs = 0;
  sample s, drawn;
  auto reader = from.make_reader();
  auto walker = from.walk({});
  decltype(from)::reference r;
  while (walker.next(r)) {
    reader.read(r, {}, s);
    scenes::draw({.size = 8}, r.of, drawn);
    REQUIRE(drawn.classes.size() == (drawn.label < 0 ? 2 : 1));
    auto const first = scene_class_name(static_cast<std::size_t>(drawn.classes[0]));
    if (drawn.label >= 0) {
      CHECK(s.caption == first);
      CHECK(drawn.classes[0] == drawn.label);
      continue;
    }
    ++pairs;
    auto const second = scene_class_name(static_cast<std::size_t>(drawn.classes[1]));
    CHECK((s.caption == first + ", " + second || s.caption == second + ", " + first));
    CHECK(drawn.caption.find(second) != std::string::npos);
  }
  CHECK(pairs > 60);
  CHECK(from.samples() == 200);
}
