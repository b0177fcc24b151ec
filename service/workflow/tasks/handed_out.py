"""The mask that was handed out for a person to edit, kept beside the model: an edited one is then read as edits of it.

It stays through builds from edited masks, so that the same command gives the same bone again, and is replaced by each
isolation that is no edit of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import ImagingError
from service.geometry.anatomy import Isolation
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti, write_nifti

FILE = "mask_handed_out.nii.gz"


def handed_out_hash(argument: Mapping[str, Any]) -> str | None:
    """SHA-256 of the file that decides beside the mask of the argument of a model task; None when none does."""
    if not argument.get("mask"):
        return None
    path = _path(argument.get("handed_out"), Path(argument["out"]))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def read_handed_out(given: str | None, out: Path) -> Volume | None:
    """What was handed out: `given`, else in the folder of an earlier run; None when there is none.

    Raises ImagingError (`imaging.handed_out`): without it what a person erased would come back without a word.
    """
    path = _path(given, out)
    if not given and not path.is_file():
        return None
    try:
        return read_nifti(path)
    except (ImagingError, OSError) as error:
        raise ImagingError(
            f"The mask that was handed out for editing ({path.name}) cannot be read.",
            next_step="Give the file that the edited mask was made from (--handed-out). To take the mask by itself, "
            f"take {FILE} out of the output folder.",
            code="imaging.handed_out",
        ) from error


def _path(given: str | None, out: Path) -> Path:
    return Path(given) if given else out / FILE


def write_handed_out(isolation: Isolation, out: Path) -> None:
    """The mask before corrections by `edits`, which are applied to an edited one again."""
    if "drawn_out_ml" not in isolation.quality.measures:
        write_nifti(isolation.mask, out / FILE)
