// Embeddings, patches, first tokens, pooling: against plain loops, over packed segments.
#include <yoke/cpu/tokens.hpp>

#include "checks.hpp"

using namespace checks;
using yoke::pool_kind;

namespace {

struct captions {
  packed lengths;
  std::vector<std::int32_t> ids;
  extent_t vocabulary = 11;

  explicit captions(std::vector<extent_t> const& n) : lengths{n} {
    yoke::random_sequence draw{1};
    for (extent_t i = 0; i < lengths.segments().rows; ++i)
      ids.push_back(static_cast<std::int32_t>(draw.below(static_cast<std::uint64_t>(vocabulary))));
  }
  view<std::int32_t const, 1> read() const { return {ids.data(), {{static_cast<extent_t>(ids.size())}}}; }
  /// The place of each row in its segment.
  std::vector<extent_t> places() const {
    std::vector<extent_t> p;
    auto const s = lengths.segments();
    for (extent_t i = 0; i < s.count; ++i)
      for (extent_t j = 0; j < s.length(i); ++j) p.push_back(j);
    return p;
  }
};

std::vector<std::vector<extent_t>> const uneven{
    {}, {1}, {3, 1, 7}, {0, 4, 0, 2}, std::vector<extent_t>(60, 13)};

}  // namespace

TEMPLATE_TEST_CASE("embed_tokens", "", double, float, bf16) {
  captions const c{GENERATE(from_range(uneven))};
  auto const width = GENERATE(as<extent_t>{}, 1, 16, 45, 200);
  auto const s = c.lengths.segments();
  auto const where = c.places();
  tensor<TestType, 2> const table{{{c.vocabulary, width}}, 1}, positions{{{14, width}}, 2},
      none{{{0, width}}};
  for (auto const* p : {&positions, &none}) {
    tensor<TestType, 2> y{{{s.rows, width}}};
    embed_tokens(device<TestType>(), s, c.read(), table.read(), p->read(), y.view());
    std::vector<double> e;
    for (extent_t r = 0; r < s.rows; ++r)
      for (extent_t j = 0; j < width; ++j)
        e.push_back(table(c.ids[at(r)], j) + (p == &none ? 0 : positions(where[at(r)], j)));
    near(y, e);
  }
}

TEMPLATE_TEST_CASE("embed_tokens wants ids of the vocabulary", "", double, float, bf16) {
  tensor<TestType, 2> const table{{{4, 8}}, 1}, none{{{0, 8}}};
  for (std::int32_t wrong : {-1, 4}) {
    std::vector<std::int32_t> const ids{0, 3, wrong};
    tensor<TestType, 2> y{{{3, 8}}};
    CHECK_THROWS_AS(embed_tokens(device<TestType>(), yoke::segments::uniform(1, 3), {ids.data(), {{3}}},
                                 table.read(), none.read(), y.view()),
                    yoke::precondition_error);
  }
}

TEMPLATE_TEST_CASE("embed_tokens_backward", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  captions const c{GENERATE(from_range(uneven))};
  auto const width = GENERATE(as<extent_t>{}, 1, 45, 200);
  auto const s = c.lengths.segments();
  auto const where = c.places();
  tensor<TestType, 2> const dy{{{s.rows, width}}, 1};
  tensor<A, 2> const table{{{c.vocabulary, width}}, 2}, positions{{{14, width}}, 3}, none{{{0, width}}};
  for (auto const* p : {&positions, &none}) {
    auto dtable = table, dpositions = *p;
    embed_tokens_backward(device<TestType>(), s, c.read(), dy.read(), dtable.view(), dpositions.view());
    auto et = table.doubles(), ep = p->doubles();
    for (extent_t r = 0; r < s.rows; ++r)
      for (extent_t j = 0; j < width; ++j) {
        et[at(c.ids[at(r)] * width + j)] += dy(r, j);
        if (p != &none)
          ep[at(where[at(r)] * width + j)] += dy(r, j);
      }
    near(dtable, et, 50);
    near(dpositions, ep, 50);
  }
  same_with_any_threads([&] {
    auto dtable = table, dpositions = positions;
    embed_tokens_backward(device<TestType>(), s, c.read(), dy.read(), dtable.view(), dpositions.view());
    dtable.data.insert(dtable.data.end(), dpositions.data.begin(), dpositions.data.end());
    return dtable.data;
  });
}

TEMPLATE_TEST_CASE("extract_patches and its adjoint", "", double, float, bf16) {
  auto const batch = GENERATE(as<extent_t>{}, 0, 1, 5), size = GENERATE(as<extent_t>{}, 1, 4, 7),
             channels = GENERATE(as<extent_t>{}, 1, 3);
  auto const down = 3 * size, across = 2 * size;
  tensor<TestType, 4> const images{{{batch, down, across, channels}}, 1};
  tensor<TestType, 2> rows{{{batch * 6, size * size * channels}}};
  extract_patches(device<TestType>(), size, images.read(), rows.view());
  auto const place = [&](extent_t n, extent_t y, extent_t x, extent_t k) {
    auto const row = n * 6 + y / size * 2 + x / size;
    return row * size * size * channels + (y % size * size + x % size) * channels + k;
  };
  auto const each_pixel = [&](auto const& f) {
    extent_t i = 0;
    for (extent_t n = 0; n < batch; ++n)
      for (extent_t y = 0; y < down; ++y)
        for (extent_t x = 0; x < across; ++x)
          for (extent_t k = 0; k < channels; ++k) f(i++, place(n, y, x, k));
  };
  std::vector<double> e(rows.data.size());
  each_pixel([&](extent_t i, extent_t to) { e[at(to)] = images[i]; });
  near(rows, e, 0);
  for (auto how : {store::overwrite, store::accumulate}) {
    tensor<TestType, 4> const before{images.shape, 2};
    auto back = before;
    fold_patches(device<TestType>(), size, rows.read(), back.view(), how);
    std::vector<double> f(back.data.size());
    each_pixel([&](extent_t i, extent_t from) { f[at(i)] = stored(how, before[i], rows[from]); });
    near(back, f);
  }
}

