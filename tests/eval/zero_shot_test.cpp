// Zero-shot figures against numpy's and by hand; ties and bad input.
#include <yoke/eval/zero_shot.hpp>

#include "eval/made_up.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using Catch::Matchers::WithinAbs;

TEST_CASE("zero-shot figures equal numpy's") {
  auto golden = made_up::figures();
  REQUIRE(golden.size() == 9);
  std::vector<std::int32_t> classes_of_prompts, labels;
  for (int c = 0; c < 11; ++c) classes_of_prompts.insert(classes_of_prompts.end(), 3, c);
  for (int i = 0; i < 203; ++i) labels.push_back(i * 5 % 11);

  auto const prompts = made_up::embeddings(1, classes_of_prompts);
  auto const weights = eval::class_weights(made_up::rows(prompts), 3);
  REQUIRE(weights.size() == golden["weights"].size());
  for (std::size_t i = 0; i < weights.size(); ++i)
    REQUIRE_THAT(weights[i], WithinAbs(golden["weights"][i], 1e-6));

  auto const images = made_up::embeddings(2, labels);
  auto const found = eval::zero_shot(made_up::rows(images), made_up::rows(weights), labels);
  CHECK_THAT(found.top1, WithinAbs(golden["top1_top5"][0], 1e-8));
  CHECK_THAT(found.top5, WithinAbs(golden["top1_top5"][1], 1e-8));
  CHECK_THAT(found.chance, WithinAbs(1 / 11., 1e-15));
  CHECK(found.classes == 11);
  CHECK(found.images == 203);
  REQUIRE(found.per_class.size() == 11);
  for (std::size_t c = 0; c < 11; ++c)
    CHECK_THAT(found.per_class[c], WithinAbs(golden["per_class"][c], 1e-8));
  CHECK(std::vector<double>(found.confusion.begin(), found.confusion.end()) == golden["confusion"]);
}

TEST_CASE("the scale of an image does not matter, that of a prompt only within its class") {
  std::vector<float> const images{3000, 100, 1e-20f, 1e-18f};
  std::vector<float> const prompts{5, 0, 0.1f, 0, 0, 2, 0, 30};
  auto const weights = eval::class_weights(made_up::rows(prompts, 2), 2);
  CHECK(weights == std::vector<float>{1, 0, 0, 1});
  auto const found =
      eval::zero_shot(made_up::rows(images, 2), made_up::rows(weights, 2), std::vector<std::int32_t>{0, 1});
  CHECK(found.top1 == 1);
}

TEST_CASE("templates are averaged as unit vectors") {
  std::vector<float> const prompts{100, 0, 0, 1};  // one class, two templates
  auto const weights = eval::class_weights(made_up::rows(prompts, 2), 2);
  CHECK_THAT(weights[0], WithinAbs(std::sqrt(.5), 1e-7));
  CHECK_THAT(weights[1], WithinAbs(std::sqrt(.5), 1e-7));
}

TEST_CASE("a tie goes to the lower class, at every place of a tile") {
  std::vector<float> const weights(70 * 2, 0.5f), images{1, 2, 3, 4, 5, 6, 7, 8, 9, 1};
  std::vector<std::int32_t> const labels{0, 4, 5, 33, 69};
  auto const found = eval::zero_shot(made_up::rows(images, 2), made_up::rows(weights, 2), labels);
  CHECK(found.top1 == 1 / 5.);
  CHECK(found.top5 == 2 / 5.);
  for (auto label : labels) CHECK(found.confusion[static_cast<std::size_t>(label) * 70] == 1);
}

TEST_CASE("a class without images has no share and does not count in the mean") {
  std::vector<float> const weights{1, 0, 0, 1, -1, 0}, images{1, 0, 1, .1f, 0, 1};
  auto const found = eval::zero_shot(made_up::rows(images, 2), made_up::rows(weights, 2),
                                     std::vector<std::int32_t>{0, 1, 1});
  CHECK(found.per_class[0] == 1);
  CHECK(found.per_class[1] == .5);
  CHECK(std::isnan(found.per_class[2]));
  CHECK(found.mean_per_class() == .75);
  CHECK(found.top5 == 1);
}

TEST_CASE("what zero_shot refuses") {
  std::vector<float> weights{1, 0, 0, 1}, images{1, 0, 0, 1};
  std::vector<std::int32_t> labels{0, 1};
  auto run = [&] { return eval::zero_shot(made_up::rows(images, 2), made_up::rows(weights, 2), labels); };
  CHECK_NOTHROW(run());
  labels[1] = 2;
  CHECK_THROWS_MATCHES(run(), precondition_error, MessageMatches(ContainsSubstring("image 1")));
  labels[1] = -1;
  CHECK_THROWS_AS(run(), precondition_error);
  labels = {0};
  CHECK_THROWS_AS(run(), precondition_error);
  labels = {0, 1};
  images[2] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_MATCHES(run(), precondition_error, MessageMatches(ContainsSubstring("row 1")));
  images[2] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(run(), precondition_error);
  images[2] = 0;
  weights[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(run(), precondition_error);
  CHECK_THROWS_AS(eval::class_weights(made_up::rows(weights, 2), 1), precondition_error);
  CHECK_THROWS_AS(eval::class_weights(made_up::rows(images, 2), 3), precondition_error);
  CHECK_THROWS_AS(eval::class_weights(made_up::rows(images, 2), 0), precondition_error);
}
