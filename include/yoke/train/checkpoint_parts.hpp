// What a checkpoint on disk consists of: one file of each kind, or a part from each rank that saved it, of which whole
// tensors are made for whoever reads.
#pragma once
#include <yoke/autograd/parameter.hpp>
#include <yoke/io/folder.hpp>
#include <yoke/io/json_fields.hpp>
#include <yoke/io/safetensors.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::train {

/// "model.safetensors" of one rank; of several "model-00003-of-00004.safetensors", as Hugging Face numbers them.
inline std::string part_name(std::string_view kind, std::size_t part, std::size_t parts) {
  std::string name{kind};
  if (parts > 1) {
    auto const five_digits = [](std::size_t n) {
      auto const digits = std::to_string(n);
      return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
    };
    name += "-" + five_digits(part + 1) + "-of-" + five_digits(parts);
  }
  return name + ".safetensors";
}

/// state.json of a checkpoint, which is written when all else is there, and what it says of the parts. Format 1 has one
/// file of each kind, format 2 a part from each rank: rank d * model + m of a mesh of data x model ranks.
class checkpoint_manifest {
 public:
  static constexpr std::array<std::string_view, 2> kinds{"model", "optimizer"};

  /// io::error when there is no checkpoint, or none of a form that is known.
  explicit checkpoint_manifest(std::string const& path)
      : folder_{io::committed_folder(path)},
        file_{folder_ + "/state.json"},
        state_{io::parse_json(io::read_file(file_, std::uint64_t{64} << 20), file_)} {
    io::json_fields fields{state_, file_};
    auto const format = fields.required<int>("format");
    if (format != 1 && format != 2)
      fields.fail("format", "is " + std::to_string(format) + "; this version reads 1 and 2");
    if (state_.find("run") == nullptr)
      fields.fail("run", "is missing");
    if (format == 2)
      read_parts(fields);
  }

  std::string const& folder() const { return folder_; }
  std::string const& file() const { return file_; }
  io::json const& state() const { return state_; }
  std::size_t parts() const { return bytes_[0].empty() ? 1 : bytes_[0].size(); }
  /// Ranks along the data axis and along the model axis of the mesh that saved it.
  int data_ranks() const { return data_; }
  int model_ranks() const { return model_; }
  /// What the parts of this checkpoint have in common, and no others; empty in format 1.
  std::string const& mark() const { return mark_; }
  /// The size of a part in bytes; nothing in format 1.
  std::optional<std::uint64_t> bytes(std::string_view kind, std::size_t part) const {
    auto const& sizes = bytes_[kind == kinds[0] ? 0 : 1];
    return sizes.empty() ? std::optional<std::uint64_t>{} : sizes[part];
  }

 private:
  void read_parts(io::json_fields& fields) {
    constexpr int most = 1 << 20;
    auto mesh = fields.object("mesh");
    data_ = mesh.in_range<int>("data", 1, most);
    model_ = mesh.in_range<int>("model", 1, most);
    mark_ = fields.required<std::string>("mark");
    auto parts = fields.object("parts");
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      bytes_[i] = parts.required<std::vector<std::uint64_t>>(kinds[i]);
      if (auto const wanted = std::int64_t{data_} * model_; std::ssize(bytes_[i]) != wanted || wanted < 2)
        parts.fail(kinds[i], "lists " + std::to_string(bytes_[i].size()) + " parts; a mesh of " +
                                 std::to_string(data_) + " x " + std::to_string(model_) +
                                 " ranks has as many, and those are two or more");
    }
  }

  std::string folder_, file_;
  io::json state_;
  int data_ = 1, model_ = 1;
  std::string mark_;
  std::array<std::vector<std::uint64_t>, kinds.size()> bytes_;
};

/// The tensors of one kind, "model" or "optimizer", in all parts of a checkpoint: whole, whoever holds which piece. Every
/// rule is checked before an element is read. Throws io::error, which names file, tensor and rule.
class saved_tensors {
 public:
  /// Opens all parts, one after the other, and keeps what their headers say.
  saved_tensors(checkpoint_manifest const& manifest, std::string_view kind)
      : ranks_{manifest.model_ranks()}, all_{inside(manifest, part_name(kind, 0, 1))} {
    auto const parts = manifest.parts();
    for (std::size_t i = 0; i < parts; ++i) {
      paths_.push_back(inside(manifest, part_name(kind, i, parts)));
      add_part(manifest, kind, i);
    }
    if (auto const& last = paths_.back(); parts > 1)
      all_ = inside(manifest, std::string(kind) + "-*" + last.substr(last.rfind("-of-")));
    for (auto const& [name, t] : tensors_)
      for (std::size_t share = 0; share < t.pieces.size(); ++share)
        if (t.pieces[share].part == nowhere)
          throw io::error(all_, name,
                          "share " + std::to_string(share + 1) + " of " + std::to_string(t.pieces.size()) +
                              " is in no part");
    open_.resize(paths_.size());
  }

