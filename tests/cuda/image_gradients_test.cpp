// The ops of convolutional towers, but convolutions, against central differences with CUDA's kernels, in double.
#include <yoke/cuda/context.cuh>

using device_context = yoke::cuda::context<double>;
#include "ops/image_gradients.hpp"
