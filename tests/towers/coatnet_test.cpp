// CoAtNet against timm's: outputs, all gradients and BatchNorm's running values, with the same weights. 25 M of them
// come from a formula: tests/golden/make_coatnet.py says which.
#include <yoke/autograd/gradient_check.hpp>
#include <yoke/contrastive/basic.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/io/json.hpp>
#include <yoke/io/safetensors.hpp>
#include <yoke/nn/classifier_head.hpp>
#include <yoke/nn/relative_table.hpp>
#include <yoke/towers/coatnet.hpp>
#include <yoke/towers/coatnet_presets.hpp>

#include "cpu/checks.hpp"
#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace yoke;

namespace {

/// In [0, 1), of the formula.
double uniform_at(std::uint64_t name, extent_t i) {
  return static_cast<double>(mix(name, static_cast<std::uint64_t>(i)) >> 40) * 0x1p-24;
}

struct range {
  double centre, spread;
};

/// A tensor of timm's by our name: its name there, and where our elements are.
struct foreign {
  enum class layout { same, convolution, depthwise, table, heads };

  std::string name;
  layout order = layout::same;
  std::vector<extent_t> shape{};  // ours
  extent_t head_width = 0;

  /// The place in timm's tensor of our element k.
  extent_t place(extent_t k) const {
    if (order == layout::same)
      return k;
    if (order == layout::table)  // ours (heads, offsets), timm's (offsets, heads)
      return k % (shape[1] * shape[2]) * shape[0] + k / (shape[1] * shape[2]);
    if (order == layout::depthwise)  // ours (9, channels), timm's (channels, 9)
      return k % shape[1] * shape[0] + k / shape[1];
    if (order == layout::convolution) {  // ours (out, 9, in), timm's (out, in, 9)
      auto const in = shape[1] / 9, rest = k % shape[1];
      return k - rest + rest % in * 9 + rest / in;
    }
    // Our rows are (q k v, heads, head width), timm's (heads, q k v, head width).
    auto const width = shape.size() == 2 ? shape[1] : 1, row = k / width;
    auto const part = row / (shape[0] / 3), channel = row % (shape[0] / 3);
    auto const there = (channel / head_width * 3 + part) * head_width + channel % head_width;
    return there * width + k % width;
  }
  range values() const {
    auto const ends = [&](std::string_view end) { return std::string_view{name}.ends_with(end); };
    if (ends("running_mean") || ends("bias"))
      return {0, 0.3};
    if (ends("running_var") || shape.size() == 1)
      return {1, 0.3};
    if (ends("bias_table"))
      return {0, 0.5};
    return {0, std::sqrt(3.0 / static_cast<double>(order == layout::depthwise ? shape[0] : shape[1]))};
  }
};

/// The values of the formula for our elements 0 to n - 1.
template <class T>
void fill_by_formula(foreign const& theirs, T* to, extent_t n) {
  auto const [centre, spread] = theirs.values();
  auto const key = hash(theirs.name);
  for (extent_t k = 0; k < n; ++k)
    to[k] = static_cast<T>(static_cast<float>(centre + spread * (2 * uniform_at(key, theirs.place(k)) - 1)));
}

/// Normal-sized values for inputs: `place` says where in timm's tensor element k is.
template <class T, class Place>
std::vector<T> made_up(std::string_view name, extent_t n, Place const& place) {
  std::vector<T> values(static_cast<std::size_t>(n));
  for (extent_t k = 0; k < n; ++k)
    values[static_cast<std::size_t>(k)] =
        static_cast<T>(static_cast<float>(std::sqrt(3.0) * (2 * uniform_at(hash(name), place(k)) - 1)));
  return values;
}

/// timm's stage and first block for each of ours, and the names that follow from it.
struct naming {
  towers::coatnet_config config;
  std::vector<std::pair<extent_t, extent_t>> stages;

