// The whole streamed loss on CUDA is the CPU's: loss, accuracy and gradients, whatever the tiles.
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cuda/logits.cuh>
#include <yoke/cuda/matmul.cuh>
#include <yoke/cuda/pointwise.cuh>
#include <yoke/parallel/solo.hpp>

#include "cuda/twins.hpp"

using namespace twins;
using yoke::contrastive::info_nce;
using yoke::contrastive::info_nce_options;

namespace {

template <class A>
struct embeddings {
  tensor<A, 2> image, text;

  /// Texts near their images; rows of about unit length.
  embeddings(extent_t rows, extent_t width)
      : image{shape{rows, width}, 1, 1 / std::sqrt(static_cast<double>(width))},
        text{shape{rows, width}, 2, 1 / std::sqrt(static_cast<double>(width))} {
    for (std::size_t i = 0; i < text.data.size(); ++i) text.data[i] += image.data[i];
  }
};

template <class A>
struct outcome {
  yoke::contrastive::info_nce_result result;
  tensor<A, 2> d_image, d_text;
};

template <class T, class A = accumulator_t<T>>
outcome<A> on_card(embeddings<A> const& e, double scale, info_nce_options const& options) {
  auto& c = card<T>();
  yoke::parallel::solo alone;
  on<A, 2> const image{c, e.image}, text{c, e.text}, d_image{c, e.image}, d_text{c, e.image};
  auto const result = info_nce(c, alone, image.read(), text.read(), static_cast<A>(scale), d_image.view(),
                               d_text.view(), options);
  CHECK(c.memory.used() == 0);
  return {result, d_image.back(c), d_text.back(c)};
}

template <class T, class A = accumulator_t<T>>
outcome<A> on_host(embeddings<A> const& e, double scale, info_nce_options const& options) {
  yoke::cpu::context<T> c{yoke::mebibytes(8), yoke::mebibytes(1)};
  yoke::parallel::solo alone;
  outcome<A> o{{}, e.image, e.image};
  o.result = info_nce(c, alone, e.image.read(), e.text.read(), static_cast<A>(scale), o.d_image.view(),
                      o.d_text.view(), options);
  return o;
}

template <class A>
void expect_same(outcome<A> const& card, outcome<A> const& host, double scale) {
  auto const one = (std::is_same_v<A, double> ? 1e-14 : 3e-6) * scale;  // what a logit may be off
  CHECK(std::abs(card.result.loss - host.result.loss) <= one);
  CHECK(card.result.accuracy == host.result.accuracy);
  CHECK(std::abs(card.result.d_scale - host.result.d_scale) <= one);
  auto const rows = static_cast<double>(host.d_image.shape[0]);
  same(card.d_image, host.d_image, 3 * scale * scale / rows);
  same(card.d_text, host.d_text, 3 * scale * scale / rows);
}

}  // namespace

TEMPLATE_TEST_CASE("the streamed loss, in one tile and in many", "[cuda]", double, float, bf16) {
  embeddings<accumulator_t<TestType>> const e{150, 19};
  auto const host = on_host<TestType>(e, 10, {});
  for (auto const& [rows, columns] :
       {std::pair<extent_t, extent_t>{0, 0}, {150, 150}, {64, 50}, {33, 149}, {1, 40}, {150, 7}}) {
    CAPTURE(rows, columns);
    expect_same(on_card<TestType>(e, 10, {.tile_rows = rows, .tile_columns = columns}), host, 10);
  }
}

TEMPLATE_TEST_CASE("one pair, and some", "[cuda]", double, float) {
  extent_t const rows = GENERATE(1, 2, 31, 300);
  CAPTURE(rows);
  embeddings<TestType> const e{rows, 8};
  expect_same(on_card<TestType>(e, 30, {.tile_rows = 128, .tile_columns = 128}), on_host<TestType>(e, 30, {}),
              30);
}

TEST_CASE("the loss's scales, small, large and negative", "[cuda]") {
  embeddings<double> const e{70, 12};
  for (auto scale : {0.0, 1e-3, -20.0, 1e4}) {
    CAPTURE(scale);
    info_nce_options const options{.tile_rows = 32, .tile_columns = 24};
    expect_same(on_card<double>(e, scale, options), on_host<double>(e, scale, {}),
                std::max(1.0, std::abs(scale)));
  }
}

TEST_CASE("the loss alone", "[cuda]") {
  auto& c = card<float>();
  yoke::parallel::solo alone;
  embeddings<float> const e{50, 8};
  on<float, 2> const image{c, e.image}, text{c, e.text};
  auto const r =
      info_nce(c, alone, image.read(), text.read(), 10.0f, {}, {}, {.tile_rows = 20, .tile_columns = 20});
  CHECK(std::abs(r.loss - on_host<float>(e, 10, {}).result.loss) <= 3e-5);
  CHECK(r.d_scale == 0);
}

TEST_CASE("the loss gives the same bits every time", "[cuda]") {
  embeddings<float> const e{200, 16};
  auto const a = on_card<float>(e, 50, {}), b = on_card<float>(e, 50, {});
  CHECK(a.result.loss == b.result.loss);
  CHECK(a.result.d_scale == b.result.d_scale);
  CHECK(same_bits(a.d_image.data, b.d_image.data));
  CHECK(same_bits(a.d_text.data, b.d_text.data));
}
