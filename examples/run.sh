#!/usr/bin/env bash
# From a clone to a trained model: sets up what is missing, builds the tools, trains on generated scenes
# and prints what the model has learnt and where its report is. Options are handed on to yoke-train.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake/setup.sh
[ -e build/CMakeCache.txt ] || cmake --preset default
cmake --build build --target yoke-train --parallel "$(nproc)"
exec build/examples/yoke-train --train-data scenes --epochs 3 --lr 1e-3 "$@"