TEMPLATE_TEST_CASE("assemble_tokens with and without a first token, and its gradient", "", double, float,
                   bf16) {
  using A = accumulator_t<TestType>;
  auto const batch = GENERATE(as<extent_t>{}, 0, 1, 6), width = GENERATE(as<extent_t>{}, 3, 64),
             extra = GENERATE(as<extent_t>{}, 0, 1);
  extent_t const patches = 9, tokens = patches + extra;
  tensor<TestType, 2> const x{{{batch * patches, width}}, 1}, positions{{{tokens, width}}, 2};
  tensor<A, 1> const first{{{extra * width}}, 3};
  tensor<TestType, 2> y{{{batch * tokens, width}}};
  assemble_tokens(device<TestType>(), batch, x.read(), first.read(), positions.read(), y.view());
  std::vector<double> e;
  for (extent_t n = 0; n < batch; ++n)
    for (extent_t i = 0; i < tokens; ++i)
      for (extent_t j = 0; j < width; ++j)
        e.push_back((i < extra ? first[j] : x(n * patches + i - extra, j)) + positions(i, j));
  near(y, e);

  tensor<TestType, 2> const dy{y.shape, 4}, dx_before{x.shape, 5};
  tensor<A, 1> const first_before{{{extra * width}}, 6};
  tensor<A, 2> const positions_before{positions.shape, 7};
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) {
      auto dx = dx_before;
      auto dfirst = first_before;
      auto dpositions = positions_before;
      assemble_tokens_backward(
          device<TestType>(), batch, dy.read(), wanted & 1 ? dx.view() : view<TestType, 2>{}, how,
          wanted & 2 ? dfirst.view() : view<A, 1>{}, wanted & 4 ? dpositions.view() : view<A, 2>{});
      auto ex = dx_before.doubles(), ef = first_before.doubles(), ep = positions_before.doubles();
      for (extent_t n = 0; n < batch; ++n)
        for (extent_t i = 0; i < tokens; ++i)
          for (extent_t j = 0; j < width; ++j) {
            auto const g = dy(n * tokens + i, j);
            if (i >= extra && (wanted & 1)) {
              auto const k = (n * patches + i - extra) * width + j;
              ex[at(k)] = stored(how, dx_before[k], g);
            }
            if (i < extra && (wanted & 2))
              ef[at(j)] += g;
            if (wanted & 4)
              ep[at(i * width + j)] += g;
          }
      near(dx, ex);
      near(dfirst, ef, 10);
      near(dpositions, ep, 10);
    }
}

TEMPLATE_TEST_CASE("pooling and its gradient", "", double, float, bf16) {
  auto const kind = GENERATE(pool_kind::mean, pool_kind::first, pool_kind::last, pool_kind::mean_rest);
  auto const width = GENERATE(as<extent_t>{}, 1, 20, 300);
  packed const lengths{
      GENERATE(std::vector<extent_t>{}, std::vector<extent_t>{2, 5, 3}, std::vector<extent_t>(40, 17))};
  auto const s = lengths.segments();
  tensor<TestType, 2> const x{{{s.rows, width}}, 1}, dy{{{s.count, width}}, 2}, before{{{s.rows, width}}, 3};
  std::vector<double> e(at(s.count * width)), weight(at(s.rows));
  for (extent_t i = 0; i < s.count; ++i) {
    auto const n = s.length(i);
    for (extent_t k = 0; k < n; ++k) {
      auto& w = weight[at(s.begin(i) + k)];
      switch (kind) {
        case pool_kind::mean:
          w = 1 / static_cast<double>(n);
          break;
        case pool_kind::first:
          w = k == 0;
          break;
        case pool_kind::last:
          w = k == n - 1;
          break;
        case pool_kind::mean_rest:
          w = k == 0 ? 0 : 1 / static_cast<double>(n - 1);
          break;
      }
      for (extent_t j = 0; j < width; ++j) e[at(i * width + j)] += w * x(s.begin(i) + k, j);
    }
  }
  tensor<TestType, 2> y{{{s.count, width}}};
  pool_forward(device<TestType>(), kind, s, x.read(), y.view());
  near(y, e, 2);
  for (auto how : {store::overwrite, store::accumulate}) {
    auto dx = before;
    pool_backward(device<TestType>(), kind, s, dy.read(), dx.view(), how);
    std::vector<double> f;
    for (extent_t i = 0; i < s.count; ++i)
      for (auto r = s.begin(i); r < s.end(i); ++r)
        for (extent_t j = 0; j < width; ++j) f.push_back(stored(how, before(r, j), weight[at(r)] * dy(i, j)));
    near(dx, f);
  }
}

TEST_CASE("the mean of all rows but the first, of a segment of one row, is 0") {
  tensor<float, 2> const x{{{1, 20}}, 1};
  tensor<float, 2> y{{{1, 20}}, 2};
  pool_forward(device<float>(), pool_kind::mean_rest, yoke::segments::uniform(1, 1), x.read(), y.view());
  near(y, std::vector<double>(20, 0.0), 0);
}
