// The contrastive losses' kernels on CUDA are the CPU's: statistics of tiles, merged one after the other, gradients, totals.
#include <yoke/cpu/logits.hpp>
#include <yoke/cpu/sigmoid_logits.hpp>
#include <yoke/cuda/logits.cuh>
#include <yoke/cuda/sigmoid_logits.cuh>

#include "cuda/twins.hpp"
#include <limits>

using namespace twins;

namespace {

/// Of sums of exponentials whose arguments are differences of logits up to some hundreds.
template <class A>
constexpr double close = std::is_same_v<A, double> ? 1e-12 : 4e-5;

template <class A>
void relatively_same(tensor<A, 1> const& device, tensor<A, 1> const& host) {
  REQUIRE(device.shape == host.shape);
  for (extent_t i = 0; i < host.shape[0]; ++i) {
    auto const allowed = close<A> * std::abs(host[i]) + 1e-30;
    if (!(std::abs(device[i] - host[i]) <= allowed)) {
      INFO("element " << i << ": the device has " << device[i] << ", the CPU " << host[i]);
      REQUIRE(false);
    }
  }
  SUCCEED();
}

/// What is not a number is far from everything.
double difference(double a, double b) {
  return is_nan(a) || is_nan(b) ? 1e300 : std::abs(a - b);
}

/// A matrix of products and what is known of its logits.
template <class A>
struct problem {
  tensor<A, 2> products;
  tensor<A, 1> row_maximum, row_sum, column_maximum, column_sum, pair;

  problem(extent_t rows, extent_t columns, std::uint64_t seed, double deviation)
      : products{shape{rows, columns}, seed, deviation},
        row_maximum{shape{rows}},
        row_sum{shape{rows}},
        column_maximum{shape{columns}},
        column_sum{shape{columns}},
        pair{shape{rows}} {
    for (auto* v : {&row_maximum, &column_maximum})
      std::fill(v->data.begin(), v->data.end(), std::numeric_limits<A>::lowest());
    std::fill(pair.data.begin(), pair.data.end(), A{7});  // what is outside the tile stays
  }

  /// Element (i, j) of a tile that begins at the given row and column.
  tensor<A, 2> tile(extent_t row, extent_t column, extent_t m, extent_t n) const {
    tensor<A, 2> part{shape{m, n}};
    for (extent_t i = 0; i < m; ++i)
      std::copy_n(products.data.data() + (row + i) * products.shape[1] + column, n, part.data.data() + i * n);
    return part;
  }

  void on_host(A scale, extent_t diagonal, extent_t row, extent_t column, extent_t m, extent_t n) {
    auto& c = device<A>();
    auto const part = tile(row, column, m, n);
    logit_statistics(c, scale, diagonal + row - column, part.read(), slice(row_maximum.view(), row, m),
                     slice(row_sum.view(), row, m), slice(column_maximum.view(), column, n),
                     slice(column_sum.view(), column, n), slice(pair.view(), row, m));
  }
};

/// The same statistics in the device's memory.
template <class T, class A = accumulator_t<T>>
struct resident {
  yoke::cuda::context<T>& c;
  on<A, 1> row_maximum, row_sum, column_maximum, column_sum, pair;

  resident(yoke::cuda::context<T>& card, problem<A> const& p)
      : c{card},
        row_maximum{c, p.row_maximum},
        row_sum{c, p.row_sum},
        column_maximum{c, p.column_maximum},
        column_sum{c, p.column_sum},
        pair{c, p.pair} {}

