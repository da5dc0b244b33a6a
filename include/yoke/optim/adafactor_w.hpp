// AdafactorW, BASIC's optimiser: the factored second moment of Adafactor (Shazeer & Stern, arXiv 1804.04235), the
// decoupled decay of AdamW, a first moment in bf16. Its state takes 2 bytes a parameter, and a little.
#pragma once
#include <yoke/autograd/parameter_store.hpp>
#include <yoke/parallel/any.hpp>

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

/// The moments of the parameters that a rank updates, and the update. Vectors, narrow matrices and parameters with more
/// than two axes (tables of relative positions) are small: they keep a second moment for each element. Whether a matrix
/// is narrow does not depend on how it is cut.
template <class C>
class adafactor_w {
 public:
  using A = typename C::accumulator;

  adafactor_w(C& c, parameter_list const& list, adafactor_w_options const& options)
      : adafactor_w{c, list, options, ownership{list}} {}
  /// Of one rank of a data axis, whose model is shared out along `model_axis`, or, if that is null, is not.
  adafactor_w(C& c, parameter_list const& list, adafactor_w_options const& options, ownership const& owners,
              parallel::any* model_axis = nullptr)
      : list_{&list},
        options_{options},
        owners_{owners},
        model_axis_{model_axis},
        slots_{slots_of(list, options.smallest_factored, parameter_store<C>::updated(owners))},
        first_{c, slots_.empty() ? 0 : slots_.back().first_end},
        second_{c, slots_.empty() ? 0 : slots_.back().end} {
    expects(options.beta1 >= 0 && options.beta1 < 1 && options.beta2_cap >= 0 && options.beta2_cap < 1,
            "adafactor_w: 0 <= beta < 1");
    expects(options.decay_exponent > 0, "adafactor_w: the decay exponent is positive");
    expects(options.epsilon > 0, "adafactor_w: epsilon is positive");
  }

  /// Update number `count` (1 for the first) with gradients times `gradient_scale`. Zeroes the
  /// gradients that it reads and refreshes their compute copy on the way.
  void update(C& c, parameter_store<C>& store, double rate, std::int64_t count, double gradient_scale) {
    adafactor_coefficients k{.rate = rate,
                             .beta1 = options_.beta1,
                             .beta2 = std::min(options_.beta2_cap, 1 - std::pow(static_cast<double>(count),
                                                                                -options_.decay_exponent)),
                             .epsilon = options_.epsilon,
                             .gradient_scale = gradient_scale};
    for (auto const& s : slots_) {
      auto const& p = list_->infos()[s.parameter];
      k.decay = p.decays ? options_.weight_decay : 0;
      k.rounding = rounding_key::of(options_.seed, static_cast<std::uint64_t>(count),
                                    static_cast<std::uint64_t>(p.offset));
      store.master_block().visit(p, [&]<class V>(view<V, 1> master) {
        store.gradient_block().visit(p, [&]<class G>(view<G, 1> gradient) {
          if constexpr (std::is_same_v<V, G>)  // master values and gradients of a parameter are kept alike
            update_one(c, k, s, gradient, master, store.compute());
        });
      });
    }
  }

  /// What a checkpoint keeps beside the parameters: f(place, owner on the data axis, elements) for each tensor that
  /// is here.
  template <class F>
  void for_each_tensor(F const& f) const {
    for (auto const& s : slots_) {
      auto const& p = list_->infos()[s.parameter];
      auto const owner = owners_.owner(s.parameter);
      f(tensor_place{"first_moment/" + p.name, p.shape, p.cut, p.share}, owner, first_of(p, s));
      if (s.factored) {
        f(means_of("second_moment_of_rows/", p, 0), owner, rows_of(p, s));
        f(means_of("second_moment_of_columns/", p, 1), owner, columns_of(p, s));
      } else {
        f(tensor_place{"second_moment/" + p.name, p.shape, p.cut, p.share}, owner, second_of(p, s));
      }
    }
  }

 private:
  using E = typename C::element;
  using F = first_moment_t<A>;

  /// Where in first_ and second_ the numbers of a parameter are. In second_ the means of its rows, then of its columns;
  /// or one for each element.
  struct slot {
    std::size_t parameter;
    bool factored;
    extent_t first, first_end;
    extent_t begin, columns, end;
  };
  static std::vector<slot> slots_of(parameter_list const& list, extent_t smallest,
                                    block_layout const& updated) {
    constexpr extent_t alignment = 32;
    auto const padded = [](extent_t n) { return (n + alignment - 1) / alignment * alignment; };
    std::vector<slot> slots;
    extent_t first = 0, end = 0;
    for (std::size_t i = 0; i < list.infos().size(); ++i) {
      auto const& p = list.infos()[i];
      if (!updated.holds(p))
        continue;
      auto const whole = p.whole();
      bool const factored = whole.size() == 2 && std::min(whole[0], whole[1]) >= smallest;
      auto const begin = end, columns = begin + padded(factored ? p.shape[0] : p.size());
      end = columns + padded(factored ? p.shape[1] : 0);
      slots.push_back({i, factored, first, first + padded(p.size()), begin, columns, end});
      first = slots.back().first_end;
    }
    return slots;
  }
  /// The means of a factored matrix's rows (axis 0) or columns (1): cut where that axis is.
  static tensor_place means_of(char const* moment, parameter_info const& p, int axis) {
    tensor_place t{moment + p.name, {p.shape[static_cast<std::size_t>(axis)]}};
    if (p.cut.axis == axis) {
      t.cut = {0, p.cut.groups};
      t.share = p.share;
    }
    return t;
  }

  view<F, 1> first_of(parameter_info const& p, slot const& s) const {
    return slice(first_.view(), s.first, p.size());
  }
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
  void update_one(C& c, adafactor_coefficients k, slot const& s, view<V, 1> gradient, view<V, 1> master,
                  view<E, 1> copies) {
    auto const& p = list_->infos()[s.parameter];
    auto const copy = copies.extent(0) == 0 ? copies : slice(copies, p.offset, p.size());
    if (!s.factored) {
      adafactor_update(c, k, gradient, second_of(p, s), first_of(p, s), master, copy);
      return;
    }
    auto const matrix = [&]<class X>(view<X, 1> v) {
      return v.extent(0) == 0 ? view<X, 2>{} : view<X, 2>{v.data, {{p.shape[0], p.shape[1]}}};
    };
    auto const update = [&](auto const& sum_shares) {
      adafactor_update(c, k, matrix(gradient), rows_of(p, s), columns_of(p, s), matrix(first_of(p, s)),
                       matrix(master), matrix(copy), sum_shares);
    };
    if (!p.is_sharded())
      return update(nothing_to_sum{});
    k.whole_rows = p.shape[0] * (p.cut.axis == 0 ? p.share.ranks : 1);
    k.whole_columns = p.shape[1] * (p.cut.axis == 1 ? p.share.ranks : 1);
    update([&](view<A, 1> of_rows, view<A, 1> of_columns) {
      all_reduce(*model_axis_, p.cut.axis == 0 ? of_columns : of_rows);
    });
  }

  parameter_list const* list_;
  adafactor_w_options options_;
  ownership owners_;
  parallel::any* model_axis_;
  std::vector<slot> slots_;
  typename C::template buffer<F> first_;
  typename C::template buffer<A> second_;
};

}  // namespace yoke::optim
