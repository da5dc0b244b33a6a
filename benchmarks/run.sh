#!/usr/bin/env bash
# Builds the benchmarks and prints one table: the work, Yoke's rate, its share of the peak of the moment (a matrix product's
# speed, or a copy's where the table says so), and with --with-peers what PyTorch reaches beside it, and the ratio. Peers
# get an environment of their own (several GB).
#
#   benchmarks/run.sh [--cuda] [--with-peers]
#
# --cuda: the benchmarks of a card; an error where there is no card, or no CUDA toolkit to compile for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "benchmarks: $*" >&2; exit 1; }
peers='' cuda='' failed=''
for word in "$@"; do
  case $word in
    --with-peers) peers=yes ;;
    --cuda) cuda=yes ;;
    *) fail "usage: benchmarks/run.sh [--cuda] [--with-peers]" ;;
  esac
done

if [ -n "$cuda" ]; then
  nvidia-smi -L 2>/dev/null | grep -q '^GPU' || fail "no CUDA device on this machine; nothing was built or run"
fi
cmake/setup.sh
if [ -n "$cuda" ]; then
  cmake --preset default >&2
  grep -q '^CMAKE_CUDA_COMPILER:' build/CMakeCache.txt ||
    fail "there is a card, but no CUDA toolkit (nvcc) to compile for it; nothing was built or run"
elif [ ! -e build/CMakeCache.txt ]; then
  cmake --preset default
fi
cmake --build build --target "${cuda:+cuda_}benchmarks" --parallel "$(nproc)" >&2

results=build/benchmarks/results${cuda:+-cuda}
programs=build/benchmarks${cuda:+/cuda}
mkdir -p "$results"
: >"$results/yoke.jsonl"
: >"$results/peers.jsonl"
: >"$results/peers.log"
yoke() { echo "  $*" >&2; "$programs/$1" "${@:2}" >>"$results/yoke.jsonl" || failed=yes; }
python=
[ -n "$peers" ] && python=$(benchmarks/peers/setup.sh | tail -n 1)
peer() {  # the work of Yoke's that it stands beside (several, separated by |; "=": as its lines say), the script, its arguments
  [ -n "$peers" ] || return 0
  echo "  PyTorch: ${*:2}" >&2
  local lines
  lines=$("$python" "benchmarks/peers/$2" "${@:3}" 2>>"$results/peers.log" | grep '^{') || return 0
  while read -r line; do printf '%s\t%s\n' "$1" "$line" >>"$results/peers.jsonl"; done <<<"$lines"
}

# Each work beside its peers, so that a machine that changes its speed changes it for both.
on_cpu() {
  yoke train_step ViT-B-32
  for mode in autocast compile; do  # it pads every caption to 77 tokens
    peer "ViT-B-32, 77 tokens, batch 32|ViT-B-32, real captions, batch 32" openclip_step.py ViT-B-32 $mode 32
  done
  yoke train_step "small, batch 256"
  for mode in autocast compile; do peer "small, batch 256" small_step.py $mode 256; done
  OMP_WAIT_POLICY=passive yoke ranks 4
  yoke info_nce 16384 512
  for mode in dense chunked; do peer "info_nce 16384 x 512" infonce.py 16384 512 $mode; done
  yoke info_nce 65536 512
  yoke sigmoid_loss 16384 512
  yoke coatnet
  yoke coatnet norm=batch stride=depthwise
  for mode in autocast compile; do peer "CoAtNet-0 at 224, layer norm, batch 16|CoAtNet-0 at 224, batch norm, batch 16" coatnet_step.py $mode 16; done
  yoke optimizer
  yoke convolution
}

on_card() {
  local model remat suffix mode batch rows kind
  for model in ViT-B-32 ViT-L-14; do
    for remat in no yes; do
      yoke train_step model=$model remat=$remat
      yoke train_step model=$model remat=$remat graphs=yes
      suffix=', rematerialised'
      [ $remat = yes ] || suffix=
      batch=$(sed -n 's/.*"batch": \([0-9]*\).*/\1/p' "$results/yoke.jsonl" | tail -n 1)
      for mode in autocast compile; do
        peer "$model, 77 tokens$suffix" cuda_train_step.py $model $mode "${batch:-1024}" $remat
      done
    done
  done
  for rows in 32768 65536; do
    for mode in f32 tf32; do
      yoke info_nce rows=$rows mode=$mode
      kind=dense
      [ $mode = f32 ] || kind=dense-$mode
      peer "info_nce $rows x 1024, $mode" cuda_info_nce.py $rows 1024 $kind
    done
  done
  yoke attention
  peer = cuda_attention.py
  yoke kernels
  peer = cuda_adamw.py
}
if [ -n "$cuda" ]; then on_card; else on_cpu; fi

# The table. Where a line has seconds, of which less is better, the ratio is of them.
python3 - "$results" <<'PYTHON'
import json, sys
folder = sys.argv[1]
ours = [json.loads(l) for l in open(f"{folder}/yoke.jsonl") if l.startswith("{")]
theirs = {}
for l in open(f"{folder}/peers.jsonl"):
    key, _, line = l.partition("\t")
    if line.startswith("{"):
        p = json.loads(line)
        for work in [p["work"]] if key == "=" else key.split("|"):
            theirs.setdefault(work, []).append(p)
for card in sorted({o["card"] for o in ours if "card" in o}):
    print(f"Card: {card}\n")
rows = [("work", "Yoke", "share of GEMM peak", "PyTorch's best", "ratio")]
for o in ours:
    with_mode = f'{o["work"]}, {o["mode"]}'
    best, ratio = "", ""
    peers = theirs.get(o["work"], []) + theirs.get(with_mode, [])
    fitting = [p for p in peers if p.get("fits", True)]
    if peers and not fitting:
        best = "does not fit"
    elif peers and "seconds" in o:
        p = min(fitting, key=lambda p: p["seconds"])
        best, ratio = f'{p["seconds"]:.3g} s ({p["mode"]})', f'{p["seconds"] / o["seconds"]:.2f}'
    elif peers:
        p = max(fitting, key=lambda p: p["rate"])
        best, ratio = f'{p["rate"]:.4g} {p["unit"]} ({p["mode"]})', f'{o["rate"] / p["rate"]:.2f}'
    share = f'{100 * o["share_of_peak"]:.0f} %' + (f' of a {o["share_of"]}' if "share_of" in o else "")
    rate = f'{o["rate"]:.4g} {o["unit"]}' + (f', batch {o["batch"]}' if "batch" in o else "")
    rows.append((with_mode if "card" in o else o["work"], rate, share, best, ratio))
widths = [max(len(r[i]) for r in rows) for i in range(5)]
for i, r in enumerate(rows):
    print("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |")
    if i == 0:
        print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
PYTHON
[ -z "$failed" ] || fail "not all ran; what they said is above the table"
