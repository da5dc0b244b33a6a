// yoke-train in a build without CUDA.
#include "settings.hpp"
#include <stdexcept>

void train_tool::train_on_cuda(launched_ranks&, settings const& s) {
  throw std::runtime_error(
      "--device " + s.device +
      ": this program was built without CUDA; no toolkit (nvcc) was found when it was configured");
}
