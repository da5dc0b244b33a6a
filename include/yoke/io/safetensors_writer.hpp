// Writes safetensors files: declare all tensors, then append their data piece by piece.
#pragma once
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
    // Wide types first: then every element lies at a multiple of its size, which who maps files wants.
    for (auto const width : {8U, 4U, 2U, 1U})
      for (auto const& t : tensors)
        if (size_of(t.type) == width)
          declare(t);
    expects(by_name_.size() == tensors.size(), "safetensors_writer: every name is there once");
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

  void declare(tensor_declaration const& t) {
    std::uint64_t elements = 1;
    for (auto const extent : t.shape)
      expects(extent >= 0 && !__builtin_mul_overflow(elements, static_cast<std::uint64_t>(extent), &elements),
              "safetensors_writer: a shape whose elements can be counted");
    expects(elements <= std::numeric_limits<std::int64_t>::max() / size_of(t.type),
            "safetensors_writer: a shape whose bytes can be counted");
    by_name_.emplace(t.name, entries_.size());
    entries_.push_back({{t.name, t.type, t.shape, elements, 0}, 0});
  }

  void write_header(std::map<std::string, std::string> const& metadata) {
    std::string text;
    auto const open = [&](std::string_view key) {  // the outer object's next member
      text += text.empty() ? '{' : ',';
      append_json_string(text, key);
      text += ":{";
    };
    if (!metadata.empty()) {
      open("__metadata__");
      for (auto const& [key, value] : metadata) {
        text += key == metadata.begin()->first ? "" : ",";
        append_json_string(text, key);
        text += ':';
        append_json_string(text, value);
      }
      text += '}';
    }
    std::uint64_t end = 0;
    for (auto& e : entries_) {
      expects(e.name != "__metadata__", "safetensors_writer: __metadata__ is not a tensor's name");
      open(e.name);
      text.append(R"("dtype":")").append(name_of(e.type)).append(R"(","shape":[)");
      for (std::size_t i = 0; i < e.shape.size(); ++i)
        text.append(i == 0 ? "" : ",").append(std::to_string(e.shape[i]));
      e.offset = end;
      expects(!__builtin_add_overflow(end, e.bytes(), &end), "safetensors_writer: bytes that can be counted");
      text += R"(],"data_offsets":[)" + std::to_string(e.offset) + "," + std::to_string(end) + "]}";
    }
    text += text.empty() ? "{}" : "}";
    text.append((8 - text.size() % 8) % 8, ' ');
    expects(text.size() <= safetensors_file::longest_header,
            "safetensors_writer: a header of at most 100 MB");
    json_reader{text, file_.path() + ": header"}.ignore();  // names and metadata that no reader would take
    std::uint64_t const length = text.size();
    file_.write(std::as_bytes(std::span{&length, 1}));
    file_.write(text);
    for (auto& e : entries_) e.offset += sizeof length + length;
  }

  entry& at(std::string_view name) {
    auto const found = by_name_.find(name);
    expects(found != by_name_.end(),
            [&] { return "safetensors_writer: " + std::string(name) + " was not declared"; });
    return entries_[found->second];
  }

  void append(entry& e, std::span<std::byte const> bytes) {
    expects(bytes.size() <= e.bytes() - e.written,
            [&] { return "safetensors_writer: more data than " + e.name + " has"; });
    file_.write_at(e.offset + e.written, bytes);
    e.written += bytes.size();
  }

  atomic_writer file_;
  std::vector<entry> entries_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace yoke::io
