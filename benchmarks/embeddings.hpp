// Rows of unit length in pairs, and the contrastive loss by its definition in double.
#pragma once
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace bench {

/// In the host's memory: two matrices (rows, width), and the gradients of a loss.
struct embeddings {
  yoke::extent_t rows, width;
  std::vector<float> image, text, d_image, d_text;

  embeddings(yoke::extent_t n, yoke::extent_t d) : rows{n}, width{d}, image(static_cast<std::size_t>(n * d)) {
    text = d_image = d_text = image;
    yoke::random_sequence random{1};
    for (auto* v : {&image, &text})
      for (yoke::extent_t i = 0; i < n; ++i) {
        auto* const row = v->data() + i * d;
        double square = 0;
        for (yoke::extent_t k = 0; k < d; ++k) {
          row[k] = yoke::uniform(random.bits()) - 0.5f;
          square += static_cast<double>(row[k]) * static_cast<double>(row[k]);
        }
        for (yoke::extent_t k = 0; k < d; ++k) row[k] /= static_cast<float>(std::sqrt(square));
      }
  }
  yoke::view<float, 2> as_view(std::vector<float>& v) const { return {v.data(), {{rows, width}}}; }
};

/// The largest deviation of loss and gradients from the expected ones, relative to the largest value of each.
inline double worst_difference(embeddings& e, double loss, double expected,
                               std::vector<double> const& d_image, std::vector<double> const& d_text) {
  auto worst = std::abs(loss - expected) / expected;
  for (auto const& [got, wanted] : {std::pair{&e.d_image, &d_image}, {&e.d_text, &d_text}}) {
    double most = 0, size = 0;
    for (std::size_t i = 0; i < wanted->size(); ++i) {
      most = std::max(most, std::abs(static_cast<double>((*got)[i]) - (*wanted)[i]));
      size = std::max(size, std::abs((*wanted)[i]));
    }
    worst = std::max(worst, most / size);
  }
  return worst;
}

inline constexpr float logit_scale = 100.0f;

/// loss(embeddings&) computes the loss at `logit_scale` and its gradients. The largest deviation from the definition,
/// relative to the largest value, over loss and gradients.
template <class F>
double error_of_loss(yoke::extent_t rows, yoke::extent_t width, F const& loss) {
  embeddings e{rows, width};
  auto const result = loss(e);
  auto const n = static_cast<std::size_t>(rows), d = static_cast<std::size_t>(width);
  auto const scale = static_cast<double>(logit_scale);
  std::vector<double> logits(n * n), row(n), column(n), d_image(n * d), d_text(n * d);
  double expected = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double product = 0;
      for (std::size_t k = 0; k < d; ++k)
        product += static_cast<double>(e.image[i * d + k]) * static_cast<double>(e.text[j * d + k]);
      logits[i * n + j] = scale * product;
      row[i] += std::exp(logits[i * n + j]);  // at most e^100
      column[j] += std::exp(logits[i * n + j]);
    }
  for (std::size_t i = 0; i < n; ++i) {
    expected += (std::log(row[i]) + std::log(column[i]) - 2 * logits[i * n + i]) / static_cast<double>(2 * n);
    for (std::size_t j = 0; j < n; ++j) {
      auto const p = std::exp(logits[i * n + j]);
      auto const g = scale * (p / row[i] + p / column[j] - (i == j ? 2 : 0)) / static_cast<double>(2 * n);
      for (std::size_t k = 0; k < d; ++k) {
        d_image[i * d + k] += g * static_cast<double>(e.text[j * d + k]);
        d_text[j * d + k] += g * static_cast<double>(e.image[i * d + k]);
      }
    }
  }
  return worst_difference(e, result.loss, expected, d_image, d_text);
}

}  // namespace bench
