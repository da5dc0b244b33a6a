// Softmax cross-entropy on the card against the CPU's; labels that are no classes are found out.
#include <yoke/cpu/classification.hpp>
#include <yoke/cuda/classification.cuh>
#include <yoke/cuda/optimizer.cuh>

#include "cuda/twins.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace twins;

namespace {

template <class T>
struct labelled {
  using A = accumulator_t<T>;
  tensor<T, 2> logits, dlogits;
  tensor<std::int32_t, 1> labels;
  tensor<A, 1> totals{{{2}}, 9};

  labelled(extent_t rows, extent_t classes, double deviation = 2)
      : logits{{{rows, classes}}, 1, deviation}, dlogits{{{rows, classes}}, 2}, labels{{{rows}}} {
    yoke::random_sequence draw{3};
    for (auto& l : labels.data)
      l = static_cast<std::int32_t>(draw.below(static_cast<std::uint64_t>(classes)));
  }
};

/// What the card makes of it.
template <class T>
labelled<T> on_card(labelled<T> p, double smoothing, double scale, extent_t offset = 0) {
  auto& c = card<T>();
  on const logits{c, p.logits, offset}, dlogits{c, p.dlogits};
  on const labels{c, p.labels};
  on const totals{c, p.totals};
  softmax_cross_entropy(c, smoothing, scale, logits.read(), labels.read(), dlogits.view(), totals.view());
  p.dlogits = dlogits.back(c);
  p.totals = totals.back(c);
  return p;
}
template <class T>
void check(labelled<T> p, double smoothing = 0, double scale = 1, extent_t offset = 0) {
  INFO(p.logits.shape[0] << " rows of " << p.logits.shape[1] << " classes");
  auto const found = on_card(p, smoothing, scale, offset);
  softmax_cross_entropy(device<T>(), smoothing, scale, p.logits.read(), p.labels.read(), p.dlogits.view(),
                        p.totals.view());
  same(found.dlogits, p.dlogits, 2);
  same(found.totals, p.totals, 1 + p.totals[0]);
  CHECK(found.totals[1] == p.totals[1]);
}

}  // namespace

TEMPLATE_TEST_CASE("softmax_cross_entropy on the card", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 7, 300),
             classes = GENERATE(as<extent_t>{}, 1, 2, 16, 37, 1000);
  auto const smoothing = GENERATE(0.0, 0.1);
  check(labelled<TestType>{rows, classes}, smoothing, 0.125, classes == 16);
}

TEMPLATE_TEST_CASE("softmax_cross_entropy on the card of more classes than a block holds", "", double, float,
                   bf16) {
  auto const classes = GENERATE(as<extent_t>{}, 9000, 20001);
  check(labelled<TestType>{3, classes}, 0.1);
}

TEMPLATE_TEST_CASE("cross-entropy on the card of logits far apart, and of logits that are alike", "", double,
                   float, bf16) {
  labelled<TestType> p{3, 40};
  p.labels.data = {0, 1, 2};
  for (auto& v : p.logits.data) v = static_cast<TestType>(-1e4f);
  p.logits.data[0] = static_cast<TestType>(1e4f);
  p.logits.data[40] = static_cast<TestType>(1e4f);
  check(p);
  for (auto& v : p.logits.data) v = static_cast<TestType>(0.0f);
  for (std::size_t k : {3u, 40u + 9u, 40u + 30u, 80u + 39u}) p.logits.data[k] = static_cast<TestType>(1.0f);
  p.labels.data = {3, 30, 39};
  check(p);
  CHECK(on_card(p, 0, 1).totals[1] == 2);
  p.labels.data = {3, 9, 39};
  check(p);
}

TEST_CASE("a label that is no class counts as 0 on the card, and the next read throws") {
  auto& c = card<float>();
  using Catch::Matchers::ContainsSubstring;
  using Catch::Matchers::MessageMatches;
  for (auto wrong : {-1, 10, 1 << 30}) {
    labelled<float> p{4, 10};
    on const logits{c, p.logits}, dlogits{c, p.dlogits};
    on const totals{c, p.totals};
    p.labels.data = {0, 9, wrong, 3};
    on const labels{c, p.labels};
    softmax_cross_entropy(c, 0.0, 1.0, logits.read(), labels.read(), dlogits.view(), totals.view());
    CHECK_THROWS_MATCHES(
        scalar(c, yoke::slice(totals.read(), 0, 1)), yoke::precondition_error,
        MessageMatches(ContainsSubstring("softmax_cross_entropy: labels are within the classes")));
    p.labels.data[2] = 0;
    softmax_cross_entropy(device<float>(), 0.0, 1.0, p.logits.read(), p.labels.read(), p.dlogits.view(),
                          p.totals.view());
    same(dlogits.back(c), p.dlogits, 2);
  }
}

TEST_CASE("cross-entropy on the card gives the same bits each time") {
  labelled<bf16> const p{300, 101};
  same_each_time([&] { return on_card(p, 0.1, 1).totals.data; });
}
