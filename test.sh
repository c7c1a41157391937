#!/usr/bin/env bash
# Builds and runs every test. Usage: ./test.sh [--full]
#   default  release suite; unit and property tests under ASan+UBSan; each fuzz target for 20 s; and where CUDA 13 is
#            installed, the CUDA build and its tests, which skip themselves without a card
#   --full   adds the whole suite under ASan+UBSan and under TSan
set -euo pipefail
cd "$(dirname "$0")"
full=0
[ "${1:-}" = --full ] && full=1
jobs=$(nproc)
left_out=()

tools/install_packages.sh --tests

build() {  # preset [target]
  cmake --preset "$1" >"build-$1.log" 2>&1 || { cat "build-$1.log"; exit 1; }
  rm -f "build-$1.log"
  echo "== building $1"
  cmake --build --preset "$1" -j "$jobs" --target "${2:-all}" -- --quiet
}

build release
echo "== fetching the default model"
build/release/pare pull smollm2-135m-instruct
if [ "${PARE_TEST_MODELS:-}" = all ]; then
  for model in qwen2.5-coder-0.5b-instruct qwen2.5-coder-1.5b-instruct gemma-3-270m all-minilm-l6-v2; do
    build/release/pare pull "$model"
  done
fi
echo "== release suite"
ctest --test-dir build/release --output-on-failure --no-tests=error -j "$jobs"

if nvcc --version 2>/dev/null | grep -qE 'release (1[3-9]|[2-9][0-9])\.'; then
  # One architecture: that the kernels compile, and that everything links, is what this machine can tell without a card.
  cmake --preset cuda -DPARE_CUDA_ARCHITECTURES=90a-real >build-cuda.log 2>&1 || { cat build-cuda.log; exit 1; }
  rm -f build-cuda.log
  echo "== building cuda"
  cmake --build --preset cuda -j "$jobs" --target pare test_cuda -- --quiet
  ctest --test-dir build/cuda --output-on-failure --no-tests=error -L cuda
  [ -e /dev/nvidiactl ] || left_out+=("the CUDA tests' run: no card")
else
  left_out+=("the CUDA build and its tests: no CUDA 13")
fi

if [ "$full" = 1 ]; then
  build asan-ubsan
  echo "== ASan+UBSan, everything"
  ctest --test-dir build/asan-ubsan --output-on-failure --no-tests=error
else
  build asan-ubsan unit_tests
  echo "== ASan+UBSan, unit and property tests"
  ctest --test-dir build/asan-ubsan --output-on-failure --no-tests=error -L 'unit|property' -j "$jobs"
fi

# The sanitizers' tree holds the fuzz targets too: preset `fuzz` is the same without the tests.
build asan-ubsan fuzz_targets
tools/fuzz.sh --seconds 20 --build build/asan-ubsan

if [ "$full" = 1 ]; then
  build tsan
  echo "== TSan"
  ctest --test-dir build/tsan --output-on-failure --no-tests=error
fi
for what in ${left_out[@]+"${left_out[@]}"}; do echo "== left out: $what"; done
echo "== all tests passed"
