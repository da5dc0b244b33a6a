// metrics.jsonl: what a run measured, one JSON object a line, complete after a crash and continued
// by a resumed run.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/core/expects.hpp>
#include <yoke/io/file.hpp>
#include <yoke/io/json_reader.hpp>
#include <yoke/train/format.hpp>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
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

/// One line of a metrics.jsonl. Members that are neither numbers nor null are passed over.
inline metric_record parse_metrics(std::string_view line) {
  io::json_reader reader{line, ""};
  metric_record record;
  bool has_step = false;
  reader.object([&](std::string const& name) {
    auto const kind = reader.peek();
    if (kind == io::json_kind::null) {
      reader.null();
      record.values.emplace_back(name, std::numeric_limits<double>::quiet_NaN());
    } else if (kind != io::json_kind::number) {
      reader.ignore();
    } else if (auto const number = reader.number(); name != "step") {
      record.values.emplace_back(name, std::visit([](auto n) { return static_cast<double>(n); }, number));
    } else if (auto const* step = std::get_if<std::int64_t>(&number)) {
      record.step = *step;
      has_step = true;
    }
  });
  reader.end();
  if (!has_step)
    reader.fail("the step, a whole number, is missing");
  return record;
}

struct metric_file {
  std::vector<metric_record> records;
  std::size_t bytes = 0;  // of the lines of these records
};

/// The records up to `last_step`. A last line without its end is what a crash leaves: left out.
inline metric_file scan_metrics(std::string const& path, std::int64_t last_step) {
  auto const text = io::read_file(path);
  metric_file found;
  for (std::size_t number = 1; found.bytes < text.size(); ++number) {
    auto const end = text.find('\n', found.bytes);
    if (end == std::string::npos)
      break;
    metric_record record;
    try {
      record = parse_metrics(std::string_view(text).substr(found.bytes, end - found.bytes));
    } catch (io::error const& wrong) {
      throw io::error(path, "line " + std::to_string(number), std::string("not a record: ") + wrong.what());
    }
    if (record.step > last_step)
      break;
    found.records.push_back(std::move(record));
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
            "metric_record: names of letters, digits, _ - . and /, none of them step");
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
  auto pad = [](std::string const& text, std::size_t width) {
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
