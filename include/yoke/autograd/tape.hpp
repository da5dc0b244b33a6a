// The tape: an order of fused operations, each of which says what it saves. The tape owns the order
// and the activations' gradients; it knows no operation.
#pragma once
#include <yoke/autograd/gradient_watch.hpp>
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/parallel/any.hpp>

#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace yoke {

namespace detail {

/// Where the gradient of one value grows. Lives on the context's host stack.
struct gradient_slot {
  void* data = nullptr;
  std::size_t offset = 0, bytes = 0;  // in the gradient pool, when owned
  bool touched = false, owned = false;
};

}  // namespace detail

/// A tensor on a tape, of the context's element type: models name its rank only. Trivially
/// copyable.
template <int Rank>
struct value {
  void* data = nullptr;
  yoke::shape<Rank> shape{};
  detail::gradient_slot* slot = nullptr;  // null: a constant, no gradient is wanted

  extent_t extent(int axis) const { return shape[static_cast<std::size_t>(axis)]; }
};

/// Where an operation's backward puts a gradient, and how; false when it is not wanted.
template <class T, int Rank>
struct gradient {
  view<T, Rank> data;
  store how = store::overwrite;
  bool wanted = false;

  explicit operator bool() const { return wanted; }
  /// The tensor, or one whose extents are 0 when it is not wanted: kernels' word for an absent one.
  view<T, Rank> or_absent() const { return wanted ? data : view<T, Rank>{}; }
};

/// What an operation returns that saves nothing beyond its arguments.
struct nothing_saved {};

/// What is kept between forward and backward, from all to least: everything; the results of expensive operations
/// (matrix products, attention, convolutions), norms and activations being computed again; the inputs of blocks; the
/// inputs of groups of blocks, about the square root of their number.
enum class rematerialize { nothing, cheap, blocks, everything };

namespace detail {

/// The results of expensive operations of one run of a block, in their order, for the next run. Entries live on the
/// context's host stack, tensors in its activation memory.
struct journal {
  struct entry {
    entry* next = nullptr;
  };
  template <class Result>
  struct result_entry : entry {
    Result result;
  };
  entry *first = nullptr, *last = nullptr;
  bool replays = false;

  void append(entry* e) { (first == nullptr ? first : last->next) = e, last = e; }
  template <class Result>
  Result take() {
    expects(first != nullptr, "a rematerialised block runs the same operations each time");
    auto const result = static_cast<result_entry<Result>*>(first)->result;
    first = first->next;
    return result;
  }
};

/// Operations whose results rematerialize::cheap keeps say so by a member `expensive`.
template <class Op>
concept expensive = requires {
  requires Op::expensive;
};

/// Parameters that are a share of a model meet the ranks that have the others.
inline void expect_share(model_share share, parallel::any const* axis) {
  model_share const here{axis == nullptr ? 0 : axis->rank(), axis == nullptr ? 1 : axis->size()};
  expects(here == share, [&] {
    auto const said = [](model_share m) {
      return "rank " + std::to_string(m.rank) + " of " + std::to_string(m.ranks);
    };
    return "tape: the parameters are those of " + said(share) + " on the model axis, and this is " +
           said(here);
  });
}

}  // namespace detail

/// What a tape is to do beside recording operations.
struct tape_options {
  bool record = true;    // keep what backward needs
  bool training = true;  // dropout and stochastic depth are active
  random_key random{};
  rematerialize remat = rematerialize::nothing;  // at least; a model may ask for less to be kept
  parallel::any* model_axis =
      nullptr;  // the ranks among which sharded parameters are shared out; null: there are none
  gradient_watch* watch = nullptr;  // told when gradients of parameters are added to
  detail::journal* journal = nullptr;
};

/// One forward pass. `context` and the parameter blocks outlive it.
template <context C>
class tape {
 public:
  using E = typename C::element;
  using A = typename C::accumulator;
  using P = parameter_element_t<C>;

