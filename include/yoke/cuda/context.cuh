// The CUDA backend: its context and all of its kernels. Including this header is what selects CUDA; nothing else does.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/cuda/adafactor.cuh>
#include <yoke/cuda/attention.cuh>
#include <yoke/cuda/batch_norm.cuh>
#include <yoke/cuda/classification.cuh>
#include <yoke/cuda/convolution.cuh>
#include <yoke/cuda/depthwise.cuh>
#include <yoke/cuda/depthwise_weights.cuh>
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/gate.cuh>
#include <yoke/cuda/graph.cuh>
#include <yoke/cuda/layer_norm.cuh>
#include <yoke/cuda/logits.cuh>
#include <yoke/cuda/matmul.cuh>
#include <yoke/cuda/normalize.cuh>
#include <yoke/cuda/optimizer.cuh>
#include <yoke/cuda/pointwise.cuh>
#include <yoke/cuda/random.cuh>
#include <yoke/cuda/relative_bias.cuh>
#include <yoke/cuda/sigmoid_logits.cuh>
#include <yoke/cuda/statistics.cuh>
#include <yoke/cuda/tokens.cuh>
#include <yoke/cuda/window_pool.cuh>

namespace yoke::cuda {

static_assert(backend<context<double>> && backend<context<float>> && backend<context<bf16>>);

}  // namespace yoke::cuda
