// Both towers, all of their gradients and the loss against OpenCLIP's (timm's where OpenCLIP has no such tower), with
// the same random weights: tests/golden/make_clip.py, make_vit.py, make_text.py.
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/io/json.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/open_clip_model.hpp>
#include <yoke/train/open_clip_weights.hpp>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <string>
#include <vector>

using namespace yoke;

namespace {

using context_type = cpu::context<float>;
constexpr double tolerance = 1e-4;  // of the largest absolute value of a tensor

io::safetensors_file golden(std::string const& name) {
  return io::safetensors_file{std::string(YOKE_GOLDEN_DIR) + "/" + name + ".safetensors"};
}

/// Largest difference as a share of the largest wanted value.
double difference(std::vector<float> const& wanted, auto const& got_at) {
  double worst = 0, largest = 1e-12;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(wanted[i]) - got_at(i)));
    largest = std::max(largest, std::abs(static_cast<double>(wanted[i])));
  }
  return worst / largest;
}

void load(io::safetensors_file const& file, parameter_list const& list, view<float, 1> master) {
  for (auto const& p : list.infos()) {
    auto const theirs = train::open_clip_tensor(p);
    REQUIRE(theirs.has_value());
    if (file.find("weight/" + theirs->name) == nullptr)
      continue;  // the other tower's
    file.expect("weight/" + theirs->name, io::dtype::f32, theirs->shape);
    auto const values = file.read<float>("weight/" + theirs->name);
    for (extent_t k = 0; k < p.size(); ++k)
      master.data[p.offset + k] = values[static_cast<std::size_t>(train::foreign_element(*theirs, k))];
  }
}

/// Every gradient that the file has.
int check_gradients(io::safetensors_file const& file, parameter_list const& list, view<float, 1> gradients) {
  int compared = 0;
  for (auto const& p : list.infos()) {
    auto const theirs = *train::open_clip_tensor(p);
    if (file.find("gradient/" + theirs.name) == nullptr)
      continue;
    auto const wanted = file.read<float>("gradient/" + theirs.name);
    std::vector<float> got(wanted.size());
    for (extent_t k = 0; k < p.size(); ++k)
      got[static_cast<std::size_t>(train::foreign_element(theirs, k))] = gradients.data[p.offset + k];
    INFO(theirs.name);
    CHECK(difference(wanted, [&](std::size_t i) { return got[i]; }) < tolerance);
    ++compared;
  }
  return compared;
}

/// (batch, channel, y, x) -> (batch, y, x, channel)
std::vector<float> channels_last(std::vector<float> const& from, std::vector<extent_t> const& s) {
  std::vector<float> to(from.size());
  std::size_t k = 0;
  for (extent_t b = 0; b < s[0]; ++b)
    for (extent_t c = 0; c < s[1]; ++c)
      for (extent_t y = 0; y < s[2]; ++y)
        for (extent_t x = 0; x < s[3]; ++x)
          to[static_cast<std::size_t>(((b * s[2] + y) * s[3] + x) * s[1] + c)] = from[k++];
  return to;
}

struct packed {
  std::vector<std::int32_t> ids, offsets{0};

  packed(std::vector<std::int32_t> const& padded, std::vector<std::int32_t> const& lengths) {
    auto const context = padded.size() / lengths.size();
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      auto const first = padded.begin() + static_cast<std::ptrdiff_t>(i * context);
      ids.insert(ids.end(), first, first + lengths[i]);
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
  }
  tokens captions(extent_t longest) const {
    return {segments::packed({offsets.data(), {{static_cast<extent_t>(offsets.size())}}}, longest),
            {ids.data(), {{static_cast<extent_t>(ids.size())}}}};
  }
};

/// Forward and backward of one tower against `output/SIDE_features` and `upstream/SIDE_features`.
template <class Tower, class Input>
void check_tower(io::safetensors_file const& file, std::string const& side, context_type& c,
                 parameter_store<context_type>& store, Tower const& tower, Input const& input) {
  arena_scope const scratch{c.memory};
  tape<context_type> t{c, store.views()};
  auto const y = tower(t, input(t));
  auto const wanted = file.read<float>("output/" + side + "_features");
  CHECK(difference(wanted, [&](std::size_t i) { return t(y).data[i]; }) < tolerance);
  auto const upstream = file.read<float>("upstream/" + side + "_features");
  t.backward(y, view<float const, 2>{upstream.data(), y.shape});

  auto const unit = file.read<float>("output/" + side + "_features_normalized");
  auto const rows = make<float>(c, y.shape);
  l2_normalize_forward(c, t(y), rows, make<float>(c, shape{y.shape[0]}));
  CHECK(difference(unit, [&](std::size_t i) { return rows.data[i]; }) < tolerance);
}

}  // namespace

