#!/usr/bin/env bash
# check.sh <build folder> <target> <sentence>: target_right compiles, and target_wrong fails with that sentence,
# an extended regular expression.
set -euo pipefail
build=$1 target=$2 sentence=$3

cmake --build "$build" --target "${target}_right" >/dev/null || { echo "the right version does not compile"; exit 1; }
if output=$(cmake --build "$build" --target "${target}_wrong" 2>&1); then
  echo "the wrong version compiles"
  exit 1
fi
if ! grep -qE -- "$sentence" <<<"$output"; then
  printf 'the sentence is missing: %s\n\n%s\n' "$sentence" "$output"
  exit 1
fi