  foreign operator()(std::string const& ours, std::vector<extent_t> const& shape) const {
    foreign theirs{.name = ours, .shape = shape, .head_width = config.head_width};
    auto& name = theirs.name;
    auto const replace = [&](std::string_view from, std::string_view to) {
      if (auto const at = name.find(from); at != std::string::npos)
        name.replace(at, from.size(), to);
    };
    if (name.starts_with("image.stage.")) {
      auto const stage = std::stoul(name.substr(12));
      auto const block = std::stol(name.substr(name.find("block.") + 6));
      auto const rest = name.substr(name.find('.', name.find("block.") + 6));
      auto const [there, first] = stages.at(stage);
      name = "stages." + std::to_string(there) + ".blocks." + std::to_string(first + block) + rest;
      replace("norm_attention", block == 0 && config.stages[stage].stride > 1 ? "norm1.norm" : "norm1");
      replace("norm_mlp", "norm2");
      replace(".norm.", ".pre_norm.");
      replace("norm1.pre_norm.", "norm1.norm.");
    }
    if (name.ends_with("table"))
      theirs.order = foreign::layout::table;
    if (name.find("qkv") != std::string::npos)
      theirs.order = foreign::layout::heads;
    if (name.find("filter.weight") != std::string::npos)
      theirs.order = foreign::layout::depthwise;
    if (name.find("convolution") != std::string::npos && name.ends_with("weight"))
      theirs.order = foreign::layout::convolution;
    for (auto const& [from, to] : std::initializer_list<std::pair<std::string_view, std::string_view>>{
             {"image.stem.convolution.0", "stem.conv1"},
             {"image.stem.convolution.1", "stem.conv2"},
             {"image.stem.norm.0", "stem.norm1"},
             {"image.norm", "head.norm"},
             {"head.hidden", "head.pre_logits.fc"},
             {"head.logits", "head.fc"},
             {"norm_expanded", "norm1"},
             {"norm_filtered", "norm2"},
             {"expand.", "conv1_1x1."},
             {"filter", "conv2_kxk"},
             {"gate.squeeze", "se.fc1"},
             {"gate.excite", "se.fc2"},
             {"shrink", "conv3_1x1"},
             {"shortcut", "shortcut.expand"},
             {"attention.qkv", "attn.qkv"},
             {"attention.out", "attn.proj"},
             {"attention.table", "attn.rel_pos.relative_position_bias_table"},
             {"mlp.up", "mlp.fc1"},
             {"mlp.down", "mlp.fc2"},
             {".gain", ".weight"},
             {".mean", ".running_mean"},
             {".variance", ".running_var"}})
      replace(from, to);
    return theirs;
  }
};

double largest_of(std::vector<double> const& v) {
  double m = 0;
  for (auto x : v) m = std::max(m, std::abs(x));
  return m;
}

/// |got - wanted| of each element, against the largest wanted.
template <class Got>
void check_close(std::vector<double> const& wanted, Got const& got, double tolerance) {
  double worst = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i)
    worst = std::max(worst, std::abs(wanted[i] - static_cast<double>(got(i))));
  CHECK(worst <= tolerance * largest_of(wanted));
}

std::vector<double> read(io::safetensors_file const& file, std::string const& name) {
  auto const v = file.read<float>(name);
  return {v.begin(), v.end()};
}

/// A gradient against the row of the file: norm, largest, signed sum, samples. A gradient that is 0 but for rounding
/// (that of a bias ahead of BatchNorm) is held to `least`, a small one beside the others'.
void check_gradient(foreign const& theirs, std::vector<double> const& wanted, std::vector<double> const& got,
                    double tolerance) {
  constexpr double least = 0.05;
  double squares = 0, largest = 0, signs = 0;
  auto const sign_key = hash("sign/" + theirs.name), place_key = hash("place/" + theirs.name);
  auto const n = static_cast<extent_t>(got.size());
  for (extent_t i = 0; i < n; ++i) {
    auto const g = got[static_cast<std::size_t>(i)];
    squares += g * g;
    largest = std::max(largest, std::abs(g));
    signs += uniform_at(sign_key, i) < 0.5 ? g : -g;
  }
  INFO(theirs.name);
  auto const norm = std::max(least, wanted[0]), size = std::max(least, wanted[1]);
  CHECK(std::abs(std::sqrt(squares) - wanted[0]) <= tolerance * norm);
  CHECK(std::abs(largest - wanted[1]) <= tolerance * size);
  CHECK(std::abs(signs - wanted[2]) <= tolerance * norm);
  for (std::size_t k = 3; k < wanted.size(); ++k) {
    auto const place = static_cast<std::size_t>(uniform_at(place_key, static_cast<extent_t>(k) - 3) *
                                                static_cast<double>(n));
    CHECK(std::abs(got[place] - wanted[k]) <= tolerance * size);
  }
}

