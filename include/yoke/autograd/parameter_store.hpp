// The numbers of a model on one device: master values, their compute copy, gradients, observed statistics.
#pragma once
#include <yoke/autograd/ownership.hpp>
#include <yoke/core/backend.hpp>
#include <yoke/parallel/any.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace yoke {

/// A context that keeps the matrices of a model, and their gradients, in its element type alone: 4 bytes a parameter
/// instead of 10 for bf16. Vectors stay in accumulators. The optimiser rounds stochastically (adafactor_w; adam_w wants
/// float). Every micro-batch rounds the gradients, so few of them are better.
template <class Context>
struct compact : Context {
  using Context::Context;
  using parameter_element = typename Context::element;
};

namespace detail {

template <class C>
struct parameter_element {
  using type = typename C::accumulator;
};
template <class C>
requires requires {
  typename C::parameter_element;
}
struct parameter_element<C> {
  using type = typename C::parameter_element;
};

}  // namespace detail

/// The type of master values and gradients of matrices on a context: the accumulator, or what the context says.
template <class C>
using parameter_element_t = typename detail::parameter_element<C>::type;

/// One number for each element of a model: matrices as M, vectors and scalars as accumulators. One flat run where the
/// two are one type and all of it is there; else vectors have a run of their own, and their places among the matrices
/// are not used.
template <class C, class M>
class parameter_block {
 public:
  using A = typename C::accumulator;
  static constexpr bool two_types = !std::is_same_v<M, A>;

  parameter_block() = default;
  parameter_block(C& c, parameter_list const& list)
      : parameter_block{c, list, {0, list.elements(), two_types}} {}
  parameter_block(C& c, parameter_list const& list, block_layout const& l)
      : layout_{l.begin, l.end, l.vectors_apart || two_types},
        all_{c, l.end - l.begin},
        vectors_{c, layout_.vectors_apart ? list.vector_elements() : 0} {}

  block_layout const& layout() const { return layout_; }
  /// The elements that are there.
  view<M, 1> flat() const { return all_.view(); }
  /// Empty unless vectors are apart.
  view<A, 1> vectors() const { return vectors_.view(); }

  view<A, 1> of(parameter<1> const& p) const {
    if constexpr (!two_types)
      if (!layout_.vectors_apart)
        return slice(flat(), p.offset - layout_.begin, p.shape.size());
    return slice(vectors(), p.vector_offset, p.shape.size());
  }
  /// Whether the elements of a parameter are there.
  bool holds(parameter_info const& p) const { return layout_.holds(p); }
  /// Calls f with the elements of a parameter, whichever type they have; with an empty view if they are not there.
  template <class F>
  decltype(auto) visit(parameter_info const& p, F const& f) const {
    if constexpr (two_types) {
      if (!p.is_matrix())
        return f(slice(vectors(), p.vector_offset, p.size()));
    } else if (layout_.vectors_apart && !p.is_matrix()) {
      return f(slice(vectors(), p.vector_offset, p.size()));
    }
    return f(holds(p) ? slice(flat(), p.offset - layout_.begin, p.size()) : slice(flat(), 0, 0));
  }
  /// Calls f with each flat run.
  template <class F>
  void for_each_run(F const& f) const {
    f(flat());
    if (layout_.vectors_apart)
      f(vectors());
  }

 private:
  block_layout layout_{};
  typename C::template buffer<M> all_;
  typename C::template buffer<A> vectors_;
};

/// The flat blocks that a tape reads and adds to. Null pointers on the dry backend.
template <class E, class A, class P = A>
struct parameter_views {
  E const* compute = nullptr;  // matrices
  A const* vectors = nullptr;
  P* gradients = nullptr;  // of matrices
  A* vector_gradients = nullptr;
  A const* statistics = nullptr;
  A* observations = nullptr;
  bool vectors_apart = false;           // vectors are at their places in a block of vectors alone
  bool vector_gradients_apart = false;  // so are their gradients
  bool differentiate = true;            // false: gradients of parameters are not wanted
  parallel::any* model_axis = nullptr;  // the ranks among which sharded parameters are shared out
  model_share share{};                  // of which of them these parameters are
};

/// Owns the blocks of a model on one device: master values, their compute copy (where the element
/// type is narrower), gradients, and what BatchNorm keeps. Of several ranks on a data axis each holds the master values
/// of the matrices that it owns, if there is a compute copy, which every rank has whole.
template <class C>
class parameter_store {
 public:
  using E = typename C::element;
  using A = typename C::accumulator;
  using P = parameter_element_t<C>;
  using block = parameter_block<C, P>;
  static constexpr bool has_copy = !std::is_same_v<E, P>;

  parameter_store(C& c, parameter_list const& list) : parameter_store{c, list, ownership{list}} {}
  parameter_store(C& c, parameter_list const& list, ownership owners)
      : list_{&list},
        owners_{std::move(owners)},
        values_{c, list, shares_master(owners_) ? owners_.owned(true) : owners_.whole(block::two_types)},
        gradients_{c, list},
        compute_{c, has_copy ? list.elements() : 0},
        statistics_{c, list.statistic_elements()},
        observations_{c, list.statistic_elements()} {}

  ownership const& owners() const { return owners_; }
  /// The ranks that hold the other shares of the model, for every tape on this store; null where nothing is sharded.
  void set_model_axis(parallel::any* axis) { model_axis_ = axis; }
  block const& master_block() const { return values_; }
  block const& gradient_block() const { return gradients_; }
  view<P, 1> master() const { return values_.flat(); }
  view<P, 1> gradients() const { return gradients_.flat(); }
  view<A, 1> master_of(parameter<1> const& p) const { return values_.of(p); }
  view<A, 1> gradient_of(parameter<1> const& p) const { return gradients_.of(p); }
  /// Empty when the master values serve as they are.
  view<E, 1> compute() const { return compute_.view(); }
  /// Running values, each followed by a number that is not used.
  view<A, 1> statistics() const { return statistics_.view(); }
  /// Sums of this step's observations, each followed by their number.
  view<A, 1> observations() const { return observations_.view(); }

