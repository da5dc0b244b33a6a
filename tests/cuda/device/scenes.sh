#!/usr/bin/env bash
# scenes.sh <yoke-train>: trains on the built-in scenes on this machine's card, as examples/run.sh does on the processor,
# and expects what that reaches: more than half of the held-out images named, among 48 classes.
set -euo pipefail
program=$1
if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
  echo "skipped: no CUDA device on this machine; no training has run on one"
  exit 77
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for options in "" "--cuda-graphs"; do
  # shellcheck disable=SC2086
  "$program" --device cuda --train-data scenes --epochs 3 --lr 1e-3 $options --out "$out/run" | tee "$out/log"
  accuracy=$(sed -n 's/^zero-shot.*top-1 \([0-9.]*\) %.*/\1/p' "$out/log" | tail -n 1)
  awk -v a="$accuracy" 'BEGIN { exit !(a >= 50) }' || { echo "top-1 of $accuracy % is less than 50 %"; exit 1; }
done
