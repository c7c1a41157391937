#!/usr/bin/env bash
# Installs the Debian packages that pare builds with; --tests adds those that only the tests need. Does nothing when
# all are there. Uses sudo when not root.
set -euo pipefail
packages=(g++ cmake ninja-build ccache pkg-config git ca-certificates python3-pip
  libfmt-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libcurl4-openssl-dev libssl-dev libzip-dev libedit-dev
  libhwy-dev)
[ "${1:-}" = --tests ] && packages+=(libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev
  clang-14 clang-format-14 lld-14 libclang-rt-14-dev llvm-14)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0
echo "installing: ${missing[*]}"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