  /// What an optimiser keeps state for, and updates: what this rank owns, and vectors that are apart, which every rank
  /// updates alike.
  static block_layout updated(ownership const& owners) {
    return owners.owned(block::two_types || shares_master(owners));
  }
  /// The values that the other ranks have of this one, in the blocks of their owners' parts.
  template <class F>
  void visit_shared(F const& f) const {
    if constexpr (has_copy)
      f(compute());
    else
      f(master());
  }

  /// Makes the compute copy agree with the master values that are there.
  void refresh(C& c) {
    if constexpr (has_copy) {
      auto const& there = values_.layout();
      convert(c, view<P const, 1>{master()}, slice(compute(), there.begin, there.end - there.begin),
              store::overwrite);
    }
  }
  void zero_gradients(C& c) {
    gradients_.for_each_run([&](auto run) { fill(c, run, 0.0); });
    if (observations().size() > 0)
      fill(c, observations(), 0.0);
  }
  /// Running values move towards the means of what was observed since the last call.
  void absorb_observations(C& c) {
    for (auto const& s : list_->statistics())
      absorb_statistic(c, s.momentum, slice(observations(), s.offset, s.size + 1),
                       slice(statistics(), s.offset, s.size));
  }

  parameter_views<E, A, P> views() const {
    parameter_views<E, A, P> v{.gradients = gradients().data,
                               .statistics = statistics().data,
                               .observations = observations().data,
                               .vectors_apart = values_.layout().vectors_apart,
                               .vector_gradients_apart = gradients_.layout().vectors_apart,
                               .model_axis = model_axis_,
                               .share = list_->share()};
    if constexpr (has_copy)
      v.compute = compute_.view().data;
    else
      v.compute = master().data;
    v.vectors = vectors_of(values_);
    v.vector_gradients = vectors_of(gradients_);
    return v;
  }

  /// The first vector of a block, wherever it keeps them.
  static A* vectors_of(block const& b) {
    if constexpr (!block::two_types)
      if (!b.layout().vectors_apart)
        return b.flat().data;
    return b.vectors().data;
  }

 private:
  static bool shares_master(ownership const& owners) { return has_copy && owners.ranks() > 1; }

  parameter_list const* list_;
  ownership owners_;
  parallel::any* model_axis_ = nullptr;
  block values_, gradients_;
  typename C::template buffer<E> compute_;
  typename C::template buffer<A> statistics_, observations_;
};

namespace detail {

/// Values from a sequence keyed by (seed, the parameter's name), so that they do not depend on what else the model has;
/// of a share, those that the whole has there.
template <class V>
void draw_initial(parameter_info const& p, std::uint64_t seed, view<V, 1> to) {
  using A = accumulator_t<V>;
  if (p.deviation == 0) {
    std::fill_n(to.data, to.size(), static_cast<V>(static_cast<A>(p.mean)));
    return;
  }
  auto const stream = hash(p.name);
  p.for_each_run_of_whole([&](extent_t whole, extent_t here, extent_t n) {
    random_sequence random{seed, stream, static_cast<std::uint64_t>(whole)};
    for (extent_t i = here; i < here + n; ++i)
      to.data[i] = static_cast<V>(static_cast<A>(p.mean + p.deviation * random.normal()));
  });
}

/// Calls f(i) for all i < n: by threads of the host, one for each core.
template <class F>
void for_each_by_threads(std::size_t n, F const& f) {
  std::atomic<std::size_t> next{0};
  auto const work = [&] {
    for (auto i = next++; i < n; i = next++) f(i);
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 1; i < std::max(1u, std::thread::hardware_concurrency()); ++i) threads.emplace_back(work);
  work();
}

}  // namespace detail

/// Draws initial values: each parameter from a sequence keyed by (seed, its name), so that a block's
/// values do not depend on what else the model has. `values` has list.elements() elements, in the
/// context's memory.
template <class C, class V>
void initialize(C& c, parameter_list const& list, std::uint64_t seed, view<V, 1> values) {
  expects(values.extent(0) == list.elements(), "initialize: one value for each element of the list");
  for (auto const& p : list.infos())
    write_from_host(c, slice(values, p.offset, p.size()),
                    [&](view<V, 1> to) { detail::draw_initial(p, seed, to); });
}

/// The same for a store: master values, compute copy, and the first values of statistics. Large models are drawn by all
/// cores where the host writes the device's memory. Of parameters that other ranks own, the compute copy is theirs to
/// give.
template <class C>
void initialize(C& c, parameter_list const& list, std::uint64_t seed, parameter_store<C>& store) {
  device_traits const traits = c.traits;
  auto const& infos = list.infos();
  auto const draw = [&](std::size_t i) {
    if (store.master_block().holds(infos[i]))
      store.master_block().visit(infos[i], [&](auto to) {
        write_from_host(c, to, [&](auto on_host) { detail::draw_initial(infos[i], seed, on_host); });
      });
  };
  constexpr extent_t large = 1 << 22;
  if (!traits.separate_memory && list.count() >= large)
    detail::for_each_by_threads(infos.size(), draw);
  else
    for (std::size_t i = 0; i < infos.size(); ++i) draw(i);
  for (auto const& s : list.statistics()) fill(c, slice(store.statistics(), s.offset, s.size), s.initial);
  store.refresh(c);
}

}  // namespace yoke
