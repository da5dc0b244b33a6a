// Writes safetensors files: declare all tensors, then append their data piece by piece.
#pragma once
#include <yoke/io/json.hpp>
#include <yoke/io/safetensors.hpp>

#include <limits>

namespace yoke::io {

/// A tensor that a file will have.
struct tensor_declaration {
  std::string name;
  dtype type = dtype::f32;
  std::vector<extent_t> shape;  // empty: a single value
};

/// A file appears under its name when finish() has all data safely on disk, and not before. Equal
/// declarations, metadata and data give equal files. Throws io::error when the disk fails.
class safetensors_writer {
 public:
  safetensors_writer(std::string path, std::vector<tensor_declaration> const& tensors,
                     std::map<std::string, std::string> const& metadata = {})
      : file_{std::move(path)} {
    for (auto const& t : tensors) {
      std::uint64_t elements = 1;
      for (auto const extent : t.shape)
        expects(
            extent >= 0 && !__builtin_mul_overflow(elements, static_cast<std::uint64_t>(extent), &elements),
            "safetensors_writer: a shape whose elements can be counted");
      expects(elements <= std::numeric_limits<std::int64_t>::max() / size_of(t.type),
              "safetensors_writer: a shape whose bytes can be counted");
      entries_.push_back({{t.name, t.type, t.shape, elements, 0}, 0});
    }
    // Wide types first: then every element lies at a multiple of its size, which who maps files wants.
    std::stable_sort(entries_.begin(), entries_.end(),
                     [](auto const& a, auto const& b) { return size_of(a.type) > size_of(b.type); });
    by_name_.resize(entries_.size());
    for (std::size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = i;
    std::sort(by_name_.begin(), by_name_.end(),
              [&](auto a, auto b) { return entries_[a].name < entries_[b].name; });
    for (std::size_t i = 1; i < by_name_.size(); ++i)
      expects(entries_[by_name_[i - 1]].name != entries_[by_name_[i]].name,
              "safetensors_writer: every name is there once");
    write_header(metadata);
  }

  /// The next bytes of a tensor. Tensors may be written in any order, and in turns.
  void append_bytes(std::string_view name, std::span<std::byte const> bytes) { append(at(name), bytes); }

  /// The next elements of a tensor of T's type.
  template <class T, std::size_t Extent>
  void append(std::string_view name, std::span<T, Extent> elements) {
    auto& e = at(name);
    expects(e.type == dtype_of<T>(), [&] {
      return "safetensors_writer: " + e.name + " was declared as " + std::string(name_of(e.type));
    });
    append(e, std::as_bytes(elements));
  }
  template <class T>
  void append(std::string_view name, std::vector<T> const& elements) {
    append(name, std::span{elements});
  }

  /// Every tensor must be complete.
  void finish() {
    for (auto const& e : entries_)
      expects(e.written == e.bytes(), [&] { return "safetensors_writer: " + e.name + " is not complete"; });
    file_.commit();
  }

 private:
  struct entry : tensor_entry {
    std::uint64_t written = 0;  // bytes
  };

  void write_header(std::map<std::string, std::string> const& metadata) {
    std::string text;
    auto const open = [&](std::string_view key) {  // the outer object's next member
      text += text.empty() ? '{' : ',';
      detail::append_quoted(text, key);
      text += ":{";
    };
    if (!metadata.empty()) {
      open("__metadata__");
      for (auto const& [key, value] : metadata) {
        text += key == metadata.begin()->first ? "" : ",";
        detail::append_quoted(text, key);
        text += ':';
        detail::append_quoted(text, value);
      }
      text += '}';
    }
    std::uint64_t end = 0;
    for (auto& e : entries_) {
      expects(e.name != "__metadata__", "safetensors_writer: __metadata__ is not a tensor's name");
      open(e.name);
      text += "\"dtype\":\"" + std::string(name_of(e.type)) + "\",\"shape\":" + json{e.shape}.dump();
      e.offset = end;
      expects(!__builtin_add_overflow(end, e.bytes(), &end), "safetensors_writer: bytes that can be counted");
      text += ",\"data_offsets\":[" + std::to_string(e.offset) + "," + std::to_string(end) + "]}";
    }
    text += text.empty() ? "{}" : "}";
    text.append((8 - text.size() % 8) % 8, ' ');
    expects(text.size() <= safetensors_file::longest_header,
            "safetensors_writer: a header of at most 100 MB");
    parse_json(text, file_.path() + ": header");  // names and metadata that no reader would take
    std::uint64_t const length = text.size();
    file_.write(std::as_bytes(std::span{&length, 1}));
    file_.write(text);
    for (auto& e : entries_) e.offset += sizeof length + length;
  }

  entry& at(std::string_view name) {
    auto const found =
        std::lower_bound(by_name_.begin(), by_name_.end(), name,
                         [&](std::size_t i, std::string_view n) { return entries_[i].name < n; });
    expects(found != by_name_.end() && entries_[*found].name == name,
            [&] { return "safetensors_writer: " + std::string(name) + " was not declared"; });
    return entries_[*found];
  }

  void append(entry& e, std::span<std::byte const> bytes) {
    expects(bytes.size() <= e.bytes() - e.written,
            [&] { return "safetensors_writer: more data than " + e.name + " has"; });
    file_.write_at(e.offset + e.written, bytes);
    e.written += bytes.size();
  }

  atomic_writer file_;
  std::vector<entry> entries_;
  std::vector<std::size_t> by_name_;
};

}  // namespace yoke::io
