#!/usr/bin/env bash
# Fetches cuDNN, the headers of its front end and NVRTC as Python wheels, for attn=dense(impl=cudnn). Usage:
#   tools/cudnn_from_pypi.sh [FOLDER]     default: ~/.cache/pare/cudnn
# Prints the options that CMake needs for it; `pare` finds the library with CUDNN_PATH=FOLDER/nvidia/cudnn. Does nothing
# when the folder has what cudnn-requirements.txt asks for.
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/wheels_folder.sh
. "$tools/wheels_folder.sh"
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/pare/cudnn}

finish_cudnn() {
  set -e
  test -f "$1/wheels/include/cudnn_frontend.h"
  echo "$1/wheels"
}
wheels_folder "$tools/cudnn-requirements.txt" "$folder" finish_cudnn
echo "-DPARE_CUDNN=ON -DPARE_CUDNN_INCLUDE=$folder/include;$folder/nvidia/cudnn/include;$folder/nvidia/cu13/include"
