#!/usr/bin/env bash
# fault.sh <seconds> <times> <sentence> <mpirun …>: the ranks end within so many seconds, the launcher says that they
# failed, and what they say has the sentence (a regular expression) so many times ("2", or "1-2"), and nothing of a failure
# that is told twice in different words.
set -uo pipefail
seconds=$1 times=$2 sentence=$3
shift 3
output=$(mktemp)
trap 'rm -f "$output"' EXIT
running() {  # any of the launcher's processes
  local stat line state parent
  for stat in /proc/[0-9]*/stat; do
    read -r line 2>/dev/null <"$stat" || continue
    read -r state parent _ <<<"${line##*) }"
    if [ "$parent" = "$launcher" ] && [ "$state" != Z ]; then return 0; fi
  done
  return 1
}

"$@" >"$output" 2>&1 &
launcher=$!
for ((tenths = 0; tenths < 10 * seconds; tenths++)); do
  kill -0 $launcher 2>/dev/null || break
  sleep 0.1
done
if kill -0 $launcher 2>/dev/null; then
  # mpirun of Open MPI 4.1 with PMIx 4.2 now and then waits for itself for ever once all ranks are gone (PMIx_server_finalize).
  if running; then gone=no; else gone=yes; fi
  kill -KILL $launcher
  cat "$output"
  [ $gone = yes ] || { echo "ranks still run after $seconds s"; exit 1; }
  echo "all ranks are gone; mpirun was not, and is killed"
  status=1
else
  wait $launcher
  status=$?
  cat "$output"
fi
[ $status != 0 ] || { echo "it has not failed"; exit 1; }
! grep -aq "another sentence" "$output" || exit 1
found=$(grep -aoE -e "$sentence" "$output" | wc -l)
[ "$found" -ge "${times%-*}" ] && [ "$found" -le "${times#*-}" ] || { echo "found $found times, not $times: $sentence"; exit 1; }
