// The CUDA backend: its context and all of its kernels. Including this header is what selects CUDA; nothing else does.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/cuda/attention.cuh>
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/graph.cuh>
#include <yoke/cuda/logits.cuh>
#include <yoke/cuda/matmul.cuh>
#include <yoke/cuda/normalize.cuh>
#include <yoke/cuda/optimizer.cuh>
#include <yoke/cuda/pointwise.cuh>
#include <yoke/cuda/random.cuh>
#include <yoke/cuda/tokens.cuh>

namespace yoke::cuda {

static_assert(backend<context<double>> && backend<context<float>> && backend<context<bf16>>);

}  // namespace yoke::cuda
