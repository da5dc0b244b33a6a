// What yoke-batch-size found: a record for each run, kept as JSON lines; means, standard errors and slopes over the
// seeds.
#pragma once
#include <yoke/core/tensor.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/train/svg_plot.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <sys/stat.h>
#include <utility>
#include <vector>

namespace batch_size_tool {

using namespace yoke;

/// One model, trained at one batch size from one seed. Losses are of the fixed evaluation batch but for the `own_…`,
/// which are of the batch that was trained at; shares are of 1.
struct run_record {
  extent_t batch = 0;
  std::uint64_t seed = 0;
  std::int64_t steps = 0, skipped = 0;
  double rate = 0, seconds = 0, logit_scale = 0;
  double repeats = 0;  // other samples of a training batch with the caption of a sample, on average
  // Before the first step and after equal parts of the run, the last at its end:
  std::vector<double> samples_seen{}, train_loss{}, held_out_loss{};
  double own_train_loss = 0, own_held_out_loss = 0;
  double train_match = 0,
         held_out_match = 0;  // images of an evaluation batch that find their own caption first
  double train_top1 = 0, held_out_top1 = 0;  // zero-shot
  double unseen_top1 = 0;                    // of classes never trained on; NaN where there are none

  double loss_gap() const { return held_out_loss.back() - train_loss.back(); }
  double own_gap() const { return own_held_out_loss - own_train_loss; }
  double match_gap() const { return train_match - held_out_match; }
  double top1_gap() const { return train_top1 - held_out_top1; }
};

inline io::json to_json(run_record const& r) {
  io::json j;
  j["batch"] = r.batch;
  j["seed"] = r.seed;
  j["steps"] = r.steps;
  j["skipped"] = r.skipped;
  j["rate"] = r.rate;
  j["seconds"] = r.seconds;
  j["logit_scale"] = r.logit_scale;
  j["repeats"] = r.repeats;
  j["samples_seen"] = r.samples_seen;
  j["train_loss"] = r.train_loss;
  j["held_out_loss"] = r.held_out_loss;
  j["own_train_loss"] = r.own_train_loss;
  j["own_held_out_loss"] = r.own_held_out_loss;
  j["train_match"] = r.train_match;
  j["held_out_match"] = r.held_out_match;
  j["train_top1"] = r.train_top1;
  j["held_out_top1"] = r.held_out_top1;
  j["unseen_top1"] = r.unseen_top1;
  return j;
}

/// Throws io::error with the file, the place and the rule.
inline run_record run_of(io::json const& line, std::string const& file, std::string const& place) {
  io::json_fields f{line, file, place};
  run_record r;
  r.batch = f.in_range<extent_t>("batch", 1, extent_t{1} << 40);
  r.seed = f.required<std::uint64_t>("seed");
  r.steps = f.required<std::int64_t>("steps");
  r.skipped = f.required<std::int64_t>("skipped");
  for (auto const& [key, value] : {std::pair{"rate", &r.rate},
                                   {"seconds", &r.seconds},
                                   {"logit_scale", &r.logit_scale},
                                   {"repeats", &r.repeats},
                                   {"own_train_loss", &r.own_train_loss},
                                   {"own_held_out_loss", &r.own_held_out_loss},
                                   {"train_match", &r.train_match},
                                   {"held_out_match", &r.held_out_match},
                                   {"train_top1", &r.train_top1},
                                   {"held_out_top1", &r.held_out_top1}})
    *value = f.required<double>(key);
  r.unseen_top1 = f.optional<double>("unseen_top1", std::numeric_limits<double>::quiet_NaN());
  for (auto const& [key, values] : {std::pair{"samples_seen", &r.samples_seen},
                                    {"train_loss", &r.train_loss},
                                    {"held_out_loss", &r.held_out_loss}}) {
    *values = f.required<std::vector<double>>(key);
    if (values->size() < 2 || values->size() != r.samples_seen.size())
      throw io::error(file, place + "." + key,
                      "must be a number for the start and for each evaluation, two or more");
  }
  return r;
}

/// All finished runs of a folder, in the file runs.jsonl, which is replaced whole with each run that is added.
class run_file {
 public:
  explicit run_file(std::string const& folder) : path_{folder + "/runs.jsonl"} {
    if (struct stat status{}; ::stat(path_.c_str(), &status) != 0)
      return;
    auto const text = io::read_file(path_);
    std::size_t number = 1;
    for (std::size_t begin = 0; begin < text.size(); ++number) {
      auto const end = std::min(text.find('\n', begin), text.size());
      auto const place = "line " + std::to_string(number);
      auto const line = std::string_view(text).substr(begin, end - begin);
      begin = end + 1;
      try {
        auto r = run_of(io::parse_json(line, path_), path_, place);
        if (find(r.batch, r.seed))
          throw io::error(path_, place, "is a run that an earlier line has");
        runs_.push_back(std::move(r));
      } catch (io::error const& e) {
        throw io::error(path_, place,
                        std::string("not a run; remove the line to have it run again: ") + e.what());
      }
    }
  }

