#!/usr/bin/env bash
# Sets up PyTorch and OpenCLIP in an environment of their own, for the scripts beside this file.
#
#   benchmarks/peers/setup.sh [environment]     (default: build/peers)
#
# Prints the environment's python as its last line. A second run finds everything in place.
# PEERS_PYTHON names the python to start from (default: python3).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
environment=${1:-$root/build/peers}
base=${PEERS_PYTHON:-python3}
python=$environment/bin/python

complete() { "$python" -c 'import torch, torchvision, open_clip, timm' >/dev/null 2>&1; }

if ! complete; then
  # torch.compile builds C++ against Python's headers, hence python3-dev.
  "$base" -c 'import venv, ensurepip' >/dev/null 2>&1 || {
    echo "peers: $base has no venv: apt-get install python3-venv python3-dev g++" >&2
    exit 1
  }
  echo "peers: installing PyTorch, OpenCLIP and timm into $environment (about 2 minutes, several GB)" >&2
  "$base" -m venv "$environment"
  "$python" -m pip install --quiet --disable-pip-version-check torch torchvision open_clip_torch timm >&2
  complete || { echo "peers: installed, but $python cannot import torch, torchvision, open_clip and timm" >&2; exit 1; }
fi
echo "$python"
