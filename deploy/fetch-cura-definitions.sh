#!/bin/sh
# Fetch UltiMaker's printer definitions for the Ultimaker 3 without installing Cura (and without Qt).
#
# usage: fetch-cura-definitions.sh DEST
#
# Debian's `cura-engine` holds only the engine; the definitions are in the package `cura`, which would bring
# 109 packages. This downloads that one archive, unpacks it beside, and copies the nine files the slicer
# adapter reads into DEST/{definitions,extruders,variants,quality}. Running it again does nothing when they
# are already there. It needs no root, except to refresh an empty package index.
# The definitions are LGPL-3+ (UltiMaker); their copyright file is copied along.
set -eu

if [ "$#" -ne 1 ] || [ -z "$1" ]; then
    echo "usage: $0 DEST" >&2
    exit 2
fi
dest=$1

files="definitions/fdmprinter.def.json
definitions/fdmextruder.def.json
definitions/ultimaker.def.json
definitions/ultimaker3.def.json
extruders/ultimaker3_extruder_left.def.json
extruders/ultimaker3_extruder_right.def.json
variants/ultimaker3_aa04.inst.cfg
quality/ultimaker3/um3_global_Draft_Quality.inst.cfg
quality/ultimaker3/um3_aa0.4_PLA_Draft_Print.inst.cfg"

complete() {
    for file in $files; do
        [ -s "$1/$file" ] || return 1
    done
}

fail() {
    echo "fetch-cura-definitions: $1" >&2
    exit 1
}

if complete "$dest"; then
    exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
    fail "apt-get not found; install UltiMaker Cura instead, its engine and definitions are found by themselves"
command -v dpkg-deb >/dev/null 2>&1 || fail "dpkg-deb not found; install the package dpkg"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# apt's own unprivileged user may then write here, which keeps its sandbox warning away when run as root.
chmod 755 "$work"
mkdir "$work/download"
if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
    chown _apt "$work/download"
fi

download() {
    (cd "$work/download" && apt-get -q download cura) >"$work/apt.log" 2>&1
}

if ! download; then
    # A fresh machine has an empty package index, which only root can fill.
    if [ "$(id -u)" -eq 0 ]; then
        apt-get -q update >>"$work/apt.log" 2>&1 || true
    fi
    if ! download; then
        cat "$work/apt.log" >&2
        fail "the package 'cura' could not be downloaded; run 'apt-get update' as root, or check the network"
    fi
fi

archive=$(find "$work/download" -name 'cura_*.deb' | head -n 1)
[ -n "$archive" ] || fail "apt-get reported success but left no cura_*.deb"
dpkg-deb -x "$archive" "$work/unpacked" || fail "the archive could not be unpacked"

source_dir="$work/unpacked/usr/share/cura/resources"
staged="$work/staged"
for file in $files; do
    [ -s "$source_dir/$file" ] || fail "the package 'cura' of this release has no $file"
    mkdir -p "$staged/$(dirname "$file")"
    cp "$source_dir/$file" "$staged/$file"
done
if [ -f "$work/unpacked/usr/share/doc/cura/copyright" ]; then
    cp "$work/unpacked/usr/share/doc/cura/copyright" "$staged/copyright"
fi

mkdir -p "$dest" || fail "cannot create $dest"
cp -R "$staged/." "$dest/" || fail "cannot write to $dest"
complete "$dest" || fail "$dest is incomplete after copying"
find "$dest" -type d -exec chmod 755 {} + && find "$dest" -type f -exec chmod 644 {} +
