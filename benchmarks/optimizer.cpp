// What an optimiser costs beside the memory that it must touch: AdafactorW and AdamW, checked, then timed beside a
// copy of as many bytes: gradients (zeroed), moments and master values once in and once out, the compute copy out.
#include <yoke/cpu/context.hpp>

#include "measure.hpp"
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using namespace yoke;

namespace {

/// The program ends when a kernel is wrong: its time would mean nothing.
void check(bool right, char const* work) {
  if (right)
    return;
  std::fprintf(stderr, "%s: wrong, not timed\n", work);
  std::exit(1);
}

/// Seconds that all threads together take to copy half of `bytes` to the other half.
double copy_time(std::byte* memory, std::size_t bytes) {
  return bench::best_of(3, [&] {
    cpu::parallel_for(static_cast<extent_t>(bytes / 2), 4096, [&](extent_t first, extent_t last) {
      std::memcpy(memory + first, memory + static_cast<extent_t>(bytes / 2) + first,
                  static_cast<std::size_t>(last - first));
    });
  });
}

/// P: master values and gradients. A compute copy is there when elements are narrower than they.
template <class T, class P>
class optimizers {
  using A = accumulator_t<T>;
  using F = first_moment_t<A>;
  static constexpr bool has_copy = sizeof(T) < sizeof(P);

  cpu::context<T> c_{gibibytes(4), mebibytes(1)};
  extent_t rows_, columns_;
  view<P, 2> gradient_, master_, small_gradient_;
  view<F, 2> first_;
  view<T, 2> copy_;
  std::string mode_ = std::string("gradients and master ") + (sizeof(P) == 2 ? "bf16" : "f32") +
                      (has_copy ? ", bf16 copy" : "");

  /// `again` fills the gradient anew, so that no step is of zeros alone; it is not timed.
  template <class F>
  void time(char const* work, double bytes_each, F const& f) {
    auto const bytes = bytes_each * static_cast<double>(gradient_.size());
    cpu::pages memory{static_cast<std::size_t>(bytes)};
    std::memset(memory.data(), 1, memory.size());
    double copy = 1e300, best = 1e300;
    for (int i = 0; i < 4; ++i) {  // in turns, so that a machine that changes its speed changes it for both
      copy = std::min(copy, copy_time(memory.data(), memory.size()));
      for (int k = 0; k < 3; ++k) {
        refill();
        best = std::min(best, bench::best_of(1, f, 0));
      }
    }
    char more[160];
    std::snprintf(more, sizeof more,
                  R"(, "share_of": "copy", "ns": %.3f, "bytes": %.1f, "times_of_copy": %.3f)",
                  best / static_cast<double>(gradient_.size()) * 1e9, bytes_each, best / copy);
    bench::report(std::string(work) + ", " + std::to_string(rows_) + " x " + std::to_string(columns_), mode_,
                  static_cast<double>(gradient_.size()) / best * 1e-9, "10^9 parameters/s", copy / best,
                  more + 2);
  }

  void refill() {
    for (extent_t i = 0; i < gradient_.size(); i += period)
      std::memcpy(static_cast<void*>(gradient_.data + i), numbers_.data(),
                  sizeof(P) * static_cast<std::size_t>(std::min(period, gradient_.size() - i)));
  }

  static constexpr extent_t period = 65537;
  std::vector<P> numbers_;

 public:
  optimizers(extent_t rows, extent_t columns)
      : rows_{rows},
        columns_{columns},
        gradient_{make<P>(c_, shape{rows, columns})},
        master_{make<P>(c_, shape{rows, columns})},
        first_{make<F>(c_, shape{rows, columns})},
        numbers_(static_cast<std::size_t>(period)) {
    if (has_copy)
      copy_ = make<T>(c_, shape{rows, columns});
    random_sequence draw{1};
    for (auto& x : numbers_) x = static_cast<P>(draw.normal());
    reset();
  }
  void reset() {
    refill();
    fill(c_, as_flat(master_), 1.0);
    std::memset(static_cast<void*>(first_.data), 0, static_cast<std::size_t>(first_.size()) * sizeof(F));
    if (has_copy)
      fill(c_, as_flat(copy_), 1.0);
  }

