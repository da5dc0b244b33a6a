#!/usr/bin/env bash
# Builds the benchmarks and prints one table: the work, Yoke's rate, its share of the GEMM peak of the moment, and with
# --with-peers what PyTorch reaches beside it, and the ratio. Peers get an environment of their own (several GB).
#
#   benchmarks/run.sh [--with-peers]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

peers=
[ "${1:-}" = --with-peers ] && peers=yes
cmake/setup.sh
[ -e build/CMakeCache.txt ] || cmake --preset default
cmake --build build --target benchmarks --parallel "$(nproc)" >&2

results=build/benchmarks/results
mkdir -p "$results"
: > "$results/yoke.jsonl"
: > "$results/peers.jsonl"
yoke() { echo "  $*" >&2; "build/benchmarks/$1" "${@:2}" >> "$results/yoke.jsonl"; }
python=
[ -n "$peers" ] && python=$(benchmarks/peers/setup.sh | tail -n 1)
peer() {  # the work of Yoke's that it stands beside (several, separated by |), then the script and its arguments
  [ -n "$peers" ] || return 0
  echo "  PyTorch: ${*:2}" >&2
  local line
  line=$("$python" "benchmarks/peers/$2" "${@:3}" 2>/dev/null | tail -n 1) || return 0
  printf '%s\t%s\n' "$1" "$line" >> "$results/peers.jsonl"
}

# Each work beside its peers, so that a machine that changes its speed changes it for both.
yoke train_step ViT-B-32
for mode in autocast compile; do  # it pads every caption to 77 tokens
  peer "ViT-B-32, 77 tokens, batch 32|ViT-B-32, real captions, batch 32" openclip_step.py ViT-B-32 $mode 32
done
yoke train_step "small, batch 256"
for mode in autocast compile; do peer "small, batch 256" small_step.py $mode 256; done
yoke info_nce 16384 512
for mode in dense chunked; do peer "info_nce 16384 x 512" infonce.py 16384 512 $mode; done
yoke info_nce 65536 512

# The table. Rates of InfoNCE are products at the f32 peak, where less is better: there the ratio is of the seconds.
python3 - "$results" <<'PYTHON'
import json, sys
folder = sys.argv[1]
ours = [json.loads(l) for l in open(f"{folder}/yoke.jsonl") if l.startswith("{")]
theirs = {}
for l in open(f"{folder}/peers.jsonl"):
    key, _, line = l.partition("\t")
    if line.startswith("{"):
        for work in key.split("|"):
            theirs.setdefault(work, []).append(json.loads(line))
rows = [("work", "Yoke", "share of GEMM peak", "PyTorch's best", "ratio")]
for o in ours:
    best, ratio = "", ""
    peers = theirs.get(o["work"], [])
    if peers and "seconds" in o:
        p = min(peers, key=lambda p: p["seconds"])
        best, ratio = f'{p["seconds"]:.1f} s ({p["mode"]})', f'{p["seconds"] / o["seconds"]:.2f}'
    elif peers:
        p = max(peers, key=lambda p: p["rate"])
        best, ratio = f'{p["rate"]:.4g} {p["unit"]} ({p["mode"]})', f'{o["rate"] / p["rate"]:.2f}'
    rows.append((o["work"], f'{o["rate"]:.4g} {o["unit"]}', f'{100 * o["share_of_peak"]:.0f} %', best, ratio))
widths = [max(len(r[i]) for r in rows) for i in range(5)]
for i, r in enumerate(rows):
    print("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |")
    if i == 0:
        print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
PYTHON
