// What the tests of the card's communicators share.
#pragma once
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cuda/logits.cuh>
#include <yoke/cuda/matmul.cuh>
#include <yoke/cuda/pointwise.cuh>
#include <yoke/parallel/solo.hpp>

#include "parallel/collectives.hpp"
#include <catch2/catch_all.hpp>
#include <cmath>

namespace ranks {

using namespace yoke;
using collectives::failures;

inline cuda::context<float> small_context() {
  return cuda::context<float>{mebibytes(1), mebibytes(1), {.library_memory = mebibytes(1)}};
}

/// Tensors in device memory, for collectives::hold.
class on_card {
 public:
  explicit on_card(cuda::context<float>& c) : context_{&c} {}

  template <class T>
  class tensor {
   public:
    tensor(cuda::context<float>& c, std::vector<T> values)
        : context_{&c}, copy_{c, static_cast<extent_t>(values.size())} {
      upload(c, yoke::view<T const, 1>{collectives::flat(values)}, copy_.view());
    }
    yoke::view<T, 1> view() { return copy_.view(); }
    std::vector<T> back() const {
      std::vector<T> values(static_cast<std::size_t>(copy_.view().size()));
      context_->wait();
      download(*context_, yoke::view<T const, 1>{copy_.view()}, collectives::flat(values));
      return values;
    }

   private:
    cuda::context<float>* context_;
    cuda::buffer<T> copy_;
  };
  template <class T>
  tensor<T> operator()(std::vector<T> values) const {
    return {*context_, std::move(values)};
  }

 private:
  cuda::context<float>* context_;
};

/// bf16 and integers are gathered, broadcast and exchanged.
template <class T, class C>
void copies_hold_for(cuda::context<float>& context, C& c, T (*value)(int), failures& wrong) {
  on_card const card{context};
  auto mine = card(std::vector<T>(3, value(c.rank())));
  auto all = card(std::vector<T>(3 * static_cast<std::size_t>(c.size())));
  all_gather(c, view<T const, 1>{mine.view()}, view<T, 2>{all.view().data, {{c.size(), 3}}});
  auto const gathered = all.back();
  for (std::size_t i = 0; i < gathered.size(); ++i)
    wrong.unless(gathered[i] == value(static_cast<int>(i / 3)), "all_gather of what is only copied");
  auto arrived = card(std::vector<T>(3));
  exchange(c, (c.rank() + 1) % c.size(), mine.view(), (c.rank() + c.size() - 1) % c.size(), arrived.view());
  wrong.unless(arrived.back() == std::vector<T>(3, value((c.rank() + c.size() - 1) % c.size())), "exchange");
  broadcast(c, mine.view(), c.size() - 1);
  wrong.unless(mine.back() == std::vector<T>(3, value(c.size() - 1)), "broadcast");
}

template <class C>
void copies_hold(cuda::context<float>& context, C& c, failures& wrong) {
  copies_hold_for<std::int32_t>(
      context, c, [](int r) { return std::int32_t{7 + r}; }, wrong);
  copies_hold_for<std::uint16_t>(
      context, c, [](int r) { return static_cast<std::uint16_t>(0x3f80 + r); }, wrong);
  std::vector<bf16> host(2, bf16(static_cast<float>(c.rank())));
  broadcast(c, collectives::flat(host), 0);
  wrong.unless(static_cast<float>(host[1]) == 0, "broadcast of bf16");
}

/// Collectives that follow each other without a wait see each other's results, and what the stream did before.
template <class C>
void order_holds(cuda::context<float>& context, C& c, failures& wrong) {
  auto const n = extent_t{1000};
  cuda::buffer<float> a{context, n}, b{context, n * c.size()};
  for (int round = 0; round < 5; ++round) {
    std::vector<float> const values(static_cast<std::size_t>(n), static_cast<float>(round + 1));
    upload(context, view<float const, 1>{values.data(), {{n}}}, a.view());
    all_reduce(c, a.view());
    all_gather(c, a.view(), b.view());
    reduce_scatter(c, b.view(), a.view());
    all_reduce(c, a.view(), parallel::reduction::maximum);
  }
  std::vector<float> back(static_cast<std::size_t>(n));
  context.wait();
  download(context, view<float const, 1>{a.view()}, collectives::flat(back));
  auto const size = static_cast<float>(c.size());
  wrong.unless(back == std::vector<float>(back.size(), 5 * size * size), "collectives in a row");
}

/// The loss of all ranks' pairs together, and the gradients of each rank's, are those of one rank that has all pairs.
template <class C>
void loss_holds(cuda::context<float>& context, C& c, failures& wrong) {
  constexpr extent_t rows = 6, width = 5;
  auto const all = rows * c.size(), first = rows * c.rank();
  std::vector<float> image(static_cast<std::size_t>(all * width)), text = image;
  for (std::size_t i = 0; i < image.size(); ++i) {
    image[i] = std::sin(static_cast<float>(3 * i));
    text[i] = image[i] / 2 + std::cos(static_cast<float>(7 * i));
  }
  on_card const card{context};
  auto x = card(image), y = card(text);
  auto dx = card(image), dy = card(text), my_dx = card(image), my_dy = card(text);
  auto const matrix = [](auto& tensor, extent_t from, extent_t count) {
    return slice(view<float, 2>{tensor.view().data, {{tensor.view().size() / width, width}}}, from, count);
  };
  auto const loss = [&](auto& ranks, auto& d_image, auto& d_text, extent_t from, extent_t count, auto how) {
    using reads = view<float const, 2>;
    return contrastive::info_nce(context, ranks, reads{matrix(x, from, count)}, reads{matrix(y, from, count)},
                                 3.0f, matrix(d_image, from, count), matrix(d_text, from, count),
                                 {.exchange = how});
  };
  parallel::solo alone;
  auto const one = loss(alone, dx, dy, 0, all, contrastive::text_exchange::gather);
  auto const near = [](double a, double b) { return std::abs(a - b) < 1e-5; };
  for (auto const how : {contrastive::text_exchange::gather, contrastive::text_exchange::ring}) {
    auto const several = loss(c, my_dx, my_dy, first, rows, how);
    wrong.unless(near(several.loss, one.loss) && near(several.accuracy, one.accuracy), "the loss");
    for (auto const& [mine, theirs] :
         {std::pair{my_dx.back(), dx.back()}, std::pair{my_dy.back(), dy.back()}})
      for (auto i = static_cast<std::size_t>(first * width);
           i < static_cast<std::size_t>((first + rows) * width); ++i)
        wrong.unless(near(mine[i], theirs[i]), "a gradient of the loss");
  }
}

}  // namespace ranks
