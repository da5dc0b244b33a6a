// AdafactorW, BASIC's optimiser: the factored second moment of Adafactor (Shazeer & Stern, arXiv 1804.04235), the
// decoupled decay of AdamW, a first moment in bf16. Its state takes 2 bytes a parameter, and a little.
#pragma once
#include <yoke/autograd/parameter_store.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace yoke::optim {

/// As big_vision's scale_by_adafactor has them; no clipping of the update, no rate of its own.
struct adafactor_w_options {
  double beta1 = 0.9;
  double beta2_cap = 0.999;  // in step t, beta2 = min(beta2_cap, 1 - t^-decay_exponent)
  double decay_exponent = 0.8;
  double epsilon = 1e-30;           // added to each squared gradient
  double weight_decay = 0.01;       // of matrices that decay; vectors and scalars never do
  extent_t smallest_factored = 32;  // parameters with two axes, both at least this, are factored
  std::uint64_t seed = 0;           // of the rounding of bf16 master values, the same on every rank
};

/// The moments of every parameter, and the update. Vectors, narrow matrices and parameters with more than two axes
/// (tables of relative positions) are small: they keep a second moment for each element.
template <class C>
class adafactor_w {
 public:
  using A = typename C::accumulator;

  adafactor_w(C& c, parameter_list const& list, adafactor_w_options const& options)
      : list_{&list},
        options_{options},
        slots_{slots_of(list, options.smallest_factored)},
        first_{c, list.elements()},
        second_{c, slots_.empty() ? 0 : slots_.back().end} {
    expects(options.beta1 >= 0 && options.beta1 < 1 && options.beta2_cap >= 0 && options.beta2_cap < 1,
            "adafactor_w: 0 <= beta < 1");
    expects(options.decay_exponent > 0, "adafactor_w: the decay exponent is positive");
    expects(options.epsilon > 0, "adafactor_w: epsilon is positive");
  }

  /// Update number `count` (1 for the first) with gradients times `gradient_scale`. Zeroes the
  /// gradients and refreshes the compute copy on the way.
  void update(C& c, parameter_store<C>& store, double rate, std::int64_t count, double gradient_scale) {
    adafactor_coefficients k{.rate = rate,
                             .beta1 = options_.beta1,
                             .beta2 = std::min(options_.beta2_cap, 1 - std::pow(static_cast<double>(count),
                                                                                -options_.decay_exponent)),
                             .epsilon = options_.epsilon,
                             .gradient_scale = gradient_scale};
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      auto const& p = list_->infos()[i];
      k.decay = p.decays ? options_.weight_decay : 0;
      k.rounding = rounding_key::of(options_.seed, static_cast<std::uint64_t>(count),
                                    static_cast<std::uint64_t>(p.offset));
      store.master_block().visit(p, [&]<class V>(view<V, 1> master) {
        store.gradient_block().visit(p, [&]<class G>(view<G, 1> gradient) {
          if constexpr (std::is_same_v<V, G>)  // master values and gradients of a parameter are kept alike
            update_one(c, k, i, gradient, master, store.compute());
        });
      });
    }
  }

  /// What a checkpoint keeps beside the parameters: f(name, shape, elements) for each tensor.
  template <class F>
  void for_each_tensor(F const& f) const {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      auto const& p = list_->infos()[i];
      auto const& s = slots_[i];
      f("first_moment/" + p.name, p.shape, first_of(p));
      if (s.factored) {
        f("second_moment_of_rows/" + p.name, std::vector<extent_t>{p.shape[0]}, rows_of(p, s));
        f("second_moment_of_columns/" + p.name, std::vector<extent_t>{p.shape[1]}, columns_of(p, s));
      } else {
        f("second_moment/" + p.name, p.shape, second_of(p, s));
      }
    }
  }

 private:
  using E = typename C::element;
  using F = first_moment_t<A>;

  /// Where in second_ the numbers of a parameter are: the means of its rows, then of its columns; or one for each
  /// element.
  struct slot {
    bool factored;
    extent_t begin, columns, end;
  };
  static std::vector<slot> slots_of(parameter_list const& list, extent_t smallest) {
    constexpr extent_t alignment = 32;
    auto const padded = [](extent_t n) { return (n + alignment - 1) / alignment * alignment; };
    std::vector<slot> slots;
    extent_t end = 0;
    for (auto const& p : list.infos()) {
      bool const factored = p.shape.size() == 2 && std::min(p.shape[0], p.shape[1]) >= smallest;
      auto const begin = end, columns = begin + padded(factored ? p.shape[0] : p.size());
      end = columns + padded(factored ? p.shape[1] : 0);
      slots.push_back({factored, begin, columns, end});
    }
    return slots;
  }

  view<F, 1> first_of(parameter_info const& p) const { return slice(first_.view(), p.offset, p.size()); }
  view<A, 1> rows_of(parameter_info const& p, slot const& s) const {
    return slice(second_.view(), s.begin, p.shape[0]);
  }
  view<A, 1> columns_of(parameter_info const& p, slot const& s) const {
    return slice(second_.view(), s.columns, p.shape[1]);
  }
  view<A, 1> second_of(parameter_info const& p, slot const& s) const {
    return slice(second_.view(), s.begin, p.size());
  }

  template <class V>
  void update_one(C& c, adafactor_coefficients const& k, std::size_t i, view<V, 1> gradient,
                  view<V, 1> master, view<E, 1> copies) {
    auto const& p = list_->infos()[i];
    auto const& s = slots_[i];
    auto const copy = copies.extent(0) == 0 ? copies : slice(copies, p.offset, p.size());
    if (s.factored) {
      auto const matrix = [&]<class X>(view<X, 1> v) {
        return v.extent(0) == 0 ? view<X, 2>{} : view<X, 2>{v.data, {{p.shape[0], p.shape[1]}}};
      };
      adafactor_update(c, k, matrix(gradient), rows_of(p, s), columns_of(p, s), matrix(first_of(p)),
                       matrix(master), matrix(copy));
    } else {
      adafactor_update(c, k, gradient, second_of(p, s), first_of(p), master, copy);
    }
  }

  parameter_list const* list_;
  adafactor_w_options options_;
  std::vector<slot> slots_;
  typename C::template buffer<F> first_;
  typename C::template buffer<A> second_;
};

}  // namespace yoke::optim