  bool find(extent_t batch, std::uint64_t seed) const {
    return std::any_of(runs_.begin(), runs_.end(),
                       [&](run_record const& r) { return r.batch == batch && r.seed == seed; });
  }
  void add(run_record r) {
    runs_.push_back(std::move(r));
    std::string text;
    for (auto const& run : runs_) text += to_json(run).dump() + "\n";
    io::write_file_atomically(path_, text);
  }
  std::vector<run_record> const& runs() const { return runs_; }

 private:
  std::string path_;
  std::vector<run_record> runs_;
};

/// Mean and its standard error, which one value alone does not have.
struct estimate {
  double mean = std::numeric_limits<double>::quiet_NaN(), error = std::numeric_limits<double>::quiet_NaN();
  std::size_t count = 0;
};

/// The standard error is the values' standard deviation (n - 1 below) over the root of n. Without values, or with one
/// that is not a number, there is no mean.
inline estimate estimate_of(std::span<double const> values) {
  estimate e{.count = values.size()};
  if (values.empty())
    return e;
  auto const n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (auto v : values) sum += v;
  e.mean = sum / n;
  for (auto v : values) squares += (v - e.mean) * (v - e.mean);
  if (values.size() > 1)
    e.error = std::sqrt(squares / (n - 1) / n);
  return e;
}

/// How much y grows, by least squares, each time that x doubles.
inline double slope_per_doubling(std::span<double const> x, std::span<double const> y) {
  auto const n = static_cast<double>(x.size());
  double mean_x = 0, mean_y = 0, xy = 0, xx = 0;
  for (std::size_t i = 0; i < x.size(); ++i) mean_x += std::log2(x[i]) / n, mean_y += y[i] / n;
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto const d = std::log2(x[i]) - mean_x;
    xy += d * (y[i] - mean_y);
    xx += d * d;
  }
  return xx > 0 ? xy / xx : std::numeric_limits<double>::quiet_NaN();
}

/// The held-out loss of a run where its training loss first came down to `level`, on straight lines between
/// evaluations; NaN where it never did.
inline double held_out_at(run_record const& r, double level) {
  for (std::size_t i = 0; i < r.train_loss.size(); ++i) {
    if (!(r.train_loss[i] <= level))
      continue;
    if (i == 0)
      return r.held_out_loss[0];
    auto const share = (r.train_loss[i - 1] - level) / (r.train_loss[i - 1] - r.train_loss[i]);
    return r.held_out_loss[i - 1] + share * (r.held_out_loss[i] - r.held_out_loss[i - 1]);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// The lowest training loss that every run reached.
inline double common_train_loss(std::span<run_record const> runs) {
  double level = -std::numeric_limits<double>::infinity();
  for (auto const& r : runs)
    level = std::max(level, *std::min_element(r.train_loss.begin(), r.train_loss.end()));
  return level;
}

using figure = std::function<double(run_record const&)>;

/// The runs by batch size, and what is estimated of them.
class summary {
 public:
  explicit summary(std::span<run_record const> runs) : runs_{runs}, level_{common_train_loss(runs)} {
    std::set<extent_t> const sizes = [&] {
      std::set<extent_t> all;
      for (auto const& r : runs) all.insert(r.batch);
      return all;
    }();
    batches_.assign(sizes.begin(), sizes.end());
  }

  std::span<run_record const> runs() const { return runs_; }
  std::vector<extent_t> const& batches() const { return batches_; }
  double common_loss() const { return level_; }

  estimate of(extent_t batch, figure const& f) const {
    std::vector<double> values;
    for (auto const& r : runs_)
      if (r.batch == batch)
        values.push_back(f(r));
    return estimate_of(values);
  }
  train::curve curve(figure const& f) const {
    train::curve c;
    for (auto batch : batches_) {
      auto const e = of(batch, f);
      c.x.push_back(static_cast<double>(batch));
      c.y.push_back(e.mean);
      c.error.push_back(e.error);
    }
    return c;
  }
  /// Growth for each doubling of the batch: a slope for each seed, whose runs share their data; the estimate of those.
  estimate slope(figure const& f) const {
    std::set<std::uint64_t> seeds;
    for (auto const& r : runs_) seeds.insert(r.seed);
    std::vector<double> slopes;
    for (auto seed : seeds) {
      std::vector<double> x, y;
      for (auto const& r : runs_)
        if (r.seed == seed)
          x.push_back(static_cast<double>(r.batch)), y.push_back(f(r));
      slopes.push_back(slope_per_doubling(x, y));
    }
    return estimate_of(slopes);
  }
  figure gap_at_common_loss() const {
    return [level = level_](run_record const& r) { return held_out_at(r, level) - level; };
  }

 private:
  std::span<run_record const> runs_;
  double level_;
  std::vector<extent_t> batches_;
};

}  // namespace batch_size_tool
