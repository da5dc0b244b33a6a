// What attention of one head over one segment is made of: panels of up to 64 queries, blocks in scratch
// memory, and the products between them. Probabilities have keys as rows and queries as lanes.
#pragma once
#include <yoke/cpu/small_matmul.hpp>

#include <algorithm>

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

}  // namespace yoke::cpu::detail
