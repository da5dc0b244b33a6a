#!/usr/bin/env bash
# check.sh <include/yoke>: folders include only what lies below them, libraries are named where they belong,
# headers stay short. Prints every breach and fails if there is one.
set -euo pipefail
shopt -s globstar nullglob
cd "$1"

awk '
  function breach(rule) { print FILENAME ":" FNR ": " $0 "  <- " rule; breaches++ }
  BEGIN {  # folder: the folders that it may include besides itself
    below["core"] = below["parallel"] = below["text"] = below["io"] = "core"
    below["data"] = "core io text"
    below["cpu"] = below["dry"] = "core"
    below["autograd"] = "core parallel"
    below["cuda"] = "core parallel"
    below["optim"] = "core autograd parallel"
    below["ops"] = "core autograd parallel"
    below["nn"] = "core autograd ops parallel"
    below["towers"] = "core autograd ops nn parallel"
    below["contrastive"] = "core autograd ops nn towers parallel"
    below["train"] = "core autograd ops nn towers contrastive parallel optim data text io dry"
    below["eval"] = "core autograd ops nn towers contrastive parallel data text io"
  }
  FNR == 1 {
    folder = FILENAME ~ "/" ? substr(FILENAME, 1, index(FILENAME, "/") - 1) : ""  # none: yoke.hpp, version.hpp
    if (folder != "" && !(folder in below)) breach("say in tests/arrows/check.sh what " folder " may include")
    lean = folder ~ /^(core|autograd|ops|nn|towers)$/
  }
  FNR == 401 { breach("no header is longer than 400 lines") }
  /^ *# *include *"/ { breach("own headers are included as <yoke/...>") }
  folder == "" { next }

  /^ *# *include *<yoke\// {
    split($0, part, /[<\/>]/)
    if (part[3] != "version.hpp" && index(" " folder " " below[folder] " ", " " part[3] " ") == 0)
      breach(folder " includes only " below[folder])
  }
  lean && /^ *# *include *<(iostream|regex|filesystem|random|functional|ranges)>/ {
    breach(folder " stays free of slow standard headers")
  }
  folder != "cpu" && /# *include *<(Eigen\/|unsupported\/Eigen|dnnl|oneapi\/)|Eigen::|dnnl(::|_)|GOMP_/ {
    breach("Eigen, oneDNN and libgomp are named only in cpu")
  }
  FILENAME !~ /^parallel\/mpi[a-z_]*\.hpp$/ && /# *include *<mpi|(^|[^O])MPI_[A-Z][a-z]/ {
    breach("MPI is named only in parallel/mpi*.hpp")
  }
  folder != "cuda" && /# *include *<(cuda|cublas|cudnn|nccl)/ { breach("CUDA is named only in cuda") }
  END { if (breaches) { print breaches " breaches"; exit 1 } }
' **/*.hpp **/*.cuh </dev/null
