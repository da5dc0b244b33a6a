// Towers whose matrices are shared out on a model axis: loss and gradients of a step are those of one rank, on any mesh,
// for each way of rematerialising; memory and what is sent are what a dry run says.
#include <yoke/contrastive/basic.hpp>
#include <yoke/contrastive/classification_step.hpp>
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/encode.hpp>
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/mesh.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/plan.hpp>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

namespace {

using nn::model_parallel;
using context_type = cpu::context<double>;
using numbers = std::vector<double>;

constexpr extent_t batch = 8, side = 8, longest = 6, vocabulary = 24;
constexpr double nowhere = std::numeric_limits<double>::quiet_NaN();

/// What a case varies.
struct way {
  model_parallel how = model_parallel::none;
  parallel::mesh_shape mesh{};
  rematerialize remat = rematerialize::nothing;
  extent_t micro_batch = 0;
};

contrastive::clip_config clip_towers(model_parallel how) {
  contrastive::clip_config c{.image = {.image_size = side,
                                       .patch_size = 4,
                                       .width = 8,
                                       .layers = 2,
                                       .heads = 4,
                                       .mlp_width = 20,
                                       .embedding = 8,
                                       .dropout = 0.1f,
                                       .stochastic_depth = 0.2f},
                             .text = {.vocabulary = vocabulary,
                                      .context_length = longest,
                                      .width = 8,
                                      .layers = 2,
                                      .heads = 4,
                                      .embedding = 8,
                                      .dropout = 0.1f,
                                      .stochastic_depth = 0.2f}};
  return c.sharded(how);
}
/// The two squeezed channels of its MBConv are too few for four ranks.
contrastive::basic_config basic_towers(model_parallel how) {
  constexpr auto mbconv = towers::coatnet_block::mbconv, attention = towers::coatnet_block::attention;
  contrastive::basic_config c{.image = {.image_size = side,
                                        .stem_width = 4,
                                        .stages = {{mbconv, 2, 8, 1}, {attention, 1, 16}},
                                        .head_width = 4,
                                        .embedding = 8,
                                        .stochastic_depth = 0.2f},
                              .text = clip_towers(how).text};
  c.text.pool = towers::text_pool::mean;
  c.text.causal = false;
  return c.sharded(how);
}
auto clip(model_parallel how) {
  return [how](scope s) { return contrastive::clip(s, clip_towers(how)); };
}
auto basic(model_parallel how) {
  return [how](scope s) { return contrastive::basic(s, basic_towers(how)); };
}

/// Random images and captions, of full length if it is said so.
struct samples {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> ids, offsets{0}, classes;

