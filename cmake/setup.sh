#!/usr/bin/env bash
# Installs what Yoke's build needs on Debian 12, Debian 13 and Ubuntu 24.04.
#
#   cmake/setup.sh [build folder]        (default: build, beside this folder)
#
# Packages of the distribution are installed as root or through sudo. What the distribution has only in
# too old a version (oneDNN, Catch2 on Debian 12) goes to <build folder>/deps, where CMake finds it;
# no library of the system is replaced. A second run finds everything in place and asks nobody.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build}
mkdir -p "$build"
deps=$(cd "$build" && pwd)/deps
arch=$(dpkg --print-architecture 2>/dev/null) || { echo "setup: this script knows Debian and Ubuntu only" >&2; exit 1; }

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
# Installing ca-certificates, which pip depends on, writes the system's list of certificates anew; what pip was told to
# trust is kept as it was.
if [ -n "${PIP_CERT:-}" ] && [ -e "$PIP_CERT" ]; then
  cp "$PIP_CERT" "$temporary/certificates.pem"
  export PIP_CERT="$temporary/certificates.pem"
fi

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "needs root or sudo for: $*"
  fi
}

# The upstream part of an installed package's version, empty when it is not installed.
installed() { dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed \([0-9]*:\)\?//p'; }
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*:\)\?\([0-9].*\)/\2/p'; }
at_least() { [ -n "$1" ] && dpkg --compare-versions "$1" ge "$2"; }

install_packages() {
  say "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$temporary/apt.log" 2>&1 ||
    { tail -n 30 "$temporary/apt.log" >&2; fail "apt-get could not install: $*"; }
}

# oneDNN from the wheels: headers, library and CMake files, built on libgomp as Debian's are.
unpack_onednn() {
  [ "$arch" = amd64 ] || fail "no oneDNN >= 3.2 for $arch in this distribution; install one and name it with -Ddnnl_DIR"
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3 python3-pip
  say "unpacking oneDNN 3.2 into $deps"
  python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$temporary/wheels" \
    onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
  for wheel in "$temporary"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$temporary/onednn"; done
  mkdir -p "$deps"
  cp -a "$temporary"/onednn/*.data/data/. "$deps/"
}

# Catch2 3 from the backports of this release, read from the machine's own mirror with lists of their own.
unpack_catch2() {
  local release mirror signature
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' | sed -n "s/^$release //p" | head -n 1)
  [ -n "$mirror" ] || fail "no Catch2 3 in this distribution, and no mirror of $release to take its backport from"
  signature=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -e "$signature" ] && signature="[signed-by=$signature] " || signature=
  say "unpacking Catch2 from $release-backports into $deps"
  mkdir -p "$temporary/lists/partial" "$temporary/archives/partial" "$temporary/parts" "$temporary/catch2"
  echo "deb $signature$mirror $release-backports main" >"$temporary/sources.list"
  local options=(-qq -o APT::Sandbox::User=root -o "Dir::Etc::sourcelist=$temporary/sources.list"
    -o "Dir::Etc::sourceparts=$temporary/parts" -o "Dir::State::lists=$temporary/lists" -o "Dir::Cache=$temporary")
  apt-get "${options[@]}" update
  (cd "$temporary/catch2" && apt-get "${options[@]}" download libcatch2-dev)
  dpkg -x "$temporary"/catch2/*.deb "$temporary/catch2"
  mkdir -p "$deps"
  cp -a "$temporary/catch2/usr/." "$deps/"
}

missing=()
for package in g++ cmake ninja-build git ca-certificates ccache libeigen3-dev libcli11-dev \
  libjpeg-dev libpng-dev libsentencepiece-dev libbenchmark-dev; do
  [ -n "$(installed "$package")" ] || missing+=("$package")
done
# Any MPI will do, such as a cluster's own.
command -v mpicxx >/dev/null && command -v mpiexec >/dev/null || missing+=(libopenmpi-dev openmpi-bin)

onednn=ready catch2=ready
[ -e "$deps/lib/cmake/dnnl/dnnl-config.cmake" ] || at_least "$(installed libdnnl-dev)" 3.2 || onednn=wanted
[ -e "$deps/lib/cmake/Catch2/Catch2Config.cmake" ] || at_least "$(installed libcatch2-dev)" 3 ||
  at_least "$(installed catch2)" 3 || catch2=wanted

if [ ${#missing[@]} = 0 ] && [ $onednn = ready ] && [ $catch2 = ready ]; then
  say "everything is in place"
  exit 0
fi

[ ${#missing[@]} = 0 ] || say "missing: ${missing[*]}"
if [ ${#missing[@]} != 0 ] || [ -z "$(candidate g++)" ]; then
  say "reading the package lists"
  as_root apt-get update -qq
fi
if [ $onednn = wanted ] && at_least "$(candidate libdnnl-dev)" 3.2; then
  missing+=(libdnnl-dev) onednn=ready
fi
for package in libcatch2-dev catch2; do
  if [ $catch2 = wanted ] && at_least "$(candidate $package)" 3; then
    missing+=("$package") catch2=ready
  fi
done
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
[ $onednn = ready ] || unpack_onednn
[ $catch2 = ready ] || unpack_catch2
say "done"
