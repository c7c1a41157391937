#!/usr/bin/env bash
# Runs the fuzz targets on their seed corpora, one a core. Usage:
#   tools/fuzz.sh [--seconds N] [--build DIR] [--jobs N] [TARGET...]
# New inputs and findings go to DIR/fuzz-work; a finding fails the run and names its file.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=3600 build=build/fuzz jobs=$(nproc) targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=$2; shift 2 ;;
    --build) build=$2; shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done
if [ ! -d "$build" ]; then
  cmake --preset fuzz >/dev/null
  cmake --build --preset fuzz -j "$(nproc)" --target fuzz_targets -- --quiet
fi
if [ ${#targets[@]} = 0 ]; then
  for source in fuzz/fuzz_*.cc; do targets+=("$(basename "$source" .cc)"); done
fi

fuzz_one() {  # target
  local work=$build/fuzz-work/$1
  mkdir -p "$work/corpus" "$work/findings"
  if ! "$build/fuzz/$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 \
      -artifact_prefix="$work/findings/" "$work/corpus" "fuzz/corpus/${1#fuzz_}" >"$work/log" 2>&1; then
    tail -n 60 "$work/log"
    echo "$1: a finding in $work/findings"
    return 1
  fi
  printf '%-22s %s executions, none failed\n' "$1" "$(awk '/stat::number_of_executed_units/ {print $2}' "$work/log")"
}
export -f fuzz_one
export build seconds
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -euo pipefail -c 'fuzz_one {}'
