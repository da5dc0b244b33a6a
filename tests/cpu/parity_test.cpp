// Activations and normalisation against what PyTorch computed in double precision (tests/golden/ops).
#include <yoke/cpu/normalize.hpp>
#include <yoke/cpu/pointwise.hpp>
#include <yoke/io/safetensors.hpp>

#include "checks.hpp"

using namespace checks;

namespace {

yoke::io::safetensors_file golden(char const* name) {
  return yoke::io::safetensors_file{std::string(YOKE_GOLDEN_DIR) + "/ops/" + name + ".safetensors"};
}

/// A stored tensor, rounded to T.
template <class T, int R>
tensor<T, R> load(yoke::io::safetensors_file const& file, std::string const& name) {
  shape<R> s;
  std::copy_n(file.at(name).shape.begin(), R, s.begin());
  tensor<T, R> t{s};
  auto const values = file.read<double>(name);
  std::transform(values.begin(), values.end(), t.data.begin(), [](double v) { return static_cast<T>(v); });
  return t;
}

/// The largest difference, relative to the largest value.
template <class T, int R>
double difference(tensor<T, R> const& found, yoke::io::safetensors_file const& file,
                  std::string const& name) {
  auto const expected = file.read<double>(name);
  REQUIRE(expected.size() == found.data.size());
  double most = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(found.data[i]) - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  return most / size;
}

}  // namespace

TEMPLATE_TEST_CASE("gelu is PyTorch's", "", double, float) {
  auto const file = golden("gelu");
  auto const x = load<TestType, 1>(file, "input/x"), dy = load<TestType, 1>(file, "upstream/output");
  auto const allowed = std::is_same_v<TestType, double> ? 1e-14 : 1e-6;
  for (auto [kind, name] : {std::pair{yoke::activation::gelu, "erf"},
                            {yoke::activation::gelu_tanh, "tanh"},
                            {yoke::activation::gelu_quick, "quick"}}) {
    INFO(name);
    tensor<TestType, 1> y{x.shape}, dx{x.shape};
    activation_forward(device<TestType>(), kind, x.read(), y.view());
    activation_backward(device<TestType>(), kind, x.read(), dy.read(), dx.view(), store::overwrite);
    CHECK(difference(y, file, std::string("output/") + name) < allowed);
    CHECK(difference(dx, file, std::string("gradient/") + name) < allowed);
  }
}

TEMPLATE_TEST_CASE("layer norm is PyTorch's", "", double, float) {
  auto const file = golden("layer_norm");
  auto const allowed = std::is_same_v<TestType, double> ? 1e-11 : 1e-4;
  auto const x = load<TestType, 2>(file, "input/x"), dy = load<TestType, 2>(file, "upstream/output");
  auto const gain = load<TestType, 1>(file, "input/weight"), bias = load<TestType, 1>(file, "input/bias");
  tensor<TestType, 2> y{x.shape}, dx{x.shape};
  tensor<TestType, 1> mean{{{x.shape[0]}}}, deviation{mean.shape}, dgain{gain.shape}, dbias{gain.shape};
  layer_norm_forward(device<TestType>(), x.read(), gain.read(), bias.read(), TestType(1e-5), y.view(),
                     mean.view(), deviation.view());
  layer_norm_backward(device<TestType>(), x.read(), gain.read(), mean.read(), deviation.read(), dy.read(),
                      dx.view(), store::overwrite, dgain.view(), dbias.view());
  CHECK(difference(y, file, "output/y") < allowed);
  CHECK(difference(dx, file, "gradient/x") < allowed);
  CHECK(difference(dgain, file, "gradient/weight") < allowed);
  CHECK(difference(dbias, file, "gradient/bias") < allowed);
}

TEMPLATE_TEST_CASE("division by the norm is PyTorch's", "", double, float) {
  auto const file = golden("l2_normalize");
  auto const allowed = std::is_same_v<TestType, double> ? 1e-11 : 1e-4;
  auto const x = load<TestType, 2>(file, "input/x"), dy = load<TestType, 2>(file, "upstream/output");
  tensor<TestType, 2> y{x.shape}, dx{x.shape};
  tensor<TestType, 1> inverse{{{x.shape[0]}}};
  l2_normalize_forward(device<TestType>(), x.read(), y.view(), inverse.view());
  l2_normalize_backward(device<TestType>(), y.read(), inverse.read(), dy.read(), dx.view(), store::overwrite);
  CHECK(difference(y, file, "output/y") < allowed);
  CHECK(difference(dx, file, "gradient/x") < allowed);
}
