#!/usr/bin/env bash
# run.sh <program> [options of Catch2]: runs the tests of CUDA on this machine's card; without one says so and leaves with
# status 77, which ctest counts as skipped. With YOKE_MEMCHECK=1 the kernels run under compute-sanitizer.
set -euo pipefail
program=$1
shift
if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
  echo "skipped: no CUDA device on this machine; what was compiled for one has not run"
  exit 77
fi
nvidia-smi -L
if [ "${YOKE_MEMCHECK:-0}" = 1 ]; then
  exec compute-sanitizer --tool memcheck --leak-check full --error-exitcode 1 "$program" "$@"
fi
exec "$program" "$@"
