// Lesson 2: the loss without the library's towers. Any program that has embeddings, as plain row-major floats, gets the
// streamed contrastive loss and its gradients: here two tables of free vectors are pulled into agreement.
#include <yoke/contrastive/info_nce.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using namespace yoke;

/// Divides each row by its length and returns the lengths.
std::vector<float> normalize(std::vector<float>& rows, std::size_t width) {
  std::vector<float> lengths;
  for (std::size_t i = 0; i < rows.size(); i += width) {
    float sum = 0;
    for (std::size_t j = 0; j < width; ++j) sum += rows[i + j] * rows[i + j];
    lengths.push_back(std::sqrt(sum));
    for (std::size_t j = 0; j < width; ++j) rows[i + j] /= lengths.back();
  }
  return lengths;
}

int main() {
  constexpr extent_t pairs = 256, width = 16;
  random_sequence random{1};
  std::vector<float> image(pairs * width), text(pairs * width), d_image(pairs * width), d_text(pairs * width);
  for (auto* table : {&image, &text})
    for (auto& x : *table) x = static_cast<float>(random.normal());

  cpu::context<float> device{mebibytes(64), mebibytes(1)};
  parallel::solo ranks;  // or threads: every rank passes its rows
  auto const rows = [](auto& v) { return view<float, 2>{v.data(), {{pairs, width}}}; };

  for (int step = 0; step <= 40; ++step) {
    normalize(image, width);
    normalize(text, width);
    auto const r =
        contrastive::info_nce(device, ranks, rows(image), rows(text), 20.0f, rows(d_image), rows(d_text));
    if (step % 10 == 0)
      std::printf("step %2d  loss %.4f  pairs found %.0f %%\n", step, r.loss, 100 * r.accuracy);
    if (step == 40)
      return r.accuracy > 0.9 ? 0 : 1;
    for (std::size_t i = 0; i < image.size(); ++i) {
      image[i] -= 5 * d_image[i];
      text[i] -= 5 * d_text[i];
    }
  }
}
