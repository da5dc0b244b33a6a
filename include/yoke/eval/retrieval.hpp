// Retrieval between images and captions: recall at 1, 5 and 10 and the median rank, both ways.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/eval/similarity.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace yoke::eval {

/// How well one side finds the other.
struct retrieval_direction {
  double recall_1 = 0, recall_5 = 0, recall_10 = 0;  // share of queries, in [0, 1]
  double median_rank = 0;                            // 1 is best; the mean of the middle two
  std::vector<extent_t> ranks;                       // of each query's first right answer, from 1
};

/// Of as many images and texts, each searched among all of the other kind.
struct retrieval_result {
  retrieval_direction image_to_text, text_to_image;
  extent_t images = 0, texts = 0;
};

namespace detail {

inline retrieval_direction summarize(std::vector<extent_t> ahead) {
  retrieval_direction result;
  for (auto& rank : ahead) ++rank;
  auto const n = static_cast<double>(ahead.size());
  auto share = [&](extent_t k) {
    return static_cast<double>(std::count_if(ahead.begin(), ahead.end(), [&](auto r) { return r <= k; })) / n;
  };
  result.recall_1 = share(1);
  result.recall_5 = share(5);
  result.recall_10 = share(10);
  auto sorted = ahead;
  std::sort(sorted.begin(), sorted.end());
  auto const middle = sorted.size() / 2;
  auto const low = sorted.size() % 2 == 0 ? sorted[middle - 1] : sorted[middle];
  result.median_rank = static_cast<double>(low + sorted[middle]) / 2;
  result.ranks = std::move(ahead);
  return result;
}

/// Calls body(image, first_text, scores) for runs of up to 32 consecutive texts, until every pair had its turn; of one
/// text, images come in ascending order.
template <class Body>
void for_each_run(float const* images, extent_t image_count, float const* texts, extent_t text_count,
                  extent_t width, Body body) {
  packed_rows columns{width};
  for (extent_t t = 0; t < text_count; t += tile_columns) {
    auto const across = std::min(tile_columns, text_count - t);
    columns.clear();
    columns.append(across, [&](extent_t c) { return texts + (t + c) * width; });
    for (extent_t i = 0; i < image_count; i += tile_rows) {
      tile scores;
      similarities(four_rows(images, i, image_count, width), columns.tile_at(0), width, scores);
      for (extent_t r = 0; r < std::min(tile_rows, image_count - i); ++r)
        body(i + r, t,
             std::span<float const>(scores[static_cast<std::size_t>(r)].data(),
                                    static_cast<std::size_t>(across)));
    }
  }
}

}  // namespace detail

