"""Find a CuraEngine and the printer definitions that belong to it.

Search order: what the configuration names, then PATH, then the folders UltiMaker Cura installs into (Linux
including an extracted AppImage, macOS, Windows). Definitions are taken from the same installation; for
Debian's bare engine from the folder filled by `deploy/fetch-cura-definitions.sh`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.cura_engine.resolve import REQUIRED_FILES
from service.errors import ToolMissingError

HOW_TO_INSTALL = (
    "On Debian or Ubuntu run `apt-get install cura-engine` and `deploy/fetch-cura-definitions.sh "
    ".cache/cura-resources`; elsewhere install UltiMaker Cura. Or name both in the configuration: "
    "[slicer] engine and resources (SPINEPRINT_SLICER__ENGINE, SPINEPRINT_SLICER__RESOURCES)."
)
_ENGINE_NAMES = ("CuraEngine", "CuraEngine.exe")
# Places of the engine and of the definitions inside one installation, over Cura 4 and 5 and three systems.
_ENGINE_SUBFOLDERS = ("", "bin", "usr/bin", "Contents/Frameworks", "Contents/MacOS", "Contents/Resources")
_RESOURCE_SUBFOLDERS = (
    "share/cura/resources",
    "resources",
    "usr/share/cura/resources",
    "usr/bin/resources",
    "Contents/Resources/share/cura/resources",
    "Contents/Resources/resources",
    "Contents/MacOS/share/cura/resources",
    "Contents/MacOS/resources",
)


@dataclass(frozen=True)
class CuraInstall:
    """One usable pair: the engine program and the `resources` folder with its definitions."""

    engine: Path
    resources: Path


@dataclass(frozen=True)
class Places:
    """Where to look; a value so that every system's layout can be tested on any system."""

    search_path: str
    install_roots: tuple[Path, ...]
    """Folders that may be an installation, best first."""
    definition_folders: tuple[Path, ...]
    """Definitions for an engine that came without any."""


def default_places() -> Places:
    """The places of the system we run on."""
    home = Path.home()
    checkout = Path(__file__).resolve().parents[2]
    return Places(
        search_path=os.environ.get("PATH", os.defpath),
        install_roots=tuple(_install_roots(sys.platform, home, Path("/"))),
        definition_folders=(
            checkout / ".cache" / "cura-resources",
            home / ".cache" / "spineprint" / "cura-resources",
            Path("/var/lib/spineprint/cura-resources"),
            Path("/usr/share/cura/resources"),
            Path("/usr/local/share/cura/resources"),
        ),
    )


def find_install(
    engine: Path | None = None, resources: Path | None = None, *, places: Places | None = None
) -> CuraInstall:
    """The engine and definitions to use.

    Parameters
    ----------
    engine, resources : what the configuration names; wins over everything and must exist.
    places : where to look otherwise; the running system's by default.

    Raises ToolMissingError, saying what is missing and how to install it.
    """
    places = places or default_places()
    if resources is not None and not is_resources(resources):
        raise ToolMissingError(
            "The configured slicer definitions folder is not a Cura 'resources' folder with the Ultimaker 3.",
            next_step=HOW_TO_INSTALL,
            code="tool.definitions",
        )
    engines: Iterable[Path] = [engine] if engine is not None else _engines(places)
    if engine is not None and not _is_program(engine):
        raise ToolMissingError(
            "The configured slicing engine does not exist or is not a program.", next_step=HOW_TO_INSTALL
        )
    found_engine = False
    for candidate in engines:
        found_engine = True
        definitions = resources or _definitions_for(candidate, places)
        if definitions is not None:
            return CuraInstall(candidate, definitions)
    missing = "its Ultimaker 3 definitions were not" if found_engine else "no CuraEngine was"
    lead = "CuraEngine is installed, but " if found_engine else "The model cannot be sliced: "
    raise ToolMissingError(
        f"{lead}{missing} found.",
        next_step=HOW_TO_INSTALL,
        code="tool.definitions" if found_engine else "tool.missing",
    )


def is_resources(folder: Path) -> bool:
    """Whether every definition file we read is there."""
    return all((folder / name).is_file() for name in REQUIRED_FILES)


def _engines(places: Places) -> Iterator[Path]:
    for name in _ENGINE_NAMES:
        on_path = shutil.which(name, path=places.search_path)
        if on_path:
            yield Path(on_path)
    for root in places.install_roots:
        for subfolder in _ENGINE_SUBFOLDERS:
            for name in _ENGINE_NAMES:
                if _is_program(root / subfolder / name):
                    yield root / subfolder / name


def _definitions_for(engine: Path, places: Places) -> Path | None:
    """Definitions of the same installation, else those fetched for a bare engine."""
    real = engine.resolve()
    # The engine lies at most three folders deep in its installation (Cura.app/Contents/MacOS).
    inside = [up / sub for up in list(real.parents)[:3] for sub in _RESOURCE_SUBFOLDERS]
    return next((folder for folder in (*inside, *places.definition_folders) if is_resources(folder)), None)


def _is_program(path: Path) -> bool:
    return path.is_file() and (os.access(path, os.X_OK) or path.suffix.lower() == ".exe")


def _install_roots(platform: str, home: Path, root: Path) -> Iterator[Path]:
    """Possible installations of UltiMaker Cura, newest version first."""
    folders: tuple[Path, ...]
    patterns: tuple[str, ...]
    if platform == "darwin":
        folders, patterns = (root / "Applications", home / "Applications"), ("*[Cc]ura*.app",)
    elif platform == "win32":
        folders = tuple(
            Path(os.environ[name])
            for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
            if name in os.environ
        )
        patterns = ("*[Cc]ura*",)
    else:
        folders = (root / "opt", home / "Applications", home / "opt", home)
        patterns = ("*[Cc]ura*/squashfs-root", "*[Cc]ura*", "squashfs-root")
    for folder in folders:
        for pattern in patterns:
            hits = folder.glob(pattern) if folder.is_dir() else ()
            yield from sorted((hit for hit in hits if hit.is_dir()), key=_version_in_name, reverse=True)


def _version_in_name(path: Path) -> tuple[int, ...]:
    match = re.search(r"(\d+(?:\.\d+)+)", str(path))
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()