template <class T, class Norm>
void check_against_timm(std::string const& name, naming const& names, extent_t batch, extent_t classes,
                        bool training, double tolerance) {
  io::safetensors_file const file{YOKE_GOLDEN_DIR "/coatnet/" + name + ".safetensors"};
  using context_type = cpu::context<T>;
  parameter_list list;
  auto const& config = names.config;
  towers::coatnet<Norm> const tower{scope{list} / "image", config};
  nn::classifier_head const head{scope{list} / "head", {.width = config.features(), .classes = classes}};
  context_type c{gibibytes(1), mebibytes(256)};
  parameter_store<context_type> store{c, list};
  for (auto const& p : list.infos())
    fill_by_formula(names(p.name, p.shape), store.master().data + p.offset, p.size());
  for (auto const& s : list.statistics())
    fill_by_formula(names(s.name, s.shape), store.statistics().data + s.offset, s.size);

  auto const [height, width] = config.image_size;
  auto const pixels = height * width;
  auto const images =
      made_up<T>("input/images", batch * pixels * 3, [&](extent_t k) {  // channels come first there
        return (k / (3 * pixels) * 3 + k % 3) * pixels + k / 3 % pixels;
      });
  auto const upstream = made_up<T>("upstream/logits", batch * classes, [](extent_t k) { return k; });

  tape<context_type> t{c, store.views(), {.record = true, .training = training}};
  auto const features = tower(t, t.constant(view<T const, 4>{images.data(), {{batch, height, width, 3}}}));
  auto const logits = head(t, features);
  check_close(
      read(file, "features"), [&](std::size_t i) { return t(features).data[i]; }, tolerance);
  check_close(
      read(file, "logits"), [&](std::size_t i) { return t(logits).data[i]; }, tolerance);

  t.backward(logits, view<T const, 2>{upstream.data(), logits.shape});
  auto const rows = file.read<float>("gradients");
  auto const order = io::parse_json(file.metadata().at("config"), name)
                         .find("gradients")
                         ->as<std::vector<std::string>>()
                         .value();
  auto const columns = rows.size() / order.size();
  std::size_t compared = 0;
  for (auto const& p : list.infos()) {
    auto const theirs = names(p.name, p.shape);
    auto const row =
        static_cast<std::size_t>(std::find(order.begin(), order.end(), theirs.name) - order.begin());
    INFO(p.name << ", there " << theirs.name);
    REQUIRE(row < order.size());
    std::vector<double> got(static_cast<std::size_t>(p.size()));
    for (extent_t k = 0; k < p.size(); ++k)
      got[static_cast<std::size_t>(theirs.place(k))] =
          static_cast<double>(store.gradients().data[p.offset + k]);
    auto const first = rows.begin() + static_cast<std::ptrdiff_t>(row * columns);
    check_gradient(theirs, {first, first + static_cast<std::ptrdiff_t>(columns)}, got, tolerance);
    ++compared;
  }
  CHECK(compared == order.size());

  if (!training)
    return;
  store.absorb_observations(c);
  for (auto const& s : list.statistics()) {
    auto const theirs = names(s.name, s.shape);
    INFO(theirs.name);
    check_close(
        read(file, theirs.name),
        [&](std::size_t i) { return store.statistics().data[s.offset + static_cast<extent_t>(i)]; },
        tolerance);
  }
}

naming zero() {
  auto config = towers::as_in_timm(towers::coatnet_preset("coatnet_0").value());
  config.image_size = 96;
  return {config, {{0, 0}, {1, 0}, {2, 0}, {3, 0}}};
}

/// The paper's choices, and MBConv and attention at one resolution.
naming paper() {
  constexpr auto mbconv = towers::coatnet_block::mbconv, attention = towers::coatnet_block::attention;
  return {{.image_size = {32, 64},
           .stem_width = 16,
           .stages =
               {{mbconv, 1, 16}, {mbconv, 2, 32}, {mbconv, 1, 48}, {attention, 2, 48, 1}, {attention, 1, 64}},
           .head_width = 16,
           .layer_norm_epsilon = 1e-6},
          {{0, 0}, {1, 0}, {2, 0}, {2, 1}, {3, 0}}};
}

}  // namespace

