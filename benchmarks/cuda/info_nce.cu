// The contrastive loss with its gradients on one card: its time in products of batch x batch x width at the GEMM peak of the
// same run (the arithmetic needs 4), and the memory that it takes beyond inputs and gradients, which must stay below 1 GiB.
// Checked against the definition in double.
//
//   info_nce [rows=65536] [width=1024] [mode=f32|tf32] [edge=8192]
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/parallel/solo.hpp>

#include "../embeddings.hpp"
#include "measure.cuh"

using namespace yoke;

namespace {

using card = cuda::context<float>;

/// Embeddings and gradients in the card's memory.
class problem {
 public:
  problem(card& c, bench::embeddings const& from)
      : shape_{{from.rows, from.width}},
        image_{bench::copy_on(c, from.image)},
        text_{bench::copy_on(c, from.text)},
        d_image_{c, shape_.size()},
        d_text_{c, shape_.size()} {}

  template <class C>
  contrastive::info_nce_result loss(C& c, contrastive::info_nce_options const& options) const {
    parallel::solo ranks;
    return contrastive::info_nce(c, ranks, view<float const, 2>{matrix(image_)},
                                 view<float const, 2>{matrix(text_)}, bench::logit_scale, matrix(d_image_),
                                 matrix(d_text_), options);
  }
  void fetch(card& c, bench::embeddings& to) const {
    to.d_image = bench::fetched(c, d_image_.view(), shape_.size());
    to.d_text = bench::fetched(c, d_text_.view(), shape_.size());
  }

 private:
  view<float, 2> matrix(cuda::buffer<float> const& b) const { return {b.view().data, shape_}; }

  shape<2> shape_;
  cuda::buffer<float> image_, text_, d_image_, d_text_;
};

void check(cuda::context_options const& options) {
  card c{mebibytes(16), 0, options};
  auto const error = bench::error_of_loss(700, 40, [&](bench::embeddings& e) {
    problem const p{c, e};
    auto const result = p.loss(c, {.tile_rows = 100, .tile_columns = 300});
    p.fetch(c, e);
    return result;
  });
  // TF32 keeps 10 bits of each factor, and logits are a hundred times a product.
  bench::expect_error("info_nce", error, options.tf32 ? 1e-2 : 1e-4);
}

void measure(extent_t rows, extent_t width, extent_t edge, cuda::context_options const& options) {
  check(options);
  auto const before = bench::gemm_peak<float>(edge, options);
  bench::embeddings const e{rows, width};
  card inputs{0, 0, options};
  problem const p{inputs, e};
  auto const left = bench::memory_now().free;

  dry::context<float> counter{card::traits};
  p.loss(counter, {});
  card c{counter.memory.peak(), 0, options};
  contrastive::info_nce_result result;
  bench::stopwatch clock;
  auto const seconds = clock.best_of(c, 3, 1, [&] { result = p.loss(c, {}); });
  auto const now = bench::memory_now().free;
  auto const extra = static_cast<double>(left - std::min(left, now));
  if (!(std::isfinite(result.loss) && extra < static_cast<double>(gibibytes(1))))
    throw std::runtime_error("loss " + std::to_string(result.loss) + " with " + std::to_string(1e-6 * extra) +
                             " MB beyond inputs and gradients, where less than 1 GiB was promised");

  auto const peak = std::max(before, bench::gemm_peak<float>(edge, options));
  auto const products =
      seconds * peak * 1e9 / (2 * static_cast<double>(rows) * static_cast<double>(rows * width));
  bench::report_card("info_nce " + std::to_string(rows) + " x " + std::to_string(width),
                     options.tf32 ? "tf32" : "f32", static_cast<double>(rows) / seconds, "pairs/s",
                     4 / products,
                     bench::member("seconds", seconds) + ", " + bench::member("gemms", products) + ", " +
                         bench::member("extra_mb", 1e-6 * extra) + ", " +
                         bench::member("arena_mb", 1e-6 * static_cast<double>(c.memory.peak())) + ", " +
                         bench::member("peak_gflops", peak) + ", " + bench::member("loss", result.loss));
}

}  // namespace

int main(int count, char** words) {
  return bench::run("info_nce", count, words, [](bench::settings& s) {
    auto const rows = s.number("rows", 65536), width = s.number("width", 1024), edge = s.number("edge", 8192);
    auto const mode = s.text("mode", "f32");
    s.expect_no_others();
    if (mode != "f32" && mode != "tf32")
      throw std::invalid_argument("mode is f32 or tf32");
    measure(rows, width, edge, {.tf32 = mode == "tf32"});
  });
}