  /// In the first step u = g / root, the first moment (1 - beta1) u, and the parameter moves by rate times that.
  void check_step(double root, char const* work) {
    auto const i = columns_ + 3;
    auto const g = static_cast<double>(numbers_[static_cast<std::size_t>(i)]);
    auto const m = 0.1 * g / root;
    check(std::abs(static_cast<double>(first_.data[i]) - m) <= 0.005 * std::abs(m), work);
    check(std::abs(static_cast<double>(master_.data[i]) - (1 - 0.1 * m)) <= (sizeof(P) == 2 ? 0.0079 : 1e-6),
          work);
    check(static_cast<double>(gradient_.data[i]) == 0, work);
  }

  void factored() {
    arena_scope const scope{c_.memory};
    auto const r = make<A>(c_, shape{rows_}), k = make<A>(c_, shape{columns_});
    fill(c_, r, 0.0);
    fill(c_, k, 0.0);
    std::vector<double> row(1), column(1);
    double all = 0;
    for (extent_t i = 0; i < rows_; ++i)
      for (extent_t j = 0; j < columns_; ++j) {
        auto const square = std::pow(static_cast<double>(gradient_.data[i * columns_ + j]), 2);
        all += square;
        row[0] += i == 1 ? square : 0;
        column[0] += j == 3 ? square : 0;
      }
    adafactor_coefficients w{.rate = 0.1, .rounding = rounding_key::of(1, 1, 0)};
    auto const run = [&] { adafactor_update(c_, w, gradient_, r, k, first_, master_, copy_); };
    run();
    check_step(std::sqrt(row[0] * column[0] / all), "AdafactorW, factored");
    w = {.rate = 1e-4, .beta2 = 0.99, .decay = 0.1};
    time("AdafactorW, factored", 4 * sizeof(P) + 2 * sizeof(F) + (has_copy ? sizeof(T) : 0), run);
  }

  void whole() {
    arena_scope const scope{c_.memory};
    auto const v = make<A>(c_, shape{rows_ * columns_});
    fill(c_, v, 0.0);
    reset();
    adafactor_coefficients w{.rate = 0.1, .rounding = rounding_key::of(1, 1, 0)};
    auto const run = [&] {
      adafactor_update(c_, w, as_flat(gradient_), v, as_flat(first_), as_flat(master_), as_flat(copy_));
    };
    auto const g = static_cast<double>(numbers_[static_cast<std::size_t>(columns_ + 3)]);
    run();
    check_step(std::abs(g), "AdafactorW, whole");
    w = {.rate = 1e-4, .beta2 = 0.99, .decay = 0.1};
    time("AdafactorW, whole", 4 * sizeof(P) + 2 * sizeof(F) + 2 * sizeof(A) + (has_copy ? sizeof(T) : 0),
         run);
  }

  void adam() {
    if constexpr (std::is_same_v<P, A>) {
      arena_scope const scope{c_.memory};
      auto const n = rows_ * columns_;
      auto const m = make<A>(c_, shape{n}), v = make<A>(c_, shape{n});
      fill(c_, m, 0.0);
      fill(c_, v, 0.0);
      reset();
      adam_w_coefficients w{.rate = 0.1, .correction1 = 0.1, .correction2 = 0.02};
      auto const run = [&] {
        adam_w_update(c_, w, as_flat(gradient_), m, v, as_flat(master_), as_flat(copy_));
      };
      run();
      check(std::abs(std::abs(static_cast<double>(master_.data[5]) - 1) - 0.1) < 1e-3, "AdamW");
      w = {.rate = 1e-4, .decay = 0.1};
      time("AdamW", 8 * sizeof(A) + (has_copy ? sizeof(T) : 0), run);
    }
  }

  void norm() {
    reset();
    double sum = 0;
    for (extent_t i = 0; i < gradient_.size(); ++i)
      sum += std::pow(static_cast<double>(gradient_.data[i]), 2);
    check(std::abs(squared_norm(c_, as_flat(gradient_)) / sum - 1) < 1e-8, "squared norm");
    double ignored = 0;
    time("squared norm", sizeof(P), [&] { ignored += squared_norm(c_, as_flat(gradient_)); });
  }

  void all() {
    factored();
    whole();
    adam();
    norm();
  }
};

}  // namespace

/// optimizer [rows [columns]]
int main(int count, char** words) {
  auto const number = [&](int i, extent_t otherwise) {
    return i < count ? static_cast<extent_t>(std::atoll(words[i])) : otherwise;
  };
  auto const rows = number(1, 8192), columns = number(2, 4096);
  optimizers<bf16, float>{rows, columns}.all();
  optimizers<bf16, bf16>{rows, columns}.all();
  optimizers<float, float>{rows, columns}.all();
}