TEMPLATE_TEST_CASE("CoAtNet-0 is timm's: outputs, gradients, running values", "", float, double) {
  constexpr auto tolerance = std::is_same_v<TestType, double> ? 1e-6 : 2e-4;
  SECTION("in training, with the statistics of the batch") {
    check_against_timm<TestType, nn::batch_norm>("zero_train", zero(), 2, 1000, true, tolerance);
  }
  SECTION("in evaluation, with the running values") {
    check_against_timm<TestType, nn::batch_norm>("zero_eval", zero(), 2, 1000, false, tolerance);
  }
}

TEMPLATE_TEST_CASE("the paper's choices are timm's, where it has them", "", float, double) {
  constexpr auto tolerance = std::is_same_v<TestType, double> ? 1e-6 : 2e-4;
  check_against_timm<TestType, nn::layer_norm>("paper", paper(), 3, 10, true, tolerance);
}

TEMPLATE_TEST_CASE("a whole tiny CoAtNet against central differences", "[gradient]", nn::layer_norm,
                   nn::batch_norm) {
  auto config = contrastive::basic_preset("basic_tiny").value().image;
  config.image_size = 16;
  config.stem_stride = 1;
  config.embedding = 5;
  config.stochastic_depth = 0.3f;
  if (std::is_same_v<TestType, nn::batch_norm>) {
    config.strided = nn::stride_in::depthwise;
    config.pool = window_pool_kind::mean;
  }
  parameter_list list;
  towers::coatnet<TestType> const tower{scope{list}, config};
  cpu::context<double> c{mebibytes(16), mebibytes(8)};
  auto const result = checks::with_threads(1, [&] {  // thousands of small passes
    return gradient_check(
        c, list, [&](auto& t, value<4> x) { return tower(t, x); },
        {.step = 1e-6, .seed = 2, .random = {.seed = 5, .step = 3}}, shape{2, 16, 16, 3});
  });
  INFO(result.where);
  CHECK(result.worst < 1e-7);
}

TEST_CASE("tables of relative positions are resized as torch does, bilinearly") {
  io::safetensors_file const file{YOKE_GOLDEN_DIR "/coatnet/tables.safetensors"};
  struct row {
    char const* name;
    grid from, to;
  };
  for (auto const& r :
       {row{"3x3_5x5", {3, 3}, {5, 5}}, row{"4x2_2x7", {4, 2}, {2, 7}}, row{"6x5_3x2", {6, 5}, {3, 2}}}) {
    INFO(r.name);
    auto const shape_of = [](grid g) { return shape{3, 2 * g.height - 1, 2 * g.width - 1}; };
    auto const old = made_up<double>("input/table", shape_of(r.from).size(), [](extent_t k) { return k; });
    std::vector<double> found(static_cast<std::size_t>(shape_of(r.to).size()));
    nn::resize_relative_table(view<double const, 3>{old.data(), shape_of(r.from)},
                              view<double, 3>{found.data(), shape_of(r.to)});
    check_close(
        read(file, r.name), [&](std::size_t i) { return found[i]; }, 1e-7);
  }
}

TEST_CASE("what is no CoAtNet is refused in words") {
  auto const refusal = [](auto const& change) {
    auto config = towers::coatnet_preset("coatnet_0").value();
    change(config);
    parameter_list list;
    towers::coatnet<> const tower{scope{list}, config};
  };
  using Catch::Matchers::ContainsSubstring;
  CHECK_THROWS_WITH(refusal([](auto& c) { c.image_size = 225; }),
                    ContainsSubstring("images of 225 x 225 pixels are a multiple of the strides, 32"));
  CHECK_THROWS_WITH(
      refusal([](auto& c) { c.head_width = 36; }),
      ContainsSubstring("an attention stage's width, here 384, is a multiple of the head width 36"));
  CHECK_THROWS_WITH(refusal([](auto& c) { c.stages.clear(); }), ContainsSubstring("there is a stage"));
}
