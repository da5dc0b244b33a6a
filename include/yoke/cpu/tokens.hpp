// Rows of tokens: embeddings, patches, first tokens and positions, pooling.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cpu/lines.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

namespace yoke::cpu {

namespace detail {

/// Columns that one thread takes at least, when threads share out columns so that sums over rows
/// keep their order.
inline constexpr extent_t least_columns = 64;

inline constexpr auto same = [](auto x) { return x; };
inline constexpr auto sum_of_two = [](auto x, auto y) { return x + y; };

/// The rows of segment s that its embedding is made of.
struct pooled_rows {
  extent_t first, last;

  pooled_rows(pool_kind kind, segments const& runs, extent_t s) : first{runs.begin(s)}, last{runs.end(s)} {
    switch (kind) {
      case pool_kind::mean:
        break;
      case pool_kind::first:
        last = std::min(last, first + 1);
        break;
      case pool_kind::last:
        first = std::max(first, last - 1);
        break;
      case pool_kind::mean_rest:
        first = std::min(last, first + 1);
        break;
    }
  }
  template <class A>
  A share() const {
    return A{1} / static_cast<A>(std::max<extent_t>(1, last - first));
  }
};

}  // namespace detail

/// y (rows, width) = table (vocabulary, width) at the rows' ids, plus positions (context, width) at
/// their places in their segments; positions are optional. Ids are within the vocabulary.
template <class T>
void embed_tokens(context<T>&, segments const& runs, view<std::int32_t const, 1> ids,
                  view<std::type_identity_t<T> const, 2> table,
                  view<std::type_identity_t<T> const, 2> positions, view<std::type_identity_t<T>, 2> y) {
  for (extent_t i = 0; i < ids.size(); ++i)
    expects(ids.data[i] >= 0 && ids.data[i] < table.extent(0),
            "token_embedding: ids are within the vocabulary");
  auto const width = y.extent(1);
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    for (auto s = first; s < last; ++s)
      for (auto r = runs.begin(s); r < runs.end(s); ++r) {
        auto const* const word = table.data + ids.data[r] * width;
        auto const* const place = positions.data + (r - runs.begin(s)) * width;
        if (positions.extent(0) == 0)
          std::copy_n(word, width, y.data + r * width);
        else
          detail::map_line(width, store::overwrite, detail::sum_of_two, y.data + r * width, word, place);
      }
  });
}

namespace detail {

/// to (columns first to last) += the sum of some lines, in accumulators and rounded once; lines(f) calls f with each.
template <class T, class W, class Lines>
void add_lines(extent_t first, extent_t last, W* to, Lines const& lines) {
  using A = accumulator_t<T>;
  constexpr extent_t columns = 256;
  std::array<A, columns> sum;
  for (auto j = first; j < last; j += columns) {
    auto const n = std::min(columns, last - j);
    sum.fill(0);
    lines([&](T const* line) { map_line(n, store::accumulate, same, sum.data(), line + j); });
    map_line(n, store::accumulate, same, to + j, sum.data());
  }
}

}  // namespace detail

/// dtable (vocabulary, width) and dpositions (context, width; optional) accumulate the sums over dy's rows (rows, width)
/// of one id, and of one place. They are accumulators or elements.
template <class T, class W>
void embed_tokens_backward(context<T>& c, segments const& runs, view<std::int32_t const, 1> ids,
                           view<std::type_identity_t<T> const, 2> dy, view<W, 2> dtable,
                           view<std::type_identity_t<W>, 2> dpositions) {
  using use = std::pair<std::int32_t, std::int32_t>;  // an id, and a row that has it
  auto const width = dy.extent(1), rows = ids.size();
  auto* const uses = c.template scratch<use>(rows);
  for (extent_t r = 0; r < rows; ++r) uses[r] = {ids.data[r], static_cast<std::int32_t>(r)};
  std::sort(uses, uses + rows);
  parallel_for(width, detail::least_columns, [&](extent_t first, extent_t last) {
    for (auto const *u = uses, *const end = uses + rows; u != end;) {
      auto const* const next = std::find_if(u, end, [id = u->first](use const& v) { return v.first != id; });
      detail::add_lines<T>(first, last, dtable.data + u->first * width, [&](auto const& line) {
        for (auto const* v = u; v != next; ++v) line(dy.data + v->second * width);
      });
      u = next;
    }
    if (dpositions.extent(0) != 0)
      for (extent_t place = 0; place < runs.longest; ++place)
        detail::add_lines<T>(first, last, dpositions.data + place * width, [&](auto const& line) {
          for (extent_t s = 0; s < runs.count; ++s)
            if (place < runs.length(s))
              line(dy.data + (runs.begin(s) + place) * width);
        });
  });
}

namespace detail {

/// Calls f(image offset, row offset, elements) for each line of each patch: `size` pixels that are
/// neighbours in the image and in the patch's row.
template <class F>
void for_patch_lines(extent_t size, shape<4> images, F const& f) {
  auto const height = images[1] / size, width = images[2] / size, line = size * images[3];
  parallel_for(images[0] * height, least_rows(size * width * line), [&](extent_t first, extent_t last) {
    for (auto i = first; i < last; ++i)  // i: a row of patches of one image
      for (extent_t y = 0; y < size; ++y)
        for (extent_t x = 0; x < width; ++x)
          f((i / height * images[1] + i % height * size + y) * images[2] * images[3] + x * line,
            ((i * width + x) * size + y) * line, line);
  });
}

}  // namespace detail

