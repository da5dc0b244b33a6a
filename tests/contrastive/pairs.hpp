// Pairs of embeddings, and a loss of them on any number of ranks, for the tests of the losses.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

namespace paired {

using namespace yoke;

using numbers = std::vector<double>;

struct pairs {
  extent_t rows, width;
  double scale;
  numbers image, text;
};

struct outcome {
  double loss = 0, accuracy = 0, d_scale = 0, d_bias = 0;
  numbers d_image, d_text;
};

/// Normal embeddings, so not of unit length.
inline pairs random_pairs(extent_t rows, extent_t width, double scale) {
  random_sequence r{static_cast<std::uint64_t>(1000 * rows + width)};
  pairs p{rows, width, scale, numbers(static_cast<std::size_t>(rows * width)), {}};
  p.text = p.image;
  for (auto* v : {&p.image, &p.text})
    for (auto& x : *v) x = r.normal();
  return p;
}

inline pairs unit_rows(pairs p) {
  auto const width = static_cast<std::size_t>(p.width);
  for (auto* v : {&p.image, &p.text})
    for (std::size_t i = 0; i < v->size(); i += width) {
      double square = 0;
      for (std::size_t k = i; k < i + width; ++k) square += (*v)[k] * (*v)[k];
      for (std::size_t k = i; k < i + width; ++k) (*v)[k] /= std::sqrt(square);
    }
  return p;
}

/// A loss of elements of T over n ranks; n = 0: solo. loss(c, ranks, image, text, d_image, d_text) is called on each with
/// its rows; what each reports comes beside the loss and the embeddings' gradients.
template <class T, class Loss>
auto on_ranks(pairs const& p, int n, Loss const& loss) {
  using A = accumulator_t<T>;
  std::vector<A> const image(p.image.begin(), p.image.end()), text(p.text.begin(), p.text.end());
  std::vector<A> d_image(image.size(), A{7}), d_text(text.size(), A{7});
  using context_type = cpu::context<T>;
  using matrix = view<A const, 2>;
  using result =
      decltype(loss(std::declval<context_type&>(), std::declval<parallel::solo&>(), std::declval<matrix>(),
                    std::declval<matrix>(), std::declval<view<A, 2>>(), std::declval<view<A, 2>>()));
  std::vector<result> results(static_cast<std::size_t>(std::max(n, 1)));
  auto const rank = [&](auto& ranks) {
    context_type c{mebibytes(64), mebibytes(1)};
    {  // memory that an earlier step has used
      arena_scope const scratch{c.memory};
      fill(c, make<A>(c, shape{extent_t{100'000}}), 1e3);
    }
    auto const rows = p.rows / ranks.size(), first = ranks.rank() * rows;
    auto const mine = [&](auto& v) {
      return slice(view<std::remove_reference_t<decltype(v[0])>, 2>{v.data(), {{p.rows, p.width}}}, first,
                   rows);
    };
    results[static_cast<std::size_t>(ranks.rank())] =
        loss(c, ranks, mine(image), mine(text), mine(d_image), mine(d_text));
    expects(c.memory.used() == 0, "the arena is given back");
  };
  if (n == 0) {
    parallel::solo alone;
    rank(alone);
  } else {
    parallel::threads_group{n}.run(rank);
  }
  outcome o{.loss = results[0].loss,
            .d_image = numbers(d_image.begin(), d_image.end()),
            .d_text = numbers(d_text.begin(), d_text.end())};
  for (auto const& r : results)
    expects(r.loss == o.loss || std::isnan(o.loss), "every rank reports the global loss");
  return std::pair{std::move(o), std::move(results)};
}

/// The largest difference, relative to the largest value.
inline double difference(numbers const& a, numbers const& b) {
  double most = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::isnan(a[i]) ? 1e300 : std::abs(a[i] - b[i]));
    size = std::max(size, std::abs(b[i]));
  }
  return size == 0 ? most : most / size;
}

}  // namespace paired
