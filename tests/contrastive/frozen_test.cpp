// Phase 2's contracts: a step with the frozen tower's embeddings is a step with the tower, for the texts; the frozen
// parameters stay as they are; k micro-batches equal one batch, N ranks equal one.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "contrastive/phase_models.hpp"
#include <map>

using namespace yoke;
using namespace made_up;

namespace {

/// Each parameter's gradient by its name.
template <class Store>
std::map<std::string, std::vector<double>> by_name(parameter_list const& list, Store const& store) {
  std::map<std::string, std::vector<double>> all;
  for (auto const& p : list.infos()) all[p.name] = numbers(slice(store.gradients(), p.offset, p.size()));
  return all;
}

template <class C, class Ranks>
outcome run_text_phase(C& c, Ranks& ranks, made_up::data const& d, parameter_list const& list,
                       auto const& model, std::vector<typename C::element> const& rows, extent_t micro) {
  parameter_store<C> store{c, list};
  initialize(c, list, 1, store);
  auto const local = batch / ranks.size(), first = local * ranks.rank();
  contrastive::value_batch<typename C::element, 2> const images{
      slice(view<typename C::element const, 2>{rows.data(), {{batch, 6}}}, first, local)};
  auto const r = contrastive::contrastive_step(
      c, ranks, model, store, images, d.captions(first, local),
      {.micro_batch = micro,
       .random = {.seed = 3, .step = 5, .first_sample = static_cast<std::uint64_t>(first)}});
  all_reduce(ranks, store.gradients());
  return {r.loss, numbers(store.gradients())};
}

/// What the small model's image tower gives for all images, and the bits of its parameters before and after.
template <class C>
std::vector<typename C::element> frozen_rows(C& c, made_up::data const& d, extent_t micro) {
  using E = typename C::element;
  parameter_list list;
  auto const classifier = small_classifier(scope{list});
  contrastive::frozen_parameters<C> frozen{c, list};
  for (auto const& p : list.infos())
    frozen.master_block().visit(p, [&](auto values) { yoke::detail::draw_initial(p, 1, values); });
  frozen.refresh(c);
  auto const before = numbers(frozen.master_block().flat());
  std::vector<E> rows(batch * 6);
  contrastive::embed_rows(c, classifier.image, frozen, d.images(0, batch), micro,
                          view<E, 2>{rows.data(), {{batch, 6}}});
  CHECK(numbers(frozen.master_block().flat()) == before);
  return rows;
}

}  // namespace

TEST_CASE("texts learn from a frozen tower's embeddings what they would from the tower, to the bit") {
  auto const check = [](auto element, extent_t micro) {
    using context_type = cpu::context<decltype(element)>;
    context_type c{mebibytes(32), mebibytes(8)};
    made_up::data const d;
    parallel::solo alone;
    parameter_list whole_list, text_list;
    auto const whole = small_model(scope{whole_list});
    auto const text = small_text_phase(scope{text_list});
    auto const rows = frozen_rows(c, d, 4);

    contrastive::step_options const options{.micro_batch = micro, .training = false};
    parameter_store<context_type> store{c, whole_list}, text_store{c, text_list};
    initialize(c, whole_list, 1, store);
    initialize(c, text_list, 1, text_store);
    contrastive::value_batch<decltype(element), 2> const images{{rows.data(), {{batch, 6}}}};
    auto const a = contrastive::contrastive_step(c, alone, whole, store, d.images(0, batch),
                                                 d.captions(0, batch), options);
    auto const b =
        contrastive::contrastive_step(c, alone, text, text_store, images, d.captions(0, batch), options);
    CHECK(a.loss == b.loss);
    auto const all = by_name(whole_list, store);
    auto const part = by_name(text_list, text_store);
    CHECK(part.contains("text.tokens"));
    CHECK(part.contains("logit_scale"));
    for (auto const& [name, gradient] : part) {
      INFO(name);
      CHECK(gradient == all.at(name));
    }
  };
  check(double{}, batch);
  check(float{}, 4);
  check(bf16{}, 4);
  check(bf16{}, batch);
}

TEST_CASE("embeddings do not depend on how many are computed at a time") {
  made_up::data const d;
  cpu::context<float> c{mebibytes(32), mebibytes(8)};
  auto const at_once = frozen_rows(c, d, batch), by_five = frozen_rows(c, d, 5);
  for (std::size_t i = 0; i < at_once.size(); ++i) CHECK(std::abs(at_once[i] - by_five[i]) < 1e-5f);
}

TEST_CASE("phase 2: k micro-batches equal one batch, N ranks equal one", "[ranks]") {
  made_up::data const d;
  cpu::context<double> device{mebibytes(32), mebibytes(8)};
  auto const rows = frozen_rows(device, d, 4);
  parameter_list list;
  auto const model = small_text_phase(scope{list});
  parallel::solo alone;
  auto const run = [&](auto& ranks, extent_t micro) {
    cpu::context<double> c{mebibytes(32), mebibytes(8)};
    return run_text_phase(c, ranks, d, list, model, rows, micro);
  };
  auto const whole = run(alone, batch);
  for (extent_t micro : {1, 3, 6}) check_same(run(alone, micro), whole, list);
  for (int n : {2, 4}) {
    std::vector<outcome> results(static_cast<std::size_t>(n));
    parallel::threads_group group{n};
    group.run(
        [&](parallel::threads& ranks) { results[static_cast<std::size_t>(ranks.rank())] = run(ranks, 1); });
    for (auto const& r : results) check_same(r, whole, list);
  }
}
