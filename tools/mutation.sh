#!/usr/bin/env bash
# Builds each seeded fault of tests/mutations.tsv and runs the tests that must notice it. Usage:
#   tools/mutation.sh [--write] [--jobs N] [FAULT...]   default: all, as many compilers as cores
# Faults whose level is `cuda` need a card and nvcc, and are left out where those are not.
# --write renews the rows of these faults in tests/MUTATIONS.md and leaves those of others as they are. Fails if a fault survives, if the clean tree fails, or if sources and table name different faults.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/mutation table=tests/mutations.tsv written=tests/MUTATIONS.md write=0 jobs=$(nproc) wanted=()
while [ $# -gt 0 ]; do
  case "$1" in
    --write) write=1; shift ;;
    --jobs) jobs=$2; shift 2 ;;
    *) wanted+=("$1"); shift ;;
  esac
done

rows() { grep -v '^#' "$table"; }
for fault in ${wanted[@]+"${wanted[@]}"}; do
  rows | cut -f1 | grep -qxF "$fault" || { echo "$fault: no such fault in $table"; exit 2; }
done
seeded=$(grep -rhoE 'PARE_FAULT_[A-Z0-9_]+' src | sed 's/^PARE_FAULT_//' | sort -u)
if ! diff <(echo "$seeded") <(rows | cut -f1 | sort -u); then
  echo "the faults in src/ (<) and in $table (>) differ"
  exit 1
fi

# This machine's CPU levels; the tests loop over them themselves.
has() { grep -qw "$1" /proc/cpuinfo; }
levels="scalar"
if has avx2 && has fma; then levels+=" avx2"; fi
if has avx512_vnni && has avx512vbmi; then levels+=" avx512"; fi
if has amx_int8; then levels+=" amx"; fi
cuda=OFF
if nvidia-smi -L >/dev/null 2>&1 && { command -v nvcc || [ -x /usr/local/cuda/bin/nvcc ]; } >/dev/null; then cuda=ON; fi
# The rows that can be run here.
rows_here() { rows | if [ "$cuda" = ON ]; then cat; else awk -F'\t' '$3 != "cuda"'; fi; }

# Builds the programs $2... with fault $1 ('' for none).
build_with() {
  local fault=$1
  shift
  cmake --preset mutation -DPARE_FAULT="$fault" -DPARE_CUDA="$cuda" >"$build.log" 2>&1 &&
    cmake --build --preset mutation -j "$jobs" --target "${@/#/test_}" -- --quiet >>"$build.log" 2>&1 ||
    { cat "$build.log"; exit 1; }
}
# Runs one program; its exit status, output in $log.
log=$build/test.log
run_test() {
  local program
  program=$(find "$build/tests" -name "test_$1" -type f)
  { timeout 300 "$program"; } >"$log" 2>&1
}

mkdir -p "$build"
mapfile -t programs < <(
  if [ ${#wanted[@]} = 0 ]; then rows_here; else
    for fault in "${wanted[@]}"; do rows_here | grep -P "^$fault\t" || echo "$fault needs a card" >&2; done
  fi |
    cut -f2 | tr ',' '\n' | sort -u)
[ ${#programs[@]} -gt 0 ] || { echo "nothing to run here"; exit 2; }
echo "== no fault: ${programs[*]} must pass"
build_with "" "${programs[@]}"
for program in "${programs[@]}"; do
  run_test "$program" || { tail -n 40 "$log"; echo "$program fails without any fault"; exit 1; }
done

survivors=0
new_rows=$build/rows
: >"$new_rows"
while IFS=$'\t' read -r fault tests asked breaks <&3; do
  [ ${#wanted[@]} = 0 ] || [[ " ${wanted[*]} " = *" $fault "* ]] || continue
  IFS=, read -ra needed <<<"$tests"
  [ "$asked" != cuda ] || asked=-
  IFS=, read -ra at_levels <<<"${asked/#-/}"
  build_with "$fault" "${needed[@]}"
  caught="" missed=""
  for program in "${needed[@]}"; do
    status=0
    run_test "$program" || status=$?
    if [ "$status" = 0 ]; then
      missed+=" $program"
      continue
    fi
    names=$(sed -nE 's/^\[  FAILED  \] ([A-Za-z0-9_.\/]+)( \(.*|,.*)?$/\1/p' "$log" | sort -u)
    count=$(wc -w <<<"$names")
    # No summary: it crashed or hung in the test that it had begun.
    [ "$count" -gt 0 ] || names="$(sed -nE 's/^\[ RUN      \] //p' "$log" | tail -n 1) (status $status)"
    [ "$count" -le 3 ] || names="$(head -n 3 <<<"$names") and $((count - 3)) more"
    caught+="${caught:+; }$program: $(tr '\n' ' ' <<<"$names" | sed 's/ $//')"
    for level in "${at_levels[@]}"; do
      if [[ " $levels " != *" $level "* ]]; then
        caught+=" ($level: not on this machine)"
      elif grep -qw "$level" "$log"; then
        caught+=" ($level)"
      else
        missed+=" $program at $level"
      fi
    done
  done
  if [ -n "$missed" ]; then
    survivors=$((survivors + 1))
    printf '%-28s SURVIVES%s\n' "$fault" "$missed"
  else
    printf '%-28s %s\n' "$fault" "$caught"
  fi
  printf '| `%s` | %s | %s |\n' "$fault" "$breaks" "${missed:+SURVIVES$missed; }$caught" >>"$new_rows"
done 3< <(rows_here)
[ "$survivors" = 0 ] || { echo "$survivors faults survive"; exit 1; }

# In the order of the table: what was seen now, else what was written before.
write_report() {
  cat <<'MARKDOWN'
# Seeded faults

Each fault is built in alone and must make its test programs fail. Written by `tools/mutation.sh --write` from
`tests/mutations.tsv`; where a CPU level is named, a failure at that level was seen.

| fault | breaks | caught by |
| --- | --- | --- |
MARKDOWN
  local fault breaks
  while IFS=$'\t' read -r fault _ _ breaks; do
    grep -hF "| \`$fault\` |" "$new_rows" "$written" | head -n 1 | grep . ||
      printf '| `%s` | %s | not run yet |\n' "$fault" "$breaks"
  done < <(rows)
}
if [ "$write" = 1 ]; then
  write_report >"$build/MUTATIONS.md"
  cp "$build/MUTATIONS.md" "$written"
fi
echo "== every fault was caught"