  explicit samples(bool full = false) : pixels(static_cast<std::size_t>(batch * side * side * 3)) {
    random_sequence random{4};
    for (auto& p : pixels) p = static_cast<std::uint8_t>(random.below(256));
    for (extent_t i = 0; i < batch; ++i) {
      for (auto n = full ? longest : 1 + static_cast<extent_t>(random.below(longest)); n > 0; --n)
        ids.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
      classes.push_back(static_cast<std::int32_t>(random.below(4)));
    }
  }
  contrastive::pixel_batch images(extent_t first, extent_t n) const {
    return {.pixels = slice(view<std::uint8_t const, 4>{pixels.data(), {{batch, side, side, 3}}}, first, n)};
  }
  contrastive::caption_batch captions(extent_t first, extent_t n) const {
    tokens const all{segments::packed({offsets.data(), {{batch + 1}}}, longest),
                     {ids.data(), {{static_cast<extent_t>(ids.size())}}}};
    return {all.slice(first, n)};
  }
};

/// What a rank finds: of initial values and gradients its parts, NaN elsewhere.
struct found {
  double loss = 0;
  std::map<std::string, numbers> values{}, gradients{};
};

/// The parts that a rank has of what a flat block says of each parameter.
std::map<std::string, numbers> parts(parameter_list const& list, view<double, 1> block) {
  std::map<std::string, numbers> to;
  for (auto const& p : list.infos()) {
    extent_t n = 1;
    for (auto const d : p.whole()) n *= d;
    auto& whole = to[p.name] = numbers(static_cast<std::size_t>(n), nowhere);
    p.for_each_run_of_whole([&](extent_t at, extent_t here, extent_t size) {
      std::copy_n(block.data + p.offset + here, size, whole.data() + at);
    });
  }
  return to;
}

/// A step in the middle of a run by one rank of a mesh: take(context, data axis, model axis, model, store, first sample,
/// samples, random key) gives the loss.
template <class Build, class Take>
found run_rank(parallel::any& all, way const& w, Build const& build, Take const& take) {
  parallel::mesh mesh{all, w.mesh};
  parameter_list list{model_share{mesh.model().rank(), mesh.model().size()}};
  auto const model = build(scope{list});
  context_type c{mebibytes(4), mebibytes(4)};
  parameter_store<context_type> store{c, list};
  initialize(c, list, 1, store);
  auto const local = batch / w.mesh.data, first = local * mesh.data().rank();
  random_key const key{.seed = 3, .step = 5, .first_sample = static_cast<std::uint64_t>(first)};
  found result{.values = parts(list, store.master())};
  result.loss = take(c, mesh.data(), mesh.model_axis(), model, store, first, local, key);
  all_reduce(mesh.data(), store.gradients());
  result.gradients = parts(list, store.gradients());
  return result;
}

/// The ranks of a mesh together. What several of them have is the same on each.
template <class Build, class Take>
found run(way const& w, Build const& build, Take const& take) {
  std::vector<found> ranks(static_cast<std::size_t>(w.mesh.ranks()));
  parallel::threads_group{w.mesh.ranks()}.run([&](parallel::threads& all) {
    parallel::any any{all};
    ranks[static_cast<std::size_t>(all.rank())] = run_rank(any, w, build, take);
  });
  auto whole = ranks[0];
  bool same = true;
  auto const join = [&](auto& to, auto const& from) {
    for (auto const& [name, part] : from)
      for (std::size_t i = 0; i < part.size(); ++i)
        if (auto& x = to.at(name)[i]; std::isnan(x))
          x = part[i];
        else
          same = same && (std::isnan(part[i]) || part[i] == x);
  };
  for (auto const& r : ranks) {
    join(whole.values, r.values);
    join(whole.gradients, r.gradients);
    same = same && r.loss == whole.loss;
  }
  CHECK(same);
  return whole;
}

template <class Build, class Take>
found run_alone(Build const& build, Take const& take) {
  parallel::solo solo;
  parallel::any alone{solo};
  return run_rank(alone, {}, build, take);
}

/// Gradients within rounding, initial values the same; every parameter learns.
void check_same(found const& a, found const& one, double tolerance = 1e-12) {
  CHECK(std::abs(a.loss - one.loss) <= tolerance * std::abs(one.loss));
  CHECK(a.values == one.values);
  REQUIRE(a.gradients.size() == one.gradients.size());
  for (auto const& [name, gradient] : one.gradients) {
    auto const& other = a.gradients.at(name);
    REQUIRE(other.size() == gradient.size());
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      worst = std::max(worst, std::isnan(other[i]) ? 1e300 : std::abs(other[i] - gradient[i]));
      largest = std::max(largest, std::abs(gradient[i]));
    }
    INFO(name);
    CHECK(worst <= tolerance * std::max(1.0, largest));
    CHECK(largest > 0);
  }
}

auto contrast(samples const& s, way const& w) {
  return [&s, w](auto& c, auto& data, parallel::any* axis, auto const& model, auto& store, extent_t first,
                 extent_t n, random_key key) {
    return contrastive::contrastive_step(
               c, data, model, store, s.images(first, n), s.captions(first, n),
               {.micro_batch = w.micro_batch,
                .random = key,
                .remat = w.remat,
                .loss = contrastive::info_nce_options{.tile_rows = 5, .tile_columns = 4},
                .model_axis = axis})
        .loss;
  };
}

constexpr rematerialize policies[]{rematerialize::nothing, rematerialize::cheap, rematerialize::blocks,
                                   rematerialize::everything};

