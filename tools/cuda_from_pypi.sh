#!/usr/bin/env bash
# Makes a CUDA 13.0 toolkit out of Python wheels, for machines without NVIDIA's packages. Usage:
#   tools/cuda_from_pypi.sh [FOLDER]     default: ~/.cache/pare/cuda
# Prints the options that CMake needs for it. Does nothing when the folder has what cuda-requirements.txt asks for.
set -euo pipefail
requirements=$(cd "$(dirname "$0")" && pwd)/cuda-requirements.txt
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/pare/cuda}

if ! cmp -s "$requirements" "$folder/requirements.txt"; then
  mkdir -p "$(dirname "$folder")"
  new=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  python3 -m pip install -q --no-deps --require-hashes --only-binary :all: --target "$new/wheels" -r "$requirements" >&2
  mv "$new/wheels/nvidia/cu13" "$new/toolkit"
  # What a linker and CMake look for and wheels, which hold no links, leave out.
  ln -s lib "$new/toolkit/lib64"
  for library in cublas cublasLt; do ln -s "lib$library.so.13" "$new/toolkit/lib/lib$library.so"; done
  chmod -R u+w "$new/toolkit"
  chmod +x "$new/toolkit/bin"/* "$new/toolkit/nvvm/bin"/*
  "$new/toolkit/bin/nvcc" --version >&2
  cp "$requirements" "$new/toolkit/requirements.txt"
  rm -rf "$folder"
  mv "$new/toolkit" "$folder"
fi
echo "-DCMAKE_CUDA_COMPILER=$folder/bin/nvcc -DCUDAToolkit_ROOT=$folder"
