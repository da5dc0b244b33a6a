#!/usr/bin/env bash
# launch.sh <ranks> <command>…: starts so many processes with the variables that torchrun sets, on this machine. Their
# output comes as it is; the exit status is 0 when all of theirs are. Writes their process numbers, a line each, to
# $LAUNCH_PIDS if that is set.
set -uo pipefail
ranks=$1
shift
port=${MASTER_PORT:-$((20000 + $$ % 12000))}
pids=()
for ((r = 0; r < ranks; r++)); do
  RANK=$r WORLD_SIZE=$ranks LOCAL_RANK=$r LOCAL_WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$@" &
  pids+=($!)
done
if [ -n "${LAUNCH_PIDS:-}" ]; then
  printf '%s\n' "${pids[@]}" >"$LAUNCH_PIDS.part"
  mv "$LAUNCH_PIDS.part" "$LAUNCH_PIDS"
fi
trap 'kill "${pids[@]}" 2>/dev/null' TERM INT
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit $status