/// Each way to share the towers, on both meshes, for each policy, with the batch whole and in micro-batches.
template <class Model>
void check_meshes(Model const& model) {
  samples const s;
  auto const one = run_alone(model(model_parallel::none), contrast(s, {}));
  for (auto const mesh : {parallel::mesh_shape{1, 4}, parallel::mesh_shape{2, 2}})
    for (auto const how : {model_parallel::tensor, model_parallel::gathered})
      for (auto const remat : policies)
        for (extent_t const micro : {0, 2}) {
          INFO(mesh.data << " x " << mesh.model << ", " << static_cast<int>(how) << ", policy "
                         << static_cast<int>(remat) << ", micro-batches of " << micro);
          way const w{how, mesh, remat, micro};
          check_same(run(w, model(how), contrast(s, w)), one);
        }
}

/// A step of one rank, counted without memory.
struct counted {
  std::size_t activations = 0, gradients = 0;
  parallel::traffic data{}, model{};
};

template <class Build>
counted count_dry(way const& w, int rank, samples const& s, Build const& build) {
  parameter_list list{model_share{rank % w.mesh.model, w.mesh.model}};
  auto const model = build(scope{list});
  dry::context<double> c{device_traits{context_type::traits}};
  train::detail::planned_ranks ranks{list, {.mesh = w.mesh, .rank = rank}};
  c.pieces = &ranks;
  parameter_store<dry::context<double>> store{c, list};
  auto const local = batch / w.mesh.data;
  contrast(s, w)(c, ranks.data, ranks.model_axis(), model, store, 0, local, random_key{});
  return {c.memory.peak(), c.gradient_memory.peak(), ranks.data.traffic(), ranks.model.traffic()};
}

template <class Build>
void check_plan(way const& w, Build const& build) {
  samples const s{true};
  std::vector<counted> real(static_cast<std::size_t>(w.mesh.ranks()));
  run(w, build,
      [&](auto& c, auto& data, parallel::any* axis, auto const& model, auto& store, extent_t first,
          extent_t n, random_key key) {
        auto const me = static_cast<std::size_t>(first / n * w.mesh.model + axis->rank());
        auto const data_before = data.traffic(), model_before = axis->traffic();
        auto const loss = contrast(s, w)(c, data, axis, model, store, first, n, key);
        real[me] = {c.memory.peak(), c.gradient_memory.peak(), data.traffic() - data_before,
                    axis->traffic() - model_before};
        return loss;
      });
  for (int r = 0; r < w.mesh.ranks(); ++r) {
    auto const dry = count_dry(w, r, s, build);
    auto const& had = real[static_cast<std::size_t>(r)];
    INFO("rank " << r);
    CHECK(had.activations == dry.activations);
    CHECK(had.gradients == dry.gradients);
    CHECK(had.data.bytes == dry.data.bytes);
    CHECK(had.data.calls == dry.data.calls);
    CHECK(had.model.bytes == dry.model.bytes);
    CHECK(had.model.calls == dry.model.calls);
    CHECK(had.model.bytes > 0);
  }
}

}  // namespace

TEST_CASE("ViT and text towers on a mesh give what one rank gives", "[ranks]") {
  check_meshes(clip);
}

TEST_CASE("CoAtNet and a mean-pooled text tower on a mesh give what one rank gives", "[ranks]") {
  check_meshes(basic);
}

TEST_CASE(
    "a model that is not shared runs on a mesh bitwise as alone; one that cannot be shared out evenly is "
    "shared in part") {
  samples const s;
  auto const one = run_alone(clip(model_parallel::none), contrast(s, {}));
  auto const whole = run({.mesh = {1, 4}}, clip(model_parallel::none), contrast(s, {}));
  CHECK(whole.loss == one.loss);
  CHECK(whole.gradients == one.gradients);

  way const three{model_parallel::gathered,
                  {1, 3}};  // no width of the towers is a multiple of 3, that of qkv is
  check_same(run(three, clip(three.how), contrast(s, three)), one);
  parameter_list list{model_share{0, 3}};
  contrastive::clip(scope{list}, clip_towers(three.how));
  CHECK(list.find("image.block.0.attention.qkv.weight")->is_sharded());
  CHECK(list.find("text.tokens")->is_sharded());
  CHECK_FALSE(list.find("image.block.0.attention.out.weight")->is_sharded());
  CHECK_FALSE(list.find("image.block.0.mlp.up.weight")->is_sharded());

  auto odd = clip_towers(model_parallel::tensor);  // an inner width that four ranks do not share out evenly
  odd.image.mlp_width = 18;
  auto const odd_model = [&](scope p) { return contrastive::clip(p, odd); };
  check_same(run({.mesh = {1, 4}}, odd_model, contrast(s, {})), run_alone(odd_model, contrast(s, {})));
}

