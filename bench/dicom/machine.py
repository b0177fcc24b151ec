"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path


def program(name: str) -> str:
    # not the programs of the same names that pynetdicom has in an activated virtual environment
    own = str(Path(sys.prefix) / "bin")
    path = os.pathsep.join(p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if p != own)
    found = shutil.which(name, path=f"{path}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")
    if found is None:
        raise SystemExit(f"{name} is not installed (Debian packages: dcmtk, orthanc).")
    return found


def file_system(folder: Path) -> str:
    """Type and options of the mount that holds `folder`."""
    best = ("", "", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options = line.split()[:4]
        if folder.resolve().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind, options)
    return f"{best[1]} ({best[2]})"


def require_disk(folder: Path) -> None:
    """A file system in memory makes every barrier free; figures from one would say nothing."""
    if file_system(folder).startswith(("tmpfs", "ramfs")):
        raise SystemExit(f"{folder} is in memory: give a folder on a disk with --work.")


def load_average() -> float:
    return os.getloadavg()[0]


def _version(name: str, pattern: str) -> str:
    done = subprocess.run([program(name), "--version"], capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def describe(work: Path) -> dict[str, str]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "file_system": file_system(work),
        "orthanc": _version("Orthanc", r"Orthanc (\S+)"),
        "dcmtk": _version("storescp", r"v(\d\S*)"),
        "python": platform.python_version(),
        "load_average_at_start": f"{load_average():.2f}",
    }