  /// Where one piece of a tensor is.
  struct piece {
    std::size_t part;
    std::uint64_t offset;  // in the part's file
  };
  /// A tensor and its pieces: one, or one for each share into which it was cut.
  struct tensor {
    io::dtype type = io::dtype::f32;
    tensor_place place;  // of the first piece
    std::vector<piece> pieces;

    std::vector<extent_t> shape() const { return place.whole(); }
    /// Bytes of a piece, and of the whole.
    std::size_t piece_bytes() const { return static_cast<std::size_t>(place.size()) * io::size_of(type); }
    std::size_t bytes() const { return piece_bytes() * pieces.size(); }
  };

  /// What messages call all parts together.
  std::string const& path() const { return all_; }
  std::size_t size() const { return tensors_.size(); }
  /// In the order of their names.
  std::map<std::string, tensor, std::less<>> const& tensors() const { return tensors_; }
  /// io::error when there is none of that name.
  tensor const& at(std::string_view name) const {
    auto const found = tensors_.find(name);
    if (found == tensors_.end())
      throw io::error(all_, name, "no such tensor");
    return found->second;
  }
  /// io::error when the tensor is missing, of another type or, as a whole, of another shape.
  tensor const& expect(tensor_place const& wanted, io::dtype type) const {
    auto const& t = at(wanted.name);
    if (auto const shape = wanted.whole(); t.type != type || t.shape() != shape)
      throw io::error(path_of(t), wanted.name,
                      "wanted " + io::described(type, shape) + ", found " + io::described(t.type, t.shape()));
    return t;
  }
  /// io::error unless there are that many, for "the model" or whoever reads.
  void expect_count(std::size_t wanted, std::string const& reader) const {
    if (size() != wanted)
      throw io::error(all_, "",
                      (paths_.size() == 1 ? "the file holds " : "the parts hold ") + std::to_string(size()) +
                          " tensors, " + reader + " " + std::to_string(wanted));
  }

  /// The whole tensor.
  void read(tensor const& t, std::span<std::byte> whole) const {
    expects(whole.size() == t.bytes(), "saved_tensors: as many bytes as the tensor has");
    if (!t.place.is_sharded())
      return read_piece(t, 0, whole);
    auto share = t.place;
    std::vector<std::byte> here(t.piece_bytes());
    for (std::size_t i = 0; i < t.pieces.size(); ++i) {
      read_piece(t, i, here);
      share.share.rank = static_cast<int>(i);
      copy_runs(share, io::size_of(t.type), [&](std::size_t in_whole, std::size_t in_share, std::size_t n) {
        std::memcpy(whole.data() + in_whole, here.data() + in_share, n);
      });
    }
  }
  /// What a rank holds of a tensor whose shape, as a whole, is the saved one's.
  void read(tensor_place const& held, std::span<std::byte> to) const {
    auto const& t = at(held.name);
    expects(held.whole() == t.shape(), "saved_tensors: a share of a tensor of the saved shape");
    auto const& there = t.place;
    if (!held.is_sharded())
      return read(t, to);
    if (held.cut.axis == there.cut.axis && held.cut.groups == there.cut.groups &&
        held.share.ranks == there.share.ranks)
      return read_piece(t, static_cast<std::size_t>(held.share.rank), to);
    std::vector<std::byte> whole(t.bytes());
    read(t, whole);
    share_of(held, io::size_of(t.type), whole, to);
  }
  /// Cuts a share out of a whole in memory.
  static void share_of(tensor_place const& held, std::size_t width, std::span<std::byte const> whole,
                       std::span<std::byte> to) {
    copy_runs(held, width, [&](std::size_t in_whole, std::size_t in_share, std::size_t n) {
      std::memcpy(to.data() + in_share, whole.data() + in_whole, n);
    });
  }

 private:
  static constexpr auto nowhere = std::numeric_limits<std::size_t>::max();

  static std::string inside(checkpoint_manifest const& manifest, std::string const& name) {
    return manifest.folder() + "/" + name;
  }
  std::string const& path_of(tensor const& t) const { return paths_[t.pieces[0].part]; }

  /// Calls f(bytes before it in the whole, in the share, its bytes) for each run.
  template <class F>
  static void copy_runs(tensor_place const& share, std::size_t width, F const& f) {
    share.for_each_run_of_whole([&](extent_t whole, extent_t here, extent_t n) {
      f(static_cast<std::size_t>(whole) * width, static_cast<std::size_t>(here) * width,
        static_cast<std::size_t>(n) * width);
    });
  }

