// A model is a description: its parameters are handles into flat blocks, named by the scopes that
// made them.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke {

/// A handle: which elements of the flat blocks, and their shape. Matrices (rank >= 2) are read from
/// the compute copy, scalars and vectors from the master values.
template <int Rank>
struct parameter {
  extent_t offset = 0;
  yoke::shape<Rank> shape{};
  extent_t vector_offset = 0;  // of a vector, in blocks that keep vectors apart
};

/// A handle to numbers of a model that are not learnt but observed: BatchNorm's running mean and variance.
template <int Rank>
struct statistic {
  extent_t offset = 0;
  yoke::shape<Rank> shape{};
};

/// Whether an optimiser's weight decay applies to a matrix; it never does to vectors and scalars.
enum class weight_decay { no, yes };

/// Which of how many shares of its sharded parameters a rank holds: its place on the model axis of a mesh.
struct model_share {
  int rank = 0;
  int ranks = 1;

  bool operator==(model_share const&) const = default;
};

/// How a parameter is cut into shares: along an axis, each of `groups` equal runs for itself. The rows of a matrix for
/// queries, keys and values are three groups: each share has some heads of each. axis -1: not at all.
struct cut {
  int axis = -1;
  extent_t groups = 1;
};

/// A tensor by name, of which this rank may hold a share.
struct tensor_place {
  std::string name;
  std::vector<extent_t> shape;  // of what this rank holds
  yoke::cut cut{};              // axis -1 also where one rank holds all
  model_share share{};          // of which the tensor is, where it is cut

  extent_t size() const {
    extent_t n = 1;
    for (auto d : shape) n *= d;
    return n;
  }
  bool is_sharded() const { return cut.axis >= 0; }
  /// The shape of the whole.
  std::vector<extent_t> whole() const {
    auto s = shape;
    if (is_sharded())
      s[static_cast<std::size_t>(cut.axis)] *= share.ranks;
    return s;
  }
  /// Calls f(first element in the whole, first element here, elements) for each run of elements that lie side by side
  /// in both, in their order.
  template <class F>
  void for_each_run_of_whole(F const& f) const {
    if (!is_sharded()) {
      f(extent_t{0}, extent_t{0}, size());
      return;
    }
    auto const axis = static_cast<std::size_t>(cut.axis);
    extent_t outer = cut.groups, inner = 1;
    for (std::size_t i = 0; i < axis; ++i) outer *= shape[i];
    for (std::size_t i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
    auto const run = shape[axis] / cut.groups * inner;
    for (extent_t o = 0; o < outer; ++o) f((o * share.ranks + share.rank) * run, o * run, run);
  }
};

/// What a checkpoint, an optimiser and an initialiser know of a parameter.
struct parameter_info : tensor_place {
  extent_t offset = 0;
  float mean = 0;
  float deviation = 0;  // 0: the constant `mean`
  bool decays = false;
  extent_t vector_offset = 0;

  bool is_matrix() const { return shape.size() >= 2; }
};

/// What is known of a statistic. Its block holds one number more, behind the values: how many observations there were.
struct statistic_info {
  std::string name;
  extent_t offset = 0;
  std::vector<extent_t> shape;
  extent_t size = 0;
  float initial = 0;
  float momentum = 0.1f;  // the share of a step's observations in the running value
};

/// Collects the parameters of a model while it is constructed.
class parameter_list {
 public:
  parameter_list() = default;
  /// Of one rank among those that share a model. Every rank constructs the same model on a list of its own.
  explicit parameter_list(model_share share) : share_{share} {
    expects(share.ranks > 0 && share.rank >= 0 && share.rank < share.ranks,
            "parameter_list: a rank is below the number of ranks");
  }

  /// `s` is the shape of the whole; the handle has that of this rank's share.
  template <int Rank>
  parameter<Rank> add(std::string name, shape<Rank> s, float mean, float deviation,
                      weight_decay decay = weight_decay::yes, cut how = {}) {
    check(name, s);
    if (share_.ranks == 1)
      how = {};
    if (how.axis >= 0)
      s[static_cast<std::size_t>(how.axis)] = part_of(name, s, how);
    parameter<Rank> const p{elements_, s, Rank == 1 ? vector_elements_ : 0};
    infos_.push_back({{std::move(name), {s.begin(), s.end()}, how, how.axis >= 0 ? share_ : model_share{}},
                      p.offset,
                      mean,
                      deviation,
                      Rank >= 2 && decay == weight_decay::yes,
                      p.vector_offset});
    elements_ += padded(s.size());
    if constexpr (Rank < 2)
      vector_elements_ += padded(s.size());
    count_ += s.size();
    return p;
  }
  template <int Rank>
  statistic<Rank> add_statistic(std::string name, shape<Rank> s, float initial, float momentum) {
    check(name, s);
    expects(momentum > 0 && momentum <= 1, "a statistic's momentum is in (0, 1]");
    statistic<Rank> const handle{statistic_elements_, s};
    statistics_.push_back(
        {std::move(name), handle.offset, {s.begin(), s.end()}, s.size(), initial, momentum});
    statistic_elements_ += padded(s.size() + 1);
    return handle;
  }

