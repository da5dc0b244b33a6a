// Attention over segments against a plain double-precision reference, finite differences, and the
// bitwise promises: any number of threads, alone or in a batch.
#include <yoke/core/random.hpp>
#include <yoke/cpu/attention.hpp>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cmath>
#include <cstring>
#include <vector>

namespace {

using yoke::extent_t;
using yoke::store;

std::size_t at(extent_t i) {
  return static_cast<std::size_t>(i);
}

struct problem {
  std::vector<extent_t> lengths;
  extent_t heads = 1, head_width = 1;
  bool causal = false, biased = false;

  extent_t width() const { return heads * head_width; }
  extent_t longest() const {
    extent_t n = 0;
    for (auto l : lengths) n = std::max(n, l);
    return n;
  }
  std::vector<std::int32_t> offsets() const {
    std::vector<std::int32_t> o{3};  // the first offset need not be 0
    for (auto l : lengths) o.push_back(o.back() + static_cast<std::int32_t>(l));
    return o;
  }
  extent_t rows() const { return offsets().back() - offsets().front(); }
};

/// What goes in and what comes out, in any type.
template <class T>
struct tensors {
  using A = yoke::accumulator_t<T>;
  problem p;
  std::vector<std::int32_t> offsets;
  std::vector<T> qkv, bias, out, dout, dqkv, dbias;
  std::vector<A> lse;

