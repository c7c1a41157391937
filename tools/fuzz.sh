#!/usr/bin/env bash
# Runs the fuzz targets on their seed corpora. Usage: tools/fuzz.sh [--seconds N] [--build DIR] [TARGET...]
# New inputs and findings go to DIR/fuzz-work; a finding stops the run with its file's name.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=3600 build=build/fuzz targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=$2; shift 2 ;;
    --build) build=$2; shift 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done
if [ ! -d "$build" ]; then
  cmake --preset fuzz >/dev/null
  cmake --build --preset fuzz -j "$(nproc)" -- --quiet
fi
if [ ${#targets[@]} = 0 ]; then
  for source in fuzz/fuzz_*.cc; do targets+=("$(basename "$source" .cc)"); done
fi
for target in "${targets[@]}"; do
  work=$build/fuzz-work/$target
  mkdir -p "$work/corpus" "$work/findings"
  log=$work/log
  if ! "$build/fuzz/$target" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 \
      -artifact_prefix="$work/findings/" "$work/corpus" "fuzz/corpus/${target#fuzz_}" >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "$target: a finding in $work/findings"
    exit 1
  fi
  printf '%-22s %s executions, none failed\n' "$target" "$(awk '/stat::number_of_executed_units/ {print $2}' "$log")"
done
