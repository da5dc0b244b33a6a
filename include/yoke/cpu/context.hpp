// The CPU backend: its context and all of its kernels.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/cpu/adafactor.hpp>
#include <yoke/cpu/attention.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/logits.hpp>
#include <yoke/cpu/matmul.hpp>
#include <yoke/cpu/normalize.hpp>
#include <yoke/cpu/optimizer.hpp>
#include <yoke/cpu/pointwise.hpp>
#include <yoke/cpu/random.hpp>
#include <yoke/cpu/statistics.hpp>
#include <yoke/cpu/tokens.hpp>

namespace yoke::cpu {

static_assert(backend<context<double>> && backend<context<float>> && backend<context<bf16>>);

}  // namespace yoke::cpu