TEST_CASE("heads that cannot be shared out evenly are refused by name") {
  auto const build = [](auto const& make, auto const& config) {
    parameter_list list{model_share{0, 8}};
    make(scope{list} / "model", config);
  };
  CHECK_THROWS_MATCHES(
      build(contrastive::clip, clip_towers(model_parallel::tensor)), precondition_error,
      MessageMatches(ContainsSubstring("'model.image.block.0.attention': its 4 heads are shared "
                                       "out evenly among the 8 ranks of the model axis")));
  CHECK_THROWS_MATCHES(build(contrastive::basic<>, basic_towers(model_parallel::tensor)), precondition_error,
                       MessageMatches(ContainsSubstring(
                           "'model.image.stage.1.block.0.attention': its 4 heads are shared out evenly")));
  build(contrastive::clip, clip_towers(model_parallel::gathered));
}

TEST_CASE("a CoAtNet that ranks share learns classes as one rank's does", "[ranks]") {
  samples const s;
  auto const build = [](model_parallel how) {
    return [how](scope p) {
      auto const config = basic_towers(how).image;
      return contrastive::image_classifier{p,
                                           towers::coatnet<>{p / "image", config},
                                           {.width = config.features(), .classes = 4, .model_parallel = how}};
    };
  };
  auto const classify = [&](way const& w) {
    return [&s, w](auto& c, auto& data, parallel::any* axis, auto const& model, auto& store, extent_t first,
                   extent_t n, random_key key) {
      return contrastive::classification_step(c, data, model, store, s.images(first, n),
                                              {s.classes.data() + first, {{n}}},
                                              {.micro_batch = w.micro_batch,
                                               .random = key,
                                               .label_smoothing = 0.1,
                                               .remat = w.remat,
                                               .model_axis = axis})
          .loss;
    };
  };
  auto const one = run_alone(build(model_parallel::none), classify({}));
  for (auto const how : {model_parallel::tensor, model_parallel::gathered}) {
    way const w{how, {2, 2}, rematerialize::cheap, 2};
    check_same(run(w, build(how), classify(w)), one);
  }
}

TEST_CASE("ranks embed by a shared tower what one rank does, and find the axis in the store", "[ranks]") {
  samples const s;
  auto const encode = [&](numbers& rows) {
    return [&](auto& c, auto&, parallel::any* axis, auto const& model, auto& store, extent_t, extent_t,
               random_key) {
      store.set_model_axis(axis);
      numbers mine(batch * 8);
      contrastive::encode(c, model.image, store, s.images(0, batch), 3,
                          view<double, 2>{mine.data(), {{batch, 8}}});
      if (axis == nullptr || axis->rank() == 0)
        rows = mine;
      return 0.0;
    };
  };
  numbers one, four;
  run_alone(clip(model_parallel::none), encode(one));
  run({.mesh = {1, 4}}, clip(model_parallel::tensor), encode(four));
  double worst = 0;
  for (std::size_t i = 0; i < one.size(); ++i) worst = std::max(worst, std::abs(one[i] - four[i]));
  CHECK(one.size() == four.size());
  CHECK(worst < 1e-12);
}

TEST_CASE("a dry run says what each rank of a mesh uses and sends, to the byte") {
  for (auto const how : {model_parallel::tensor, model_parallel::gathered})
    for (auto const mesh : {parallel::mesh_shape{1, 4}, parallel::mesh_shape{2, 2}})
      for (auto const remat : policies)
        for (extent_t const micro : {0, 2}) {
          INFO(mesh.data << " x " << mesh.model << ", " << static_cast<int>(how) << ", policy "
                         << static_cast<int>(remat) << ", micro-batches of " << micro);
          check_plan({how, mesh, remat, micro}, basic(how));
        }
}
