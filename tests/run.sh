#!/usr/bin/env bash
# Sets up what is missing, builds everything and runs the tests.
#
#   tests/run.sh [--preset dev|tidy] [-L label] [other options of ctest]
#   tests/run.sh --preset sanitize -L unit     what runs on the CPU, under the address and undefined-behaviour sanitizers
#   tests/run.sh --preset tsan -L ranks        several ranks as threads, under the thread sanitizer
#   tests/run.sh --slow        all that, and whole steps with CUDA's kernels in the emulator: 10 minutes more
#   tests/run.sh --cuda        the tests that need a card, kernels under compute-sanitizer; says so where there is none
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=default
if [ "${1:-}" = --preset ]; then
  preset=$2
  shift 2
fi
slow=OFF
if [ "${1:-}" = --slow ]; then
  slow=ON
  shift
fi
jobs=$(nproc)

if [ "${1:-}" = --cuda ]; then
  shift
  skip() { echo "CUDA tests skipped: $*"; exit 0; }
  nvidia-smi -L 2>/dev/null | grep -q '^GPU' || skip "no CUDA device on this machine; nothing was built or run"
  cmake/setup.sh
  cmake --preset default
  grep -q '^CMAKE_CUDA_COMPILER:' build/CMakeCache.txt || skip "there is a card, but no CUDA toolkit (nvcc) to compile for it"
  cmake --build build --target yoke_tests_cuda_device yoke-train --parallel "$jobs"
  YOKE_MEMCHECK=1 tests/cuda/device/run.sh build/tests/cuda/device/yoke_tests_cuda_device
  exec ctest --preset default -L cuda-device --no-tests=error "$@"
fi

cmake/setup.sh
cmake --preset "$preset" -DYOKE_SLOW_TESTS=$slow
cmake --build --preset "$preset" --parallel "$jobs"
ctest --preset "$preset" --parallel "$jobs" --no-tests=error "$@"
