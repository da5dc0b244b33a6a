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

struct adam_w_options {
  double beta1 = 0.9;
  double beta2 = 0.98;
  double epsilon = 1e-6;
  double weight_decay = 0.2;  // of matrices that decay; vectors and scalars never do
};

/// The moments of every parameter, and the update.
template <class C>
class adam_w {
 public:
  using A = typename C::accumulator;

  adam_w(C& c, parameter_list const& list, adam_w_options const& options)
      : list_{&list},
        options_{options},
        first_{c, list.elements()},
        second_{c, list.elements()},
        runs_{runs_of(list)} {
    expects(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
            "adam_w: 0 <= beta < 1");
  }

  /// Update number `count` (1 for the first) with gradients times `gradient_scale`. Zeroes the
  /// gradients and refreshes the compute copy on the way.
  void update(C& c, parameter_store<C>& store, double rate, std::int64_t count, double gradient_scale) {
    static_assert(!parameter_store<C>::block::apart,
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
      auto const part = [&](auto v) { return v.extent(0) == 0 ? v : slice(v, r.begin, r.size); };
      adam_w_update(c, k, part(store.gradients()), part(first_.view()), part(second_.view()),
                    part(store.master()), part(store.compute()));
    }
  }

  /// What a checkpoint keeps beside the parameters: f(name, shape, elements) for each tensor.
  template <class F>
  void for_each_tensor(F const& f) const {
    for (auto const& [moment, block] :
         {std::pair{"first_moment/", first_.view()}, {"second_moment/", second_.view()}})
      for (auto const& p : list_->infos()) f(moment + p.name, p.shape, slice(block, p.offset, p.size()));
  }

 private:
  struct run {
    extent_t begin, size;
    bool decays;
  };
  /// Neighbours with the same decay are updated in one call.
  static std::vector<run> runs_of(parameter_list const& list) {
    std::vector<run> runs;
    for (auto const& p : list.infos()) {
      if (!runs.empty() && runs.back().decays == p.decays)
        runs.back().size = p.offset + p.size() - runs.back().begin;
      else
        runs.push_back({p.offset, p.size(), p.decays});
    }
    return runs;
  }

  parameter_list const* list_;
  adam_w_options options_;
  typename C::template buffer<A> first_, second_;
  std::vector<run> runs_;
};

}  // namespace yoke::optim
