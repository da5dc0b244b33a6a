#!/usr/bin/env bash
# check.sh <include/yoke>: folders include only what lies below them, libraries are named where they belong,
# headers stay short. Prints every breach and fails if there is one.
set -euo pipefail
shopt -s globstar nullglob
cd "$1"

# folder: the folders it may include besides itself
declare -A below=(
  [core]="" [autograd]="core" [ops]="core autograd" [nn]="core autograd ops" [towers]="core autograd ops nn"
  [parallel]="core" [optim]="core autograd"
  [contrastive]="core autograd ops nn towers parallel"
  [train]="core autograd ops nn towers contrastive parallel optim data text io dry"
  [eval]="core autograd ops nn towers contrastive parallel data text io"
  [cpu]="core" [dry]="core" [cuda]="core" [data]="core" [text]="core" [io]="core"
)
models=" core autograd ops nn towers "
slow='^ *# *include <(iostream|regex|filesystem|random|functional|ranges)>'
engines='# *include <(Eigen/|unsupported/Eigen|dnnl|oneapi/)|Eigen::|dnnl::|GOMP_'
devices='# *include <(cuda|cublas|cudnn|nccl)'

breaches=0
breach() { echo "$1"; breaches=$((breaches + 1)); }
forbid() {  # file, pattern, rule
  local line
  while IFS= read -r line; do breach "$1:$line  <- $3"; done < <(grep -nE -- "$2" "$1" || true)
}

for file in **/*.hpp **/*.cuh; do
  length=$(wc -l <"$file")
  [ "$length" -le 400 ] || breach "$file: $length lines  <- no header is longer than 400"
  forbid "$file" '# *include "' "own headers are included as <yoke/...>"

  [[ $file == */* ]] || continue  # yoke.hpp and version.hpp
  folder=${file%%/*}
  if [ -z "${below[$folder]+known}" ]; then
    breach "$file: unknown folder  <- say in tests/arrows/check.sh what it may include"
    continue
  fi
  allowed=$(tr ' ' '|' <<<"$folder ${below[$folder]}")
  while IFS= read -r line; do
    breach "$file:$line  <- $folder includes only ${below[$folder]:-itself}"
  done < <(grep -nE '# *include <yoke/' "$file" | grep -vE "<yoke/(version\.hpp|(${allowed%|})/)" || true)

  [[ $models != *" $folder "* ]] || forbid "$file" "$slow" "$folder stays free of slow standard headers"
  [ "$folder" = cpu ] || forbid "$file" "$engines" "Eigen, oneDNN and libgomp are named only in cpu"
  [ "$folder" = cuda ] || forbid "$file" "$devices" "CUDA is named only in cuda"
done

[ "$breaches" = 0 ] || { echo "$breaches breaches"; exit 1; }