  void add(tensor<A, 2> const& tile, A scale, extent_t diagonal, extent_t row, extent_t column) {
    on<A, 2> const part{c, tile};
    auto const m = tile.shape[0], n = tile.shape[1];
    logit_statistics(c, scale, diagonal + row - column, part.read(), slice(row_maximum.view(), row, m),
                     slice(row_sum.view(), row, m), slice(column_maximum.view(), column, n),
                     slice(column_sum.view(), column, n), slice(pair.view(), row, m));
  }
  void expect(problem<A> const& p) const {
    CHECK(row_maximum.back(c).data == p.row_maximum.data);
    CHECK(column_maximum.back(c).data == p.column_maximum.data);
    CHECK(pair.back(c).data == p.pair.data);
    relatively_same(row_sum.back(c), p.row_sum);
    relatively_same(column_sum.back(c), p.column_sum);
  }
};

struct extents {
  extent_t rows, columns, diagonal;
};

/// One element, one row, one column, parts of a block, whole blocks, several, aligned and not.
constexpr extents some_extents[] = {
    {1, 1, 0},      {1, 1, 1},        {1, 5, 3},      {1, 700, 699},      {7, 1, -6},       {300, 1, 0},
    {5, 12, 0},     {31, 33, 2},      {64, 256, 0},   {65, 257, -3},      {64, 260, 200},   {130, 516, -129},
    {129, 513, 37}, {200, 600, -500}, {70, 300, 400}, {256, 1024, 10000}, {3, 2048, -10000}};

template <class A>
std::vector<A> bits_of(tensor<A, 1> const& a, tensor<A, 1> const& b) {
  auto all = a.data;
  all.insert(all.end(), b.data.begin(), b.data.end());
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("statistics of a tile of logits", "[cuda]", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const e = GENERATE(from_range(std::begin(some_extents), std::end(some_extents)));
  CAPTURE(e.rows, e.columns, e.diagonal);
  problem<A> p{e.rows, e.columns, 11, 1};
  resident<TestType> there{card<TestType>(), p};
  there.add(p.products, A{14}, e.diagonal, 0, 0);
  p.on_host(A{14}, e.diagonal, 0, 0, e.rows, e.columns);
  there.expect(p);
}

TEMPLATE_TEST_CASE("statistics of a matrix of logits, tile by tile", "[cuda]", double, float) {
  auto const tile_rows = GENERATE(extent_t{1}, extent_t{16}, extent_t{90});
  auto const tile_columns = GENERATE(extent_t{13}, extent_t{64}, extent_t{301});
  auto const scale = GENERATE(TestType{20}, TestType{-3}, TestType{0});
  CAPTURE(tile_rows, tile_columns, scale);
  problem<TestType> p{90, 301, 5, 1};
  resident<TestType> there{card<TestType>(), p};
  for (extent_t j = 0; j < 301; j += tile_columns)
    for (extent_t i = 0; i < 90; i += tile_rows) {
      auto const m = std::min(tile_rows, 90 - i), n = std::min(tile_columns, 301 - j);
      there.add(p.tile(i, j, m, n), scale, 33, i, j);
      p.on_host(scale, 33, i, j, m, n);
    }
  there.expect(p);
}

TEMPLATE_TEST_CASE("logits beyond what an exponential holds", "[cuda]", double, float) {
  using A = TestType;
  problem<A> p{100, 270, 3, 2500};
  for (auto& v : p.products.data) v = std::round(v);  // exact, and so are their multiples by 4
  resident<A> there{card<A>(), p};
  there.add(p.products, A{4}, 0, 0, 0);
  p.on_host(A{4}, 0, 0, 0, 100, 270);
  there.expect(p);
  for (auto s : there.row_sum.back(there.c).data) CHECK(s >= 1);
}

TEMPLATE_TEST_CASE("statistics of nothing, and of minus infinity, are numbers", "[cuda]", double, float) {
  using A = TestType;
  constexpr auto lowest = std::numeric_limits<A>::lowest(), infinity = std::numeric_limits<A>::infinity();
  auto& c = card<A>();
  problem<A> p{3, 5, 3, 0};
  for (extent_t i = 0; i < 3; ++i)
    for (extent_t j = 0; j < 5; ++j)
      p.products.data[at(i * 5 + j)] = i == 1 || j == 2 ? -infinity : static_cast<A>(i);
  resident<A> there{c, p};
  there.add(p.products, A{1}, 0, 0, 0);
  CHECK(there.row_maximum.back(c).data == std::vector<A>{0, lowest, 2});
  CHECK(there.row_sum.back(c).data == std::vector<A>{4, 0, 4});
  CHECK(there.column_maximum.back(c).data == std::vector<A>{2, 2, lowest, 2, 2});
  for (auto s : there.column_sum.back(c).data) CHECK(!is_nan(static_cast<double>(s)));
  CHECK(there.column_sum.back(c).data[2] == 0);

  SECTION("merged with logits that come later") {
    for (auto& v : p.products.data) v = -5;
    there.add(p.products, A{1}, 0, 0, 0);
    CHECK(there.row_maximum.back(c).data == std::vector<A>{0, -5, 2});
    CHECK(there.row_sum.back(c).data[1] == 5);
    CHECK(there.column_sum.back(c).data[2] == 3);
  }
  SECTION("a tile without rows or columns changes nothing") {
    auto const before = bits_of(there.row_sum.back(c), there.column_sum.back(c));
    view<A, 1> const none{};
    logit_statistics(c, A{1}, 0, view<A const, 2>{nullptr, {{3, 0}}}, there.row_maximum.view(),
                     there.row_sum.view(), none, none, there.pair.view());
    logit_statistics(c, A{1}, 0, view<A const, 2>{nullptr, {{0, 5}}}, none, none, there.column_maximum.view(),
                     there.column_sum.view(), none);
    CHECK(before == bits_of(there.row_sum.back(c), there.column_sum.back(c)));
  }
  SECTION("what is not a number is seen") {
    p.products.data[at(7)] = std::numeric_limits<A>::quiet_NaN();  // row 1, column 2
    there.add(p.products, A{1}, 0, 0, 0);
    CHECK(is_nan(static_cast<double>(there.row_sum.back(c).data[1])));
    CHECK(is_nan(static_cast<double>(there.column_sum.back(c).data[2])));
    CHECK_FALSE(is_nan(static_cast<double>(there.row_sum.back(c).data[0])));
  }
}

TEMPLATE_TEST_CASE("references of sums change, logarithms are taken", "[cuda]", double, float) {
  using A = TestType;
  auto& c = card<A>();
  extent_t const n = GENERATE(1, 77, 1030);
  tensor<A, 1> maximum{shape{n}, 1, 50}, larger{shape{n}, 2, 50}, sum{shape{n}, 3};
  for (extent_t i = 0; i < n; ++i) {
    larger.data[at(i)] = std::max(maximum.data[at(i)], larger.data[at(i)]);
    sum.data[at(i)] = 1 + std::abs(sum.data[at(i)]);
  }
  maximum.data[0] = std::numeric_limits<A>::lowest();
  sum.data[0] = 0;
  auto host = sum;
  on<A, 1> const there{c, sum}, from{c, maximum}, to{c, larger};
  rescale_sums(c, from.read(), to.read(), there.view());
  rescale_sums(device<A>(), maximum.read(), larger.read(), host.view());
  relatively_same(there.back(c), host);

  on<A, 1> const whole{c, sum};
  log_sum_exp(c, to.read(), whole.view());
  log_sum_exp(device<A>(), larger.read(), sum.view());
  auto found = whole.back(c);
  CHECK(is_infinite(found[0]));  // the logarithm of nothing
  CHECK(found[0] < 0);
  found.data[0] = sum.data[0] = 0;
  same(found, sum);
}

TEMPLATE_TEST_CASE("a tile of products becomes the gradient", "[cuda]", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const e = GENERATE(from_range(std::begin(some_extents), std::end(some_extents)));
  auto const how = GENERATE(store::overwrite, store::accumulate);
  auto const size = GENERATE(1.0, 2500.0);
  CAPTURE(e.rows, e.columns, e.diagonal, size);
  problem<A> p{e.rows, e.columns, 17, size};
  for (auto& v : p.products.data) v = std::round(16 * v) / 16;
  auto const scale = A{4}, weight = A{0.125};
  p.on_host(scale, e.diagonal, 0, 0, e.rows, e.columns);
  log_sum_exp(device<A>(), view<A const, 1>{p.row_maximum.read()}, p.row_sum.view());
  log_sum_exp(device<A>(), view<A const, 1>{p.column_maximum.read()}, p.column_sum.view());

  tensor<double, 1> total{shape{e.rows}, 23}, unused{shape{e.rows}};
  on<A, 2> const tile{c, p.products};
  on<A, 1> const row{c, p.row_sum}, column{c, p.column_sum};
  on<double, 1> const there{c, total};
  logit_gradient(c, scale, e.diagonal, weight, row.read(), column.read(), tile.view(), there.view(), how);
  auto host = p.products;
  logit_gradient(device<A>(), scale, e.diagonal, weight, p.row_sum.read(), p.column_sum.read(), host.view(),
                 unused.view(), how);

  auto const error = (std::is_same_v<A, double> ? 2e-14 : 1e-5) * size;  // of an exponential
  auto const back = tile.back(c);
  double most = 0;
  for (extent_t i = 0; i < host.shape.size(); ++i) most = std::max(most, difference(back[i], host[i]));
  CHECK(most <= error * static_cast<double>(scale * weight));

  auto const totals = there.back(c);
  most = 0;
  for (extent_t i = 0; i < e.rows; ++i) {
    double sum = 0;
    for (extent_t j = 0; j < e.columns; ++j) {
      auto const x = p.products(i, j), v = static_cast<double>(scale) * x;
      sum += (std::exp(v - p.row_sum[i]) + std::exp(v - p.column_sum[j]) - (j == i + e.diagonal ? 2 : 0)) * x;
    }
    most = std::max(most, difference(totals[i], stored(how, total[i], static_cast<double>(weight) * sum)));
  }
  auto const terms = 4 + static_cast<double>(e.columns) / static_cast<double>(e.rows);  // of weight 1
  CHECK(most <= error * terms * size * static_cast<double>(weight));
}

TEMPLATE_TEST_CASE("a tile of products becomes the sigmoid loss's gradient", "[cuda]", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const e = GENERATE(from_range(std::begin(some_extents), std::end(some_extents)));
  auto const how = GENERATE(store::overwrite, store::accumulate);
  auto const size = GENERATE(1.0, 2500.0);
  CAPTURE(e.rows, e.columns, e.diagonal, size);
  problem<A> p{e.rows, e.columns, 19, size};
  auto const scale = A{4}, bias = A{-10}, weight = A{0.125};
  tensor<double, 1> totals{shape{extent_t{3}}, 23};
  on<A, 2> const tile{c, p.products};
  on<double, 1> const there{c, totals};
  auto const run = [&](on<A, 2> const& products, on<double, 1> const& sums) {
    sigmoid_logits(c, scale, bias, e.diagonal, weight, products.view(), sums.view(), how);
  };
  run(tile, there);
  auto host = p.products;
  sigmoid_logits(device<A>(), scale, bias, e.diagonal, weight, host.view(), totals.view(), how);

  auto const exactly = std::is_same_v<A, double> ? 2e-14 : 1e-5;  // of a logit
  auto const back = tile.back(c);
  double most = 0;
  for (extent_t i = 0; i < host.shape.size(); ++i) most = std::max(most, difference(back[i], host[i]));
  CHECK(most <= exactly * size * static_cast<double>(scale * weight));
  auto const found = there.back(c);
  auto const elements = static_cast<double>(host.shape.size());
  for (extent_t q = 0; q < 3; ++q) {
    INFO(q << ": " << found[q] << ", on the CPU " << totals[q]);
    CHECK(difference(found[q], totals[q]) <= exactly * elements * size * static_cast<double>(scale));
  }

  on<A, 2> const other{c, p.products};
  on<double, 1> const others{c, tensor<double, 1>{shape{extent_t{3}}, 23}};
  run(other, others);
  CHECK(same_bits(other.back(c).data, back.data));
  CHECK(same_bits(others.back(c).data, found.data));
}

TEST_CASE("a tile that is not aligned gives the same", "[cuda]") {
  auto& c = card<float>();
  problem<float> p{70, 260, 2, 1};
  tensor<float, 1> moved{shape{extent_t{70 * 260 + 1}}};
  std::copy(p.products.data.begin(), p.products.data.end(), moved.data.begin() + 1);
  on<float, 1> const there{c, moved};
  view<float, 2> const tile{there.view().data + 1, {{70, 260}}};
  resident<float> found{c, p};
  logit_statistics(c, 9.0f, 5, view<float const, 2>{tile}, found.row_maximum.view(), found.row_sum.view(),
                   found.column_maximum.view(), found.column_sum.view(), found.pair.view());
  p.on_host(9, 5, 0, 0, 70, 260);
  found.expect(p);

  tensor<float, 1> const row{shape{extent_t{70}}, 1}, column{shape{extent_t{260}}, 1};
  on<float, 1> const rows{c, row}, columns{c, column};
  tensor<double, 1> total{shape{extent_t{70}}};
  on<double, 1> const totals{c, total};
  logit_gradient(c, 1.0f, 5, 1.0f, rows.read(), columns.read(), tile, totals.view(), store::overwrite);
  logit_gradient(device<float>(), 1.0f, 5, 1.0f, row.read(), column.read(), p.products.view(), total.view(),
                 store::overwrite);
  auto const back = there.back(c);
  CHECK(back.data[0] == 0);
  tensor<float, 2> gradient{p.products.shape};
  std::copy(back.data.begin() + 1, back.data.end(), gradient.data.begin());
  same(gradient, p.products, 100);
  auto const found_totals = totals.back(c);
  for (extent_t i = 0; i < 70; ++i)
    CHECK(std::abs(found_totals[i] - total[i]) <= 1e-5 * (1 + std::abs(total[i])));
}

TEMPLATE_TEST_CASE("the same tile gives the same bits", "[cuda]", double, float) {
  using A = TestType;
  auto& c = card<A>();
  problem<A> p{150, 700, 8, 3};
  auto const run = [&] {
    resident<A> there{c, p};
    there.add(p.products, A{5}, 3, 0, 0);
    log_sum_exp(c, there.row_maximum.read(), there.row_sum.view());
    log_sum_exp(c, there.column_maximum.read(), there.column_sum.view());
    on<A, 2> const tile{c, p.products};
    on<double, 1> const total{c, tensor<double, 1>{shape{extent_t{150}}}};
    logit_gradient(c, A{5}, 3, A{1}, there.row_sum.read(), there.column_sum.read(), tile.view(), total.view(),
                   store::overwrite);
    auto const sums = bits_of(there.row_sum.back(c), there.column_sum.back(c));
    auto const totals = total.back(c).data;
    std::vector<double> all(sums.begin(), sums.end());
    all.insert(all.end(), totals.begin(), totals.end());
    for (auto v : tile.back(c).data) all.push_back(static_cast<double>(v));
    return all;
  };
  CHECK(same_bits(run(), run()));
}

TEMPLATE_TEST_CASE("totals that the host reads", "[cuda]", double, float) {
  using A = TestType;
  auto& c = card<A>();
  extent_t const n = GENERATE(0, 1, 5, 1024, 1025, 70'000);
  tensor<A, 1> maximum{shape{n}, 1, 9}, row{shape{n}, 2, 9}, column{shape{n}, 3, 9}, pair{shape{n}, 4, 9};
  for (extent_t i = 0; i < n; i += 3) pair.data[at(i)] = maximum.data[at(i)];
  tensor<double, 1> const total{shape{n}, 5};
  on<A, 1> const m{c, maximum}, r{c, row}, k{c, column}, p{c, pair};
  on<double, 1> const t{c, total};
  auto const found = logit_totals(c, m.read(), r.read(), k.read(), p.read(), t.read());
  auto const expected =
      logit_totals(device<A>(), maximum.read(), row.read(), column.read(), pair.read(), total.read());
  CHECK(std::abs(found[0] - expected[0]) <= 1e-12 * 40 * static_cast<double>(n));
  CHECK(found[1] == expected[1]);
  CHECK(std::abs(found[2] - expected[2]) <= 1e-12 * static_cast<double>(n));
}
