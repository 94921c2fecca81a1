#!/bin/sh
# Build the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer and check them against plain loops.
#     native/tests/run_sanitizers.sh [FOLDER TO BUILD IN]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
native=$(dirname "$here")
folder=${1:-$(mktemp -d)}
compiler=${CXX:-c++}
flags="-std=c++20 -O1 -g -fopenmp -ffp-contract=fast -fno-omit-frame-pointer -Wno-psabi -Wno-unknown-pragmas \
-fsanitize=address,undefined -fno-sanitize-recover=all -I$native/include -I$native/shared -I$native/cpu"
variants=""
case $(uname -m) in
x86_64 | amd64)
    flags="$flags -DFEATUP_X86_VARIANTS"
    $compiler $flags -mavx2 -mfma -mf16c -c "$native/cpu/kernels_avx2.cpp" -o "$folder/avx2.o"
    $compiler $flags -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -c "$native/cpu/kernels_avx512.cpp" \
        -o "$folder/avx512.o"
    variants="$folder/avx2.o $folder/avx512.o"
    ;;
esac
$compiler $flags "$native/cpu/entry.cpp" "$native/cpu/kernels_baseline.cpp" "$here/check_cpu_kernels.cpp" \
    "$here/check_cell_attention.cpp" $variants -o "$folder/check_cpu_kernels"
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 "$folder/check_cpu_kernels"
