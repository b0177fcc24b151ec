"""UltiMaker's own reader of print files (libCharon), from Debian's package, unpacked and not installed."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_READER = "usr/lib/python3/dist-packages"


class NotToBeHadError(Exception):
    """Why there is no reader here, in words."""


def unpacked(folder: Path) -> Path:
    """The package's modules below `folder`. Raises NotToBeHadError."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotToBeHadError("UltiMaker's reader comes from a Debian package; there is no apt-get here")
    fetched = subprocess.run(
        ["apt-get", "download", "python3-charon"], cwd=folder, capture_output=True, timeout=120, check=False
    )
    packages = list(folder.glob("python3-charon_*.deb"))
    if fetched.returncode != 0 or not packages:
        raise NotToBeHadError("Debian's python3-charon could not be downloaded")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(folder / "x")], check=True, timeout=60)
    return folder / "x" / _READER


def gcode_reader(modules: Path) -> Any:
    """The class whose `parseHeader` (an open file) gives the header or raises."""
    sys.path.insert(0, str(modules))
    try:
        return importlib.import_module("Charon.filetypes.GCodeFile").GCodeFile
    finally:
        sys.path.remove(str(modules))
