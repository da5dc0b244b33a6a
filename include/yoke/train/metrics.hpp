// metrics.jsonl: what a run measured, one JSON object a line, complete after a crash and continued
// by a resumed run.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/train/format.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace yoke::train {

/// What was measured at a step: {.step = 10, .values = {{"loss", 2.5}, {"learning_rate", 1e-4}}}.
/// Names hold letters, digits and "_-./". A value that is not finite is written as null and read
/// back as NaN.
struct metric_record {
  std::int64_t step = 0;  // steps done when it was measured: 1 after the first
  std::vector<std::pair<std::string, double>> values{};

  /// The value of that name, if this record has it.
  std::optional<double> find(std::string_view name) const {
    for (auto const& [key, value] : values)
      if (key == name)
        return value;
    return std::nullopt;
  }
};

namespace detail {

inline bool is_metric_name(std::string_view name) {
  constexpr std::string_view legal = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./";
  return !name.empty() && name.find_first_not_of(legal) == std::string_view::npos;
}

/// Reads one line of metrics.jsonl: a flat object of numbers and nulls.
class metric_line {
 public:
  explicit metric_line(std::string_view text) : rest_{text} {}

  /// Nothing when the line is anything else, or has no whole number called "step".
  std::optional<metric_record> parse() {
    metric_record record;
    bool has_step = false;
    if (!take('{'))
      return {};
    do {
      auto const name = take_name();
      if (!name || !take(':'))
        return {};
      if (*name == "step") {
        auto const step = take_number<std::int64_t>();
        if (!step || has_step)
          return {};
        record.step = *step;
        has_step = true;
      } else if (auto const value = take_value()) {
        record.values.emplace_back(*name, *value);
      } else {
        return {};
      }
    } while (take(','));
    if (!take('}') || !has_step)
      return {};
    skip_space();
    return rest_.empty() ? std::optional{std::move(record)} : std::nullopt;
  }

 private:
  void skip_space() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t' || rest_[0] == '\r'))
      rest_.remove_prefix(1);
  }
  bool take(char c) {
    skip_space();
    if (!rest_.starts_with(c))
      return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::optional<std::string> take_name() {
    if (!take('"'))
      return {};
    auto const name = rest_.substr(0, rest_.find('"'));
    if (name.size() == rest_.size() || !is_metric_name(name))
      return {};
    rest_.remove_prefix(name.size() + 1);
    return std::string(name);
  }
  template <class Number>
  std::optional<Number> take_number() {
    skip_space();
    Number value{};
    auto const [end, failure] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (failure != std::errc{})
      return {};
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return value;
  }
  std::optional<double> take_value() {
    skip_space();
    if (rest_.starts_with("null")) {
      rest_.remove_prefix(4);
      return std::numeric_limits<double>::quiet_NaN();
    }
    auto const value = take_number<double>();
    return value && std::isfinite(*value) ? value : std::nullopt;
  }

  std::string_view rest_;
};

struct metric_file {
  std::vector<metric_record> records;
  std::size_t bytes = 0;  // of the lines of these records
};

/// The records up to `last_step`. A last line without its end is what a crash leaves: left out.
inline metric_file scan_metrics(std::string const& path, std::int64_t last_step) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw io::error(path, "", "cannot be opened");
  std::string const text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad())
    throw io::error(path, "", "cannot be read");
  metric_file found;
  for (std::size_t number = 1; found.bytes < text.size(); ++number) {
    auto const end = text.find('\n', found.bytes);
    if (end == std::string::npos)
      break;
    auto record = metric_line(std::string_view(text).substr(found.bytes, end - found.bytes)).parse();
    if (!record)
      throw io::error(path, "line " + std::to_string(number),
                      "is not a JSON object of numbers with a whole \"step\"");
    if (record->step > last_step)
      break;
    found.records.push_back(std::move(*record));
    found.bytes = end + 1;
  }
  return found;
}

}  // namespace detail

/// One line of metrics.jsonl, without its end.
inline std::string to_json(metric_record const& record) {
  auto line = "{\"step\": " + std::to_string(record.step);
  for (auto const& [name, value] : record.values) {
    expects(detail::is_metric_name(name) && name != "step",
            "metric_record: names of letters, digits and \"_-./\", not \"step\"");
    line += ", \"" + name + "\": " + (std::isfinite(value) ? shortest(value) : "null");
  }
  return line + "}";
}

/// All records of a metrics.jsonl, oldest first. io::error names the line that is malformed; a
/// last line that a crash cut short is left out.
inline std::vector<metric_record> read_metrics(std::string const& path) {
  return detail::scan_metrics(path, std::numeric_limits<std::int64_t>::max()).records;
}

/// Appends records to a metrics.jsonl; each is in the file when write returns. io::error on a full
/// disk. Movable, one writer for a file.
class metrics_writer {
 public:
  /// Starts an empty file, in place of any that is there.
  static metrics_writer create(std::string const& path) { return {path, "wb"}; }

  /// Goes on after a checkpoint of `step`: records of later steps, and a line cut short, are
  /// removed, so that the run writes each step once. The file may be missing.
  static metrics_writer resume(std::string const& path, std::int64_t step) {
    if (std::filesystem::exists(path)) {
      auto const keep = detail::scan_metrics(path, step).bytes;
      std::error_code failure;
      std::filesystem::resize_file(path, keep, failure);
      if (failure)
        throw io::error(path, "", "cannot be cut back: " + failure.message());
    }
    return {path, "ab"};
  }

  void write(metric_record const& record) {
    auto const line = to_json(record) + "\n";
    if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0)
      throw io::error(path_, "", "cannot be written: " + std::generic_category().message(errno));
  }

 private:
  struct closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  metrics_writer(std::string const& path, char const* mode)
      : path_{path}, file_{std::fopen(path.c_str(), mode)} {
    if (!file_)
      throw io::error(path, "", "cannot be opened: " + std::generic_category().message(errno));
  }

  std::string path_;
  std::unique_ptr<std::FILE, closer> file_;
};

/// Where a run stands, for progress_line.
struct progress {
  std::int64_t step = 0, steps = 0;  // done, and of the whole run
  std::int64_t batch = 0;            // samples a step
  double loss = 0;
  double learning_rate = 0;
  double samples_per_second = 0;
};

/// "step  120/1000  12 %  loss 2.3456  lr 5.00e-04  1,234 samples/s  ETA 3m20s"; the columns of one
/// run stand under each other.
inline std::string progress_line(progress const& now) {
  auto const total = std::to_string(now.steps);
  auto pad = [](std::string text, std::size_t width) {
    return std::string(width - std::min(width, text.size()), ' ') + text;
  };
  auto const share = now.steps > 0 ? 100 * now.step / now.steps : 0;
  auto const rate = now.samples_per_second;
  auto const left = static_cast<double>((now.steps - now.step) * now.batch) / rate;
  auto const speed = !(rate > 0 && rate < 1e15) ? "?"
                     : rate < 10                ? fixed(rate, 1)
                                                : grouped(std::llround(rate));
  return "step " + pad(std::to_string(now.step), total.size()) + "/" + total + " " +
         pad(std::to_string(share), 3) + " %  loss " + pad(fixed(now.loss, 4), 7) + "  lr " +
         scientific(now.learning_rate, 2) + "  " + pad(speed, 6) + " samples/s  ETA " + duration(left);
}

}  // namespace yoke::train
