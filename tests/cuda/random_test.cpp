// Random numbers of the card: the CPU's, bit by bit, and so the same elements are dropped.
#include <yoke/cpu/random.hpp>
#include <yoke/cuda/random.cuh>

#include "cuda/twins.hpp"

using namespace twins;

namespace yoke::cuda::detail {

template <class Word>
static __global__ void draw_kernel(draws random, std::uint64_t const* sample, std::uint64_t const* quad,
                                   int count, Word* words) {
  int const i = static_cast<int>(threadIdx.x);
  if (i < count) {
    auto const four = random.draw(sample[i], quad[i]);
    for (int k = 0; k < 4; ++k) words[4 * i + k] = four.at[k];
  }
}

}  // namespace yoke::cuda::detail

namespace {

/// Where values are 0: what was dropped of numbers that are not 0.
template <class T>
std::vector<bool> zeros(tensor<T, 2> const& y) {
  std::vector<bool> z;
  for (extent_t i = 0; i < y.shape.size(); ++i) z.push_back(y[i] == 0);
  return z;
}

}  // namespace

TEST_CASE("the card draws the words that random_key draws, beyond 32 bits of each coordinate") {
  auto& c = card<float>();
  tensor<std::uint64_t, 1> sample{{{30}}}, quad{{{30}}};
  for (std::size_t i = 0; i < 30; ++i) {
    sample.data[i] = i % 3 * 0x80000001u;
    quad.data[i] = i < 10 ? i : i < 20 ? 0xfffffffbu + i : yoke::mix(i);
  }
  tensor<std::uint32_t, 1> expected{{{120}}};
  on const d_sample{c, sample}, d_quad{c, quad};
  on const words{c, expected};
  for (yoke::random_key const key :
       {yoke::random_key{}, yoke::random_key{.seed = 7, .step = 3, .first_sample = 12},
        yoke::random_key{.seed = yoke::mix(1), .step = std::uint64_t{1} << 40, .first_sample = 0xfffffffffu}})
    for (std::uint64_t const stream : {std::uint64_t{0}, yoke::hash("image.block.3")}) {
      for (std::size_t i = 0; i < 30; ++i) {
        auto const four = key.draw(stream, sample.data[i], quad.data[i]);
        std::copy(four.begin(), four.end(), expected.data.begin() + static_cast<std::ptrdiff_t>(4 * i));
      }
      yoke::cuda::detail::launch(c, dim3(1), 32, 0, yoke::cuda::detail::draw_kernel<std::uint32_t>,
                                 yoke::cuda::detail::on_device(key, stream), d_sample.read().data,
                                 d_quad.read().data, 30, words.view().data);
      CHECK(words.back(c).data == expected.data);
    }
}

TEMPLATE_TEST_CASE("dropout on the card drops what the CPU drops", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const width = GENERATE(as<extent_t>{}, 1, 3, 4, 16, 50, 301, 1200),
             offset = GENERATE(as<extent_t>{}, 0, 1);
  auto const rate = GENERATE(0.0f, 0.1f, 0.75f);
  packed const lengths{{2, 0, 9, 1, 30}};
  packed_on const there{c, lengths};
  auto const s = lengths.segments();
  yoke::random_key const key{.seed = 7, .step = 3, .first_sample = 0xfffffffeu};
  tensor<TestType, 2> const x{{{s.rows, width}}, 1}, before{{{s.rows, width}}, 2};
  on const d_x{c, x, offset};
  for (auto how : {store::overwrite, store::accumulate}) {
    auto y = before;
    on const d_y{c, y, offset};
    dropout(c, key, 5, rate, there.segments(), d_x.read(), d_y.view(), how);
    dropout(device<TestType>(), key, 5, rate, s, x.read(), y.view(), how);
    auto const found = d_y.back(c);
    if (how == store::overwrite) {
      CHECK(zeros(found) == zeros(y));
      CHECK(same_bits(found.data, y.data));
    } else {
      same(found, y);
    }
  }
}

