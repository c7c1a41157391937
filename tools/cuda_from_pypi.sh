#!/usr/bin/env bash
# Makes a CUDA 13.0 toolkit out of Python wheels, for machines without NVIDIA's packages. Usage:
#   tools/cuda_from_pypi.sh [FOLDER]     default: ~/.cache/pare/cuda
# Prints the options that CMake needs for it. Does nothing when the folder has what cuda-requirements.txt asks for.
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/wheels_folder.sh
. "$tools/wheels_folder.sh"
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/pare/cuda}

finish_toolkit() {
  local toolkit=$1/toolkit
  set -e
  mv "$1/wheels/nvidia/cu13" "$toolkit"
  # What a linker and CMake look for and wheels, which hold no links, leave out.
  ln -s lib "$toolkit/lib64"
  for library in cublas cublasLt; do ln -s "lib$library.so.13" "$toolkit/lib/lib$library.so"; done
  chmod -R u+w "$toolkit"
  chmod +x "$toolkit/bin"/* "$toolkit/nvvm/bin"/*
  "$toolkit/bin/nvcc" --version >&2
  echo "$toolkit"
}
wheels_folder "$tools/cuda-requirements.txt" "$folder" finish_toolkit
echo "-DCMAKE_CUDA_COMPILER=$folder/bin/nvcc -DCUDAToolkit_ROOT=$folder"
