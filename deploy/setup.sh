#!/usr/bin/env bash
# Makes this machine ready: `setup.sh run` for the service and the demo, `setup.sh test` for the tests too.
# Debian/Ubuntu packages, a virtual environment from the hash-locked list, the printer definitions.
# Asks nothing; a second run only compares stamps.
set -euo pipefail
cd "$(dirname "$0")/.."
what="${1:-run}"
run_packages=(cura-engine libjs-three fonts-dejavu-core ca-certificates)
test_packages=(postgresql orthanc orthanc-dicomweb dcmtk dicom3tools chromium poppler-utils)

say() { printf 'setup: %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else say "needs root for: $*"; say "next: run this once as root, or install these packages yourself"; exit 1; fi
}

missing() { for p in "$@"; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p"; done; }

install_packages() {
  command -v apt-get >/dev/null || { say "no apt-get here; install by hand: $*"; return 0; }
  local need; need=$(missing "$@")
  [ -z "$need" ] && return 0
  say "installing: $(echo "$need" | tr '\n' ' ')"
  local log; log=$(mktemp)
  # shellcheck disable=SC2086 # one word per package
  if ! { as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq \
         --no-install-recommends $need; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2; say "the packages could not be installed; see above"; exit 1
  fi
  rm -f "$log"
}

find_python() {
  for p in python3.13 python3.12 python3.11 python3; do
    if command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$p"; return 0
    fi
  done
  return 1
}

install_packages "${run_packages[@]}"
[ "$what" = test ] && install_packages "${test_packages[@]}"

python=$(find_python) || { install_packages python3 python3-venv; python=$(find_python) || {
  say "Python 3.11 or newer is needed"; exit 1; }; }
"$python" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv

stamp=".venv/.ready"
wanted=$(cat requirements/dev.txt pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  say "making the virtual environment (hash-locked, a minute or so)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  echo "$wanted" >"$stamp"
fi

# UltiMaker's printer definitions come from the Cura package; nothing of it is installed (no Qt).
[ -x deploy/fetch-cura-definitions.sh ] && deploy/fetch-cura-definitions.sh .cache/cura-resources
say "ready"
