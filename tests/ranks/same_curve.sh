#!/usr/bin/env bash
# same_curve.sh <folder of the tools> [options of yoke-train]: a run of one rank, of two over sockets and, where this
# machine has mpirun, of two over MPI have one curve of losses; so has one of two ranks to a model.
set -uo pipefail
tools=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive
options=("$@")
[ ${#options[@]} -gt 0 ] || options=(--train-data scenes --train-num-samples 640 --epochs 1 --batch-size 64 --vocabulary 300
  --workers 1 --log-every 1000 --precision fp32)

run() {  # <name> <command>…
  local name=$1
  shift
  "$@" "${options[@]}" --out "$work/$name" >"$work/$name.log" 2>&1 || { cat "$work/$name.log"; echo "$name failed"; exit 1; }
}
losses() { sed -n 's/.*"loss": *\([-0-9.e+]*\).*/\1/p' "$work/$1/metrics.jsonl"; }
compare() {
  paste -d' ' <(losses one) <(losses "$1") | awk -v name="$1" '
    NF == 2 { d = ($1 > $2 ? $1 - $2 : $2 - $1) / $1; if (d > worst) worst = d; steps++ }
    NF != 2 { odd = 1 }
    END {
      printf "%s: %d steps, losses differ by %.1e at most\n", name, steps, worst
      exit odd || !steps || worst > 1e-3
    }' || { echo "$1 has another curve"; exit 1; }
}

run one "$tools/yoke-train"
run sockets "$here/launch.sh" 2 "$tools/yoke-train"
compare sockets
run model "$here/launch.sh" 2 "$tools/yoke-train" --mesh 1x2 --model-parallel gathered
compare model
if command -v mpirun >/dev/null; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  run mpi mpirun -n 2 "$tools/yoke-train"
  compare mpi
else
  echo "no mpirun here"
fi
