#!/usr/bin/env bash
# Sets up what is missing, builds everything and runs the tests.
#
#   tests/run.sh [--preset dev|sanitize|tsan|tidy] [-L label] [other options of ctest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=default
if [ "${1:-}" = --preset ]; then
  preset=$2
  shift 2
fi
jobs=$(nproc)

cmake/setup.sh
cmake --preset "$preset"
cmake --build --preset "$preset" --parallel "$jobs"
ctest --preset "$preset" --parallel "$jobs" --no-tests=error "$@"