  explicit tensors(problem q) : p{std::move(q)}, offsets{p.offsets()} {
    auto const rows = p.rows();
    qkv.resize(at(rows * 3 * p.width()));
    out.resize(at(rows * p.width()));
    bias.resize(at(p.biased ? p.heads * p.longest() * p.longest() : 0));
    dout = out, dqkv = qkv, dbias = bias;
    lse.resize(at(p.heads * rows));
  }
  template <class U>
  explicit tensors(tensors<U> const& from) : tensors{from.p} {
    auto const copy = [](auto const& a, std::vector<T>& b) {
      for (std::size_t i = 0; i < a.size(); ++i) b[i] = T(static_cast<double>(a[i]));
    };
    copy(from.qkv, qkv), copy(from.bias, bias), copy(from.dout, dout);
    copy(from.dqkv, dqkv), copy(from.dbias, dbias);
  }
  yoke::view<T, 3> biases(std::vector<T>& v) const {
    auto const side = p.biased ? p.longest() : 0;
    return {v.data(), {{p.biased ? p.heads : 0, side, side}}};
  }
  yoke::view<T, 2> rows(std::vector<T>& v, extent_t times = 1) const {
    return {v.data(), {{p.rows(), times * p.width()}}};
  }
  yoke::segments segments() const {
    return yoke::segments::packed({offsets.data(), {{static_cast<extent_t>(offsets.size())}}}, p.longest());
  }
  void forward(yoke::cpu::context<T>& c) {
    attention_forward(c, {p.heads, p.causal}, segments(), rows(qkv, 3), biases(bias), rows(out),
                      {lse.data(), {{p.heads, p.rows()}}});
  }
  void backward(yoke::cpu::context<T>& c, store how = store::overwrite, store bias_how = store::overwrite) {
    attention_backward(c, {p.heads, p.causal}, segments(), rows(qkv, 3), biases(bias), rows(out),
                       {lse.data(), {{p.heads, p.rows()}}}, rows(dout), rows(dqkv, 3), how, biases(dbias),
                       bias_how);
  }
};

template <class T>
void randomize(std::vector<T>& v, std::uint64_t stream, double size = 1) {
  yoke::random_sequence draw{yoke::hash("attention"), stream};
  for (auto& x : v) x = T(size * draw.normal());
}

tensors<double> random_tensors(problem p, std::uint64_t stream = 0) {
  tensors<double> t{std::move(p)};
  randomize(t.qkv, stream * 8), randomize(t.bias, stream * 8 + 1);
  randomize(t.dout, stream * 8 + 2), randomize(t.dqkv, stream * 8 + 3);
  randomize(t.dbias, stream * 8 + 4);
  return t;
}

/// By the book, one pair of positions at a time; gradients overwrite.
void reference(tensors<double>& t) {
  auto const& p = t.p;
  auto const w = p.width(), side = p.longest();
  auto const scale = 1 / std::sqrt(static_cast<double>(p.head_width));
  std::fill(t.out.begin(), t.out.end(), 0.0);
  std::fill(t.dqkv.begin(), t.dqkv.end(), 0.0);
  std::fill(t.dbias.begin(), t.dbias.end(), 0.0);
  extent_t begin = 0;
  for (auto const length : p.lengths) {
    for (extent_t h = 0; h < p.heads; ++h)
      for (extent_t i = 0; i < length; ++i) {
        auto const q = (begin + i) * 3 * w + h * p.head_width;
        auto const y = (begin + i) * w + h * p.head_width;
        auto const seen = p.causal ? i + 1 : length;
        std::vector<double> prob(at(seen)), dprob(at(seen));
        double sum = 0, along = 0;
        for (extent_t j = 0; j < seen; ++j) {
          auto const k = (begin + j) * 3 * w + w + h * p.head_width;
          double logit = 0;
          for (extent_t c = 0; c < p.head_width; ++c) logit += t.qkv[at(q + c)] * t.qkv[at(k + c)];
          logit *= scale;
          if (p.biased)
            logit += t.bias[at((h * side + i) * side + j)];
          sum += prob[at(j)] = std::exp(logit);
        }
        t.lse[at(h * p.rows() + begin + i)] = std::log(sum);
        for (extent_t j = 0; j < seen; ++j) {
          auto const v = (begin + j) * 3 * w + 2 * w + h * p.head_width;
          prob[at(j)] /= sum;
          for (extent_t c = 0; c < p.head_width; ++c) {
            t.out[at(y + c)] += prob[at(j)] * t.qkv[at(v + c)];
            dprob[at(j)] += t.dout[at(y + c)] * t.qkv[at(v + c)];
            t.dqkv[at(v + c)] += prob[at(j)] * t.dout[at(y + c)];
          }
          along += prob[at(j)] * dprob[at(j)];
        }
        for (extent_t j = 0; j < seen; ++j) {
          auto const k = (begin + j) * 3 * w + w + h * p.head_width;
          auto const ds = prob[at(j)] * (dprob[at(j)] - along);
          if (p.biased)
            t.dbias[at((h * side + i) * side + j)] += ds;
          for (extent_t c = 0; c < p.head_width; ++c) {
            t.dqkv[at(q + c)] += ds * scale * t.qkv[at(k + c)];
            t.dqkv[at(k + c)] += ds * scale * t.qkv[at(q + c)];
          }
        }
      }
    begin += length;
  }
}

/// The largest difference as a share of the largest value expected (at least 1).
template <class T, class U>
double error(std::vector<T> const& got, std::vector<U> const& expected) {
  double worst = 0, largest = 1;
  for (auto const& x : expected) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (std::size_t i = 0; i < got.size(); ++i) {
    auto const d = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    worst = std::max(worst, std::isnan(d) ? 1e300 : d);
  }
  return worst / largest;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
void compare(problem const& p, std::uint64_t stream) {
  auto const tolerance = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 4e-6 : 2e-2;
  yoke::cpu::context<T> c{0, 0};
  tensors<T> t{random_tensors(p, stream)};
  tensors<double> wide{t};  // the reference sees the rounded inputs
  auto const before = t;
  reference(wide);
  t.forward(c);
  CHECK(error(t.out, wide.out) < tolerance);
  CHECK(error(t.lse, wide.lse) < (std::is_same_v<T, double> ? 1e-12 : 4e-6));
  t.backward(c);
  CHECK(error(t.dqkv, wide.dqkv) < tolerance);
  CHECK(error(t.dbias, wide.dbias) < tolerance);
  t.dqkv = before.dqkv, t.dbias = before.dbias;
  t.backward(c, store::accumulate, store::accumulate);
  for (std::size_t i = 0; i < wide.dqkv.size(); ++i) wide.dqkv[i] += static_cast<double>(before.dqkv[i]);
  for (std::size_t i = 0; i < wide.dbias.size(); ++i) wide.dbias[i] += static_cast<double>(before.dbias[i]);
  CHECK(error(t.dqkv, wide.dqkv) < tolerance);
  CHECK(error(t.dbias, wide.dbias) < tolerance);
}

struct threads {  // for as long as it lives
  int before = omp_get_max_threads();
  explicit threads(int n) { omp_set_num_threads(n); }
  threads(threads const&) = delete;
  threads& operator=(threads const&) = delete;
  ~threads() { omp_set_num_threads(before); }
};

}  // namespace

TEST_CASE("attention equals a double reference", "[attention]") {
  auto const head_width = GENERATE(extent_t{1}, 5, 16, 32, 64, 80, 128);
  auto const causal = GENERATE(false, true);
  auto const biased = GENERATE(false, true);
  auto const stream = static_cast<std::uint64_t>(head_width * 10 + 2 * causal + biased);
  auto const heads = 1 + static_cast<extent_t>((stream / 10 + stream) % 4);
  CAPTURE(head_width, heads, causal, biased);
  yoke::random_sequence draw{stream};
  problem p{{0, 1, 2, 17, 16}, heads, head_width, causal, biased};
  for (int i = 0; i < 4; ++i) p.lengths.push_back(static_cast<extent_t>(draw.below(40)));
  p.lengths.push_back(heads == 1 ? 131 : 50);
  p.lengths.push_back(0);
  compare<double>(p, stream);
  compare<float>(p, stream);
  compare<yoke::bf16>(p, stream);
}

TEST_CASE("attention over many keys", "[attention]") {
  auto const causal = GENERATE(false, true);
  problem const p{{577}, 1, 64, causal, true};
  compare<float>(p, 7);
  compare<yoke::bf16>(p, 7);
}

TEST_CASE("attention with logits far apart", "[attention]") {
  auto const causal = GENERATE(false, true);
  yoke::cpu::context<float> c{0, 0};
  auto given = random_tensors({{19, 40}, 2, 16, causal, true}, 1);
  for (auto& b : given.bias) b *= 60;  // most probabilities vanish, some exponents are below -100
  tensors<float> t{given};
  tensors<double> wide{t};
  reference(wide);
  t.forward(c);
  t.backward(c);
  CHECK(error(t.out, wide.out) < 2e-5);
  CHECK(error(t.lse, wide.lse) < 4e-6);
  CHECK(error(t.dqkv, wide.dqkv) < 5e-5);
  CHECK(error(t.dbias, wide.dbias) < 5e-5);
}

TEST_CASE("a masked key has no influence at all", "[attention]") {
  yoke::cpu::context<float> c{0, 0};
  auto const given = random_tensors({{21}, 1, 32, true, true}, 2);
  tensors<float> t{given}, changed{given};
  for (extent_t i = 10; i < 21; ++i)
    for (extent_t e = 0; e < 3 * 32; ++e) changed.qkv[at(i * 96 + e)] += 3;
  t.forward(c), changed.forward(c);
  CHECK(std::memcmp(t.out.data(), changed.out.data(), 10 * 32 * sizeof(float)) == 0);
  CHECK(std::memcmp(t.lse.data(), changed.lse.data(), 10 * sizeof(float)) == 0);
  CHECK_FALSE(same_bits(t.out, changed.out));
  t.backward(c);
  for (extent_t i = 0; i < 21; ++i)
    for (extent_t j = i + 1; j < 21; ++j) CHECK(t.dbias[at(i * 21 + j)] == 0.0f);
}

TEST_CASE("attention's gradients equal finite differences", "[attention]") {
  auto const causal = GENERATE(false, true);
  yoke::cpu::context<double> c{0, 0};
  auto t = random_tensors({{5, 0, 3, 1}, 2, 3, causal, true}, 3);
  t.forward(c);
  t.backward(c);
  auto const loss = [&](tensors<double>& moved) {
    moved.forward(c);
    double sum = 0;
    for (std::size_t i = 0; i < moved.out.size(); ++i) sum += moved.out[i] * moved.dout[i];
    return sum;
  };
  auto const check = [&](std::vector<double> tensors<double>::*value, std::vector<double> const& gradient) {
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      double const step = 1e-5;
      auto moved = t;
      (moved.*value)[i] += step;
      auto const above = loss(moved);
      (moved.*value)[i] -= 2 * step;
      auto const below = loss(moved);
      CHECK(std::abs((above - below) / (2 * step) - gradient[i]) < 1e-8);
    }
  };
  check(&tensors<double>::qkv, t.dqkv);
  check(&tensors<double>::bias, t.dbias);
}

