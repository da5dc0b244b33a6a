// What a card refuses, in words; and copies to it and from it.
#include <yoke/cuda/context.cuh>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

TEST_CASE("a card that is not there is named, and what there is") {
  CHECK_THROWS_MATCHES((cuda::context<float>{1024, 1024, {.device = 1000}}), cuda::error,
                       MessageMatches(ContainsSubstring("there is no CUDA device 1000: this machine has ")));
  CHECK_THROWS_MATCHES((cuda::context<float>{1024, 1024, {.device = -1}}), cuda::error,
                       MessageMatches(ContainsSubstring("there is no CUDA device -1")));
}

TEST_CASE("more memory than the card has is refused with both figures") {
  CHECK_THROWS_MATCHES(
      (cuda::context<float>{std::size_t{1} << 42, 1024}), cuda::error,
      MessageMatches(ContainsSubstring("4398.05 GB of device memory are wanted for the activations") &&
                     ContainsSubstring(" are free")));
  cuda::context<float> after{1024, 1024};  // and nothing is left broken
  fill(after, make<float>(after, shape{4}), 1.0);
  after.wait();
}

TEST_CASE("what is uploaded comes back") {
  cuda::context<bf16> c{kibibytes(64), 1024};
  std::vector<float> values(1000), found(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 500;
  auto const there = resident(c, view<float const, 1>{values.data(), {{1000}}});
  download(c, there, view<float, 1>{found.data(), {{1000}}});
  CHECK(found == values);
  CHECK(c.memory.peak() == 4096);
  CHECK(scalar(c, slice(there, 501, 1)) == 1);
}

TEST_CASE("an arena of the card that is too small says so") {
  cuda::context<float> c{1024, 1024};
  CHECK_THROWS_AS(make<float>(c, shape{1000}), arena_exhausted);
}