  tape(C& c, parameter_views<E, A, P> parameters, tape_options options = {})
      : context_{&c}, parameters_{parameters}, options_{options}, start_{c.host.mark()} {
    if (options_.model_axis == nullptr)
      options_.model_axis = parameters.model_axis;
    detail::expect_share(parameters.share, options_.model_axis);
  }
  tape(tape const&) = delete;
  tape& operator=(tape const&) = delete;
  ~tape() {
    for (auto* n = last_; n != nullptr; n = n->previous) release(*n->out);
    for (auto* i = inputs_; i != nullptr; i = i->previous) release(i->slot);
    if (options_.journal == nullptr || options_.journal->replays)
      context_->host.release(start_);  // a journal's entries outlive the tape that writes them
  }

  C& context() const { return *context_; }
  parameter_views<E, A, P> const& parameters() const { return parameters_; }
  tape_options const& options() const { return options_; }
  bool recording() const { return options_.record; }
  bool training() const { return options_.training; }

  /// An input of the model.
  template <class T, int Rank>
  value<Rank> constant(view<T, Rank> v) const {
    static_assert(std::is_same_v<std::remove_const_t<T>, E>,
                  "a tape's values have its context's element type");
    return {const_cast<E*>(v.data), v.shape, nullptr};
  }
  /// An input whose gradient is wanted; it is read with gradient_of(value).data after backward.
  template <class T, int Rank>
  value<Rank> variable(view<T, Rank> v) {
    auto x = constant(v);
    if (recording()) {
      inputs_ = context_->host.template create<input>(inputs_);
      x.slot = &inputs_->slot;
    }
    return x;
  }

  template <int Rank>
  view<E const, Rank> operator()(value<Rank> const& x) const {
    return {static_cast<E const*>(x.data), x.shape};
  }
  /// Matrices in the element type, vectors and scalars in the accumulator's.
  template <int Rank>
  auto operator()(parameter<Rank> const& p) const {
    if constexpr (Rank >= 2)
      return view<E const, Rank>{at(parameters_.compute, p.offset), p.shape};
    else
      return view<A const, Rank>{at(parameters_.vectors, place(p, parameters_.vectors_apart)), p.shape};
  }
  /// The running value of a statistic.
  template <int Rank>
  view<A const, Rank> operator()(statistic<Rank> const& s) const {
    return {at(parameters_.statistics, s.offset), s.shape};
  }

  /// Runs op.forward(tape, args...) -> {view, saved} and, when recording, keeps op, saved and args
  /// for op.backward(tape, saved, gradient of the output, args...).
  template <class Op, class... Args>
  auto apply(Op const& op, Args const&... args) {
    auto const [data, saved] = result_of(op, args...);
    auto out = constant(data);
    if (recording()) {
      out.slot = context_->host.template create<detail::gradient_slot>();
      using node = op_node<Op, std::remove_const_t<decltype(saved)>, decltype(out), Args...>;
      last_ = context_->host.template create<node>(node_base{&node::run, out.slot, last_}, op, saved, out,
                                                   std::tuple<Args...>{args...});
    }
    return out;
  }

  /// Adds d(loss)/d(parameter) to the gradient block, from the seed d(loss)/d(root), which must
  /// stay unchanged meanwhile. Once for a tape.
  template <int Rank>
  void backward(value<Rank> root, view<E const, Rank> seed) {
    expects(recording() && root.slot != nullptr, "backward: the root was computed on a recording tape");
    expects(root.shape == seed.shape, "backward: the seed has the root's shape");
    *root.slot = {const_cast<E*>(seed.data), 0, 0, true, false};
    for (; last_ != nullptr; last_ = last_->previous) {
      if (last_->out->touched)
        last_->backward(*last_, *this);  // else nothing downstream used this output
      if (options_.watch != nullptr)
        options_.watch->added();
      release(*last_->out);
    }
  }

