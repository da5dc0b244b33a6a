// The optimiser of a run, chosen when it starts: AdamW or AdafactorW behind one interface.
#pragma once
#include <yoke/optim/adafactor_w.hpp>
#include <yoke/optim/adam_w.hpp>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <variant>

namespace yoke::train {

/// Which optimiser a run has, by the options that it takes.
using optimizer_options = std::variant<optim::adam_w_options, optim::adafactor_w_options>;

/// The optimiser that the options name, with the interface of each. Contexts that keep master values in bf16
/// (yoke::compact) take AdafactorW alone, since AdamW would lose its small steps there: it is refused before memory is
/// taken.
template <class C>
class optimizer {
  static constexpr bool has_adam_w = !parameter_store<C>::block::two_types;

 public:
  optimizer(C& c, parameter_list const& list, optimizer_options const& options)
      : optimizer{c, list, options, ownership{list}} {}
  /// Of one rank of a data axis, whose model is shared out along `model_axis`, or, if that is null, is not.
  optimizer(C& c, parameter_list const& list, optimizer_options const& options, ownership const& owners,
            parallel::any* model_axis = nullptr)
      : chosen_{choose(c, list, options, owners, model_axis)} {}

  /// Update number `count` (1 for the first) with gradients times `gradient_scale`; those that are read are zeroed.
  void update(C& c, parameter_store<C>& store, double rate, std::int64_t count, double gradient_scale) {
    std::visit([&](auto& o) { o.update(c, store, rate, count, gradient_scale); }, chosen_);
  }

  /// What a checkpoint keeps: f(place, owner on the data axis, elements) for each tensor that is here.
  template <class F>
  void for_each_tensor(F const& f) const {
    std::visit([&](auto const& o) { o.for_each_tensor(f); }, chosen_);
  }

  /// "adamw" or "adafactorw".
  char const* name() const {
    return std::visit(
        []<class O>(O const&) { return std::is_same_v<O, optim::adam_w<C>> ? "adamw" : "adafactorw"; },
        chosen_);
  }

 private:
  static auto choose(C& c, parameter_list const& list, optimizer_options const& options,
                     ownership const& owners, parallel::any* model_axis) {
    auto const* const adam_w = std::get_if<optim::adam_w_options>(&options);
    auto const* const adafactor_w = std::get_if<optim::adafactor_w_options>(&options);
    if constexpr (has_adam_w) {
      using either = std::variant<optim::adam_w<C>, optim::adafactor_w<C>>;
      return adam_w != nullptr ? either{std::in_place_index<0>, c, list, *adam_w, owners}
                               : either{std::in_place_index<1>, c, list, *adafactor_w, owners, model_axis};
    } else {
      expects(adafactor_w != nullptr,
              "optimizer: AdamW keeps master values in float; a compact context takes AdafactorW");
      return std::variant<optim::adafactor_w<C>>{std::in_place_index<0>, c,      list,
                                                 *adafactor_w,           owners, model_axis};
    }
  }

  decltype(choose(std::declval<C&>(), std::declval<parameter_list const&>(),
                  std::declval<optimizer_options const&>(), std::declval<ownership const&>(),
                  nullptr)) chosen_;
};

}  // namespace yoke::train
