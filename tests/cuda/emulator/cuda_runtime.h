// CUDA's runtime and what kernels are written in, emulated on the CPU: see README.md. It stands before the real
// header on the search path.
#pragma once
#include "emulator/api_device.hpp"
#include "emulator/api_graphs.hpp"
#include "emulator/api_memory.hpp"
#include "emulator/api_streams.hpp"
#include "emulator/functions.hpp"
#include "emulator/types.hpp"
#include "emulator/warp.hpp"