/// images (batch, height, width, channels) -> rows (batch * patches, size * size * channels), patches
/// row by row of the image, each (y, x, channel).
template <class T>
void extract_patches(context<T>&, extent_t size, view<std::type_identity_t<T> const, 4> images,
                     view<std::type_identity_t<T>, 2> rows) {
  detail::for_patch_lines(size, images.shape, [&](extent_t from, extent_t to, extent_t n) {
    std::copy_n(images.data + from, n, rows.data + to);
  });
}

/// The adjoint of extract_patches, with `how`.
template <class T>
void fold_patches(context<T>&, extent_t size, view<std::type_identity_t<T> const, 2> rows,
                  view<std::type_identity_t<T>, 4> images, store how) {
  detail::for_patch_lines(size, images.shape, [&](extent_t to, extent_t from, extent_t n) {
    detail::map_line(n, how, detail::same, images.data + to, rows.data + from);
  });
}

/// y (batch * tokens, width): for each sample first_token (width; optional) and its patch rows, plus
/// positions (tokens, width).
template <class T>
void assemble_tokens(context<T>&, extent_t batch, view<std::type_identity_t<T> const, 2> patches,
                     view<accumulator_t<std::type_identity_t<T>> const, 1> first_token,
                     view<std::type_identity_t<T> const, 2> positions, view<std::type_identity_t<T>, 2> y) {
  auto const width = y.extent(1), tokens = positions.extent(0);
  auto const extra = extent_t{first_token.extent(0) != 0};
  parallel_for(batch * tokens, detail::least_rows(width), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const sample = r / tokens, place = r % tokens;
      auto* const to = y.data + r * width;
      auto const* const position = positions.data + place * width;
      if (place < extra)
        detail::map_line(width, store::overwrite, detail::sum_of_two, to, first_token.data, position);
      else
        detail::map_line(width, store::overwrite, detail::sum_of_two, to,
                         patches.data + (sample * (tokens - extra) + place - extra) * width, position);
    }
  });
}

/// The gradient of assemble_tokens: dpatches (optional) with `how`; dfirst and dpositions (both
/// optional; the latter accumulators or elements) accumulate.
template <class T, class W>
void assemble_tokens_backward(context<T>&, extent_t batch, view<std::type_identity_t<T> const, 2> dy,
                              view<std::type_identity_t<T>, 2> dpatches, store how,
                              view<accumulator_t<std::type_identity_t<T>>, 1> dfirst, view<W, 2> dpositions) {
  if (batch == 0)
    return;
  auto const width = dy.extent(1), tokens = dy.extent(0) / batch;
  auto const kept = dpatches.extent(0) / batch;  // patches of a sample
  parallel_for(batch * kept, detail::least_rows(width), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r)
      detail::map_line(width, how, detail::same, dpatches.data + r * width,
                       dy.data + (r / kept * tokens + tokens - kept + r % kept) * width);
  });
  auto const add = [&](extent_t places, auto* sums) {
    parallel_for(places, detail::least_rows(batch * width), [&](extent_t first, extent_t last) {
      for (auto place = first; place < last; ++place)
        detail::add_lines<T>(0, width, sums + place * width, [&](auto const& line) {
          for (extent_t sample = 0; sample < batch; ++sample)
            line(dy.data + (sample * tokens + place) * width);
        });
    });
  };
  add(dfirst.extent(0) == 0 ? 0 : 1, dfirst.data);
  add(dpositions.extent(0) == 0 ? 0 : tokens, dpositions.data);
}

/// One row for each segment: (rows, width) -> (segments, width).
template <class T>
void pool_forward(context<T>&, pool_kind kind, segments const& runs, view<std::type_identity_t<T> const, 2> x,
                  view<std::type_identity_t<T>, 2> y) {
  using A = accumulator_t<T>;
  constexpr extent_t columns = 256;
  auto const width = x.extent(1);
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    std::array<A, columns> line;
    for (auto s = first; s < last; ++s) {
      detail::pooled_rows const rows(kind, runs, s);
      auto const share = rows.share<A>();
      for (extent_t j = 0; j < width; j += columns) {
        auto const n = std::min(columns, width - j);
        line.fill(0);
        for (auto r = rows.first; r < rows.last; ++r)
          detail::map_line(n, store::accumulate, detail::same, line.data(), x.data + r * width + j);
        detail::map_line(
            n, store::overwrite, [=](auto v) { return v * share; }, y.data + s * width + j, line.data());
      }
    }
  });
}

/// The gradient of pool_forward; store::overwrite also zeroes the rows that were not pooled.
template <class T>
void pool_backward(context<T>&, pool_kind kind, segments const& runs,
                   view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx,
                   store how) {
  using A = accumulator_t<T>;
  auto const width = dy.extent(1);
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    for (auto s = first; s < last; ++s) {
      detail::pooled_rows const rows(kind, runs, s);
      auto const share = rows.share<A>();
      for (auto r = runs.begin(s); r < runs.end(s); ++r) {
        auto* const to = dx.data + r * width;
        if (r >= rows.first && r < rows.last)
          detail::map_line(
              width, how, [=](auto v) { return v * share; }, to, dy.data + s * width);
        else if (how == store::overwrite)
          std::fill_n(to, width, T{});
      }
    }
  });
}

}  // namespace yoke::cpu
