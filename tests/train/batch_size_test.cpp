// yoke-batch-size: its statistics against figures by hand, its file of runs, and a whole small experiment.
#include "../../examples/batch_size.hpp"

#include "io/scratch.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

using namespace yoke;
using namespace batch_size_tool;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

namespace {

bool near(double a, double b) {
  return std::abs(a - b) < 1e-12;
}

run_record record(extent_t batch, std::uint64_t seed, std::vector<double> train,
                  std::vector<double> held_out) {
  run_record r;
  r.batch = batch;
  r.seed = seed;
  r.steps = 10;
  r.rate = 1e-3;
  for (std::size_t i = 0; i < train.size(); ++i) r.samples_seen.push_back(static_cast<double>(i));
  r.train_loss = std::move(train);
  r.held_out_loss = std::move(held_out);
  r.unseen_top1 = std::numeric_limits<double>::quiet_NaN();
  return r;
}

/// What the tool writes to the screen.
class screen {
 public:
  screen() : file_{std::tmpfile()} {}
  ~screen() { std::fclose(file_); }
  screen(screen const&) = delete;
  screen& operator=(screen const&) = delete;
  operator std::FILE*() const { return file_; }
  std::string text() const {
    std::string all(static_cast<std::size_t>(std::ftell(file_)), '\0');
    std::rewind(file_);
    REQUIRE(std::fread(all.data(), 1, all.size(), file_) == all.size());
    return all;
  }

 private:
  std::FILE* file_;
};

settings small(std::string out) {
  settings s;
  s.batches = {8, 16};
  s.seeds = 2;
  s.samples = s.held_out = 64;
  s.evaluation_batch = 32;
  s.epochs = 1;
  s.evaluations = 2;
  s.patch = 16;
  s.jobs = 2;
  s.out = std::move(out);
  return s;
}

}  // namespace

TEST_CASE("mean and standard error") {
  std::vector<double> const values{2, 4, 4, 4, 5, 5, 7, 9};  // squares of deviations sum to 32
  auto const e = estimate_of(values);
  CHECK(e.count == 8);
  CHECK(near(e.mean, 5));
  CHECK(near(e.error, std::sqrt(32. / 7 / 8)));
  auto const one = estimate_of(std::vector{3.5});
  CHECK(one.mean == 3.5);
  CHECK(std::isnan(one.error));
  CHECK(std::isnan(estimate_of({}).mean));
  CHECK(std::isnan(estimate_of(std::vector{1., std::nan("")}).mean));
  CHECK(text_of(e) == "5.000 ± 0.756");
  CHECK(text_of(one) == "3.500");
  CHECK(text_of(estimate_of({})) == "–");
  CHECK(text_of(estimate_of(std::vector{.25, .75}), true) == "50.0 ± 25.0 %");
}

TEST_CASE("the slope is growth for each doubling") {
  CHECK(near(slope_per_doubling(std::vector{16., 32., 128.}, std::vector{1., 1.5, 2.5}), .5));
  CHECK(near(slope_per_doubling(std::vector{1., 2., 4.}, std::vector{0., 3., 0.}), 0));
  CHECK(std::isnan(slope_per_doubling(std::vector{16.}, std::vector{1.})));
  // One seed's slope is 1, the other's 2, though a line through all four points would not see their levels.
  std::vector const runs{record(16, 0, {9, 1}, {9, 2}), record(32, 0, {9, 1}, {9, 3}),
                         record(16, 1, {9, 1}, {9, 102}), record(32, 1, {9, 1}, {9, 104})};
  auto const slope = summary{runs}.slope([](auto const& r) { return r.loss_gap(); });
  CHECK(near(slope.mean, 1.5));
  CHECK(near(slope.error, .5));
}

TEST_CASE("runs are compared where their training loss is equal") {
  std::vector const runs{record(16, 0, {5, 3, 1}, {5, 4, 6}), record(32, 0, {5, 2, 2.5}, {5, 3, 7})};
  CHECK(common_train_loss(runs) == 2);  // the lowest that the second reached
  CHECK(near(held_out_at(runs[0], 2), 5));
  CHECK(near(held_out_at(runs[1], 2), 3));
  CHECK(near(held_out_at(runs[0], 5), 5));
  CHECK(std::isnan(held_out_at(runs[0], .5)));
  summary const s{runs};
  CHECK(s.batches() == std::vector<extent_t>{16, 32});
  CHECK(near(s.of(16, s.gap_at_common_loss()).mean, 3));
  CHECK(near(s.of(32, s.gap_at_common_loss()).mean, 1));
}

TEST_CASE("the peak rate follows its rule") {
  settings s;
  s.rate = 1e-3;
  CHECK(near(rate_of(s, 64), 1e-3));
  CHECK(near(rate_of(s, 256), 2e-3));
  s.rate_rule = "linear";
  CHECK(near(rate_of(s, 256), 4e-3));
  s.rate_rule = "const";
  CHECK(near(rate_of(s, 256), 1e-3));
}

