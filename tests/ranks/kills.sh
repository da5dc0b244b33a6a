#!/usr/bin/env bash
# kills.sh <folder of the tools> [runs] [ranks]: trains with ranks that meet over sockets, kills one of them (SIGKILL) at a
# random moment, saves included, restarts from the last checkpoint, and so on to the end; every run must end in the weights
# of the run that was never killed, bit for bit.
set -uo pipefail
tools=$1 runs=${2:-2} ranks=${3:-2}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive

options=(--train-data scenes --train-num-samples 640 --epochs 2 --batch-size 32 --micro-batch 16 --vocabulary 300
  --workers 1 --save-every 2 --log-every 1000 --seed 5)
train() {  # <folder>
  "$here/launch.sh" "$ranks" "$tools/yoke-train" "${options[@]}" --out "$1" --resume latest
}

begin=$(date +%s%N)
train "$work/whole" >"$work/log" 2>&1 || { cat "$work/log"; echo "the run that is never killed failed"; exit 1; }
took=$((($(date +%s%N) - begin) / 1000000))
"$tools/yoke-export" --checkpoint "$work/whole/checkpoint" --out "$work/whole.safetensors" >/dev/null || exit 1
echo "a run takes $took ms"

seed=${SEED:-$$}
RANDOM=$seed
echo "seed $seed"
killed=0
for ((run = 1; run <= runs; run++)); do
  out=$work/run$run
  done=no tries=0 killed_in_run=0
  while [ $done = no ]; do
    tries=$((tries + 1))
    [ $tries -le 60 ] || { cat "$work/log"; echo "run $run does not end"; exit 1; }
    rm -f "$work/pids"
    LAUNCH_PIDS=$work/pids train "$out" >"$work/log" 2>&1 &
    launcher=$!
    # Two of three tries are killed, until one is hit all of them; the others go to the end.
    sent=no
    if [ $killed_in_run = 0 ] || [ $((RANDOM % 3)) != 0 ]; then
      wait_ms=$((RANDOM % (took + 200)))
      sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
      if [ -e "$work/pids" ]; then
        victim=$(sed -n "$((RANDOM % ranks + 1))p" "$work/pids")
        if kill -KILL "$victim" 2>/dev/null; then sent=yes; fi
      fi
    fi
    at=$(date +%s)
    if wait $launcher; then
      if [ $killed_in_run = 1 ]; then done=yes; else rm -rf "$out"; fi  # it came too late: again from the beginning
    elif [ $sent = yes ]; then
      killed=$((killed + 1)) killed_in_run=1
      [ $(($(date +%s) - at)) -le 30 ] || { cat "$work/log"; echo "run $run: the others took more than 30 s to stop"; exit 1; }
    else
      cat "$work/log"
      echo "run $run failed although nobody was killed"
      exit 1
    fi
  done
  "$tools/yoke-export" --checkpoint "$out/checkpoint" --out "$work/run.safetensors" >/dev/null || exit 1
  cmp "$work/whole.safetensors" "$work/run.safetensors" || { echo "run $run ended in other weights"; exit 1; }
  echo "run $run: $tries starts, the same weights"
  rm -rf "$out"
done
echo "$runs runs, $killed ranks killed: all ended in the weights of the run that was never killed"
