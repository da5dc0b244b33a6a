// Rematerialisation: what survives a block's forward pass is little, and the block is run again in backward (Chen et al.,
// "Training deep nets with sublinear memory cost", arXiv 1604.06174).
#pragma once
#include <yoke/autograd/tape.hpp>

#include <algorithm>
#include <cmath>
#include <span>

namespace yoke {

namespace detail {

/// A block that the tape does not own.
template <class Block>
struct block_reference {
  Block const* block;

  template <class... Args>
  auto operator()(Args&&... args) const {
    return (*block)(static_cast<Args&&>(args)...);
  }
  template <int Rank>
  shape<Rank> output_shape(shape<Rank> s) const {
    if constexpr (requires { block->output_shape(s); })
      return block->output_shape(s);
    else
      return s;
  }
};

/// The output of a block that has run on a tape of its own, on the outer tape's memory.
template <class C, class Block, int Rank, class... Args>
void run_into(tape<C>& inner, Block const& block, view<typename C::element, Rank> out, value<Rank> x,
              Args const&... args) {
  auto const y = block(inner, value<Rank>{x.data, x.shape}, args...);
  expects(y.shape == out.shape, "remat: a block that changes its input's shape says so by output_shape");
  convert(inner.context(), as_flat(inner(y)), as_flat(out), store::overwrite);
}

/// Keeps a block's input only.
template <class Block>
struct remat_op {
  Block block;

  template <class C, int Rank, class... Args>
  auto forward(tape<C>& t, value<Rank> const& x, Args const&... args) const {
    auto& c = t.context();
    auto out = make<typename C::element>(c, block.output_shape(x.shape));
    arena_scope const scratch{c.memory};
    auto options = t.options();
    options.record = false;
    options.journal = nullptr;
    tape<C> inner{c, t.parameters(), options};
    run_into(inner, block, out, x, args...);
    return std::pair{out, nothing_saved{}};
  }

  template <class C, int Rank, class... Args>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, Rank> dy, value<Rank> const& x,
                Args const&... args) const {
    arena_scope const scratch{t.context().memory};
    auto options = t.options();
    options.journal = nullptr;
    tape<C> inner{t.context(), t.parameters(), options};
    inner.backward(block(inner, x, args...), dy);  // the input's gradient grows in the outer tape's slot
  }
};

/// Keeps a block's input and the results of its expensive operations: those at the bottom of the activation memory, all
/// else at the top, which is released.
template <class Block>
struct cheap_remat_op {
  Block block;

  template <class C, int Rank, class... Args>
  auto forward(tape<C>& t, value<Rank> const& x, Args const&... args) const {
    auto& c = t.context();
    auto out = make<typename C::element>(c, block.output_shape(x.shape));
    journal kept;
    auto options = t.options();
    options.record = false;
    options.journal = &kept;
    arena_end_scope const temporary{c.memory, arena_end::top};
    auto const top = c.memory.mark().top;
    {
      tape<C> inner{c, t.parameters(), options};
      run_into(inner, block, out, x, args...);
    }
    c.memory.release({c.memory.mark().bottom, top});
    return std::pair{out, kept.first};
  }

  template <class C, int Rank, class... Args>
  void backward(tape<C>& t, journal::entry* kept, view<typename C::element const, Rank> dy,
                value<Rank> const& x, Args const&... args) const {
    arena_scope const scratch{t.context().memory};
    journal replay{kept, nullptr, true};
    auto options = t.options();
    options.journal = &replay;
    tape<C> inner{t.context(), t.parameters(), options};
    inner.backward(block(inner, x, args...), dy);
  }
};

/// Some blocks, one after the other, each of which keeps its input.
template <class Block>
struct block_group {
  std::span<Block const> blocks;

  template <class C, int Rank, class... Args>
  value<Rank> operator()(tape<C>& t, value<Rank> x, Args const&... args) const {
    for (auto const& b : blocks) x = t.apply(remat_op<block_reference<Block>>{{&b}}, x, args...);
    return x;
  }
  template <int Rank>
  shape<Rank> output_shape(shape<Rank> s) const {
    for (auto const& b : blocks) s = block_reference<Block>{&b}.output_shape(s);
    return s;
  }
};

}  // namespace detail

/// Runs block(tape, x, args...) and keeps only x for backward. Bitwise the same as calling it: random numbers are
/// functions of (seed, step, layer, element). A block whose output has not its input's shape says which by
/// output_shape(shape). The block and whatever args point to outlive the tape. On a tape that does not record, the
/// block's temporaries are freed.
template <class C, class Block, int Rank, class... Args>
value<Rank> remat(tape<C>& t, Block const& block, value<Rank> x, Args const&... args) {
  return t.apply(detail::remat_op<detail::block_reference<Block>>{{&block}}, x, args...);
}

/// The same, but the results of the block's expensive operations are kept too: in backward only norms, activations and
/// the like are computed again.
template <class C, class Block, int Rank, class... Args>
value<Rank> remat_cheap(tape<C>& t, Block const& block, value<Rank> x, Args const&... args) {
  return t.apply(detail::cheap_remat_op<detail::block_reference<Block>>{{&block}}, x, args...);
}

/// A block of a tower, rematerialised as its model or its tape asks, whichever keeps less. Without recording its
/// temporaries are freed.
template <class C, class Block, int Rank, class... Args>
value<Rank> run_block(tape<C>& t, rematerialize policy, Block const& block, value<Rank> x,
                      Args const&... args) {
  policy = std::max(policy, t.options().remat);
  if (policy >= rematerialize::blocks || !t.recording())
    return remat(t, block, x, args...);
  return policy == rematerialize::cheap ? remat_cheap(t, block, x, args...) : block(t, x, args...);
}

/// Blocks one after the other. `rematerialize::everything` keeps the inputs of groups of them.
template <class C, class Block, int Rank, class... Args>
value<Rank> run_blocks(tape<C>& t, rematerialize policy, std::span<Block const> blocks, value<Rank> x,
                       Args const&... args) {
  if (std::max(policy, t.options().remat) == rematerialize::everything && t.recording()) {
    auto const n = static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(blocks.size()))));
    for (std::size_t i = 0; i < blocks.size(); i += n) {
      auto const group = blocks.subspan(i, std::min(n, blocks.size() - i));
      x = t.apply(detail::remat_op<detail::block_group<Block>>{{group}}, x, args...);
    }
    return x;
  }
  for (auto const& block : blocks) x = run_block(t, policy, block, x, args...);
  return x;
}

}  // namespace yoke
