#!/usr/bin/env bash
# From a fresh Debian 12 to an answer about a real document: installs what is needed, builds, fetches the default
# model (98 MB) and asks it about the license text of this project. Running it again is quick and changes nothing.
set -euo pipefail
cd "$(dirname "$0")"

tools/install_packages.sh
cmake --preset release -DPARE_TESTS=OFF -DPARE_BENCH=OFF >/dev/null
cmake --build --preset release -j "$(nproc)" --target pare -- --quiet
build/release/pare pull smollm2-135m-instruct
echo
question="What does this license allow me to do? Answer in two sentences."
echo "\$ pare run smollm2-135m-instruct -f LICENSE \"$question\""
build/release/pare run smollm2-135m-instruct -f LICENSE --max-tokens 120 "$question"
