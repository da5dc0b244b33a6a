#!/usr/bin/env bash
# Runs a command as two ranks on hosts that are apart: network namespaces with addresses of their own and a cable between.
#
#   apart.sh [--cut-after SECONDS] COMMAND...
#
# COMMAND finds RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in its environment. Both outputs are shown, and
# how each rank ended. With --cut-after the cable is cut that long after the start, and both must end within 30 s of that
# with a status that is not 0; without it, both must end with 0. Exits with 77 where there can be no such hosts.
set -euo pipefail

cut_after=
if [ "${1:-}" = --cut-after ]; then
  cut_after=$2
  shift 2
fi
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }

skip() { echo "skipped, no hosts that are apart: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "this needs root"
command -v ip > /dev/null || skip "there is no ip (iproute2)"

name=yoke-apart-$$
work=$(mktemp -d)
running=()
clean() {
  for rank in 0 1; do
    for process in $(ip netns pids $name-$rank 2> /dev/null); do kill -KILL "$process" 2> /dev/null || true; done
    ip netns delete $name-$rank 2> /dev/null || true
  done
  rm -rf "$work"
}
trap clean EXIT

{
  ip netns add $name-0 &&
    ip netns add $name-1 &&
    ip -n $name-0 link add cable type veth peer name cable netns $name-1 &&
    for rank in 0 1; do
      ip -n $name-$rank address add 10.77.0.$((rank + 1))/24 dev cable nodad &&
        ip -n $name-$rank link set cable up &&
        ip -n $name-$rank link set lo up || exit 1
    done
} 2> "$work/problem" || skip "$(head -1 "$work/problem")"

now() { date +%s.%N; }
elapsed() { awk -v then="$since" -v now="$(now)" 'BEGIN { printf "%.1f", now - then }'; }
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }

event="the start"
since=$(now)
for rank in 0 1; do
  env -u YOKE_PORT -u TORCHELASTIC_USE_AGENT_STORE RANK=$rank WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=10.77.0.1 \
    MASTER_PORT=29500 ip netns exec $name-$rank "$@" > "$work/$rank" 2>&1 < /dev/null &
  running+=($!)
done

ended=("" "")
someone_runs() {  # and notes who has ended since the last time
  for rank in 0 1; do
    if [ -z "${ended[rank]}" ] && ! kill -0 "${running[rank]}" 2> /dev/null; then
      ended[rank]="$(elapsed) s after $event"
    fi
  done
  [ -z "${ended[0]}" ] || [ -z "${ended[1]}" ]
}

bad=0
if [ -n "$cut_after" ]; then
  while someone_runs && below "$(elapsed)" "$cut_after"; do sleep 0.1; done
  if [ -n "${ended[0]}${ended[1]}" ]; then
    echo "a rank had ended before the cable was cut"
    bad=1
  fi
  ip -n $name-0 link set cable down
  event="the cable was cut"
  since=$(now)
  while someone_runs && below "$(elapsed)" 40; do sleep 0.1; done
else
  while someone_runs; do sleep 0.1; done
fi

for rank in 0 1; do
  sed "s/^/rank $rank: /" "$work/$rank"
  if [ -z "${ended[rank]}" ]; then
    echo "rank $rank has not ended 40 s after $event"
    bad=1
    continue
  fi
  status=0
  wait "${running[rank]}" || status=$?
  echo "rank $rank ended with status $status, ${ended[rank]}"
  if [ -z "$cut_after" ]; then
    [ $status = 0 ] || bad=1
  else
    [ $status != 0 ] && below "${ended[rank]%% *}" 30.1 || bad=1
  fi
done
exit $bad
