// AdamW (Loshchilov & Hutter, arXiv 1711.05101): moments in the accumulator's type, decoupled decay
// on matrices only.
#pragma once
#include <yoke/autograd/parameter_store.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace yoke::optim {

/// Of AdamW (arXiv 1711.05101); the defaults are OpenCLIP's for ViT.
struct adam_w_options {
  double beta1 = 0.9;
  double beta2 = 0.98;
  double epsilon = 1e-6;
  double weight_decay = 0.2;  // of matrices that decay; vectors and scalars never do
};

/// The moments of the parameters that a rank updates, and the update.
template <class C>
class adam_w {
 public:
  using A = typename C::accumulator;

  adam_w(C& c, parameter_list const& list, adam_w_options const& options)
      : adam_w{c, list, options, ownership{list}} {}
  /// Of one rank of a data axis.
  adam_w(C& c, parameter_list const& list, adam_w_options const& options, ownership const& owners)
      : list_{&list},
        options_{options},
        owners_{owners},
        first_{c, list, parameter_store<C>::updated(owners)},
        second_{c, list, parameter_store<C>::updated(owners)} {
    expects(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
            "adam_w: 0 <= beta < 1");
    for (std::size_t i = 0; i < list.infos().size(); ++i) {
      auto const& p = list.infos()[i];
      if (!first_.holds(p))
        continue;
      if (first_.layout().vectors_apart && !p.is_matrix())
        vectors_.push_back(i);
      else
        add_to_runs(i);
    }
  }

  /// Update number `count` (1 for the first) with gradients times `gradient_scale`. Zeroes the
  /// gradients that it reads and refreshes their compute copy on the way.
  void update(C& c, parameter_store<C>& store, double rate, std::int64_t count, double gradient_scale) {
    static_assert(!parameter_store<C>::block::two_types,
                  "adam_w keeps master values in float; compact contexts take adafactor_w");
    adam_w_coefficients k{.rate = rate,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .epsilon = options_.epsilon,
                          .correction1 = 1 - std::pow(options_.beta1, static_cast<double>(count)),
                          .correction2 = 1 - std::pow(options_.beta2, static_cast<double>(count)),
                          .gradient_scale = gradient_scale};
    for (auto const& r : runs_) {
      k.decay = r.decays ? options_.weight_decay : 0;
      auto const part = [&](auto const& b) { return slice(b.flat(), r.begin - b.layout().begin, r.size); };
      auto const copy = store.compute();
      adam_w_update(c, k, part(store.gradient_block()), part(first_), part(second_),
                    part(store.master_block()), copy.extent(0) == 0 ? copy : slice(copy, r.begin, r.size));
    }
    k.decay = 0;
    for (auto const i : vectors_) {
      auto const& p = list_->infos()[i];
      auto const of = [&](auto const& b) { return b.visit(p, [](view<A, 1> v) { return v; }); };
      adam_w_update(c, k, of(store.gradient_block()), of(first_), of(second_), of(store.master_block()),
                    view<typename C::element, 1>{});
    }
  }

  /// What a checkpoint keeps beside the parameters: f(place, owner on the data axis, elements) for each tensor that
  /// is here.
  template <class F>
  void for_each_tensor(F const& f) const {
    for (auto const& [moment, block] : {std::pair{"first_moment/", &first_}, {"second_moment/", &second_}})
      for (std::size_t i = 0; i < list_->infos().size(); ++i) {
        auto const& p = list_->infos()[i];
        if (block->holds(p))
          block->visit(p, [&, moment = moment](auto elements) {
            f(tensor_place{moment + p.name, p.shape, p.cut, p.share}, owners_.owner(i), elements);
          });
      }
  }

 private:
  struct run {
    extent_t begin, size;
    bool decays;
    std::size_t last;  // parameter
  };
  /// Neighbours with the same decay are updated in one call.
  void add_to_runs(std::size_t i) {
    auto const& p = list_->infos()[i];
    if (!runs_.empty() && runs_.back().decays == p.decays && runs_.back().last + 1 == i) {
      runs_.back().size = p.offset + p.size() - runs_.back().begin;
      runs_.back().last = i;
    } else {
      runs_.push_back({p.offset, p.size(), p.decays, i});
    }
  }

  parameter_list const* list_;
  adam_w_options options_;
  ownership owners_;
  parameter_block<C, A> first_, second_;
  std::vector<run> runs_;
  std::vector<std::size_t> vectors_;
};

}  // namespace yoke::optim
