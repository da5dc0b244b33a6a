#!/usr/bin/env bash
# fault.sh <seconds> <times> <sentence> <command …>: the command fails within so many seconds, and what it says has the
# sentence (a regular expression) so many times, and nothing of a failure that is told twice in different words.
set -uo pipefail
seconds=$1 times=$2 sentence=$3
shift 3
begun=$(date +%s%N)
said=$("$@" 2>&1)
status=$?
took=$((($(date +%s%N) - begun) / 1000000))
echo "$said"
[ $status != 0 ] || { echo "it has not failed"; exit 1; }
[ $took -lt $((seconds * 1000)) ] || { echo "it has taken $took ms"; exit 1; }
! grep -q "another sentence" <<<"$said" || exit 1
found=$(grep -oE "$sentence" <<<"$said" | wc -l)
[ "$found" = "$times" ] || { echo "found $found times, not $times: $sentence"; exit 1; }
