// Retrieval figures against numpy's and by hand; ties and bad input.
#include <yoke/eval/retrieval.hpp>

#include "eval/made_up.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using Catch::Matchers::WithinAbs;

namespace {

void compare(eval::retrieval_direction const& found, std::vector<double> const& figures,
             std::vector<double> const& ranks) {
  REQUIRE(figures.size() == 4);
  CHECK_THAT(found.recall_1, WithinAbs(figures[0], 1e-8));
  CHECK_THAT(found.recall_5, WithinAbs(figures[1], 1e-8));
  CHECK_THAT(found.recall_10, WithinAbs(figures[2], 1e-8));
  CHECK(found.median_rank == figures[3]);
  CHECK(std::vector<double>(found.ranks.begin(), found.ranks.end()) == ranks);
}

std::vector<std::int32_t> owners() {
  std::vector<std::int32_t> sorted, shuffled;
  for (int i = 0; i < 47; ++i) sorted.insert(sorted.end(), static_cast<std::size_t>(i % 3 + 1), i);
  for (std::size_t t = 0; t < sorted.size(); ++t) shuffled.push_back(sorted[t * 7 % sorted.size()]);
  return shuffled;
}

}  // namespace

TEST_CASE("retrieval with several captions for an image equals numpy's") {
  auto golden = made_up::figures();
  std::vector<std::int32_t> centres(47);
  std::iota(centres.begin(), centres.end(), 0);
  auto const images = made_up::embeddings(3, centres), texts = made_up::embeddings(4, owners());
  auto const found = eval::retrieval(made_up::rows(images), made_up::rows(texts), owners());
  CHECK(found.images == 47);
  CHECK(found.texts == 93);
  compare(found.image_to_text, golden["image_to_text"], golden["image_to_text_ranks"]);
  compare(found.text_to_image, golden["text_to_image"], golden["text_to_image_ranks"]);

  auto const best = eval::nearest(made_up::rows(images), made_up::rows(texts), 4);
  CHECK(std::vector<double>(best.begin(), best.end()) == golden["nearest"]);
}

TEST_CASE("pairs by hand, rows of any length, an even median") {
  // Text 0 lies on image 0, text 1 nearer to image 0 than to its own.
  std::vector<float> const images{2, 0, 0, 3}, texts{5, 0, 2, 1};
  auto const found = eval::retrieval(made_up::rows(images, 2), made_up::rows(texts, 2));
  CHECK(found.text_to_image.ranks == std::vector<extent_t>{1, 2});
  CHECK(found.image_to_text.ranks == std::vector<extent_t>{1, 1});
  CHECK(found.text_to_image.recall_1 == .5);
  CHECK(found.text_to_image.recall_5 == 1);
  CHECK(found.text_to_image.median_rank == 1.5);
}

TEST_CASE("equal embeddings rank by row: what a collapsed model gets is chance") {
  constexpr extent_t n = 150;
  std::vector<float> same;
  for (extent_t i = 0; i < n; ++i) same.insert(same.end(), {.3f, -.7f, .2f});
  auto const found = eval::retrieval(made_up::rows(same, 3), made_up::rows(same, 3));
  for (auto const& way : {found.image_to_text, found.text_to_image}) {
    CHECK(way.recall_1 == 1. / n);
    CHECK(way.recall_10 == 10. / n);
    CHECK(way.median_rank == (n + 1) / 2.);
    CHECK(way.ranks.front() == 1);
    CHECK(way.ranks.back() == n);
  }
  auto const best = eval::nearest(made_up::rows(same, 3), made_up::rows(same, 3), n);
  for (extent_t k = 0; k < n; ++k) REQUIRE(best[static_cast<std::size_t>(7 * n + k)] == k);
}

TEST_CASE("identical rows find one another wherever they stand in a tile") {
  std::vector<std::int32_t> centres(101);
  std::iota(centres.begin(), centres.end(), 0);
  auto const rows = made_up::embeddings(9, centres);
  auto const found = eval::retrieval(made_up::rows(rows), made_up::rows(rows));
  CHECK(found.image_to_text.recall_1 == 1);
  CHECK(found.text_to_image.recall_1 == 1);
}

TEST_CASE("more captions of one image than a tile holds") {
  std::vector<float> images{1, 0, 0, 1}, texts;
  std::vector<std::int32_t> owner;
  for (int t = 0; t < 80; ++t) {
    texts.insert(texts.end(), {t == 71 ? 1.f : .5f, t == 71 ? 0.f : .6f});
    owner.push_back(0);
  }
  texts.insert(texts.end(), {.9f, .1f});
  owner.push_back(1);
  auto const found = eval::retrieval(made_up::rows(images, 2), made_up::rows(texts, 2), owner);
  CHECK(found.image_to_text.ranks == std::vector<extent_t>{1, 80});
  CHECK(found.text_to_image.ranks[0] == 2);
  CHECK(found.text_to_image.ranks[71] == 1);
}

TEST_CASE("what retrieval refuses") {
  std::vector<float> rows{1, 0, 0, 1};
  std::vector<std::int32_t> owner{0, 1};
  auto run = [&] { return eval::retrieval(made_up::rows(rows, 2), made_up::rows(rows, 2), owner); };
  CHECK_NOTHROW(run());
  owner = {0, 0};
  CHECK_THROWS_MATCHES(run(), precondition_error,
                       MessageMatches(ContainsSubstring("image 1 has no caption")));
  owner = {0, 2};
  CHECK_THROWS_AS(run(), precondition_error);
  owner = {0};
  CHECK_THROWS_AS(run(), precondition_error);
  owner = {0, 1};
  rows[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_MATCHES(run(), precondition_error, MessageMatches(ContainsSubstring("row 1")));
  rows[3] = 1;
  CHECK_THROWS_AS(eval::nearest(made_up::rows(rows, 2), made_up::rows(rows, 2), 3), precondition_error);
  CHECK_THROWS_AS(eval::retrieval(made_up::rows(rows, 2), made_up::rows(rows, 1), owner), precondition_error);
}