namespace {
template <class T>
void check_bits(bool causal) {
  yoke::cpu::context<T> c{0, 0};
  problem const p{{50, 3, 0, 17, 77, 1, 64, 33, 5}, 3, 32, causal, true};
  tensors<T> one{random_tensors(p, 4)};
  auto two = one;
  {
    threads const limit{1};
    one.forward(c), one.backward(c, store::accumulate, store::accumulate);
  }
  {
    threads const limit{2};
    two.forward(c), two.backward(c, store::accumulate, store::accumulate);
  }
  CHECK(same_bits(one.out, two.out));
  CHECK(same_bits(one.lse, two.lse));
  CHECK(same_bits(one.dqkv, two.dqkv));
  CHECK(same_bits(one.dbias, two.dbias));

  extent_t begin = 0;
  for (auto const length : p.lengths) {  // each segment alone; the bias keeps its stride
    auto alone = tensors<T>{random_tensors(p, 4)};
    std::int32_t const offsets[] = {0, static_cast<std::int32_t>(length)};
    auto const run = yoke::segments::packed({offsets, {{2}}}, p.longest());
    std::vector<yoke::accumulator_t<T>> lse(at(p.heads * length));
    auto const part = [&](auto v) { return yoke::slice(v, begin, length); };
    attention_forward(c, {p.heads, causal}, run, part(alone.rows(alone.qkv, 3)), alone.biases(alone.bias),
                      part(alone.rows(alone.out)), {lse.data(), {{p.heads, length}}});
    attention_backward(c, {p.heads, causal}, run, part(alone.rows(alone.qkv, 3)), alone.biases(alone.bias),
                       part(alone.rows(alone.out)), {lse.data(), {{p.heads, length}}},
                       part(alone.rows(alone.dout)), part(alone.rows(alone.dqkv, 3)), store::accumulate, {},
                       store::overwrite);
    auto const equal = [&](std::vector<T> const& a, std::vector<T> const& b, extent_t w) {
      return std::memcmp(a.data() + begin * w, b.data() + begin * w, at(length * w) * sizeof(T)) == 0;
    };
    CHECK(equal(alone.out, one.out, p.width()));
    CHECK(equal(alone.dqkv, one.dqkv, 3 * p.width()));
    for (extent_t h = 0; h < p.heads; ++h)
      for (extent_t i = 0; i < length; ++i)
        CHECK(lse[at(h * length + i)] == one.lse[at(h * p.rows() + begin + i)]);
    begin += length;
  }
}
}  // namespace

