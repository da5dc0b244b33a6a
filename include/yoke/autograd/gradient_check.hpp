// Central differences against backward, for every input and parameter, in double.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace yoke {

/// The worst disagreement: |numeric - analytic| / max(1, |numeric|), and where it was.
struct gradient_difference {
  double worst = 0;
  std::string where;
};

/// How gradients are compared with central differences.
struct gradient_check_options {
  double step = 1e-5;
  double deviation = 0.5;  // of the random inputs and parameters
  std::uint64_t seed = 1;
  random_key random{};  // for dropout inside the function
};

namespace detail {

inline view<double, 1> as_view(std::vector<double>& v) {
  return {v.data(), {{static_cast<extent_t>(v.size())}}};
}
template <class C, int Rank>
std::vector<double> copy_to_host(C& c, view<double const, Rank> v) {
  std::vector<double> result(static_cast<std::size_t>(v.size()));
  download(c, as_flat(v), as_view(result));
  return result;
}

/// Zeros for an input that the function does not use.
template <class C, int Rank>
std::vector<double> copy_gradient(tape<C>& t, value<Rank> const& x) {
  if (!x.slot->touched)
    return std::vector<double>(static_cast<std::size_t>(x.shape.size()));
  return copy_to_host(t.context(), view<double const, Rank>{t.gradient_of(x).data});
}

}  // namespace detail

/// `function(tape, value<Ranks>...)` -> value: the loss is the sum of its elements with random
/// weights. Values of the list's parameters are drawn anew, not from their initial distribution, so
/// that nothing is 0 or 1 by chance.
template <context C, class Function, int... Ranks>
requires std::same_as<typename C::element, double> gradient_difference
gradient_check(C& c, parameter_list const& list, Function const& function,
               gradient_check_options const& options, shape<Ranks>... shapes) {
  random_sequence random{options.seed};
  auto const draw = [&](extent_t n) {
    std::vector<double> v(static_cast<std::size_t>(n));
    for (auto& x : v) x = options.deviation * random.normal();
    return v;
  };
  std::array<std::vector<double>, sizeof...(Ranks)> inputs{draw(shapes.size())...}, analytic;
  auto parameters = draw(list.elements());
  std::vector<double> weights;
  parameter_store<C> store{c, list};

  auto const run = [&](bool record) {
    arena_scope const scratch{c.memory};
    upload(c, view<double const, 1>{detail::as_view(parameters)}, store.master());
    tape<C> t{c, store.views(), {.record = record, .training = true, .random = options.random}};
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      [[maybe_unused]] auto const x =
          std::tuple{t.variable(resident(c, view<double const, Ranks>{inputs[I].data(), shapes}))...};
      auto const y = function(t, std::get<I>(x)...);
      auto const out = t(y);
      if (weights.empty())
        weights = draw(out.size());
      if (record) {
        t.backward(y, resident(c, decltype(out){weights.data(), out.shape}));
        ((analytic[I] = detail::copy_gradient(t, std::get<I>(x))), ...);
      }
      auto const values = detail::copy_to_host(c, out);
      double loss = 0;
      for (std::size_t i = 0; i < values.size(); ++i) loss += values[i] * weights[i];
      return loss;
    }
    (std::index_sequence_for<decltype(shapes)...>{});
  };
  run(true);
  auto const gradients = detail::copy_to_host(c, view<double const, 1>{store.gradients()});

  gradient_difference result;
  auto const compare = [&](double& x, double analytic_value, auto const& name) {
    auto const old = x;
    x = old + options.step;
    auto const above = run(false);
    x = old - options.step;
    auto const below = run(false);
    x = old;
    auto const numeric = (above - below) / (2 * options.step);
    auto const difference = std::abs(numeric - analytic_value) / std::max(1.0, std::abs(numeric));
    if (!(difference <= result.worst))
      result = {difference, name()};
  };
  for (std::size_t k = 0; k < inputs.size(); ++k)
    for (std::size_t i = 0; i < inputs[k].size(); ++i)
      compare(inputs[k][i], analytic[k][i],
              [&] { return "input " + std::to_string(k) + " element " + std::to_string(i); });
  for (auto const& p : list.infos())
    for (extent_t i = 0; i < p.size(); ++i)
      compare(parameters[static_cast<std::size_t>(p.offset + i)],
              gradients[static_cast<std::size_t>(p.offset + i)],
              [&] { return p.name + " element " + std::to_string(i); });
  return result;
}

}  // namespace yoke
