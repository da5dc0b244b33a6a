// Every op against central differences with CUDA's kernels, in double.
#include <yoke/cuda/context.cuh>

using device_context = yoke::cuda::context<double>;
#include "ops/gradients.hpp"
