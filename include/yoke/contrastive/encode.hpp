// Embeddings for use, not for training: nothing is recorded, dropout is off.
#pragma once
#include <yoke/autograd/tape.hpp>
#include <yoke/contrastive/inputs.hpp>

#include <algorithm>

namespace yoke::contrastive {

/// Writes the L2-normalised embeddings of all samples to `rows` (samples, embedding), `micro_batch` at a time. `tower`
/// and `inputs` are those of a contrastive step, `store` a parameter_store or frozen_parameters.
template <class C, class Tower, class Store, class Inputs>
void encode(C& c, Tower const& tower, Store const& store, Inputs const& given_inputs, extent_t micro_batch,
            view<typename C::accumulator, 2> rows) {
  expects(rows.extent(0) == given_inputs.count(), "encode: one row for each sample");
  expects(micro_batch > 0, "encode: a positive micro-batch");
  arena_scope const copies{c.memory};
  auto const& inputs = resident_batch(c, given_inputs);
  for (extent_t first = 0; first < inputs.count(); first += micro_batch) {
    auto const n = std::min(micro_batch, inputs.count() - first);
    arena_scope const scratch{c.memory};
    tape<C> t{c, store.views(), {.record = false, .training = false}};
    auto const z = tower(t, inputs.on(t, first, n));
    expects(z.shape == shape{n, rows.extent(1)}, "encode: the tower gives (samples, embedding)");
    l2_normalize_forward(c, t(z), slice(rows, first, n), make<typename C::accumulator>(c, shape{n}));
  }
}

}  // namespace yoke::contrastive
