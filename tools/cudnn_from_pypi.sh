#!/usr/bin/env bash
# Fetches cuDNN, the headers of its front end and NVRTC as Python wheels, for attn=dense(impl=cudnn). Usage:
#   tools/cudnn_from_pypi.sh [FOLDER]     default: ~/.cache/pare/cudnn
# Prints the options that CMake needs for it; `pare` finds the library with CUDNN_PATH=FOLDER/nvidia/cudnn. Does nothing
# when the folder has what cudnn-requirements.txt asks for.
set -euo pipefail
requirements=$(cd "$(dirname "$0")" && pwd)/cudnn-requirements.txt
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/pare/cudnn}

if ! cmp -s "$requirements" "$folder/requirements.txt"; then
  mkdir -p "$(dirname "$folder")"
  new=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  python3 -m pip install -q --no-deps --require-hashes --only-binary :all: --target "$new/wheels" -r "$requirements" >&2
  test -f "$new/wheels/include/cudnn_frontend.h"
  cp "$requirements" "$new/wheels/requirements.txt"
  rm -rf "$folder"
  mv "$new/wheels" "$folder"
fi
echo "-DPARE_CUDNN=ON -DPARE_CUDNN_INCLUDE=$folder/include;$folder/nvidia/cudnn/include;$folder/nvidia/cu13/include"