TEST_CASE("attention is the same to the bit on any threads, alone or in a batch", "[attention]") {
  auto const causal = GENERATE(false, true);
  check_bits<double>(causal);
  check_bits<float>(causal);
  check_bits<yoke::bf16>(causal);
}

TEST_CASE("uniform segments need no offsets", "[attention]") {
  yoke::cpu::context<float> c{0, 0};
  tensors<float> t{random_tensors({{9, 9, 9}, 2, 16, false, false}, 5)};
  t.forward(c);
  auto const out = t.out;
  std::fill(t.out.begin(), t.out.end(), 0.0f);
  attention_forward(c, {2, false}, yoke::segments::uniform(3, 9), t.rows(t.qkv, 3), {}, t.rows(t.out),
                    {t.lse.data(), {{2, 27}}});
  CHECK(same_bits(t.out, out));
}

TEST_CASE("attention of nothing", "[attention]") {
  yoke::cpu::context<float> c{0, 0};
  tensors<float> t{problem{{0, 0}, 2, 8, true, false}};
  t.forward(c);
  t.backward(c);
  tensors<float> none{problem{{}, 2, 8, true, false}};
  none.forward(c);
  none.backward(c);
  tensors<float> biased{random_tensors({{4}, 2, 8, true, true}, 6)};
  biased.forward(c);
  biased.p.lengths = {};  // no segment: the bias's gradient is zero, not left as it was
  attention_backward(c, {2, true}, yoke::segments{nullptr, 0, 4, 0}, {nullptr, {{0, 48}}},
                     yoke::view<float, 3>{biased.bias.data(), {{2, 4, 4}}}, {nullptr, {{0, 16}}},
                     {nullptr, {{2, 0}}}, {nullptr, {{0, 16}}}, {nullptr, {{0, 48}}}, store::overwrite,
                     {biased.dbias.data(), {{2, 4, 4}}}, store::overwrite);
  for (auto const d : biased.dbias) CHECK(d == 0.0f);
}

TEST_CASE("attention refuses shapes that do not fit", "[attention]") {
  yoke::cpu::context<float> c{0, 0};
  tensors<float> t{random_tensors({{4, 2}, 2, 8, false, true}, 9)};
  auto const forward = [&](extent_t heads, extent_t qkv_width, extent_t side, extent_t rows) {
    attention_forward(c, {heads, false}, t.segments(), {t.qkv.data(), {{6, qkv_width}}},
                      {t.bias.data(), {{2, side, side}}}, {t.out.data(), {{rows, 16}}},
                      {t.lse.data(), {{2, 6}}});
  };
  CHECK_NOTHROW(forward(2, 48, 4, 6));
  CHECK_THROWS_AS(forward(3, 48, 4, 6), yoke::precondition_error);
  CHECK_THROWS_AS(forward(0, 48, 4, 6), yoke::precondition_error);
  CHECK_THROWS_AS(forward(2, 47, 4, 6), yoke::precondition_error);
  CHECK_THROWS_AS(forward(2, 48, 3, 6), yoke::precondition_error);
  CHECK_THROWS_AS(forward(2, 48, 4, 5), yoke::precondition_error);
}