TEST_CASE("dropout of a micro-batch on the card is that of the whole batch") {
  auto& c = card<bf16>();
  packed const lengths{{2, 7, 1, 30, 4}};
  packed_on const there{c, lengths};
  auto const part = there.segments().slice(2, 2);
  tensor<bf16, 2> const x{{{44, 24}}, 1};
  on const d_x{c, x}, whole{c, x};
  on const some{c, tensor<bf16, 2>{{{31, 24}}}};
  dropout(c, {.seed = 1, .step = 2, .first_sample = 40}, 9, 0.5f, there.segments(), d_x.read(), whole.view(),
          store::overwrite);
  dropout(c, {.seed = 1, .step = 2, .first_sample = 42}, 9, 0.5f, part, yoke::slice(d_x.read(), 9, 31),
          some.view(), store::overwrite);
  auto const y = whole.back(c);
  CHECK(same_bits(some.back(c).data, std::vector<bf16>(y.data.begin() + 9 * 24, y.data.begin() + 40 * 24)));
}

TEST_CASE("dropout on the card of one long segment and of many short ones") {
  auto& c = card<bf16>();
  for (auto const& s : {yoke::segments::uniform(1, 700), yoke::segments::uniform(700, 1)}) {
    tensor<bf16, 2> const x{{{700, 264}}, 1};
    tensor<bf16, 2> y{x.shape};
    on const d_x{c, x}, d_y{c, x};
    dropout(c, {.seed = 3}, 1, 0.3f, s, d_x.read(), d_y.view(), store::overwrite);
    dropout(device<bf16>(), {.seed = 3}, 1, 0.3f, s, x.read(), y.view(), store::overwrite);
    CHECK(same_bits(d_y.back(c).data, y.data));
  }
}

TEMPLATE_TEST_CASE("drop_path on the card keeps or drops the CPU's segments", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const width = GENERATE(as<extent_t>{}, 1, 21, 64), offset = GENERATE(as<extent_t>{}, 0, 1);
  packed const lengths{{2, 0, 9, 1, 30, 4, 4, 4, 4, 4, 4}};
  packed_on const there{c, lengths};
  auto const s = lengths.segments();
  yoke::random_key const key{.seed = 7, .step = 3, .first_sample = 12};
  tensor<TestType, 2> const x{{{s.rows, width}}, 1}, before{{{s.rows, width}}, 2};
  on const d_x{c, x, offset};
  for (auto how : {store::overwrite, store::accumulate}) {
    auto y = before;
    on const d_y{c, y, offset};
    drop_path(c, key, 5, 0.4f, there.segments(), d_x.read(), d_y.view(), how);
    drop_path(device<TestType>(), key, 5, 0.4f, s, x.read(), y.view(), how);
    auto const found = d_y.back(c);
    if (how == store::overwrite) {
      CHECK(zeros(found) == zeros(y));
      CHECK(same_bits(found.data, y.data));
    } else {
      same(found, y);
    }
  }
}

TEMPLATE_TEST_CASE("nothing to drop on the card", "", double, float, bf16) {
  auto& c = card<TestType>();
  on const none{c, tensor<TestType, 2>{{{0, 16}}}};
  for (auto const& s : {yoke::segments::uniform(0, 5), yoke::segments::uniform(5, 0)}) {
    dropout(c, {}, 1, 0.5f, s, none.read(), none.view(), store::overwrite);
    drop_path(c, {}, 1, 0.5f, s, none.read(), none.view(), store::overwrite);
  }
  c.wait();
}

TEMPLATE_TEST_CASE("a NaN that is dropped on the card is gone", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const s = yoke::segments::uniform(1, 40);
  tensor<TestType, 2> x{{{40, 16}}};
  std::fill(x.data.begin(), x.data.end(), static_cast<TestType>(std::nanf("")));
  on const d_x{c, x}, d_y{c, x};
  dropout(c, {.seed = 1}, 1, 0.5f, s, d_x.read(), d_y.view(), store::overwrite);
  auto const y = d_y.back(c);
  for (extent_t i = 0; i < 640; ++i) {
    auto const words = yoke::random_key{.seed = 1}.draw(1, 0, static_cast<std::uint64_t>(i / 4));
    REQUIRE(is_nan(y[i]) == (yoke::uniform(words[at(i % 4)]) >= 0.5f));
  }
}
