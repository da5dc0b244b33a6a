// Rematerialisation: only a block's input survives its forward pass; the block is run again in
// backward (Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174).
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke {

/// What is kept between forward and backward: everything, or the inputs of blocks.
enum class rematerialize { nothing, blocks };

namespace detail {

template <class Block>
struct remat_op {
  Block const* block;

  template <class C, int Rank, class... Args>
  auto forward(tape<C>& t, value<Rank> const& x, Args const&... args) const {
    auto& c = t.context();
    auto out = make<typename C::element>(c, x.shape);
    arena_scope const scratch{c.memory};
    auto options = t.options();
    options.record = false;
    tape<C> inner{c, t.parameters(), options};
    auto const y = (*block)(inner, value<Rank>{x.data, x.shape}, args...);
    expects(y.shape == x.shape, "remat: the block keeps its input's shape");
    convert(c, as_flat(inner(y)), as_flat(out), store::overwrite);
    return std::pair{out, nothing_saved{}};
  }

  template <class C, int Rank, class... Args>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, Rank> dy, value<Rank> const& x,
                Args const&... args) const {
    auto& c = t.context();
    arena_scope const scratch{c.memory};
    tape<C> inner{c, t.parameters(), t.options()};
    inner.backward((*block)(inner, x, args...),
                   dy);  // the input's gradient grows in the outer tape's slot
  }
};

}  // namespace detail

/// Runs block(tape, x, args...), a function from a value to one of the same shape, and keeps only x
/// for backward. Bitwise the same as calling it: random numbers are functions of (seed, step,
/// layer, element). The block and whatever args point to outlive the tape. On a tape that does not
/// record, the block's temporaries are freed.
template <class C, class Block, int Rank, class... Args>
value<Rank> remat(tape<C>& t, Block const& block, value<Rank> x, Args const&... args) {
  return t.apply(detail::remat_op<Block>{&block}, x, args...);
}

/// A stage of a tower: rematerialised or not by policy; without recording, its temporaries are
/// freed either way.
template <class C, class Block, int Rank, class... Args>
value<Rank> run_block(tape<C>& t, rematerialize policy, Block const& block, value<Rank> x,
                      Args const&... args) {
  return policy == rematerialize::blocks || !t.recording() ? remat(t, block, x, args...)
                                                           : block(t, x, args...);
}

}  // namespace yoke
