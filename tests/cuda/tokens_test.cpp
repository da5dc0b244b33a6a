// Embeddings, patches, first tokens and pooling on CUDA are the CPU's, over packed and uniform segments and from
// addresses of any alignment; ids outside the vocabulary are found out; gradients have the same bits every time.
#include <yoke/cpu/tokens.hpp>
#include <yoke/cuda/tokens.cuh>

#include "cuda/twins.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <limits>

using namespace twins;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using yoke::pool_kind;
using yoke::segments;

namespace {

std::vector<std::vector<extent_t>> const uneven{{},           {1},         {3, 1, 7},
                                                {0, 4, 0, 2}, {77, 1, 40}, std::vector<extent_t>(70, 3)};
std::vector<extent_t> const widths{1, 16, 45, 264};

tensor<std::int32_t, 1> random_ids(extent_t rows, extent_t vocabulary, std::uint64_t seed = 1) {
  tensor<std::int32_t, 1> ids{{{rows}}};
  yoke::random_sequence draw{seed};
  for (auto& id : ids.data)
    id = static_cast<std::int32_t>(draw.below(static_cast<std::uint64_t>(vocabulary)));
  return ids;
}

/// A tensor that begins one element behind an aligned address, where `shifted`.
template <class V, int R>
class maybe_shifted {
 public:
  template <class T>
  maybe_shifted(yoke::cuda::context<T>& c, tensor<V, R> const& host, bool shifted)
      : shape_{host.shape}, shift_{shifted}, all_{c, with_room(host, shifted)} {}
  yoke::view<V, R> view() const { return {all_.view().data + shift_, shape_}; }
  yoke::view<V const, R> read() const { return view(); }
  template <class T>
  tensor<V, R> back(yoke::cuda::context<T>& c) const {
    tensor<V, R> host{shape_};
    download(c, read(), host.view());
    return host;
  }