  void add_part(checkpoint_manifest const& manifest, std::string_view kind, std::size_t part) {
    io::safetensors_file const file{paths_[part]};
    std::map<std::string, yoke::cut> cuts;
    if (manifest.parts() > 1) {
      auto const& said = file.metadata();
      if (auto const found = said.find("mark"); found == said.end() || found->second != manifest.mark())
        throw io::error(
            file.path(), "mark",
            "is not \"" + manifest.mark() + "\", state.json's: the part is of another checkpoint");
      if (auto const bytes = *manifest.bytes(kind, part); file.bytes() != bytes)
        throw io::error(
            file.path(), "",
            "has " + std::to_string(file.bytes()) + " bytes where state.json says " + std::to_string(bytes));
      if (auto const found = said.find("cuts"); found != said.end())
        cuts = cuts_in(file, found->second);
    }
    auto const share = part % static_cast<std::size_t>(ranks_);
    for (auto const& e : file.tensors()) {
      auto const found = cuts.find(e.name);
      add(file, e, found == cuts.end() ? yoke::cut{} : found->second, share, part);
    }
  }

  /// {"name": [axis, groups], …}
  static std::map<std::string, yoke::cut> cuts_in(io::safetensors_file const& file, std::string const& text) {
    std::map<std::string, yoke::cut> cuts;
    auto const json = io::parse_json(text, file.path() + ": cuts");
    for (std::size_t i = 0; i < json.keys().size(); ++i) {
      auto const& e = file.at(json.keys()[i]);
      auto const numbers = json.elements()[i].as<std::vector<std::int64_t>>();
      auto const axis = numbers && numbers->size() == 2 ? numbers->front() : -1;
      auto const good = axis >= 0 && axis < std::ssize(e.shape) && numbers->back() > 0 && e.elements > 0 &&
                        e.shape[static_cast<std::size_t>(axis)] % numbers->back() == 0;
      if (!good)
        throw io::error(file.path(), e.name,
                        "is cut along an axis of " + io::described(e.type, e.shape) +
                            " and in a number of groups that divides what there is of it, not as " +
                            json.elements()[i].dump());
      cuts[e.name] = {static_cast<int>(axis), numbers->back()};
    }
    return cuts;
  }

  void add(io::safetensors_file const& file, io::tensor_entry const& e, yoke::cut how, std::size_t share,
           std::size_t part) {
    auto const cut = how.axis >= 0 && ranks_ > 1;
    auto const [found, is_new] = tensors_.try_emplace(e.name);
    auto& t = found->second;
    if (is_new) {
      t.type = e.type;
      t.place = {e.name, e.shape, cut ? how : yoke::cut{}, {0, cut ? ranks_ : 1}};
      t.pieces.assign(cut ? static_cast<std::size_t>(ranks_) : 1, {nowhere, 0});
      std::uint64_t whole = 0;
      constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<extent_t>::max());
      if (__builtin_mul_overflow(e.bytes(), t.pieces.size(), &whole) || whole > most)
        throw io::error(file.path(), e.name, "its shares are more together than can be counted");
    } else if (t.type != e.type || t.place.shape != e.shape || t.place.is_sharded() != cut ||
               (cut && (t.place.cut.axis != how.axis || t.place.cut.groups != how.groups))) {
      throw io::error(file.path(), e.name,
                      "another share of it, in " + path_in(t) + ", is of another type, shape or cut");
    }
    auto& p = t.pieces[cut ? share : 0];
    if (p.part != nowhere)
      throw io::error(file.path(), e.name, "is in " + paths_[p.part] + " as well");
    p = {part, e.offset};
  }
  std::string const& path_in(tensor const& t) const {
    auto const there =
        std::find_if(t.pieces.begin(), t.pieces.end(), [](piece const& p) { return p.part != nowhere; });
    return paths_[there->part];
  }

  /// Files stay open, but not so many that a process may not have them.
  void read_piece(tensor const& t, std::size_t i, std::span<std::byte> to) const {
    auto const& p = t.pieces[i];
    auto& file = open_[p.part];
    if (!file) {
      constexpr std::size_t most = 64;
      if (++files_open_ > most) {
        for (auto& f : open_) f.reset();
        files_open_ = 1;
      }
      file.emplace(paths_[p.part]);
    }
    file->read_at(p.offset, to);
  }

  int ranks_;
  std::string all_;
  std::vector<std::string> paths_;
  std::map<std::string, tensor, std::less<>> tensors_;
  mutable std::vector<std::optional<io::input_file>> open_;
  mutable std::size_t files_open_ = 0;
};

}  // namespace yoke::train
