// Reads safetensors files: named tensors behind a JSON header. Every rule of the format is checked
// before a byte of a tensor is, so that a hostile file can only cause an io::error.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/io/dtype.hpp>
#include <yoke/io/file.hpp>
#include <yoke/io/json_reader.hpp>

#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <vector>

namespace yoke::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// What a file says about one tensor.
struct tensor_entry {
  std::string name;
  dtype type = dtype::f32;
  std::vector<extent_t> shape;  // empty: a single value
  std::uint64_t elements = 0;
  std::uint64_t offset = 0;  // of its first byte in the file

  std::uint64_t bytes() const { return elements * size_of(type); }
};

/// "F32 [512, 768]".
inline std::string described(dtype type, std::span<extent_t const> shape) {
  auto text = std::string(name_of(type)) + " [";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text.append(i == 0 ? "" : ", ").append(std::to_string(shape[i]));
  return text + "]";
}

/// A safetensors file that is open for reading. Only the header is in memory; tensors are read into
/// the caller's, from several threads at a time if wanted.
class safetensors_file {
 public:
  /// A header that claims more bytes than this is refused, as by the reference reader.
  static constexpr std::uint64_t longest_header = 100'000'000;

  /// Reads and checks the header. Throws io::error naming the file, the tensor and the rule.
  explicit safetensors_file(std::string path) : file_{std::move(path)} {
    if (!file_.regular())
      throw error(file_.path(), "", "is not a regular file");
    std::uint64_t length = 0;
    if (file_.size() < sizeof length)
      throw error(file_.path(), "header", "a safetensors file begins with 8 bytes, the header's length");
    file_.read_at(0, std::as_writable_bytes(std::span{&length, 1}));
    if (length > longest_header)
      throw error(file_.path(), "header",
                  "longer than " + std::to_string(longest_header) + " bytes: " + std::to_string(length));
    if (length > file_.size() - sizeof length)
      throw error(file_.path(), "header",
                  "its " + std::to_string(length) + " bytes do not fit into the file");
    std::string header(static_cast<std::size_t>(length), '\0');
    file_.read_at(sizeof length, std::as_writable_bytes(std::span{header}));
    read_header(header);
    lay_out(sizeof length + length);
  }

  std::string const& path() const { return file_.path(); }
  /// Of the whole file.
  std::uint64_t bytes() const { return file_.size(); }
  /// In the order of their bytes.
  std::vector<tensor_entry> const& tensors() const { return tensors_; }
  std::map<std::string, std::string> const& metadata() const { return metadata_; }

  /// The tensor of that name, or null.
  tensor_entry const* find(std::string_view name) const {
    auto const found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &tensors_[found->second];
  }

  /// The tensor of that name; io::error when there is none.
  tensor_entry const& at(std::string_view name) const {
    auto const* found = find(name);
    if (found == nullptr)
      throw error(path(), name, "no such tensor");
    return *found;
  }

  /// The tensor of that name; io::error when it is missing, of another type or shape.
  tensor_entry const& expect(std::string_view name, dtype type, std::span<extent_t const> shape) const {
    auto const& entry = at(name);
    if (entry.type != type || !std::equal(shape.begin(), shape.end(), entry.shape.begin(), entry.shape.end()))
      throw error(path(), name,
                  "wanted " + described(type, shape) + ", found " + described(entry.type, entry.shape));
    return entry;
  }
  template <int Rank>
  tensor_entry const& expect(std::string_view name, dtype type, shape<Rank> const& wanted) const {
    return expect(name, type,
                  std::span{wanted.data(), static_cast<std::size_t>(Rank)});  // size() is the product
  }

  /// All bytes of a tensor, of types too that C++ does not have. `target` is as long as the tensor.
  void read_bytes(tensor_entry const& entry, std::span<std::byte> target) const {
    expects(target.size() == entry.bytes(), "safetensors: the target is as long as the tensor");
    read_at(entry, 0, target);
  }

  /// Elements from `first` on, as many as `target` holds. io::error when the tensor is missing or of
  /// another type than T or ends before.
  template <class T, std::size_t Extent>
  void read(std::string_view name, std::uint64_t first, std::span<T, Extent> target) const {
    auto const& entry = typed<T>(name);
    if (first > entry.elements || target.size() > entry.elements - first)
      throw error(path(), name,
                  "elements " + std::to_string(first) + " to " + std::to_string(first + target.size()) +
                      " of " + std::to_string(entry.elements));
    read_at(entry, first * sizeof(T), std::as_writable_bytes(target));
  }

  /// The whole tensor; io::error when it has not exactly as many elements as `target`.
  template <class T, std::size_t Extent>
  void read(std::string_view name, std::span<T, Extent> target) const {
    if (auto const& entry = typed<T>(name); entry.elements != target.size())
      throw error(path(), name,
                  "wanted " + std::to_string(target.size()) + " elements, found " +
                      described(entry.type, entry.shape));
    read(name, 0, target);
  }

