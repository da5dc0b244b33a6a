// Attention of one head over one segment, a panel of up to 64 queries at a time. Probabilities are
// kept with keys as rows and queries as lanes, so that softmax needs no sum across a vector.
#pragma once
#include <yoke/cpu/scratch.hpp>
#include <yoke/cpu/small_matmul.hpp>

#include <algorithm>
#include <type_traits>

namespace yoke::cpu::detail {

inline constexpr extent_t panel_queries = 64;

/// One head of one segment. q, k, v (length, head_width) with rows `step` apart; bias (length,
/// length) with rows `bias_step` apart, or null.
template <class T>
struct head {
  T const *q, *k, *v;
  extent_t step, length, width;
  T const* bias;
  extent_t bias_step;
  bool causal;
};

/// Queries [begin, begin + count) in `lanes` lanes, and the keys that they see.
struct panel {
  extent_t begin, count, lanes, keys;
};

/// Panels of nearly equal size, together at most one vector longer than the segment.
template <class A, class T, class F>
void for_each_panel(head<T> const& x, F const& f) {
  constexpr extent_t n = lanes<A>::count;
  auto const vectors = (x.length + n - 1) / n, panels = (x.length + panel_queries - 1) / panel_queries;
  for (extent_t p = 0; p < panels; ++p) {
    auto const begin = vectors * p / panels * n, end = vectors * (p + 1) / panels * n;
    auto const count = std::min(x.length, end) - begin;
    f(panel{begin, count, end - begin, x.causal ? begin + count : x.length});
  }
}

/// Asks for the part of a row that belongs to the next head: most often the thread needs it next, and
/// rows are too far apart for the processor to guess it. Write is 1 for what will be written.
template <int Write, class T>
void fetch_next_head(T const* row, extent_t width) {
  for (extent_t c = 0; c < width; c += 64 / static_cast<extent_t>(sizeof(T)))
    __builtin_prefetch(row + width + c, Write);
}

/// d (rows, width rounded up to vectors) = s (rows, width) * scale, zeros behind.
template <class A, class T>
void load_rows(T const* s, extent_t step, extent_t rows, extent_t width, A scale, block<A> d) {
  constexpr extent_t n = lanes<A>::count;
  auto const full = width / n * n;
  for (extent_t r = 0; r < rows; ++r, s += step) {
    auto* const row = d.data + r * d.step;
    fetch_next_head<0>(s, width);
    for (extent_t c = 0; c < full; c += n) save(row + c, load(s + c) * scale);
    for (auto c = full; c < d.step; ++c) row[c] = c < width ? static_cast<A>(s[c]) * scale : A{0};
  }
}

/// d (rows, width) = or += s (rows, width rounded up) * scale[row].
template <class A, class T, class Scale>
void store_rows(block<A> s, extent_t rows, extent_t width, Scale const& scale, T* d, extent_t step,
                store how) {
  constexpr extent_t n = lanes<A>::count;
  auto const full = width / n * n;
  for (extent_t r = 0; r < rows; ++r, d += step) {
    auto const* const row = s.data + r * s.step;
    A const by = scale(r);
    fetch_next_head<1>(d, width);
    if (how == store::overwrite) {
      for (extent_t c = 0; c < full; c += n) save(d + c, load(row + c) * by);
      for (auto c = full; c < width; ++c) d[c] = static_cast<T>(row[c] * by);
    } else {
      for (extent_t c = 0; c < full; c += n) save(d + c, load(d + c) + load(row + c) * by);
      for (auto c = full; c < width; ++c) d[c] = static_cast<T>(static_cast<A>(d[c]) + row[c] * by);
    }
  }
}

/// d (columns of s, lanes) = the transpose of s (rows, whole vectors), zeros where it has no rows.
template <class A>
void transpose_block(block<A> s, extent_t rows, extent_t columns, block<A> d) {
  constexpr extent_t n = lanes<A>::count;
  for (extent_t r = 0; r < d.step; r += n)
    for (extent_t c = 0; c < columns; c += n) {
      lanes_t<A> square[n];
      for (extent_t i = 0; i < n; ++i)
        square[i] = r + i < rows ? load(s.data + (r + i) * s.step + c) : lanes_t<A>{};
      transpose_square<A>(square);
      for (extent_t i = 0; i < n; ++i) save(d.data + (c + i) * d.step + r, square[i]);
    }
}

/// Calls f(query, key, square, rows, columns) for each square of a panel's biases that is not all
/// masked: `rows` queries by `columns` keys.
template <class A, class T, class F>
void for_each_square(head<T> const& x, panel const& p, F const& f) {
  constexpr extent_t n = lanes<A>::count;
  for (extent_t i = 0; i < p.count; i += n)
    for (extent_t j = 0; j < (x.causal ? std::min(p.keys, p.begin + i + n) : p.keys); j += n)
      f(i, j, std::min(n, p.count - i), std::min(n, p.keys - j));
}

/// logits (keys, lanes) += bias, transposed.
template <class A, class T>
void add_bias(head<T> const& x, panel const& p, block<A> logits) {
  constexpr extent_t n = lanes<A>::count;
  for_each_square<A>(x, p, [&](extent_t i, extent_t j, extent_t rows, extent_t columns) {
    lanes_t<A> square[n] = {};
    for (extent_t r = 0; r < rows; ++r) {
      auto const* const s = x.bias + (p.begin + i + r) * x.bias_step + j;
      if (columns == n)
        square[r] = load(s);
      else
        for (extent_t c = 0; c < columns; ++c) square[r][c] = static_cast<A>(s[c]);
    }
    transpose_square<A>(square);
    for (extent_t c = 0; c < columns; ++c) {
      auto* const row = logits.data + (j + c) * logits.step + i;
      save(row, load(row) + square[c]);
    }
  });
}

/// dbias (rows of queries, bias_step) += dlogits (keys, lanes), transposed.
template <class A, class T>
void add_bias_gradient(head<T> const& x, panel const& p, block<A> dlogits, A* dbias) {
  constexpr extent_t n = lanes<A>::count;
  for_each_square<A>(x, p, [&](extent_t i, extent_t j, extent_t rows, extent_t columns) {
    lanes_t<A> square[n] = {};
    for (extent_t c = 0; c < columns; ++c) square[c] = load(dlogits.data + (j + c) * dlogits.step + i);
    transpose_square<A>(square);
    for (extent_t r = 0; r < rows; ++r) {
      auto* const d = dbias + (p.begin + i + r) * x.bias_step + j;
      if (columns == n)
        save(d, load(d) + square[r]);
      else
        for (extent_t c = 0; c < columns; ++c) d[c] += square[r][c];
    }
  });
}

/// b (keys, lanes) = left (keys, width) queries (width, lanes); what is masked stays as it was.
template <class A>
void against_keys(panel const& p, bool causal, extent_t width, block<A> left, block<A> queries, block<A> b) {
  constexpr extent_t n = lanes<A>::count;
  multiply(p.keys, p.lanes / n, left_operand<A>{left.data, left.step, 1},
           block<A const>{queries.data, queries.step}, b, false, [&](extent_t key, extent_t) -> needed {
             return {0, width, causal ? std::max<extent_t>(key - p.begin, 0) / n : 0};
           });
}

/// d (queries, vectors) = probabilities (keys, lanes) transposed times right (keys, vectors).
template <class A>
void over_keys(panel const& p, bool causal, block<A> probabilities, block<A> right, block<A> d) {
  multiply(p.count, right.step / lanes<A>::count, left_operand<A>{probabilities.data, 1, probabilities.step},
           block<A const>{right.data, right.step}, d, false, [&](extent_t, extent_t last) -> needed {
             return {0, causal ? std::min(p.keys, p.begin + last) : p.keys, 0};
           });
}

/// d (keys, vectors) += probabilities (keys, lanes) times right (queries, vectors); the first panel
/// overwrites.
template <class A>
void over_queries(panel const& p, bool causal, block<A> probabilities, block<A> right, block<A> d) {
  multiply(p.keys, right.step / lanes<A>::count, left_operand<A>{probabilities.data, probabilities.step, 1},
           block<A const>{right.data, right.step}, d, p.begin > 0, [&](extent_t key, extent_t) -> needed {
             return {causal ? std::max<extent_t>(key - p.begin, 0) : 0, p.count, 0};
           });
}

/// The keys that a vector of queries from `lane` on sees: all of it those before `all`, some of it
/// those before `some`; keys before `read` may be in a tile with those.
struct key_range {
  extent_t all, some, read;
};

template <class A>
key_range keys_of(panel const& p, bool causal, extent_t lane) {
  auto const seen = p.begin + lane + 1, last = seen + lanes<A>::count - 1;
  if (!causal)
    return {p.keys, p.keys, p.keys};
  return {std::min(p.keys, seen), std::min(p.keys, last), std::min(p.keys, last + most_tile_rows)};
}

/// v, with `other` for those queries of a vector from `lane` on that come before key j.
template <class A>
lanes_t<A> hide(panel const& p, extent_t lane, extent_t j, lanes_t<A> v, A other) {
  return numbered<A>() < broadcast(static_cast<A>(j - p.begin - lane)) ? broadcast(other) : v;
}

/// f(i, 0), f(i + 1, 1), f(i + 2, 0), … for i in [0, n): sums in two slots wait half as long for
/// the sum before. The slot is a constant.
template <class F>
void in_turns(extent_t n, F const& f) {
  extent_t i = 0;
  for (; i + 1 < n; i += 2) {
    f(i, std::integral_constant<int, 0>{});
    f(i + 1, std::integral_constant<int, 1>{});
  }
  if (i < n)
    f(i, std::integral_constant<int, 0>{});
}

/// logits (keys, lanes) become exponentials less their largest; for each query the inverse of
/// their sum and the logarithm of the sum of exponentials.
template <class A>
void softmax(panel const& p, bool causal, block<A> logits, A* inverse, A* lse) {
  for (extent_t lane = 0; lane < p.lanes; lane += lanes<A>::count) {
    auto const keys = keys_of<A>(p, causal, lane);
    auto const at = [&](extent_t j) { return logits.data + j * logits.step + lane; };
    A const masked{-1e30f};
    lanes_t<A> most[2] = {broadcast(masked), broadcast(masked)}, sum[2] = {};
    in_turns(keys.all, [&](extent_t j, auto slot) { most[slot] = larger<A>(most[slot], load(at(j))); });
    for (auto j = keys.all; j < keys.some; ++j)
      most[0] = larger<A>(most[0], hide(p, lane, j, load(at(j)), masked));
    auto const largest = larger<A>(most[0], most[1]);
    in_turns(keys.all, [&](extent_t j, auto slot) {
      auto const e = exponential(load(at(j)) - largest);
      save(at(j), e);
      sum[slot] += e;
    });
    for (auto j = keys.all; j < keys.some; ++j) {
      auto const e = hide(p, lane, j, exponential(load(at(j)) - largest), A{0});
      save(at(j), e);
      sum[0] += e;
    }
    for (auto j = keys.some; j < keys.read; ++j) save(at(j), lanes_t<A>{});
    auto const total = sum[0] + sum[1];
    save(inverse + lane, A{1} / total);
    save(lse + lane, largest + logarithm(total));
  }
}

/// logits become probabilities; dprobabilities become the gradients of the logits.
template <class A>
void softmax_backward(panel const& p, bool causal, A const* lse, block<A> logits, block<A> dprobabilities) {
  for (extent_t lane = 0; lane < p.lanes; lane += lanes<A>::count) {
    auto const keys = keys_of<A>(p, causal, lane);
    auto const at = [&](extent_t j) { return logits.data + j * logits.step + lane; };
    auto const dat = [&](extent_t j) { return dprobabilities.data + j * logits.step + lane; };
    auto const less = load(lse + lane);
    lanes_t<A> along[2] = {};
    in_turns(keys.all, [&](extent_t j, auto slot) {
      auto const e = exponential(load(at(j)) - less);
      save(at(j), e);
      along[slot] += e * load(dat(j));
    });
    for (auto j = keys.all; j < keys.some; ++j) {
      auto const e = hide(p, lane, j, exponential(load(at(j)) - less), A{0});
      save(at(j), e);
      along[0] += e * load(dat(j));
    }
    auto const total = along[0] + along[1];
    for (extent_t j = 0; j < keys.some; ++j) save(dat(j), load(at(j)) * (load(dat(j)) - total));
    for (auto j = keys.some; j < keys.read; ++j) {
      save(at(j), lanes_t<A>{});
      save(dat(j), lanes_t<A>{});
    }
  }
}

/// out (length, width) with rows `out_step` apart, lse (length).
template <class A, class T>
void attend(head<T> const& x, T* out, extent_t out_step, A* lse) {
  auto const wide = whole_vectors<A>(x.width), most = panel_queries;
  scratch<A> memory{2 * x.length * wide + 3 * most * wide + x.length * most + 2 * most};
  block<A> const k{memory.take(x.length * wide), wide}, v{memory.take(x.length * wide), wide};
  block<A> const q{memory.take(most * wide), wide}, y{memory.take(most * wide), wide};
  auto *const turned = memory.take(most * wide), *const logit = memory.take(x.length * most);
  auto *const inverse = memory.take(most), *const sums = memory.take(most);
  load_rows(x.k, x.step, x.length, x.width, A{1}, k);
  load_rows(x.v, x.step, x.length, x.width, A{1}, v);
  auto const scale = A{1} / std::sqrt(static_cast<A>(x.width));
  for_each_panel<A>(x, [&](panel const& p) {
    block<A> const queries{turned, p.lanes}, logits{logit, p.lanes};
    load_rows(x.q + p.begin * x.step, x.step, p.count, x.width, scale, q);
    transpose_block(q, p.count, wide, queries);
    against_keys(p, x.causal, x.width, k, queries, logits);
    if (x.bias != nullptr)
      add_bias(x, p, logits);
    softmax(p, x.causal, logits, inverse, sums);
    over_keys(p, x.causal, logits, v, y);
    store_rows(
        y, p.count, x.width, [&](extent_t r) { return inverse[r]; }, out + p.begin * out_step, out_step,
        store::overwrite);
    std::copy_n(sums, p.count, lse + p.begin);
  });
}

/// dq, dk, dv like q, k, v of x; dbias (length, length; optional) accumulates, rows as in bias.
template <class A, class T>
void attend_backward(head<T> const& x, A const* lse, T const* dout, extent_t out_step, T* dq, T* dk, T* dv,
                     store how, A* dbias) {
  auto const wide = whole_vectors<A>(x.width), most = panel_queries, n = x.length;
  scratch<A> memory{4 * n * wide + 5 * most * wide + 2 * n * most + most};
  block<A> const k{memory.take(n * wide), wide}, v{memory.take(n * wide), wide};
  block<A> const sum_k{memory.take(n * wide), wide}, sum_v{memory.take(n * wide), wide};
  block<A> const q{memory.take(most * wide), wide}, dy{memory.take(most * wide), wide};
  block<A> const sum_q{memory.take(most * wide), wide};
  auto *const turned = memory.take(most * wide), *const dturned = memory.take(most * wide);
  auto *const logit = memory.take(n * most), *const dlogit = memory.take(n * most);
  auto* const sums = memory.take(most);
  load_rows(x.k, x.step, n, x.width, A{1}, k);
  load_rows(x.v, x.step, n, x.width, A{1}, v);
  auto const scale = A{1} / std::sqrt(static_cast<A>(x.width));
  for_each_panel<A>(x, [&](panel const& p) {
    block<A> const queries{turned, p.lanes}, douts{dturned, p.lanes};
    block<A> const logits{logit, p.lanes}, dlogits{dlogit, p.lanes};
    if (p.begin == 0)  // keys that the first panel does not see
      for (auto const& sum : {sum_k, sum_v}) std::fill_n(sum.data + p.keys * wide, (n - p.keys) * wide, A{0});
    load_rows(x.q + p.begin * x.step, x.step, p.count, x.width, scale, q);
    load_rows(dout + p.begin * out_step, out_step, p.count, x.width, A{1}, dy);
    std::fill(std::copy_n(lse + p.begin, p.count, sums), sums + p.lanes, A{0});
    transpose_block(q, p.count, wide, queries);
    transpose_block(dy, p.count, wide, douts);
    against_keys(p, x.causal, x.width, k, queries, logits);
    against_keys(p, x.causal, x.width, v, douts, dlogits);
    if (x.bias != nullptr)
      add_bias(x, p, logits);
    softmax_backward(p, x.causal, sums, logits, dlogits);
    if (dbias != nullptr)
      add_bias_gradient(x, p, dlogits, dbias);
    over_queries(p, x.causal, logits, dy, sum_v);
    over_queries(p, x.causal, dlogits, q, sum_k);  // q bears the scale
    over_keys(p, x.causal, dlogits, k, sum_q);
    store_rows(
        sum_q, p.count, x.width, [=](extent_t) { return scale; }, dq + p.begin * x.step, x.step, how);
  });
  auto const one = [](extent_t) { return A{1}; };
  store_rows(sum_k, n, x.width, one, dk, x.step, how);
  store_rows(sum_v, n, x.width, one, dv, x.step, how);
}

}  // namespace yoke::cpu::detail
