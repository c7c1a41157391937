# Sourced by the scripts that make a folder out of Python wheels.
# shellcheck shell=bash

# wheels_folder REQUIREMENTS FOLDER FINISH: does nothing when FOLDER has what REQUIREMENTS asks for. Else installs that
# beside FOLDER, checked by hash, calls FINISH with the new folder's name, which prints which folder in it is to be kept,
# and puts that in FOLDER's place. Leaves FOLDER as it was when anything fails. Needs `set -e`.
wheels_folder() {
  local requirements=$1 folder=$2 finish=$3 kept
  if cmp -s "$requirements" "$folder/requirements.txt"; then return; fi
  mkdir -p "$(dirname "$folder")"
  new=$(mktemp -d "$folder.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  python3 -m pip install -q --no-deps --require-hashes --only-binary :all: --target "$new/wheels" -r "$requirements" >&2
  kept=$("$finish" "$new")
  cp "$requirements" "$kept/requirements.txt"
  rm -rf "$folder"
  mv "$kept" "$folder"
}