  /// The whole tensor; io::error when it has not T's type and the view's shape.
  template <class T, int Rank>
  void read(std::string_view name, view<T, Rank> target) const {
    auto const& entry = expect(name, dtype_of<T>(), target.shape);
    read_bytes(entry,
               std::as_writable_bytes(std::span{target.data, static_cast<std::size_t>(target.size())}));
  }

  /// The whole tensor in memory of its own.
  template <class T>
  std::vector<T> read(std::string_view name) const {
    std::vector<T> result(static_cast<std::size_t>(typed<T>(name).elements));
    read(name, std::span{result});
    return result;
  }

 private:
  template <class T>
  tensor_entry const& typed(std::string_view name) const {
    auto const& entry = at(name);
    if (constexpr auto wanted = dtype_of<T>(); entry.type != wanted)
      throw error(path(), name,
                  "wanted " + std::string(name_of(wanted)) + ", found " + described(entry.type, entry.shape));
    return entry;
  }

  void read_at(tensor_entry const& entry, std::uint64_t byte, std::span<std::byte> target) const {
    file_.read_at(entry.offset + byte, target);
  }

  [[noreturn]] void refuse(std::string_view name, std::string_view rule) const {
    throw error(path(), name, rule);
  }

  std::uint64_t count(json_reader& reader) const {
    auto const number = reader.number();
    if (auto const* n = std::get_if<std::int64_t>(&number); n != nullptr && *n >= 0)
      return static_cast<std::uint64_t>(*n);
    reader.fail("expected a whole number from 0 to 2^63 - 1");
  }

  void read_header(std::string_view header) {
    auto reader = json_reader{header, path() + ": header"};
    reader.object([&](std::string const& key) {
      if (key == "__metadata__")
        reader.object([&](std::string const& k) { metadata_[k] = reader.string(); });
      else
        read_entry(reader, key);
    });
    reader.end();
  }

  void read_entry(json_reader& reader, std::string const& name) {
    tensor_entry entry;
    entry.name = name;
    std::vector<std::uint64_t> range;
    bool has_type = false, has_shape = false;
    reader.object([&](std::string const& key) {
      if (key == "dtype") {
        auto const text = reader.string();
        auto const type = dtype_named(text);
        if (!type)
          refuse(name, "unknown type \"" + text + "\"");
        entry.type = *type;
        has_type = true;
      } else if (key == "shape") {
        reader.array([&] { entry.shape.push_back(static_cast<extent_t>(count(reader))); });
        has_shape = true;
      } else if (key == "data_offsets") {
        reader.array([&] { range.push_back(count(reader)); });
      } else {
        reader.ignore();
      }
    });
    if (!has_type || !has_shape || range.size() != 2)
      refuse(name, "a tensor has dtype, shape and data_offsets, which are two numbers");
    std::uint64_t bytes = size_of(entry.type);
    entry.elements = 1;
    for (auto const extent : entry.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes))
        refuse(name, described(entry.type, entry.shape) + " is more than can be counted");
      entry.elements *= static_cast<std::uint64_t>(extent);  // no more than the bytes
    }
    if (range[1] < range[0] || range[1] - range[0] != bytes)
      refuse(name, described(entry.type, entry.shape) + " takes " + std::to_string(bytes) +
                       " bytes, not those from " + std::to_string(range[0]) + " to " +
                       std::to_string(range[1]));
    entry.offset = range[0];
    tensors_.push_back(std::move(entry));
  }

  /// The tensors' bytes follow each other from `begin` to the end of the file.
  void lay_out(std::uint64_t begin) {
    std::set<std::array<std::uint64_t, 3>> order;  // trees, not sorts: a fifth of the code to compile
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      order.insert({tensors_[i].offset, tensors_[i].bytes(), i});
    std::vector<tensor_entry> in_order;
    in_order.reserve(tensors_.size());
    for (auto const& [offset, bytes, i] : order) in_order.push_back(std::move(tensors_[i]));
    tensors_ = std::move(in_order);
    std::uint64_t end = 0;
    for (auto& entry : tensors_) {
      if (entry.offset != end)
        refuse(entry.name, "begins at byte " + std::to_string(entry.offset) + " of the data, not at " +
                               std::to_string(end) + " where the one before ends");
      end += entry.bytes();
      entry.offset += begin;
    }
    if (auto const size = file_.size() - begin; size != end)
      throw error(path(), "",
                  "has " + std::to_string(size) + " bytes of data where its header says " +
                      std::to_string(end) + (size < end ? ": it was cut short" : ""));
    for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
  }

  input_file file_;
  std::vector<tensor_entry> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace yoke::io