  /// The gradient of a value: the first writer overwrites, later ones accumulate.
  template <int Rank>
  gradient<E, Rank> gradient_of(value<Rank> const& v) {
    if (v.slot == nullptr)
      return {{nullptr, v.shape}, store::overwrite, false};
    auto& s = *v.slot;
    auto const how = s.touched ? store::accumulate : store::overwrite;
    if (!s.touched) {
      s.bytes = static_cast<std::size_t>(v.shape.size()) * sizeof(E);
      s.offset = context_->gradient_memory.allocate(s.bytes);
      s.data = context_->gradient_memory.at(s.offset);
      s.touched = s.owned = true;
    }
    return {{static_cast<E*>(s.data), v.shape}, how, true};
  }
  /// The gradient of a parameter always accumulates.
  template <int Rank>
  auto gradient_of(parameter<Rank> const& p) const {
    auto const wanted = parameters_.differentiate && p.shape.size() > 0;
    if (wanted && options_.watch != nullptr)
      options_.watch->asked_for(p.offset);
    if constexpr (Rank >= 2)
      return gradient<P, Rank>{{at(parameters_.gradients, p.offset), p.shape}, store::accumulate, wanted};
    else
      return gradient<A, Rank>{
          {at(parameters_.vector_gradients, place(p, parameters_.vector_gradients_apart)), p.shape},
          store::accumulate,
          wanted};
  }
  /// Where a statistic's observation is added, and counted: called by backward, once for each observation, so that what
  /// is rematerialised is observed once.
  template <int Rank>
  gradient<A, Rank> observe(statistic<Rank> const& s) const {
    auto const wanted = parameters_.differentiate && training();
    auto const count = view<A, 1>{at(parameters_.observations, s.offset + s.shape.size()), shape{1}};
    if (wanted)
      add_scalar(*context_, 1.0, count);
    return {{at(parameters_.observations, s.offset), s.shape}, store::accumulate, wanted};
  }

 private:
  struct input {
    input* previous;
    detail::gradient_slot slot{};
  };
  struct node_base {
    void (*backward)(node_base&, tape&);
    detail::gradient_slot* out;
    node_base* previous;
  };
  template <class Op, class Saved, class Out, class... Args>
  struct op_node : node_base {
    Op op;
    Saved saved;
    Out out_value;
    std::tuple<Args...> args;

    static void run(node_base& base, tape& t) {
      auto& n = static_cast<op_node&>(base);
      auto const dy = t.gradient_of(n.out_value).data;
      std::apply([&](auto const&... a) { n.op.backward(t, n.saved, view_of_const(dy), a...); }, n.args);
    }
  };
  template <class Op, class... Args>
  auto result_of(Op const& op, Args const&... args) {
    if constexpr (detail::expensive<Op>) {
      if (auto* const journal = options_.journal; journal != nullptr) {
        using result = decltype(op.forward(*this, args...));
        using entry = detail::journal::result_entry<result>;
        if (journal->replays)
          return journal->template take<result>();
        arena_end_scope const kept{context_->memory, arena_end::bottom};
        auto const r = op.forward(*this, args...);
        journal->append(context_->host.template create<entry>(detail::journal::entry{}, r));
        return r;
      }
    }
    return op.forward(*this, args...);
  }
  template <class T>
  static T* at(T* block, extent_t offset) {
    return block == nullptr ? nullptr : block + offset;
  }
  static extent_t place(parameter<1> const& p, bool apart) { return apart ? p.vector_offset : p.offset; }
  template <int Rank>
  static view<E const, Rank> view_of_const(view<E, Rank> v) {
    return v;
  }

  void release(detail::gradient_slot& s) {
    if (s.owned)
      context_->gradient_memory.release(s.offset, s.bytes);
    s = {};
  }

  C* context_;
  parameter_views<E, A, P> parameters_;
  tape_options options_;
  host_stack::marker start_;
  node_base* last_ = nullptr;
  input* inputs_ = nullptr;
};

}  // namespace yoke
