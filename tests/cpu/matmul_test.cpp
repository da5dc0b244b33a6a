// Matrix products against plain loops in double precision: every type, transpose, store, and odd
// shapes; strided operands; from inside a parallel region.
#include <yoke/cpu/matmul.hpp>

#include "checks.hpp"

using namespace checks;
using yoke::transpose;

namespace {

template <class X>
double element_of(tensor<X, 2> const& a, transpose t, extent_t i, extent_t j) {
  return t == transpose::yes ? a(j, i) : a(i, j);
}

template <class X, class Y>
std::vector<double> expected(transpose ta, transpose tb, tensor<X, 2> const& a, tensor<X, 2> const& b,
                             tensor<Y, 2> const& before, store how) {
  auto const m = before.shape[0], n = before.shape[1], k = a.shape[ta == transpose::yes ? 0 : 1];
  std::vector<double> d(at(m * n));
  for (extent_t i = 0; i < m; ++i)
    for (extent_t j = 0; j < n; ++j) {
      double sum = 0;
      for (extent_t l = 0; l < k; ++l) sum += element_of(a, ta, i, l) * element_of(b, tb, l, j);
      d[at(i * n + j)] = stored(how, before(i, j), sum);
    }
  return d;
}

template <class T, class X, class Y>
void check_product(extent_t m, extent_t n, extent_t k, transpose ta, transpose tb, store how) {
  INFO("m n k " << m << " " << n << " " << k << ", transposed " << int(ta) << int(tb) << ", " << int(how));
  tensor<X, 2> const a{ta == transpose::yes ? shape<2>{{k, m}} : shape<2>{{m, k}}, 1};
  tensor<X, 2> const b{tb == transpose::yes ? shape<2>{{n, k}} : shape<2>{{k, n}}, 2};
  tensor<Y, 2> const before{{{m, n}}, 3};
  auto d = before;
  gemm(device<T>(), ta, tb, a.read(), b.read(), d.view(), how);
  near(d, expected(ta, tb, a, b, before, how), 4 + std::sqrt(static_cast<double>(k)));
}

}  // namespace

TEMPLATE_TEST_CASE("gemm equals plain loops", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const m = GENERATE(as<extent_t>{}, 1, 3, 65, 128), n = GENERATE(as<extent_t>{}, 1, 7, 100),
             k = GENERATE(as<extent_t>{}, 1, 5, 129);
  for (auto ta : {transpose::no, transpose::yes})
    for (auto tb : {transpose::no, transpose::yes})
      for (auto how : {store::overwrite, store::accumulate}) {
        check_product<TestType, TestType, TestType>(m, n, k, ta, tb, how);
        check_product<TestType, TestType, A>(m, n, k, ta, tb, how);
        check_product<TestType, A, A>(m, n, k, ta, tb, how);
      }
}

TEMPLATE_TEST_CASE("gemm of nothing: no rows, no columns, or a sum of no terms", "", double, float, bf16) {
  for (auto how : {store::overwrite, store::accumulate}) {
    check_product<TestType, TestType, TestType>(0, 3, 4, transpose::no, transpose::no, how);
    check_product<TestType, TestType, TestType>(3, 0, 4, transpose::no, transpose::yes, how);
    check_product<TestType, TestType, TestType>(3, 4, 0, transpose::yes, transpose::no, how);
    check_product<TestType, TestType, TestType>(100, 40, 0, transpose::no, transpose::no, how);
  }
}

TEMPLATE_TEST_CASE("linear_forward is x w^T + bias", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 9, 70), in = GENERATE(as<extent_t>{}, 3, 96),
             out = GENERATE(as<extent_t>{}, 5, 80);
  tensor<TestType, 2> const x{{{rows, in}}, 1}, w{{{out, in}}, 2};
  tensor<A, 1> const bias{{{out}}, 3}, none{{{0}}};
  for (auto const* b : {&bias, &none}) {
    tensor<TestType, 2> y{{{rows, out}}, 4};
    linear_forward(device<TestType>(), x.read(), w.read(), b->read(), y.view());
    tensor<double, 2> start{{{rows, out}}};
    for (extent_t i = 0; i < rows * out && b->shape[0] != 0; ++i) start.data[at(i)] = (*b)[i % out];
    near(y, expected(transpose::no, transpose::yes, x, w, start, store::accumulate), 12);
  }
}

TEMPLATE_TEST_CASE("a product of parts of wider matrices leaves the rest alone", "", double, float, bf16) {
  using yoke::cpu::detail::matrix;
  // a (40, 24), b (30, 24), d (40, 30) inside matrices with rows of 90, 60 and 70.
  tensor<TestType, 2> const a{{{40, 90}}, 1}, b{{{30, 60}}, 2}, before{{{40, 70}}, 3};
  auto const how = GENERATE(store::overwrite, store::accumulate);
  auto d = before;
  yoke::cpu::detail::matmul_strided(
      device<TestType>(), matrix<TestType const>{a.data.data() + 30, 40, 24, 90},
      matrix<TestType const>{b.data.data() + 20, 30, 24, 60, true},
      matrix<TestType>{d.data.data() + 10, 40, 30, 70}, how == store::accumulate);
  auto e = before.doubles();
  for (extent_t i = 0; i < 40; ++i)
    for (extent_t j = 0; j < 30; ++j) {
      double sum = 0;
      for (extent_t l = 0; l < 24; ++l) sum += a(i, 30 + l) * b(j, 20 + l);
      e[at(i * 70 + 10 + j)] = stored(how, before(i, 10 + j), sum);
    }
  near(d, e, 10);
}

