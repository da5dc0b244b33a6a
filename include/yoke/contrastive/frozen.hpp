// A tower that is used and not trained: phase 2 of BASIC (arXiv 2111.10050) contrasts texts with what a frozen image
// tower makes of the images.
#pragma once
#include <yoke/autograd/tape.hpp>
#include <yoke/contrastive/inputs.hpp>

#include <algorithm>

namespace yoke::contrastive {

/// The parameters of a model that is not trained, on one device: values and their compute copy, no gradients. It stands
/// where a parameter_store does in encode, embed_rows and a checkpoint.
template <class C>
class frozen_parameters {
 public:
  using E = typename C::element;
  using A = typename C::accumulator;
  using P = parameter_element_t<C>;
  using block = parameter_block<C, P>;
  static constexpr bool has_copy = parameter_store<C>::has_copy;

  frozen_parameters(C& c, parameter_list const& list)
      : share_{list.share()},
        values_{c, list},
        compute_{c, has_copy ? list.elements() : 0},
        statistics_{c, list.statistic_elements()} {}

  block const& master_block() const { return values_; }
  /// As that of a parameter_store.
  void set_model_axis(parallel::any* axis) { model_axis_ = axis; }
  view<A, 1> statistics() const { return statistics_.view(); }

  /// Makes the compute copy agree with the values, after they were read or written.
  void refresh(C& c) {
    if constexpr (has_copy)
      convert(c, view<P const, 1>{values_.flat()}, compute_.view(), store::overwrite);
  }

  parameter_views<E, A, P> views() const {
    parameter_views<E, A, P> v;
    if constexpr (has_copy)
      v.compute = compute_.view().data;
    else
      v.compute = values_.flat().data;
    v.vectors = parameter_store<C>::vectors_of(values_);
    v.vectors_apart = values_.layout().vectors_apart;
    v.statistics = statistics().data;
    v.differentiate = false;
    v.model_axis = model_axis_;
    v.share = share_;
    return v;
  }

 private:
  parallel::any* model_axis_ = nullptr;
  model_share share_;
  block values_;
  typename C::template buffer<E> compute_;
  typename C::template buffer<A> statistics_;
};

/// The tower of ready embeddings: gives what it is given.
struct ready_embeddings {
  value<2> operator()(auto&, value<2> x) const { return x; }
};

/// Writes what a tower gives for all samples, as it gives it, to `rows` (samples, embedding), `micro_batch` at a time;
/// dropout is off, statistics are the running ones. A contrastive step whose image tower is ready_embeddings takes them
/// as a value_batch: loss and text gradients are bitwise those of a step with the tower itself.
template <class C, class Tower, class Store, class Inputs>
void embed_rows(C& c, Tower const& tower, Store const& store, Inputs const& given_inputs,
                extent_t micro_batch, view<typename C::element, 2> rows) {
  expects(rows.extent(0) == given_inputs.count(), "embed_rows: one row for each sample");
  expects(micro_batch > 0, "embed_rows: a positive micro-batch");
  arena_scope const copies{c.memory};
  auto const& inputs = resident_batch(c, given_inputs);
  for (extent_t first = 0; first < inputs.count(); first += micro_batch) {
    auto const n = std::min(micro_batch, inputs.count() - first);
    submit(c, "embed", [&] {
      arena_scope const scratch{c.memory};
      tape<C> t{c, store.views(), {.record = false, .training = false}};
      auto const z = tower(t, inputs.on(t, first, n));
      expects(z.shape == shape{n, rows.extent(1)}, "embed_rows: the tower gives (samples, embedding)");
      convert(c, as_flat(t(z)), as_flat(slice(rows, first, n)), store::overwrite);
    });
  }
}

}  // namespace yoke::contrastive