  model_share share() const { return share_; }
  /// Elements of a flat block: every parameter begins at a multiple of 32 elements.
  extent_t elements() const { return elements_; }
  /// Elements of a block of vectors and scalars alone.
  extent_t vector_elements() const { return vector_elements_; }
  extent_t statistic_elements() const { return statistic_elements_; }
  /// Learned numbers that this rank holds, without the padding between them.
  extent_t count() const { return count_; }
  std::vector<parameter_info> const& infos() const { return infos_; }
  std::vector<statistic_info> const& statistics() const { return statistics_; }
  /// Null when there is none of that name.
  parameter_info const* find(std::string_view name) const {
    for (auto const& i : infos_)
      if (i.name == name)
        return &i;
    return nullptr;
  }

 private:
  static constexpr extent_t alignment = 32;

  static constexpr extent_t padded(extent_t n) { return (n + alignment - 1) / alignment * alignment; }
  template <int Rank>
  void check(std::string const& name, shape<Rank> s) const {
    for (auto d : s) expects(d > 0, [&] { return "parameter '" + name + "' has positive extents"; });
    auto used = find(name) != nullptr;
    for (auto const& i : statistics_) used = used || i.name == name;
    expects(!used, [&] { return "parameter name '" + name + "' is used once"; });
  }

  /// What a rank has of the axis that is cut.
  template <int Rank>
  extent_t part_of(std::string const& name, shape<Rank> s, cut how) const {
    auto const extent = s[static_cast<std::size_t>(how.axis)];
    expects(how.axis < Rank && how.groups > 0 && extent % (how.groups * share_.ranks) == 0, [&] {
      return "parameter '" + name + "': its extent " + std::to_string(extent) +
             (how.groups > 1 ? " in " + std::to_string(how.groups) + " groups" : std::string{}) +
             " is shared out evenly among the " + std::to_string(share_.ranks) + " ranks of the model axis";
    });
    return extent / share_.ranks;
  }

  model_share share_{};
  std::vector<parameter_info> infos_;
  std::vector<statistic_info> statistics_;
  extent_t elements_ = 0, vector_elements_ = 0, statistic_elements_ = 0, count_ = 0;
};

/// A place in the tree of names: `scope{list} / "image" / "block" / 3` is "image.block.3".
class scope {
 public:
  scope(parameter_list& list) : list_{&list} {}

  scope operator/(std::string_view name) const {
    return {list_, path_ + (path_.empty() ? "" : ".") + std::string(name)};
  }
  scope operator/(extent_t i) const { return *this / std::string_view{std::to_string(i)}; }

  /// Normal with mean 0 and the given deviation. `s` is the shape of the whole, whatever the cut.
  template <int Rank>
  parameter<Rank> weight(std::string_view name, shape<Rank> s, float deviation,
                         weight_decay decay = weight_decay::yes, cut how = {}) const {
    return list_->add((*this / name).path_, s, 0, deviation, decay, how);
  }
  template <int Rank>
  parameter<Rank> constant(std::string_view name, shape<Rank> s, float value, cut how = {}) const {
    return list_->add((*this / name).path_, s, value, 0, weight_decay::yes, how);
  }
  /// Among how many ranks the model's sharded parameters are shared out.
  int model_ranks() const { return list_->share().ranks; }
  /// A running value, `initial` at first, of which each step's observations become the share `momentum`.
  template <int Rank>
  yoke::statistic<Rank> statistic(std::string_view name, shape<Rank> s, float initial,
                                  float momentum = 0.1f) const {
    return list_->add_statistic((*this / name).path_, s, initial, momentum);
  }
  std::string const& path() const { return path_; }

 private:
  scope(parameter_list* list, std::string path) : list_{list}, path_{std::move(path)} {}

  parameter_list* list_;
  std::string path_;
};

}  // namespace yoke
