// The CPU backend: its context and all of its kernels.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/cpu/adafactor.hpp>
#include <yoke/cpu/attention.hpp>
#include <yoke/cpu/batch_norm.hpp>
#include <yoke/cpu/classification.hpp>
#include <yoke/cpu/convolution.hpp>
#include <yoke/cpu/depthwise.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/gate.hpp>
#include <yoke/cpu/logits.hpp>
#include <yoke/cpu/matmul.hpp>
#include <yoke/cpu/normalize.hpp>
#include <yoke/cpu/normalize_activation.hpp>
#include <yoke/cpu/optimizer.hpp>
#include <yoke/cpu/pointwise.hpp>
#include <yoke/cpu/random.hpp>
#include <yoke/cpu/relative_bias.hpp>
#include <yoke/cpu/sigmoid_logits.hpp>
#include <yoke/cpu/statistics.hpp>
#include <yoke/cpu/tokens.hpp>
#include <yoke/cpu/window_pool.hpp>

namespace yoke::cpu {

static_assert(backend<context<double>> && backend<context<float>> && backend<context<bf16>>);

}  // namespace yoke::cpu
