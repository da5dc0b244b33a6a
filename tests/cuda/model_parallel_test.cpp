// Matrices and tables that ranks share, with CUDA's kernels: ranks as threads, which talk through the host.
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/through_host.cuh>

#include "ops/shared_layers.hpp"

using namespace shared_layers;

namespace {

template <class C, class Run>
void check(Run const& run, outcome const& whole, double tolerance) {
  auto const through_host = [](C& c, parallel::threads& ranks) { return cuda::through_host{c, ranks}; };
  check_close(together<C>(2, run, through_host), whole, tolerance);
}

}  // namespace

TEST_CASE("what ranks share on a card gives what the whole gives", "[cuda][parallel]") {
  using exact = cuda::context<double>;
  using lean = compact<cuda::context<bf16>>;
  for (auto const& k : layer_cases()) {
    if (k.rows == 8 || k.rows == 12)
      continue;
    auto const run = [&](auto& c, parallel::any* axis) { return run_layer(c, axis, k); };
    auto const whole = alone<exact>([&](auto& c, parallel::any* axis) {
      return run_layer(c, axis, {matmul_split::none, k.rows, 1, k.bias});
    });
    INFO("kind " << static_cast<int>(k.split) << ", " << k.rows << " rows");
    check<exact>(run, whole, 1e-12);
    check<lean>(run, whole, 0.02);
  }
  auto const run = [](auto& c, parallel::any* axis) { return run_embedding(c, axis); };
  check<exact>(run, alone<exact>(run), 1e-12);
}
