#!/usr/bin/env bash
# Builds llama.cpp, the CPU engine that `pare bench --peer` measures against and that
# tools/record_llama_reference.py records from. Nothing of it enters pare: the sources come from the
# llama-cpp-python source package, pinned by version and checksum, and stay in DIR.
#
#   tools/build_llama_cpp.sh [--level native|avx2] [--jobs N] [DIR]
#
#   --level native   for the CPU it runs on (default)
#   --level avx2     AVX2, FMA, F16C, BMI2 and nothing wider: the level of CPUs without AVX-512
#   --jobs N         parallel compile jobs (default: every core)
#   DIR              default ${XDG_CACHE_HOME:-~/.cache}/pare/llama.cpp
#
# Result: DIR/LEVEL/bin/{llama-bench,llama-perplexity,llama-simple,libllama.so}, and DIR/LEVEL/FLAGS with
# the exact configuration. Needs python3 with pip, CMake, Ninja and a C++ compiler; a few minutes
# of two cores. Running it again only builds what is missing.
set -euo pipefail

readonly version=0.3.36
readonly sdist=llama_cpp_python-${version}.tar.gz
readonly sdist_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
readonly targets=(llama llama-bench llama-perplexity llama-simple)

level=native
jobs=$(nproc)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/pare/llama.cpp

usage() {
  sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0"
}

while (($#)); do
  case $1 in
    --level) level=${2:?--level needs a value}; shift 2 ;;
    --jobs) jobs=${2:?--jobs needs a value}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
    *) dir=$1; shift ;;
  esac
done

flags=(
  -DCMAKE_BUILD_TYPE=Release
  -DBUILD_SHARED_LIBS=ON
  -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_EXAMPLES=ON
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_APP=OFF
  -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF
)
case $level in
  native) flags+=(-DGGML_NATIVE=ON) ;;
  avx2)
    flags+=(
      -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
      -DGGML_BMI2=ON -DGGML_AVX_VNNI=OFF -DGGML_AVX512=OFF -DGGML_AVX512_VBMI=OFF
      -DGGML_AVX512_VNNI=OFF -DGGML_AVX512_BF16=OFF
    )
    ;;
  *) echo "unknown level: $level (native or avx2)" >&2; exit 2 ;;
esac

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

matches() { echo "$sdist_sha256  $1" | sha256sum --check --status; }

if ! [[ -f $dir/$sdist ]] || ! matches "$dir/$sdist"; then
  rm -f "$dir/$sdist"
  # `pip download` asks the package for its metadata, which needs its build backend but compiles nothing.
  python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python \
    --dest "$dir" "llama-cpp-python==$version"
  matches "$dir/$sdist" || { echo "$sdist: SHA-256 differs from the pinned $sdist_sha256" >&2; exit 1; }
fi

source_dir=$dir/source
if [[ $(cat "$source_dir/.unpacked" 2>/dev/null || true) != "$sdist_sha256" ]]; then
  rm -rf "$source_dir"
  mkdir "$source_dir"
  tar -xzf "$dir/$sdist" -C "$source_dir" --strip-components=1
  echo "$sdist_sha256" > "$source_dir/.unpacked"
fi

build_dir=$dir/$level
echo "llama.cpp of llama-cpp-python $version, level $level, in $build_dir"
echo "flags: ${flags[*]}"
cmake -S "$source_dir/vendor/llama.cpp" -B "$build_dir" -G Ninja "${flags[@]}" \
  > "$dir/configure-$level.log" 2>&1 || { cat "$dir/configure-$level.log" >&2; exit 1; }
cmake --build "$build_dir" --parallel "$jobs" --target "${targets[@]}"

{
  echo "source: $sdist sha256 $sdist_sha256"
  echo "flags: ${flags[*]}"
  echo "compiler: $(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build_dir/CMakeCache.txt")" \
    "$("$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build_dir/CMakeCache.txt")" --version | head -n 1)"
} > "$build_dir/FLAGS"
echo "built: $build_dir/bin"
