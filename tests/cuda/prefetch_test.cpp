// Batches that a thread copies to the card ahead of the steps: what arrives, in which order, when buffers are used again,
// and how it ends.
#include <yoke/cuda/prefetch.cuh>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>

#include "cuda/twins.hpp"
#include <atomic>
#include <chrono>
#include <iterator>
#include <ranges>
#include <set>
#include <thread>

using namespace twins;
using yoke::cuda::prefetch;
using yoke::data::batch;

namespace {

/// Batch n, a function of n alone: some images, captions and labels, not equally many each time.
batch made_up(std::uint64_t n, bool grows = true) {
  yoke::random_sequence numbers{n};
  auto const size = grows ? 1 + static_cast<extent_t>(numbers.below(6)) : 4;
  batch b;
  b.image_shape = {{size, 5, 7, 3}};
  b.pixels.resize(at(b.image_shape.size()));
  for (auto& v : b.pixels) v = static_cast<std::uint8_t>(numbers.below(256));
  for (extent_t i = 0; i < size; ++i) {
    auto const length = grows ? numbers.below(9 + n) : 6;
    for (std::size_t k = 0; k < length; ++k)
      b.tokens.push_back(static_cast<std::int32_t>(numbers.below(1000)));
    b.offsets.push_back(static_cast<std::int32_t>(b.tokens.size()));
    b.labels.push_back(static_cast<std::int32_t>(numbers.below(10)));
    b.captions.push_back("caption " + std::to_string(numbers.below(100)));
  }
  b.after = {.epoch = 3, .sample = n + 1};
  return b;
}

struct made_up_loader {
  std::uint64_t batches = 0;
  bool grows = true;
  std::uint64_t fails_at = 1'000'000;
  std::chrono::microseconds takes{0};
  std::uint64_t at = 0;

  bool next(batch& b) {
    std::this_thread::sleep_for(takes);
    if (at == fails_at)
      throw yoke::io::error("shard 7", "sample 3", "it is broken");
    if (at == batches)
      return false;
    b = made_up(at++, grows);
    return true;
  }
};

/// Waits for ever, unless it is told not to.
struct blocked_loader {
  std::atomic<bool> stopped{false};
  std::atomic<bool> entered{false};

  bool next(batch&) {
    entered = true;
    stopped.wait(false);
    return false;
  }
  void stop() {
    stopped = true;
    stopped.notify_all();
  }
};

template <class V>
std::vector<V> from_card(yoke::cuda::context<float>& c, V const* data, extent_t n) {
  std::vector<V> v(at(n));
  if (n > 0)
    c.read(data, n, v.data());
  return v;
}

template <class Found>
void is(yoke::cuda::context<float>& c, Found const& found, batch const& b) {
  REQUIRE(found.size() == b.size());
  REQUIRE(found.pixels().shape == b.images().shape);
  CHECK(from_card(c, found.pixels().data, found.pixels().size()) == b.pixels);
  auto const& t = found.tokens();
  auto const wanted = b.token_segments();
  CHECK(t.count() == b.size());
  CHECK(t.captions.longest == wanted.longest);
  CHECK(t.captions.rows == wanted.rows);
  CHECK(t.ids.size() == wanted.rows);
  CHECK(from_card(c, t.ids.data, t.ids.size()) == b.tokens);
  CHECK(std::vector<std::int32_t>(t.captions.offsets, t.captions.offsets + t.count() + 1) == b.offsets);
  CHECK(from_card(c, t.captions.device_offsets, t.count() + 1) == b.offsets);
  CHECK(found.labels == b.labels);
  CHECK(found.captions == b.captions);
  CHECK(found.after == b.after);
}

/// sums[0] += pixels, sums[1] += ids, sums[2] += offsets; one thread, so that it takes its time.
template <class Sum>
static __global__ void step_kernel(std::uint8_t const* pixels, extent_t bytes, std::int32_t const* ids,
                                   extent_t n, std::int32_t const* offsets, extent_t count, Sum* sums) {
  if (threadIdx.x > 0)
    return;
  for (extent_t i = 0; i < bytes; ++i) sums[0] += pixels[i];
  for (extent_t i = 0; i < n; ++i) sums[1] += ids[i];
  for (extent_t i = 0; i <= count; ++i) sums[2] += offsets[i];
}

/// Gives the card a step that is long in coming to its batch.
template <class Batch>
void step_on(yoke::cuda::context<float>& c, Batch const& b, double* sums) {
  auto const& t = b.tokens();
  for (int before = 0; before < 4; ++before)
    yoke::cuda::detail::launch(c, dim3(1), 32, 0, &step_kernel<double>, nullptr, 0, nullptr, 0, nullptr, -1,
                               sums);
  yoke::cuda::detail::launch(c, dim3(1), 32, 0, &step_kernel<double>, b.pixels().data, b.pixels().size(),
                             t.ids.data, t.ids.size(), t.captions.device_offsets, t.count(), sums);
}

static_assert(std::ranges::input_range<prefetch<made_up_loader>>);
static_assert(std::ranges::input_range<prefetch<yoke::data::loader<yoke::data::scenes>>>);

}  // namespace

TEST_CASE("batches arrive in order, as they were", "[cuda]") {
  auto& c = card<float>();
  auto const n = GENERATE(0u, 1u, 2u, 3u, 20u);
  made_up_loader from{.batches = n, .takes = std::chrono::microseconds{GENERATE(0, 300)}};
  std::uint64_t seen = 0;
  prefetch batches{c, from};
  for (auto const& b : batches) is(c, b, made_up(seen++));
  CHECK(seen == n);
  CHECK(batches.next() == nullptr);
  CHECK(batches.next() == nullptr);
  CHECK(batches.begin() == batches.end());
}