TEST_CASE("whole models of OpenCLIP") {
  for (std::string const name : {"clip/token_gelu", "clip/average_quick"}) {
    INFO(name);
    auto const file = golden(name);
    auto const config = train::from_open_clip(
        io::open_clip_from_json(io::parse_json(file.metadata().at("config"), name), name));
    parameter_list list;
    auto const model = contrastive::clip(scope{list}, config);
    context_type c{mebibytes(32), mebibytes(8)};
    parameter_store<context_type> store{c, list};
    load(file, list, store.master());

    auto const& images_shape = file.at("input/images").shape;
    auto const images = channels_last(file.read<float>("input/images"), images_shape);
    check_tower(file, "image", c, store, model.image, [&](auto& t) {
      return t.constant(
          view<float const, 4>{images.data(), {{images_shape[0], images_shape[2], images_shape[3], 3}}});
    });
    packed const captions{file.read<std::int32_t>("input/ids"), file.read<std::int32_t>("input/lengths")};
    check_tower(file, "text", c, store, model.text,
                [&](auto&) { return captions.captions(config.text.context_length); });
    CHECK(check_gradients(file, list, store.gradients()) == static_cast<int>(list.infos().size()) - 1);
  }
}

TEST_CASE("the whole contrastive step of OpenCLIP") {
  auto const weights = golden("clip/token_gelu"), file = golden("clip/contrastive");
  auto const config = train::from_open_clip(
      io::open_clip_from_json(io::parse_json(weights.metadata().at("config"), "config"), "config"));
  parameter_list list;
  auto const model = contrastive::clip(scope{list}, config);
  context_type c{mebibytes(32), mebibytes(8)};
  parameter_store<context_type> store{c, list};
  load(weights, list, store.master());
  load(file, list, store.master());

  auto const& s = weights.at("input/images").shape;
  auto const images = channels_last(weights.read<float>("input/images"), s);
  packed const captions{weights.read<std::int32_t>("input/ids"), weights.read<std::int32_t>("input/lengths")};
  parallel::solo alone;
  auto const result = contrastive::contrastive_step(
      c, alone, model, store, contrastive::value_batch<float, 4>{{images.data(), {{s[0], s[2], s[3], 3}}}},
      contrastive::caption_batch{captions.captions(config.text.context_length)}, {});
  CHECK(difference(file.read<float>("output/loss"), [&](std::size_t) { return result.loss; }) < tolerance);
  CHECK(difference(file.read<float>("output/scale"), [&](std::size_t) { return result.logit_scale; }) <
        tolerance);
  CHECK(check_gradients(file, list, store.gradients()) == 13);
}

TEST_CASE("image towers that OpenCLIP's configurations do not reach") {
  struct row {
    char const* name;
    towers::vit_config config;
  };
  towers::vit_config const mean{.image_size = 24,
                                .patch_size = 6,
                                .width = 24,
                                .layers = 2,
                                .heads = 2,
                                .embedding = 20,
                                .pool = towers::vit_pool::mean};
  auto after = mean;
  after.norm_after_pool = true;
  towers::vit_config const wide{.image_size = {18, 24},
                                .patch_size = 6,
                                .width = 24,
                                .layers = 1,
                                .heads = 3,
                                .embedding = 20,
                                .norm_before = false};
  for (auto const& r :
       {row{"vit/mean_no_token", mean}, row{"vit/mean_then_norm", after}, row{"vit/wide_token", wide}}) {
    INFO(r.name);
    auto const file = golden(r.name);
    parameter_list list;
    towers::vit const tower{scope{list} / "image", r.config};
    context_type c{mebibytes(32), mebibytes(8)};
    parameter_store<context_type> store{c, list};
    load(file, list, store.master());
    auto const& s = file.at("input/images").shape;
    auto const images = channels_last(file.read<float>("input/images"), s);
    check_tower(file, "image", c, store, tower, [&](auto& t) {
      return t.constant(view<float const, 4>{images.data(), {{s[0], s[2], s[3], 3}}});
    });
    CHECK(check_gradients(file, list, store.gradients()) == static_cast<int>(list.infos().size()));
  }
}

TEST_CASE("a bidirectional text tower with mean pooling") {
  auto const file = golden("text/bidirectional_mean");
  parameter_list list;
  towers::text_transformer const tower{scope{list} / "text",
                                       {.vocabulary = 50,
                                        .context_length = 12,
                                        .width = 24,
                                        .layers = 2,
                                        .heads = 3,
                                        .embedding = 20,
                                        .pool = towers::text_pool::mean,
                                        .causal = false}};
  context_type c{mebibytes(32), mebibytes(8)};
  parameter_store<context_type> store{c, list};
  load(file, list, store.master());
  packed const captions{file.read<std::int32_t>("input/ids"), file.read<std::int32_t>("input/lengths")};
  check_tower(file, "text", c, store, tower, [&](auto&) { return captions.captions(12); });
  CHECK(check_gradients(file, list, store.gradients()) == static_cast<int>(list.infos().size()));
}

TEST_CASE("configurations survive the way to OpenCLIP's form and back") {
  for (auto name : {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "tiny"}) {
    auto config = contrastive::clip_preset(name).value();
    config.logits = contrastive::siglip_logits;
    auto const back = train::from_open_clip(train::to_open_clip(config));
    parameter_list a, b;
    contrastive::clip(scope{a}, config);
    contrastive::clip(scope{b}, back);
    REQUIRE(a.infos().size() == b.infos().size());
    for (std::size_t i = 0; i < a.infos().size(); ++i) CHECK(a.infos()[i].shape == b.infos()[i].shape);
    CHECK(back.logits == config.logits);
    CHECK(b.infos().back().name == "logit_bias");
    CHECK(train::open_clip_tensor(b.infos().back()).value().name == "logit_bias");
    CHECK(back.image.heads == config.image.heads);
    CHECK(back.text.causal == config.text.causal);
  }
}
