// What ranks compute together is what one computes alone: each way of sharing a matrix, and a table of tokens, forward and
// backward, in double to rounding and in bf16 within its precision.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>

#include "ops/shared_layers.hpp"

using namespace shared_layers;

namespace {

using exact = cpu::context<double>;

template <class C, class Run>
outcome on_ranks(int n, Run const& run) {
  return together<C>(n, run, [](C&, parallel::threads& ranks) -> parallel::threads& { return ranks; });
}
auto layer(layer_case const& k) {
  return [k](auto& c, parallel::any* axis) { return run_layer(c, axis, k); };
}
auto whole_layer(layer_case const& k) {
  return layer({matmul_split::none, k.rows, 1, k.bias});
}
constexpr auto embedding = [](auto& c, parallel::any* axis) { return run_embedding(c, axis); };

}  // namespace

TEST_CASE("a matrix that ranks share gives what the whole gives, forward and backward", "[ranks]") {
  for (auto const& k : layer_cases()) {
    auto const whole = alone<exact>(whole_layer(k));
    CHECK(alone<exact>(layer(k)) == whole);  // alone, every kind is the plain product
    for (int n : {2, 3, 4}) {
      INFO("kind " << static_cast<int>(k.split) << ", " << k.rows << " rows, " << n << " ranks");
      check_close(on_ranks<exact>(n, layer(k)), whole, 1e-12);
    }
  }
}

TEST_CASE("a table of tokens that ranks share gives what the whole gives", "[ranks]") {
  auto const whole = alone<exact>(embedding);
  for (int n : {2, 3, 4}) check_close(on_ranks<exact>(n, embedding), whole, 1e-12);
}

TEST_CASE("gradients of what ranks share are central differences", "[ranks][gradient]") {
  // Each tenth number of each tensor: the loss <dy, y> is linear in it, and y is put together from all ranks.
  auto const check = [](int ranks, numbers const& dy, auto const& run, auto const& of) {
    auto const loss = [&](nudge const& moved) {
      auto const y = on_ranks<exact>(ranks, of(moved)).at("y");
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
      return sum;
    };
    for (auto const& [name, gradient] : on_ranks<exact>(ranks, run)) {
      if (name == "y")
        continue;
      for (std::size_t i = 0; i < gradient.size(); i += 10) {
        auto const at = static_cast<extent_t>(i);
        auto const moved = name == "dx" ? "x" : name;
        auto const difference = (loss({moved, at, 0.5}) - loss({moved, at, -0.5}));
        INFO(name << " " << i);
        CHECK(std::abs(difference - gradient[i]) < 1e-9);
      }
    }
  };
  for (auto const& k : layer_cases()) {
    if (k.rows != 7)
      continue;
    INFO("kind " << static_cast<int>(k.split) << (k.bias ? ", bias" : ""));
    check(3, random_numbers(2, k.rows * out), layer(k), [&](nudge const& moved) {
      return [&](auto& c, parallel::any* axis) { return run_layer(c, axis, k, moved); };
    });
  }
  check(2, random_numbers(5, 40), embedding, [](nudge const& moved) {
    return [&](auto& c, parallel::any* axis) { return run_embedding(c, axis, moved); };
  });
}

TEST_CASE("in bf16, gradients of matrices in float or in bf16, ranks are as near to double as one rank is",
          "[ranks]") {
  using lean = compact<cpu::context<bf16>>;
  for (auto const& k : layer_cases()) {
    auto const whole = alone<exact>(whole_layer(k));
    INFO("kind " << static_cast<int>(k.split) << ", " << k.rows << " rows");
    check_close(on_ranks<cpu::context<bf16>>(3, layer(k)), whole, 0.02);
    check_close(on_ranks<lean>(3, layer(k)), whole, 0.02);
  }
  check_close(on_ranks<lean>(3, embedding), alone<exact>(embedding), 0.02);
}

TEST_CASE("a share of a model meets the ranks that have the others", "[ranks]") {
  parameter_list list{{.rank = 1, .ranks = 2}};
  exact c{kibibytes(4), kibibytes(4)};
  parameter_store<exact> const store{c, list};
  auto const refused = [&](parallel::any* axis) {
    try {
      tape<exact> const t{c, store.views(), {.model_axis = axis}};
    } catch (precondition_error const& e) {
      return std::string(e.what()).find(
                 "tape: the parameters are those of rank 1 of 2 on the model axis, and this "
                 "is rank 0 of 1") != std::string::npos;
    }
    return false;
  };
  parallel::solo alone;
  parallel::any axis{alone};
  CHECK(refused(nullptr));
  CHECK(refused(&axis));
}