TEST_CASE("a step reads its own batch, however late the card comes to it", "[cuda]") {
  auto& c = card<float>();
  auto const n = 30u;
  made_up_loader from{.batches = n, .grows = GENERATE(true, false)};
  tensor<double, 2> expected{shape{extent_t{n}, extent_t{3}}};
  on<double, 2> const sums{c, expected};
  extent_t step = 0;
  for (auto const& b : prefetch{c, from}) {  // nothing here waits for the card
    step_on(c, b, sums.view().data + 3 * step++);
  }
  for (std::uint64_t i = 0; i < n; ++i) {
    auto const b = made_up(i, from.grows);
    auto* const to = expected.data.data() + 3 * i;
    for (auto v : b.pixels) to[0] += v;
    for (auto v : b.tokens) to[1] += v;
    for (auto v : b.offsets) to[2] += v;
  }
  CHECK(sums.back(c).data == expected.data);
}

TEST_CASE("batches of one size use the same memory again and again", "[cuda]") {
  auto& c = card<float>();
  made_up_loader from{.batches = 12, .grows = false};
  std::set<void const*> on_card, on_host, segments;
  for (auto const& b : prefetch{c, from}) {
    on_card.insert(b.pixels().data);
    segments.insert(b.tokens().captions.offsets);
    on_host.insert(&b);
  }
  CHECK(on_card.size() == 2);
  CHECK(segments.size() == 2);
  CHECK(on_host.size() == 2);
}

TEST_CASE("what the loader throws comes after the batches before it, unchanged", "[cuda]") {
  auto& c = card<float>();
  auto const good = GENERATE(0u, 1u, 5u);
  made_up_loader from{.batches = 100, .fails_at = good};
  prefetch batches{c, from};
  for (std::uint64_t i = 0; i < good; ++i) {
    auto const* b = batches.next();
    REQUIRE(b != nullptr);
    is(c, *b, made_up(i));
  }
  for (int again = 0; again < 2; ++again) {
    try {
      batches.next();
      FAIL("there was an exception");
    } catch (yoke::io::error const& e) {
      CHECK(std::string(e.what()) == "shard 7: sample 3: it is broken");
    }
  }
}

TEST_CASE("it may be given up at any moment", "[cuda]") {
  auto& c = card<float>();
  SECTION("with batches taken and not taken, and the loader at work") {
    auto const taken = GENERATE(0u, 1u, 2u, 3u, 7u);
    auto const wait = std::chrono::microseconds{GENERATE(0, 100, 2000)};
    made_up_loader from{.batches = 100, .takes = std::chrono::microseconds{GENERATE(0, 500)}};
    {
      prefetch batches{c, from};
      for (unsigned i = 0; i < taken; ++i) REQUIRE(batches.next() != nullptr);
      std::this_thread::sleep_for(wait);
    }
    CHECK(from.at <= taken + 4);  // two ahead, one in hand, one that was being made
  }
  SECTION("with the loader blocked") {
    blocked_loader from;
    {
      prefetch batches{c, from};
      if (GENERATE(false, true))
        while (!from.entered) std::this_thread::yield();
    }
    CHECK(from.stopped);
  }
  SECTION("with an exception nobody saw") {
    made_up_loader from{.fails_at = 0};
    prefetch const batches{c, from};
  }
  SECTION("with work on a batch still under way") {
    made_up_loader from{.batches = 3};
    on<double, 1> const sums{c, tensor<double, 1>{shape{extent_t{3}}}};
    {
      prefetch batches{c, from};
      step_on(c, *batches.next(), sums.view().data);
    }
    double pixels = 0;
    for (auto v : made_up(0).pixels) pixels += v;
    CHECK(sums.back(c)[0] == pixels);
  }
}

TEST_CASE("the library's loader, ahead on the card", "[cuda]") {
  auto& c = card<float>();
  yoke::data::loader_options const options{.batch = 12,
                                           .image_size = 16,
                                           .seed = 4,
                                           .epochs = 2,
                                           .keep_captions = true,
                                           .workers = GENERATE(0, 2)};
  auto const tokenize = [](std::string_view caption, std::vector<std::int32_t>& ids) {
    for (auto letter : caption) ids.push_back(letter);
  };
  auto const scenes = yoke::data::scenes{{.samples = 64, .size = 16}};
  yoke::data::loader from{scenes, tokenize, options}, twin{scenes, tokenize, options};
  batch expected;
  int seen = 0;
  SECTION("to the end") {
    for (auto const& b : prefetch{c, from}) {
      REQUIRE(twin.next(expected));
      is(c, b, expected);
      ++seen;
    }
    CHECK_FALSE(twin.next(expected));
    CHECK(seen == 10);
  }
  SECTION("given up, and gone on with where the last batch said") {
    yoke::data::position after;
    for (auto const& b : prefetch{c, from}) {
      REQUIRE(twin.next(expected));
      after = b.after;
      if (++seen == 7)
        break;
    }
    auto rest = options;
    rest.start = after;
    yoke::data::loader later{scenes, tokenize, rest};
    for (auto const& b : prefetch{c, later}) {
      REQUIRE(twin.next(expected));
      is(c, b, expected);
    }
    CHECK_FALSE(twin.next(expected));
  }
}