TEST_CASE("runs are kept to the bit, and a bad line is named") {
  scratch_folder const folder;
  run_file file{folder.path()};
  CHECK(file.runs().empty());
  auto r = record(16, 3, {1. / 3, 5e-324}, {2, 1e300});
  r.held_out_top1 = .1;
  file.add(r);
  file.add(record(32, 3, {1, 2}, {3, 4}));
  run_file const again{folder.path()};
  REQUIRE(again.runs().size() == 2);
  CHECK(to_json(again.runs()[0]).dump() == to_json(r).dump());
  CHECK(again.runs()[0].train_loss == r.train_loss);
  CHECK(std::isnan(again.runs()[0].unseen_top1));
  CHECK(again.find(32, 3));
  CHECK(!again.find(32, 2));

  auto const path = folder / "runs.jsonl";
  auto const good = io::read_file(path);
  auto const refused = [&](std::string const& text, char const* what) {
    io::write_file_atomically(path, text);
    CHECK_THROWS_MATCHES(run_file{folder.path()}, io::error,
                         MessageMatches(ContainsSubstring("runs.jsonl") && ContainsSubstring(what)));
  };
  refused(good + "{\"batch\": 8}\n", "line 3");
  refused(good + "{\"batch\": 8}\n", "seed: is missing");
  refused(good.substr(0, good.size() - 20), "line 2");
  refused(good + good, "an earlier line has");
  auto short_curve = good;
  short_curve.replace(short_curve.find("\"samples_seen\": [0, 1]"), 22, "\"samples_seen\": [0]");
  refused(short_curve, "two or more");
}

TEST_CASE("settings that do not fit each other are refused") {
  auto const refused = [](auto change, char const* what) {
    auto s = small("");
    change(s);
    CHECK_THROWS_MATCHES(check(s), io::error, MessageMatches(ContainsSubstring(what)));
  };
  check(small(""));
  refused([](settings& s) { s.batches = {8, 24}; }, "does not divide the 64 samples");
  refused([](settings& s) { s.held_out = 15; }, "as many held-out samples");
  refused([](settings& s) { s.batches = {8, 8}; }, "twice");
  refused([](settings& s) { s.evaluation_batch = 65; }, "more than there are samples");
  refused([](settings& s) { s.data = "shards.tar"; }, "--classnames");
}

TEST_CASE("captions are all different unless repeated ones are asked for") {
  auto s = small("");
  auto const scenes = [](std::uint64_t samples) { return data::scenes{{.samples = samples, .size = 8}}; };
  auto const set = collect(scenes(10'000), s, 500, 8, 0, false);
  CHECK(set.count() == 500);
  CHECK(std::set(set.captions.begin(), set.captions.end()).size() == 500);
  auto const plain = collect(scenes(500), s, 500, 8, 0, true);
  CHECK(std::set(plain.captions.begin(), plain.captions.end()).size() < 500);
  CHECK_THROWS_MATCHES(collect(scenes(500), s, 500, 8, 0, false), io::error,
                       MessageMatches(ContainsSubstring("--repeated-captions")));
}

TEST_CASE("a small experiment, its files, and going on with it") {
  scratch_folder const folder;
  auto const s = small(folder.path());
  screen shown;
  run(s, shown);
  run_file const file{folder.path()};
  REQUIRE(file.runs().size() == 4);
  for (auto const& r : file.runs()) {
    CHECK(r.steps == 64 / r.batch);
    CHECK(r.skipped == 0);
    CHECK(r.samples_seen == std::vector<double>{0, 32, 64});
    CHECK(r.train_loss[0] > r.train_loss[2]);
    CHECK(std::abs(r.train_loss[0] - std::log(32.)) <
          1);  // before training: a guess among the evaluation batch
    CHECK(r.repeats == 0);
    CHECK(r.rate == rate_of(s, r.batch));
    for (auto share : {r.train_top1, r.held_out_top1, r.unseen_top1, r.train_match, r.held_out_match}) {
      CHECK(share >= 0);
      CHECK(share <= 1);
    }
  }
  // A seed's runs begin alike, on the same data; seeds differ.
  auto const start = [&](extent_t batch, std::uint64_t seed) {
    for (auto const& r : file.runs())
      if (r.batch == batch && r.seed == seed)
        return r.train_loss[0];
    return 0.;
  };
  CHECK(start(8, 0) == start(16, 0));
  CHECK(start(8, 0) != start(8, 1));

  auto const text = shown.text();
  for (auto const* part : {"4 runs, 0 of them finished before", "batch 16, seed 1:", "per doubling", " ± "})
    CHECK_THAT(text, ContainsSubstring(part));
  for (auto const* name : {"gap.svg", "loss.svg", "share-gap.svg", "zero-shot.svg"})
    CHECK_THAT(io::read_file(folder / name), ContainsSubstring("class='curve second'"));
  auto const html = io::read_file(folder / "report.html");
  CHECK_THAT(html, ContainsSubstring("per doubling") && ContainsSubstring("batches of 32"));

  // The second run is taken away: it alone is run again, and to the bit.
  auto const kept = file.runs();
  std::string lines;
  for (std::size_t i = 0; i < kept.size(); ++i)
    if (i != 1)
      lines += to_json(kept[i]).dump() + "\n";
  io::write_file_atomically(folder / "runs.jsonl", lines);
  screen later;
  run(s, later);
  CHECK_THAT(later.text(), ContainsSubstring("4 runs, 3 of them finished before"));
  run_file const again{folder.path()};
  REQUIRE(again.runs().size() == 4);
  CHECK(to_json(again.runs()[0]).dump() == to_json(kept[0]).dump());
  auto repeated = again.runs()[3];
  repeated.seconds = kept[1].seconds;
  CHECK(to_json(repeated).dump() == to_json(kept[1]).dump());

  auto other = s;
  other.epochs = 2;
  CHECK_THROWS_MATCHES(run(other, later), io::error,
                       MessageMatches(ContainsSubstring("experiment.json") && ContainsSubstring("epochs") &&
                                      ContainsSubstring("another --out")));
}