 private:
  static tensor<V, 1> with_room(tensor<V, R> const& host, extent_t shift) {
    tensor<V, 1> all{{{shift + host.shape.size()}}};
    std::copy(host.data.begin(), host.data.end(), all.data.begin() + shift);
    return all;
  }
  yoke::shape<R> shape_;
  extent_t shift_;
  on<V, 1> all_;
};

template <class T>
void check_embedding(segments const& host, segments const& there, extent_t width, extent_t vocabulary,
                     bool with_positions, bool shifted) {
  INFO(host.count << " segments of " << host.rows << " rows, width " << width);
  auto& c = card<T>();
  auto const ids = random_ids(host.rows, vocabulary);
  tensor<T, 2> const table{{{vocabulary, width}}, 1},
      positions{{{with_positions ? host.longest + 1 : 0, width}}, 2};
  tensor<T, 2> expected{{{host.rows, width}}, 3};
  maybe_shifted<T, 2> const there_table{c, table, shifted}, there_positions{c, positions, false},
      y{c, expected, false};
  embed_tokens(device<T>(), host, ids.read(), table.read(), positions.read(), expected.view());
  embed_tokens(c, there, on<std::int32_t, 1>{c, ids}.read(), there_table.read(), there_positions.read(),
               y.view());
  same(y.back(c), expected);
}

/// The sums as W: accumulators or elements.
template <class T, class W>
void check_embedding_sums(segments const& host, segments const& there, tensor<std::int32_t, 1> const& ids,
                          extent_t width, extent_t vocabulary, bool with_positions, bool shifted) {
  INFO(host.count << " segments of " << host.rows << " rows, width " << width << ", vocabulary " << vocabulary
                  << ", sums of " << sizeof(W) << " bytes");
  auto& c = card<T>();
  tensor<T, 2> const dy{{{host.rows, width}}, 1};
  tensor<W, 2> const table{{{vocabulary, width}}, 2},
      positions{{{with_positions ? host.longest + 1 : 0, width}}, 3};
  auto dtable = table, dpositions = positions;
  embed_tokens_backward(device<T>(), host, ids.read(), dy.read(), dtable.view(), dpositions.view());

  on<std::int32_t, 1> const there_ids{c, ids};
  maybe_shifted<T, 2> const there_dy{c, dy, false};
  auto const run = [&] {
    maybe_shifted<W, 2> const table_sums{c, table, shifted}, position_sums{c, positions, false};
    embed_tokens_backward(c, there, there_ids.read(), there_dy.read(), table_sums.view(),
                          position_sums.view());
    return std::pair{table_sums.back(c), position_sums.back(c)};
  };
  auto const once = run(), again = run();
  auto const size = 2 * std::sqrt(static_cast<double>(host.rows)) + 4;
  same(once.first, dtable, size);
  same(once.second, dpositions, size);
  REQUIRE(same_bits(once.first.data, again.first.data));
  REQUIRE(same_bits(once.second.data, again.second.data));
}
template <class T>
void check_embedding_backward(segments const& host, segments const& there, tensor<std::int32_t, 1> const& ids,
                              extent_t width, extent_t vocabulary, bool with_positions,
                              bool shifted = false) {
  check_embedding_sums<T, accumulator_t<T>>(host, there, ids, width, vocabulary, with_positions, shifted);
  if (!std::is_same_v<T, accumulator_t<T>>)
    check_embedding_sums<T, T>(host, there, ids, width, vocabulary, with_positions, shifted);
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA: embed_tokens", "", double, float, bf16) {
  auto const lengths = GENERATE(from_range(uneven));
  packed const host{lengths};
  packed_on<TestType> const there{card<TestType>(), host};
  for (auto width : widths)
    for (bool with_positions : {true, false})
      check_embedding<TestType>(host.segments(), there.segments(), width, 11, with_positions, width == 16);
  auto const uniform = segments::uniform(5, 7);
  check_embedding<TestType>(uniform, uniform, 24, 300, true, false);
}

TEMPLATE_TEST_CASE("CUDA: embed_tokens of some captions of a batch, and their gradient", "", double, float,
                   bf16) {
  packed const host{{4, 1, 6, 3, 9}};
  packed_on<TestType> const there{card<TestType>(), host};
  auto const part = host.segments().slice(1, 3), part_there = there.segments().slice(1, 3);
  check_embedding<TestType>(part, part_there, 16, 5, true, false);
  check_embedding_backward<TestType>(part, part_there, random_ids(part.rows, 5), 16, 5, true);
}

TEMPLATE_TEST_CASE("CUDA: an id outside the vocabulary reads row 0, and the next read throws", "", double,
                   float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  using limits = std::numeric_limits<std::int32_t>;
  tensor<TestType, 2> const table{{{6, 16}}, 1};
  on<TestType, 2> const there_table{c, table}, none{c, tensor<TestType, 2>{{{0, 16}}}};
  on<A, 1> const one{c, tensor<A, 1>{{{1}}, 4}};
  auto const message = MessageMatches(ContainsSubstring("token_embedding: ids are within the vocabulary"));
  for (auto wrong : {-1, 6, limits::max(), limits::min()}) {
    auto ids = random_ids(50, 6);
    ids.data[33] = wrong;
    on<std::int32_t, 1> const there_ids{c, ids};
    on<TestType, 2> const y{c, tensor<TestType, 2>{{{50, 16}}}};
    auto const embed = [&] {
      embed_tokens(c, segments::uniform(5, 10), there_ids.read(), there_table.read(), none.read(), y.view());
    };
    embed();
    CHECK_THROWS_MATCHES(scalar(c, one.read()), yoke::precondition_error, message);
    CHECK_NOTHROW(scalar(c, one.read()));
    embed();
    CHECK_THROWS_MATCHES(y.back(c), yoke::precondition_error, message);

    auto inside = ids;
    inside.data[33] = 0;
    tensor<TestType, 2> expected{{{50, 16}}};
    embed_tokens(device<TestType>(), segments::uniform(5, 10), inside.read(), table.read(), {},
                 expected.view());
    same(y.back(c), expected, 0);

    tensor<A, 2> sums{{{6, 16}}};
    on<A, 2> const there_sums{c, sums};
    embed_tokens_backward(device<TestType>(), segments::uniform(5, 10), inside.read(), expected.read(),
                          sums.view(), {});
    embed_tokens_backward(c, segments::uniform(5, 10), there_ids.read(), y.read(), there_sums.view(), {});
    same(there_sums.back(c), sums, 20);
  }
}

TEMPLATE_TEST_CASE("CUDA: embed_tokens_backward", "", double, float, bf16) {
  auto const lengths = GENERATE(from_range(uneven));
  packed const host{lengths};
  packed_on<TestType> const there{card<TestType>(), host};
  auto const s = host.segments();
  for (auto width : widths)
    for (bool with_positions : {true, false})
      check_embedding_backward<TestType>(s, there.segments(), random_ids(s.rows, 11), width, 11,
                                         with_positions, width == 16);
}

TEMPLATE_TEST_CASE("CUDA: embed_tokens_backward sums in the rows' order whatever the ids", "", double, float,
                   bf16) {
  auto const uniform = [&](extent_t rows, extent_t vocabulary, auto const& id_of_row) {
    auto ids = random_ids(rows, vocabulary);
    for (extent_t i = 0; i < rows; ++i)
      ids.data[at(i)] = static_cast<std::int32_t>(id_of_row(i, extent_t{ids.data[at(i)]}));
    auto const s = segments::uniform(rows, 1);
    check_embedding_backward<TestType>(s, s, ids, 8, vocabulary, false);
  };
  auto const as_drawn = [](extent_t, extent_t id) { return id; };
  SECTION("a vocabulary of one") {
    uniform(100, 1, as_drawn);
  }
  SECTION("one pass, two, three, over more than one tile") {
    uniform(2049, 256, as_drawn);
    uniform(3000, 257, as_drawn);
    uniform(5000, 70000, as_drawn);
  }
  SECTION("all rows of one id") {
    uniform(4500, 300, [](extent_t, extent_t) { return 299; });
  }
  SECTION("an end token every few rows") {
    uniform(2500, 1000, [](extent_t i, extent_t id) { return i % 7 == 6 ? 999 : id; });
  }
  SECTION("runs that end with a piece, before it and behind it") {
    for (extent_t length : {31, 32, 33, 63, 64, 65, 96})
      uniform(300, 400, [&](extent_t i, extent_t) { return i / length; });
  }
  SECTION("ids from the last to the first, each once") {
    uniform(200, 200, [](extent_t i, extent_t) { return 199 - i; });
  }
}

TEST_CASE("CUDA: sums over rows that go to elements are rounded once, as the CPU's") {
  auto& c = card<bf16>();
  auto const length = GENERATE(as<extent_t>{}, 1, 31, 33, 64, 200);
  extent_t const rows = 2000, width = 24, vocabulary = rows / length + 1;
  tensor<bf16, 2> dy{{{rows, width}}};  // whole numbers, whose sums are exact
  yoke::random_sequence draw{9};
  for (auto& v : dy.data) v = bf16{static_cast<float>(draw.below(40)) - 3};
  tensor<std::int32_t, 1> ids{{{rows}}};
  for (extent_t i = 0; i < rows; ++i) ids.data[at(i)] = static_cast<std::int32_t>(i / length);
  tensor<bf16, 2> dtable{{{vocabulary, width}}}, dpositions{{{1, width}}};
  for (auto& v : dtable.data) v = bf16{static_cast<float>(draw.below(8))};
  on<bf16, 2> const there_table{c, dtable}, there_positions{c, dpositions};
  auto const captions = segments::uniform(rows, 1);
  embed_tokens_backward(device<bf16>(), captions, ids.read(), dy.read(), dtable.view(), dpositions.view());
  embed_tokens_backward(c, captions, on<std::int32_t, 1>{c, ids}.read(), on<bf16, 2>{c, dy}.read(),
                        there_table.view(), there_positions.view());
  CHECK(same_bits(there_table.back(c).data, dtable.data));
  CHECK(same_bits(there_positions.back(c).data, dpositions.data));
}

TEMPLATE_TEST_CASE("CUDA: positions of many captions", "", float, bf16) {
  std::vector<extent_t> lengths(1500);
  yoke::random_sequence draw{5};
  for (auto& n : lengths) n = static_cast<extent_t>(draw.below(6));
  packed const host{lengths};
  packed_on<TestType> const there{card<TestType>(), host};
  check_embedding_backward<TestType>(host.segments(), there.segments(), random_ids(host.segments().rows, 9),
                                     16, 9, true);
}

TEMPLATE_TEST_CASE("CUDA: extract_patches and its adjoint", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const batch = GENERATE(as<extent_t>{}, 0, 1, 3), size = GENERATE(as<extent_t>{}, 1, 4, 7, 8),
             channels = GENERATE(as<extent_t>{}, 1, 3);
  auto const shifted = GENERATE(false, true);
  auto const down = 3 * size, across = 2 * size;
  tensor<TestType, 4> const images{{{batch, down, across, channels}}, 1}, before{images.shape, 2};
  tensor<TestType, 2> expected{{{batch * 6, size * size * channels}}, 3};
  maybe_shifted<TestType, 2> const rows{c, expected, false};
  extract_patches(device<TestType>(), size, images.read(), expected.view());
  maybe_shifted<TestType, 4> const there{c, images, shifted};
  extract_patches(c, size, there.read(), rows.view());
  same(rows.back(c), expected, 0);
  for (auto how : {store::overwrite, store::accumulate}) {
    auto back = before;
    fold_patches(device<TestType>(), size, expected.read(), back.view(), how);
    maybe_shifted<TestType, 4> const there_back{c, before, shifted};
    fold_patches(c, size, rows.read(), there_back.view(), how);
    same(there_back.back(c), back, 0);
  }
}

TEMPLATE_TEST_CASE("CUDA: assemble_tokens with and without a first token, and its gradient", "", double,
                   float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const batch = GENERATE(as<extent_t>{}, 0, 1, 6, 70), width = GENERATE(as<extent_t>{}, 3, 64, 264),
             extra = GENERATE(as<extent_t>{}, 0, 1);
  auto const shifted = GENERATE(false, true);
  extent_t const patches = 9, tokens = patches + extra;
  tensor<TestType, 2> const x{{{batch * patches, width}}, 1}, positions{{{tokens, width}}, 2};
  tensor<A, 1> const first{{{extra * width}}, 3};
  tensor<TestType, 2> expected{{{batch * tokens, width}}, 4};
  on<TestType, 2> const y{c, expected};
  assemble_tokens(device<TestType>(), batch, x.read(), first.read(), positions.read(), expected.view());
  assemble_tokens(c, batch, on<TestType, 2>{c, x}.read(), maybe_shifted<A, 1>{c, first, shifted}.read(),
                  on<TestType, 2>{c, positions}.read(), y.view());
  same(y.back(c), expected);

  tensor<TestType, 2> const dy{expected.shape, 4}, dx_before{x.shape, 5};
  tensor<A, 1> const first_before{{{extra * width}}, 6};
  on<TestType, 2> const there_dy{c, dy};
  auto const check = [&]<class W>(tensor<W, 2> const& positions_before, int wanted, store how) {
    auto dx = dx_before;
    auto dfirst = first_before;
    auto dpositions = positions_before;
    maybe_shifted<TestType, 2> const there_dx{c, dx, shifted};
    maybe_shifted<A, 1> const there_dfirst{c, dfirst, false};
    maybe_shifted<W, 2> const there_dpositions{c, dpositions, shifted};
    auto const backward = [&](auto& on_what, auto up, auto to, auto first_to, auto positions_to) {
      assemble_tokens_backward(on_what, batch, up, wanted & 1 ? to : view<TestType, 2>{}, how,
                               wanted & 2 ? first_to : view<A, 1>{},
                               wanted & 4 ? positions_to : view<W, 2>{});
    };
    backward(device<TestType>(), dy.read(), dx.view(), dfirst.view(), dpositions.view());
    backward(c, there_dy.read(), there_dx.view(), there_dfirst.view(), there_dpositions.view());
    same(there_dx.back(c), dx);
    same(there_dfirst.back(c), dfirst, 20);
    same(there_dpositions.back(c), dpositions, 20);
  };
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) {
      check(tensor<A, 2>{positions.shape, 7}, wanted, how);
      if (!std::is_same_v<TestType, A>)
        check(tensor<TestType, 2>{positions.shape, 7}, wanted, how);
    }
}

