#!/usr/bin/env bash
# Breaks each rule of check.sh once and sees that it notices.
set -euo pipefail
check=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/check.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

good() {
  "$check" "$tree" || { echo "refused although right: $1"; exit 1; }
}
bad() {  # file, line
  mkdir -p "$tree/$(dirname "$1")"
  printf '%s\n' "$2" >"$tree/$1"
  if "$check" "$tree" >/dev/null; then echo "not noticed: $1: $2" && exit 1; fi
  rm "$tree/$1"
}

mkdir -p "$tree/core" "$tree/ops" "$tree/cpu" "$tree/data" "$tree/parallel"
echo '#include <yoke/core/tensor.hpp>' >"$tree/ops/fine.hpp"
echo '#include <Eigen/Core>' >"$tree/cpu/fine.hpp"
printf '#include <yoke/%s>\n' io/json.hpp text/utf8.hpp >"$tree/data/fine.hpp"
echo '#include <mpi.h>' >"$tree/parallel/mpi_fine.hpp"
echo '#include <yoke/ops/fine.hpp>' >"$tree/yoke.hpp"
good "a small tree"

bad core/up.hpp '#include <yoke/ops/matmul.hpp>'
bad cpu/up.hpp '#include <yoke/autograd/tape.hpp>'
bad data/across.hpp '  #  include <yoke/train/trainer.hpp>'
bad io/across.hpp '#include <yoke/data/tar.hpp>'
bad text/across.hpp '#include <yoke/data/caption.hpp>'
bad optim/across.hpp '#include <yoke/nn/linear.hpp>'
bad train/across.hpp '#include <yoke/eval/zero_shot.hpp>'
bad ops/umbrella.hpp '#include <yoke/yoke.hpp>'
bad ops/quoted.hpp '#include "matmul.hpp"'
bad ops/slow.hpp '#include <functional>'
bad ops/engine.hpp '#include <oneapi/dnnl/dnnl.hpp>'
bad towers/engine.hpp 'dnnl_engine_t engine = nullptr;'
bad optim/threads.hpp 'GOMP_parallel(body, data, 0, 0);'
bad parallel/device.hpp '#include <cuda_runtime.h>'
bad parallel/ranks.hpp '#include <mpi.h>'
bad train/ranks.hpp 'MPI_Barrier(MPI_COMM_WORLD);'
bad misc/unknown.hpp '// a folder that no rule knows'
bad nn/long.hpp "$(seq 401)"
good "the same tree afterwards"
