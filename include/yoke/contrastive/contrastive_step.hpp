// One training step's gradients. BASIC's two passes (arXiv 2111.10050, section 4.2; GradCache,
// arXiv 2101.06983): embed every micro-batch, take the loss over the global batch, run each
// micro-batch again and back-propagate its share.
#pragma once
#include <yoke/autograd/tape.hpp>
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/contrastive/sigmoid_loss.hpp>
#include <yoke/parallel/agreement.hpp>

#include <cmath>
#include <optional>
#include <variant>

namespace yoke::contrastive {

/// Which loss over all pairs of the global batch, and how it is computed.
using loss_options = std::variant<info_nce_options, sigmoid_options>;

/// Of one step on one rank; what concerns the batch and the loss is the same on every rank.
struct step_options {
  extent_t micro_batch = 0;  // divides the batch; 0 or the batch itself: one pass, everything kept
  random_key random{};       // first_sample: of this rank's batch within the global batch
  bool training = true;
  rematerialize remat = rematerialize::nothing;  // at least; the towers' own configuration may keep less
  loss_options loss{};
  parallel::any* model_axis = nullptr;  // the ranks among which the model's sharded parameters are shared out
  gradient_watch* watch = nullptr;      // told when gradients of parameters are added to
};

/// Of all ranks together, the same on each.
struct step_result {
  double loss = 0;         // over the global batch
  double logit_scale = 0;  // the factor, not its logarithm
};

namespace detail {

/// Embeddings of a tower: as computed, normalised in the accumulator's type, and the loss's
/// gradient of the latter.
template <class E, class A>
struct embedded {
  view<E, 2> raw;
  view<A, 2> rows, gradient;
  view<A, 1> inverse_norm;
};

template <class C>
auto make_embedded(C& c, extent_t batch, extent_t width) {
  using E = typename C::element;
  using A = typename C::accumulator;
  auto const s = shape{batch, width};
  return embedded<E, A>{make<E>(c, s), make<A>(c, s), make<A>(c, s), make<A>(c, shape{batch})};
}

/// What the sigmoid loss adds to logits; empty where the model has no such parameter.
template <class Model>
std::optional<parameter<1>> logit_bias_of(Model const& model) {
  if constexpr (requires { model.logit_bias; })
    return model.logit_bias;
  else
    return std::nullopt;
}

}  // namespace detail

/// Adds the gradients of the loss over all ranks' batches to the parameters' gradients; this rank's share, to be summed
/// over ranks. `model` has image, text and logit_scale as dual_encoder has, and logit_bias for the sigmoid loss; `images`
/// and `texts` are batches as in inputs.hpp; `embedding` is the towers' common width. A tower that gives what it is
/// given, such as ready_embeddings (frozen.hpp), has nothing to differentiate. Throws parallel::error on every rank, before
/// anything is computed, when one of them has a batch or micro-batch of another length, or another loss.
template <class C, class Ranks, class Model, class Images, class Texts>
step_result contrastive_step(C& c, Ranks& ranks, Model const& model, parameter_store<C>& store,
                             Images const& given_images, Texts const& given_texts,
                             step_options const& options) {
  using A = typename C::accumulator;
  auto const embedding = model.embedding;
  auto const batch = given_images.count();
  auto const micro = options.micro_batch > 0 ? options.micro_batch : batch;
  parallel::expect_agreement("contrastive_step",
                             {{"the batch", static_cast<double>(batch)},
                              {"the micro-batch", static_cast<double>(micro)},
                              {"the width of embeddings", static_cast<double>(embedding)},
                              {"the loss", static_cast<double>(options.loss.index())}},
                             ranks, options.model_axis);
  expects(batch > 0 && given_texts.count() == batch,
          "contrastive_step: as many captions as images, at least one");
  expects(batch % micro == 0, [&] {
    return "contrastive_step: the batch " + std::to_string(batch) + " is a multiple of the micro-batch " +
           std::to_string(micro);
  });
  auto const bias = detail::logit_bias_of(model);
  expects(bias || !std::holds_alternative<sigmoid_options>(options.loss),
          "contrastive_step: the sigmoid loss is for a model with logit_bias, such as dual_encoder with "
          "siglip_logits");
  arena_scope const step{c.memory};
  auto const& images = resident_batch(c, given_images);
  auto const& texts = resident_batch(c, given_texts);
  auto image = detail::make_embedded(c, batch, embedding);
  auto text = detail::make_embedded(c, batch, embedding);

  auto const tape_for = [&](extent_t first, bool record) {
    auto key = options.random;
    key.first_sample += static_cast<std::uint64_t>(first);
    return tape_options{.record = record,
                        .training = options.training,
                        .random = key,
                        .remat = options.remat,
                        .model_axis = options.model_axis,
                        .watch = options.watch};
  };
  auto const keep = [&](auto const& t, value<2> z, auto const& to, extent_t first) {
    expects(z.shape == shape{micro, embedding}, "contrastive_step: a tower gives (micro-batch, embedding)");
    l2_normalize_forward(c, t(z), slice(to.rows, first, micro), slice(to.inverse_norm, first, micro));
  };
  auto const seed = [&](auto const& from, extent_t first) {
    auto dz = make<typename C::element>(c, shape{micro, embedding});
    l2_normalize_backward(c, view<A const, 2>{slice(from.rows, first, micro)},
                          view<A const, 1>{slice(from.inverse_norm, first, micro)},
                          view<A const, 2>{slice(from.gradient, first, micro)}, dz, store::overwrite);
    return view<typename C::element const, 2>{dz};
  };
  auto const loss = [&] {
    using matrix = view<A const, 2>;
    auto const value_of = [&](parameter<1> const& p) {
      return scalar(c, view<A const, 1>{store.master_of(p)});
    };
    auto const scale = std::exp(value_of(model.logit_scale));
    auto const finish = [&](auto const& r) {
      add_scalar(c, r.d_scale * scale, store.gradient_of(model.logit_scale));
      return step_result{r.loss, scale};
    };
    if (auto const* const nce = std::get_if<info_nce_options>(&options.loss))
      return finish(info_nce(c, ranks, matrix{image.rows}, matrix{text.rows}, static_cast<A>(scale),
                             image.gradient, text.gradient, *nce));
    auto const r = sigmoid_loss(c, ranks, matrix{image.rows}, matrix{text.rows}, static_cast<A>(scale),
                                static_cast<A>(value_of(*bias)), image.gradient, text.gradient,
                                std::get<sigmoid_options>(options.loss));
    add_scalar(c, r.d_bias, store.gradient_of(*bias));
    return finish(r);
  };

  if (micro == batch) {
    tape<C> ti{c, store.views(), tape_for(0, true)}, tt{c, store.views(), tape_for(0, true)};
    value<2> zi, zt;
    submit(c, "forward", [&] {
      zi = model.image(ti, images.on(ti, 0, batch));
      zt = model.text(tt, texts.on(tt, 0, batch));
      keep(ti, zi, image, 0);
      keep(tt, zt, text, 0);
    });
    auto const result = loss();
    submit(c, "backward", [&] {
      if (zt.slot != nullptr)
        tt.backward(zt, seed(text, 0));
      if (zi.slot != nullptr)
        ti.backward(zi, seed(image, 0));
    });
    return result;
  }

  auto const each = [&](char const* name, auto const& tower, auto const& inputs, bool record,
                        auto const& use) {
    for (extent_t first = 0; first < batch; first += micro)
      submit(c, name, [&] {
        arena_scope const scratch{c.memory};
        tape<C> t{c, store.views(), tape_for(first, record)};
        use(t, tower(t, inputs.on(t, first, micro)), first);
      });
  };
  auto const embed = [&](char const* name, auto const& tower, auto const& inputs, auto const& to) {
    each(name, tower, inputs, false, [&](auto& t, value<2> z, extent_t first) { keep(t, z, to, first); });
  };
  auto const differentiate = [&](char const* name, auto const& tower, auto const& inputs, auto const& from) {
    each(name, tower, inputs, true, [&](auto& t, value<2> z, extent_t first) {
      if (z.slot != nullptr)
        t.backward(z, seed(from, first));
    });
  };
  embed("embed images", model.image, images, image);
  embed("embed texts", model.text, texts, text);
  auto const result = loss();
  differentiate("differentiate images", model.image, images, image);
  differentiate("differentiate texts", model.text, texts, text);
  return result;
}

}  // namespace yoke::contrastive