TEMPLATE_TEST_CASE("products inside a parallel region use primitives of the thread", "", float, bf16) {
  using yoke::cpu::detail::matrix;
  constexpr extent_t items = 8, n = 48;
  tensor<TestType, 3> const a{{{items, n, n}}, 1}, b{{{items, n, n}}, 2};
  tensor<TestType, 3> d{{{items, n, n}}};
  for (int repeat = 0; repeat < 2; ++repeat)
    yoke::cpu::parallel_for(items, 1, [&](extent_t first, extent_t last) {
      for (auto i = first; i < last; ++i)
        yoke::cpu::detail::matmul_strided(device<TestType>(),
                                          matrix<TestType const>{a.data.data() + i * n * n, n, n, n},
                                          matrix<TestType const>{b.data.data() + i * n * n, n, n, n},
                                          matrix<TestType>{d.data.data() + i * n * n, n, n, n}, false);
    });
  std::vector<double> e(d.data.size());
  for (extent_t i = 0; i < items * n * n; ++i)
    for (extent_t l = 0; l < n; ++l) e[at(i)] += a[i / n * n + l] * b[i / (n * n) * n * n + l * n + i % n];
  near(d, e, 12);
}

TEST_CASE("where oneDNN has no bf16, copies in float are multiplied") {
  using yoke::cpu::detail::matmul_widened, yoke::cpu::detail::matrix;
  tensor<bf16, 2> const a{{{20, 50}}, 1}, b{{{50, 40}}, 2};
  tensor<float, 1> const bias{{{30}}, 3};
  tensor<bf16, 2> const before{{{20, 30}}, 4};
  auto const how = GENERATE(store::overwrite, store::accumulate);
  auto d = before;
  yoke::cpu::detail::matmul_cache cache;
  matmul_widened(cache, matrix<bf16 const>{a.data.data(), 20, 50, 50},
                 matrix<bf16 const>{b.data.data(), 50, 30, 40}, bias.data.data(),
                 matrix<bf16>{d.data.data(), 20, 30, 30}, how == store::accumulate);
  std::vector<double> e;
  for (extent_t i = 0; i < 20; ++i)
    for (extent_t j = 0; j < 30; ++j) {
      double sum = bias[j];
      for (extent_t l = 0; l < 50; ++l) sum += a(i, l) * b(l, j);
      e.push_back(stored(how, before(i, j), sum));
    }
  near(d, e, 12);
}

TEMPLATE_TEST_CASE("numbers of rows that change with every batch, back and forth", "", float, bf16) {
  for (extent_t rows : {100, 101, 64, 100, 37, 101, 1, 99}) {
    check_product<TestType, TestType, TestType>(rows, 48, 40, transpose::no, transpose::yes,
                                                store::overwrite);
    check_product<TestType, TestType, TestType>(rows, 40, 48, transpose::no, transpose::no,
                                                store::accumulate);
    check_product<TestType, TestType, float>(48, 40, rows, transpose::yes, transpose::no, store::accumulate);
  }
}

TEMPLATE_TEST_CASE("the bits of a product do not depend on where its matrices lie", "", double, float, bf16) {
  using T = TestType;
  struct placed {  // a copy, `offset` elements behind an address that suits every vector
    std::vector<T> room;
    T* data;
    placed(std::vector<T> const& from, extent_t offset) : room(from.size() + 64 + at(offset)) {
      auto const misplaced = reinterpret_cast<std::uintptr_t>(room.data()) % 64;
      data = room.data() + (misplaced == 0 ? 0 : (64 - misplaced) / sizeof(T)) + offset;
      std::copy(from.begin(), from.end(), data);
    }
  };
  struct {
    extent_t m, n, k;
  } const sizes[] = {{4, 11, 2}, {1, 4, 5}, {5, 5, 9}, {9, 6, 4}, {36, 11, 4}, {20, 30, 40}};
  for (auto const& size : sizes)
    for (auto ta : {transpose::no, transpose::yes})
      for (auto tb : {transpose::no, transpose::yes}) {
        auto const m = size.m, n = size.n, k = size.k;
        INFO("m n k " << m << " " << n << " " << k << ", transposed " << int(ta) << int(tb));
        tensor<T, 2> const a{ta == transpose::yes ? shape<2>{{k, m}} : shape<2>{{m, k}}, 1};
        tensor<T, 2> const b{tb == transpose::yes ? shape<2>{{n, k}} : shape<2>{{k, n}}, 2};
        tensor<T, 2> const before{{{m, n}}, 3};
        auto const product_at = [&](extent_t offset) {
          placed const x{a.data, offset}, y{b.data, offset}, d{before.data, offset};
          gemm(device<T>(), ta, tb, yoke::view<T const, 2>{x.data, a.shape},
               yoke::view<T const, 2>{y.data, b.shape}, yoke::view<T, 2>{d.data, before.shape},
               store::accumulate);
          return std::vector<T>(d.data, d.data + m * n);
        };
        auto const first = product_at(0);
        for (auto offset : {1, 2, 3, 7}) CHECK(product_at(offset) == first);
      }
}

TEST_CASE("more shapes than primitives are kept") {
  using yoke::cpu::detail::matrix;
  yoke::cpu::detail::matmul_cache cache{3};
  for (extent_t n : {32, 33, 34, 35, 32, 36, 33, 33}) {
    tensor<float, 2> const a{{{32, 32}}, 1}, b{{{32, n}}, 2};
    tensor<float, 2> d{{{32, n}}};
    REQUIRE(matmul_by_onednn(cache, matrix<float const>{a.data.data(), 32, 32, 32},
                             matrix<float const>{b.data.data(), 32, n, n}, nullptr,
                             matrix<float>{d.data.data(), 32, n, n}, false));
    near(d, expected(transpose::no, transpose::no, a, b, d, store::overwrite), 12);
  }
}
