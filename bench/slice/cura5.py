"""A real Cura 5: CuraEngine and definitions of a newer Debian, unpacked beside the system and not installed.

The engine needs a newer C library than the system may have. It is started by the loader that comes with its own
packages, from a script that lies where an extracted UltiMaker Cura has its engine, so that the service finds it by its
own search order. The packages come from the mirror that the system's apt is set up with.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from adapters.cura_engine.locate import CuraInstall, Places, _install_roots, find_install
from bench.slice.charon import NotToBeHadError

#: The first Debian with Cura 5.
RELEASE = "trixie"
#: Kept between runs, not in the repository.
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "cura-5"
_NAME = "opt/UltiMaker-Cura-5/squashfs-root"
_TAKEN = re.compile(
    r"\./usr/share/(doc/cura/copyright|cura/resources/(definitions/(fdm\w+|ultimaker3?)\.def\.json"
    r"|extruders/ultimaker3_extruder_\w+\.def\.json|variants/ultimaker3_aa04\.inst\.cfg"
    r"|quality/ultimaker3/um3_(global_Draft_Quality|aa0\.4_PLA_Draft_Print)\.inst\.cfg))"
)
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_START = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/{loader}" --library-path "$here/{libraries}" "$here/usr/bin/CuraEngine" "$@"
"""
_APT = """Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""


def installed(folder: Path = CACHE) -> CuraInstall:
    """Engine and definitions below `folder`, fetched when they are not there. Raises NotToBeHadError."""
    if not (folder / _NAME / "CuraEngine").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            made = _unpacked(Path(name))
            (folder / _NAME).parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(folder / _NAME)  # whole or not at all
            except OSError:
                if not (folder / _NAME / "CuraEngine").is_file():  # else another process was first
                    raise
    places = Places("", tuple(_install_roots("linux", folder, folder)), ())
    return find_install(places=places)


def _unpacked(work: Path) -> Path:
    """The installation, made below `work`."""
    configuration = _private_apt(work)
    _apt(configuration, work, "apt-get", "update", seconds=300)
    depends = ["depends", "--recurse", "--no-pre-depends"]
    depends += [
        f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    ]
    said = _apt(configuration, work, "apt-cache", *depends, "cura-engine", seconds=60)
    names = [line for line in said.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", line)]
    packages = work / "packages"
    packages.mkdir()
    _apt(configuration, packages, "apt-get", "download", "cura", *names, seconds=600)
    root = work / "root"
    for package in sorted(packages.glob("*.deb")):
        if package.name.startswith("cura_"):
            _take_definitions(package, root)
        else:
            subprocess.run(["dpkg-deb", "-x", package, root], check=True, timeout=120)
    _write_start(root)
    return root


def _private_apt(work: Path) -> Path:
    """A configuration of apt for another release, which leaves the system's alone."""
    if not all(shutil.which(name) for name in ("apt-get", "apt-cache", "dpkg-deb")):
        raise NotToBeHadError("Cura 5 is taken from Debian's packages; there is no apt-get here")
    asked = [
        "apt-get",
        "indextargets",
        "--format",
        "$(ORIGIN) $(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False).stdout
    mirrors = re.findall(r"^Debian [a-z]+ (\S+)$", said, re.MULTILINE)
    if not mirrors:
        raise NotToBeHadError("Cura 5 is taken from Debian's packages; apt knows no mirror of Debian here")
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    keys = f"[signed-by={_KEYS}] " if _KEYS.is_file() else ""
    (work / "sources.list").write_text(f"deb {keys}{mirrors[0]} {RELEASE} main\n")
    configuration = work / "apt.conf"
    configuration.write_text(_APT.format(folder=work))
    return configuration


def _apt(configuration: Path, folder: Path, *command: str, seconds: float) -> str:
    environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotToBeHadError(f"the mirror of Debian did not give its {RELEASE} packages in time") from error
    if done.returncode != 0:
        raise NotToBeHadError(
            f"Debian's {RELEASE} packages of Cura 5 could not be downloaded: {done.stderr[-300:]}"
        )
    return done.stdout


def _take_definitions(package: Path, root: Path) -> None:
    """The few files the service reads, out of the many of the package `cura`."""
    whole = package.with_suffix(".tar")
    with whole.open("wb") as file:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=file, check=True, timeout=120)
    with tarfile.open(whole) as archive:
        for member in archive:
            content = archive.extractfile(member) if _TAKEN.fullmatch(member.name) else None
            if content is not None:
                (root / member.name).parent.mkdir(parents=True, exist_ok=True)
                (root / member.name).write_bytes(content.read())


def _write_start(root: Path) -> None:
    loader = next(iter(sorted(root.glob("usr/lib*/**/ld-linux*.so.*"))), None)
    library = next(root.glob("usr/lib/**/libc.so.6"), None)
    if loader is None or library is None:
        raise NotToBeHadError("Debian's C library has no loader where it is looked for")
    script = root / "CuraEngine"
    script.write_text(
        _START.format(loader=loader.relative_to(root), libraries=library.parent.relative_to(root))
    )
    script.chmod(0o755)


def main() -> int:
    try:
        install = installed()
    except NotToBeHadError as why:
        print(why, file=sys.stderr)
        return 1
    print(f"SPINEPRINT_SLICER__ENGINE={install.engine}\nSPINEPRINT_SLICER__RESOURCES={install.resources}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