/// Ranks by cosine similarity, the lower row first in a tie, without a matrix of all pairs.
/// `images` (images, width) and `texts` (texts, width) need not be normalised; caption t belongs to
/// image image_of_text[t], and an image with several captions is found by the best of them, as is
/// usual for Flickr30k and COCO. Every image needs a caption.
inline retrieval_result retrieval(view<float const, 2> images, view<float const, 2> texts,
                                  std::span<std::int32_t const> image_of_text) {
  auto const n = images.extent(0), m = texts.extent(0), width = images.extent(1);
  expects(n > 0 && m > 0 && width > 0, "retrieval: at least one image and one caption");
  expects(texts.extent(1) == width, "retrieval: images and texts of the same width");
  expects(static_cast<extent_t>(image_of_text.size()) == m, "retrieval: one image for each text");
  auto at = [](auto i) { return static_cast<std::size_t>(i); };

  // The captions of each image side by side.
  std::vector<extent_t> begin(at(n + 1), 0), own(at(m));
  for (auto image : image_of_text) {
    expects(image >= 0 && image < n, "retrieval: image_of_text names images that exist");
    ++begin[at(image) + 1];
  }
  for (extent_t i = 0; i < n; ++i)
    expects(begin[at(i) + 1] > 0,
            [&] { return "retrieval: image " + std::to_string(i) + " has no caption"; });
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  auto next = begin;
  for (extent_t t = 0; t < m; ++t) own[at(next[at(image_of_text[at(t)])]++)] = t;

  auto const image_rows = normalized_rows(images), text_rows = normalized_rows(texts);

  // The score of each caption with its image, and of each image with the best of its captions.
  std::vector<float> right_score(at(m)), best_score(at(n));
  std::vector<extent_t> best_text(at(n));
  detail::packed_rows columns{width};
  for (extent_t i = 0; i < n; ++i) {
    auto const rows = detail::four_rows(image_rows.data(), i, i + 1, width);
    for (auto first = begin[at(i)]; first < begin[at(i) + 1]; first += detail::tile_columns) {
      auto const across = std::min(detail::tile_columns, begin[at(i) + 1] - first);
      columns.clear();
      columns.append(across, [&](extent_t c) { return text_rows.data() + own[at(first + c)] * width; });
      detail::tile scores;
      detail::similarities(rows, columns.tile_at(0), width, scores);
      for (extent_t c = 0; c < across; ++c) {
        auto const t = own[at(first + c)];
        auto const score = right_score[at(t)] = scores[0][at(c)];
        if (first + c == begin[at(i)] || score > best_score[at(i)])
          best_score[at(i)] = score, best_text[at(i)] = t;
      }
    }
  }

  // How many wrong answers come before the right one. Plain arrays and no branches: this runs for every pair.
  std::vector<extent_t> before_text(at(n), 0);
  std::vector<std::int32_t> before_image(at(m), 0);
  auto count = [&](extent_t i, extent_t first, std::span<float const> scores) {
    auto const* owner = image_of_text.data() + first;
    auto const* right = right_score.data() + first;
    auto* before = before_image.data() + first;
    auto const image = static_cast<std::int32_t>(i);
    // Texts before the image's best one win a tie with it.
    auto const best = best_score[at(i)];
    auto const winners =
        static_cast<std::int32_t>(std::clamp<extent_t>(best_text[at(i)] - first, 0, detail::tile_columns));
    std::int32_t ahead = 0;
    for (std::int32_t c = 0; c < static_cast<std::int32_t>(scores.size()); ++c) {
      auto const score = scores[at(c)];
      int const wrong = owner[c] != image;
      before[c] += wrong & (int{score > right[c]} | (int{score == right[c]} & int{image < owner[c]}));
      ahead += wrong & (int{score > best} | (int{score == best} & int{c < winners}));
    }
    before_text[at(i)] += ahead;
  };
  detail::for_each_run(image_rows.data(), n, text_rows.data(), m, width, count);
  return {detail::summarize(std::move(before_text)),
          detail::summarize({before_image.begin(), before_image.end()}), n, m};
}

/// The same for pairs: caption t belongs to image t.
inline retrieval_result retrieval(view<float const, 2> images, view<float const, 2> texts) {
  expects(images.extent(0) == texts.extent(0), "retrieval: as many texts as images");
  std::vector<std::int32_t> same(static_cast<std::size_t>(texts.extent(0)));
  std::iota(same.begin(), same.end(), 0);
  return retrieval(images, texts, same);
}

/// The `k` images nearest to each text by cosine similarity, (texts, k) row numbers, nearest first,
/// the lower row first in a tie. Swap the arguments for the texts nearest to each image.
inline std::vector<std::int32_t> nearest(view<float const, 2> images, view<float const, 2> texts,
                                         extent_t k) {
  auto const n = images.extent(0), m = texts.extent(0), width = images.extent(1);
  expects(texts.extent(1) == width, "nearest: images and texts of the same width");
  expects(k > 0 && k <= n, "nearest: k of at least 1 and at most the number of images");
  auto const image_rows = normalized_rows(images), text_rows = normalized_rows(texts);
  // Candidates of each text, best first; rows come in ascending order, so an equal goes behind.
  std::vector<std::int32_t> result(static_cast<std::size_t>(m * k), -1);
  std::vector<float> kept(static_cast<std::size_t>(m * k), -std::numeric_limits<float>::infinity());
  auto keep = [&](extent_t i, extent_t first, std::span<float const> found) {
    for (std::size_t c = 0; c < found.size(); ++c) {
      auto* scores = kept.data() + (first + static_cast<extent_t>(c)) * k;
      if (!(found[c] > scores[k - 1]))
        continue;
      auto* rows = result.data() + (first + static_cast<extent_t>(c)) * k;
      auto place = k - 1;
      for (; place > 0 && found[c] > scores[place - 1]; --place)
        scores[place] = scores[place - 1], rows[place] = rows[place - 1];
      scores[place] = found[c], rows[place] = static_cast<std::int32_t>(i);
    }
  };
  detail::for_each_run(image_rows.data(), n, text_rows.data(), m, width, keep);
  return result;
}

}  // namespace yoke::eval
