#!/bin/sh
# Compiles the CUDA sources as C++ under the host emulation and runs the checks.
#
#   run.sh plain|thread|address|undefined|address,undefined [few|race|shared|global|divergent]
#
# "few" runs a part of the cases. With the name of a fault, one case runs with that mistake planted in the kernels, and must
# fail. Needs no CUDA; compiles with $CXX or g++. "run.sh library" instead compiles a shared library for the tests of the
# Python side, which works on memory of the host, and prints its path. Builds in $EMULATION_BUILD or build/emulation.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
native=$(cd "$here/../.." && pwd)
mode=${1:?plain, thread, address or undefined}
build=${EMULATION_BUILD:-$native/../build/emulation}/$mode
case $mode in
  plain) sanitizer= ;;
  library) sanitizer=-fPIC ;;
  thread | address | undefined | address,undefined) sanitizer="-fsanitize=$mode -fno-sanitize-recover=all" ;;
  *) echo "unknown mode $mode" >&2; exit 2 ;;
esac
mkdir -p "$build"
program=$build/check
mains="check check_cell_attention"
link=
if [ "$mode" = library ]; then
  program=$build/libfeatup_cuda.so
  mains=status
  link=-shared
fi
newer=$(find "$native/cuda" "$native/include" "$native/shared" "$here" -type f \( -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.hpp' \
  -o -name '*.cpp' -o -name run.sh \) -newer "$program" 2>/dev/null || true)
if [ ! -x "$program" ] || [ -n "$newer" ]; then
  waiting=
  for name in cuda/cell_attention.cu cuda/cell_attention_gradient.cu cuda/guided_double.cu cuda/window_sum.cu cuda/window_taps.cu $mains; do
    case $name in
      cuda/*) source=$native/$name ;;
      *) source=$here/$name.cpp ;;
    esac
    # -O1 compiles quickly and keeps everything that a sanitizer should see. Few blocks compute all tiles, so that the loop
    # over tiles beyond the size of a grid runs too.
    # shellcheck disable=SC2086
    "${CXX:-g++}" -std=c++20 -O1 -g -pthread $sanitizer -Wall -Wextra -Wno-unknown-pragmas -DFEATUP_CUDA_PLANTED_FAULTS \
      -DFEATUP_CUDA_MOST_BLOCKS=5 -I"$here" -I"$native/include" -I"$native/shared" -I"$native/cuda" -x c++ -c "$source" \
      -o "$build/$(basename "$source").o" &
    waiting="$waiting $!"
  done
  for job in $waiting; do wait "$job"; done
  # shellcheck disable=SC2086
  "${CXX:-g++}" -pthread $sanitizer $link "$build"/*.o -o "$program.new"
  mv "$program.new" "$program"
fi
shift
if [ "$mode" = library ]; then
  echo "$program"
  exit
fi
exec "$program" "$@"
