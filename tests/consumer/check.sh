#!/usr/bin/env bash
# check.sh <way> <source> <build folder> <compiler> <prefixes>: builds first_model.cpp as a downstream project
# that reaches Yoke in one of four ways, and runs it. Prefixes are separated by colons.
set -euo pipefail
way=$1 source=$2 build=$3 compiler=$4 prefixes=$5
here=$source/tests/consumer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

configure() {
  CXX=$compiler cmake -S "$here/$way" -B "$work/build" -DCMAKE_BUILD_TYPE=Debug -DYOKE_SOURCE="$source" \
    ${launcher:+-DCMAKE_CXX_COMPILER_LAUNCHER="$launcher"} "$@" >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/build"
  "$work/build/first_model"
}
launcher=$(command -v ccache || true)

case $way in
  find_package)
    cmake --install "$build" --prefix "$work/prefix" >/dev/null
    configure -DCMAKE_PREFIX_PATH="$work/prefix;${prefixes//:/;}"
    ;;
  add_subdirectory | fetch_content)
    configure -DCMAKE_PREFIX_PATH="${prefixes//:/;}"
    ;;
  plain)
    flags=(-isystem /usr/include/eigen3)
    IFS=: read -ra list <<<"$prefixes"
    for prefix in "${list[@]}"; do
      [ -e "$prefix/lib/libdnnl.so" ] && flags+=(-isystem "$prefix/include" -L"$prefix/lib" "-Wl,-rpath,$prefix/lib")
    done
    $launcher "$compiler" -std=c++20 -I "$source/include" "${flags[@]}" -c "$here/first_model.cpp" -o "$work/first_model.o"
    "$compiler" "$work/first_model.o" -o "$work/first_model" "${flags[@]}" -ldnnl -lgomp -pthread
    "$work/first_model"
    ;;
esac