TEMPLATE_TEST_CASE("CUDA: pooling and its gradient", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const kind = GENERATE(pool_kind::mean, pool_kind::first, pool_kind::last, pool_kind::mean_rest);
  auto const lengths = GENERATE(std::vector<extent_t>{}, std::vector<extent_t>{2, 5, 3},
                                std::vector<extent_t>{0, 3, 70, 1, 0}, std::vector<extent_t>(12, 17));
  auto const is_uniform = GENERATE(false, true);
  packed const packed_lengths{lengths};
  packed_on<TestType> const packed_there{c, packed_lengths};
  auto const host = is_uniform ? segments::uniform(4, 9) : packed_lengths.segments();
  auto const there = is_uniform ? host : packed_there.segments();
  for (auto width : widths) {
    bool const shifted = width == 16;
    tensor<TestType, 2> const x{{{host.rows, width}}, 1}, dy{{{host.count, width}}, 2},
        before{{{host.rows, width}}, 3};
    tensor<TestType, 2> expected{{{host.count, width}}, 4};
    on<TestType, 2> const y{c, expected};
    pool_forward(device<TestType>(), kind, host, x.read(), expected.view());
    pool_forward(c, kind, there, maybe_shifted<TestType, 2>{c, x, shifted}.read(), y.view());
    same(y.back(c), expected, 4);
    for (auto how : {store::overwrite, store::accumulate}) {
      auto dx = before;
      pool_backward(device<TestType>(), kind, host, dy.read(), dx.view(), how);
      maybe_shifted<TestType, 2> const there_dx{c, before, shifted};
      pool_backward(c, kind, there, on<TestType, 2>{c, dy}.read(), there_dx.view(), how);
      same(there_dx.back(c), dx, how == store::overwrite ? 0 : 1);  // one may fuse product and sum
    }
  }
}
