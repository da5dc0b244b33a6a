// The size of every CoAtNet, by the dry backend: parameters as published and as derived from what is published,
// multiply-adds against the paper's (arXiv 2106.04803, tables 3 to 5).
#include <yoke/dry/context.hpp>
#include <yoke/nn/classifier_head.hpp>
#include <yoke/towers/coatnet.hpp>
#include <yoke/towers/coatnet_presets.hpp>

#include <catch2/catch_test_macros.hpp>
#include <cstdio>
#include <string>

using namespace yoke;

namespace {

/// Millions (or thousands of millions) with as many digits behind the point as another number has.
std::string as_printed(double number, std::string const& like) {
  auto const point = like.find('.');
  char text[32];
  std::snprintf(text, sizeof text, "%.*f",
                point == std::string::npos ? 0 : static_cast<int>(like.size() - point - 1), number);
  return text;
}

struct sizes {
  double headless, whole;  // millions of parameters, without and with a classifier of 1000 classes
  double multiply_adds;    // thousands of millions, of one image without a classifier
};

template <class Norm = nn::layer_norm>
sizes measure(towers::coatnet_config const& config) {
  parameter_list list;
  towers::coatnet<Norm> const tower{scope{list} / "image", config};
  auto const headless = static_cast<double>(list.count());
  nn::classifier_head const head{scope{list} / "head", {.width = config.features(), .classes = 1000}};

  dry::context<bf16> c;
  parameter_store<dry::context<bf16>> store{c, list};
  tape<dry::context<bf16>> t{c, store.views(), {.record = false, .training = false}};
  auto const y =
      tower(t, t.constant(view<bf16 const, 4>{
                   nullptr, {{1, config.image_size.height, config.image_size.width, config.channels}}}));
  CHECK(y.shape == shape{1, config.features()});
  return {1e-6 * headless, 1e-6 * static_cast<double>(list.count()),
          1e-9 * static_cast<double>(c.multiply_adds)};
}

}  // namespace

TEST_CASE("CoAtNets have the parameters that are published and derived") {
  struct row {
    char const *name, *whole, *headless;
  };
  for (auto const& r :
       {row{"coatnet_0", "25.04", "23.7"}, row{"coatnet_1", "42.23", ""}, row{"coatnet_2", "74.69", ""},
        row{"coatnet_3", "166.97", "163.1"}, row{"coatnet_4", "275.43", ""}, row{"coatnet_5", "687.05", ""},
        row{"coatnet_6", "1348", ""}, row{"coatnet_7", "2442", "2429.5"}}) {
    INFO(r.name);
    auto const config = towers::coatnet_preset(r.name).value();
    auto const found = measure(config);
    CHECK(as_printed(found.whole, r.whole) == r.whole);
    if (*r.headless != 0)
      CHECK(as_printed(found.headless, r.headless) == r.headless);
    CHECK(measure<nn::batch_norm>(config).whole == found.whole);
  }
  CHECK(!towers::coatnet_preset("coatnet_8"));
}

TEST_CASE("CoAtNet-6 has its published 1.47 B parameters with a last stage of 3072") {
  auto config = towers::coatnet_preset("coatnet_6").value();
  config.stages.back().width = 3072;
  CHECK(as_printed(measure(config).whole, "1471") == "1471");
}

TEST_CASE("timm's CoAtNets have timm's parameters") {  // timm 1.0.31, sum of numel over parameters()
  struct row {
    char const* name;
    extent_t parameters;
  };
  for (auto const& r :
       {row{"coatnet_0", 25'036'820}, row{"coatnet_1", 42'225'776}, row{"coatnet_2", 74'684'744},
        row{"coatnet_3", 166'966'264}, row{"coatnet_4", 275'425'288}, row{"coatnet_5", 687'472'008}}) {
    INFO(r.name);
    parameter_list list;
    auto const config = towers::as_in_timm(towers::coatnet_preset(r.name).value());
    towers::coatnet<nn::batch_norm> const tower{scope{list} / "image", config};
    nn::classifier_head const head{scope{list} / "head", {.width = config.features(), .classes = 1000}};
    CHECK(list.count() == r.parameters);
  }
}

TEST_CASE("CoAtNets take the multiply-adds that the paper prints for 224 x 224, or up to 2 % less") {
  struct row {
    char const* name;
    double published;
  };
  // The paper's count may have norms, activations and pooling, which are none here.
  for (auto const& r :
       {row{"coatnet_0", 4.2}, row{"coatnet_1", 8.4}, row{"coatnet_2", 15.7}, row{"coatnet_3", 34.7}}) {
    auto config = towers::coatnet_preset(r.name).value();
    auto const found = measure(config).multiply_adds;
    INFO(r.name << ": " << found);
    CHECK(found < r.published);
    CHECK(found > 0.98 * r.published);
    config.strided = nn::stride_in::depthwise;  // the first 1 x 1 then sees four times the pixels
    CHECK(measure(config).multiply_adds > 1.02 * r.published);
  }
  CHECK(as_printed(measure(towers::coatnet_preset("coatnet_7").value()).multiply_adds, "458") == "458");
}
