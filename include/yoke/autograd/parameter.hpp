// A model is a description: its parameters are handles into flat blocks, named by the scopes that
// made them.
#pragma once
#include <yoke/core/backend.hpp>

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace yoke {

/// A handle: which elements of the flat blocks, and their shape. Matrices (rank >= 2) are read from
/// the compute copy, scalars and vectors from the master values.
template <int Rank>
struct parameter {
  extent_t offset = 0;
  yoke::shape<Rank> shape{};
};

/// What a checkpoint, an optimiser and an initialiser know of a parameter.
struct parameter_info {
  std::string name;
  extent_t offset = 0;
  std::vector<extent_t> shape;
  float mean = 0;
  float deviation = 0;  // 0: the constant `mean`

  extent_t size() const {
    extent_t n = 1;
    for (auto d : shape) n *= d;
    return n;
  }
  bool is_matrix() const { return shape.size() >= 2; }
};

/// Collects the parameters of a model while it is constructed.
class parameter_list {
 public:
  template <int Rank>
  parameter<Rank> add(std::string name, shape<Rank> s, float mean, float deviation) {
    for (auto d : s) expects(d > 0, [&] { return "parameter '" + name + "' has positive extents"; });
    expects(find(name) == nullptr, [&] { return "parameter name '" + name + "' is used once"; });
    parameter<Rank> const p{elements_, s};
    infos_.push_back({std::move(name), elements_, {s.begin(), s.end()}, mean, deviation});
    elements_ += (s.size() + alignment - 1) / alignment * alignment;
    count_ += s.size();
    return p;
  }

  /// Elements of a flat block: every parameter begins at a multiple of 32 elements.
  extent_t elements() const { return elements_; }
  /// Learned numbers, without the padding between them.
  extent_t count() const { return count_; }
  std::vector<parameter_info> const& infos() const { return infos_; }
  /// Null when there is none of that name.
  parameter_info const* find(std::string_view name) const {
    for (auto const& i : infos_)
      if (i.name == name)
        return &i;
    return nullptr;
  }

 private:
  static constexpr extent_t alignment = 32;
  std::vector<parameter_info> infos_;
  extent_t elements_ = 0, count_ = 0;
};

/// A place in the tree of names: `scope{list} / "image" / "block" / 3` is "image.block.3".
class scope {
 public:
  scope(parameter_list& list) : list_{&list} {}

  scope operator/(std::string_view name) const {
    return {list_, path_ + (path_.empty() ? "" : ".") + std::string(name)};
  }
  scope operator/(extent_t i) const { return *this / std::string_view{std::to_string(i)}; }

  /// Normal with mean 0 and the given deviation.
  template <int Rank>
  parameter<Rank> weight(std::string_view name, shape<Rank> s, float deviation) const {
    return list_->add((*this / name).path_, s, 0, deviation);
  }
  template <int Rank>
  parameter<Rank> constant(std::string_view name, shape<Rank> s, float value) const {
    return list_->add((*this / name).path_, s, value, 0);
  }
  std::string const& path() const { return path_; }

 private:
  scope(parameter_list* list, std::string path) : list_{list}, path_{std::move(path)} {}

  parameter_list* list_;
  std::string path_;
};

/// The flat blocks that a tape reads and adds to. Null pointers on the dry backend.
template <class E, class A>
struct parameter_views {
  E const* compute = nullptr;
  A const* master = nullptr;
  A* gradients = nullptr;
  bool differentiate = true;  // false: gradients of parameters are not wanted
};

/// Owns the blocks of a model on one device: master values, their compute copy (where the element
/// type is narrower), and gradients.
template <class C>
class parameter_store {
 public:
  using E = typename C::element;
  using A = typename C::accumulator;
  static constexpr bool has_copy = !std::is_same_v<E, A>;

  parameter_store(C& c, parameter_list const& list)
      : master_{c, list.elements()},
        gradients_{c, list.elements()},
        compute_{c, has_copy ? list.elements() : 0} {}

  view<A, 1> master() const { return master_.view(); }
  view<A, 1> gradients() const { return gradients_.view(); }
  /// Empty when the master values serve as they are.
  view<E, 1> compute() const { return compute_.view(); }

  /// Makes the compute copy agree with the master values.
  void refresh(C& c) {
    if constexpr (has_copy)
      convert(c, view<A const, 1>{master()}, compute(), store::overwrite);
  }
  void zero_gradients(C& c) { fill(c, gradients(), 0.0); }

  parameter_views<E, A> views() const {
    E const* compute = nullptr;
    if constexpr (has_copy)
      compute = compute_.view().data;
    else
      compute = master_.view().data;
    return {compute, master_.view().data, gradients_.view().data};
  }

 private:
  typename C::template buffer<A> master_, gradients_;
  typename C::template buffer<E> compute_;
};

/// Draws initial values: each parameter from a sequence keyed by (seed, its name), so that a block's
/// values do not depend on what else the model has. `values` has list.elements() elements, in the
/// context's memory.
template <class C, class A>
void initialize(C& c, parameter_list const& list, std::uint64_t seed, view<A, 1> values) {
  expects(values.extent(0) == list.elements(), "initialize: one value for each element of the list");
  for (auto const& p : list.infos()) {
    random_sequence random{seed, hash(p.name)};
    write_from_host(c, slice(values, p.offset, p.size()), [&](view<A, 1> to) {
      for (extent_t i = 0; i < to.size(); ++i)
        to.data[i] = static_cast<A>(p.deviation == 0 ? p.mean : p.mean + p.deviation * random.normal());
    });
  }
}

}  // namespace yoke
