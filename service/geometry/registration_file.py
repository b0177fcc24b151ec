"""The planning side of a registration on disk, prepared when the model is built.

Preparing it takes longer than finding the vertebra in a scan, and nothing of it depends on the scan. So the surgeon
does not wait for it: the file is written with the model and read when the O-arm scan arrives. It is a copy of what
the planning CT and the mask give; a file that is missing, damaged or of other settings is made anew from them.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from service.geometry.registration_model import ModelSettings, VertebraModel
from service.geometry.volume import Volume

log = logging.getLogger("spineprint.geometry")

#: Changes with the meaning of the arrays; a file of another format is not read.
FORMAT = "spineprint.registration-model/1"

_ARRAYS = ("centre", "points", "hu", "surface", "normals", "profiles", "offsets_mm", "marrow", "texture")
_GRIDS = ("coarse", "coarse_weight")


def write_model(model: VertebraModel, path: Path, settings: ModelSettings | None = None) -> None:
    """Write `model` as a compressed NumPy archive that loads without executing anything."""
    content: dict[str, Any] = {name: np.asarray(getattr(model, name)) for name in _ARRAYS}
    for name in _GRIDS:
        grid: Volume = getattr(model, name)
        content |= {name: grid.values, f"{name}_affine": grid.lps_from_ijk}
    content["radius_mm"] = np.asarray(model.radius_mm)
    content["made_with"] = np.asarray(_made_with(settings))
    with path.open("wb") as stream:
        np.savez_compressed(stream, **content)


def read_model(path: Path, settings: ModelSettings | None = None) -> VertebraModel | None:
    """The model, or None when the file cannot be used: the caller then prepares it from the planning CT."""
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            if str(stored["made_with"]) != _made_with(settings):
                log.info("the prepared registration model was made with other settings; it is made anew")
                return None
            grids = [Volume(stored[n], stored[f"{n}_affine"]) for n in _GRIDS]
            return VertebraModel(
                **{n: stored[n] for n in _ARRAYS},
                coarse=grids[0],
                coarse_weight=grids[1],
                radius_mm=float(stored["radius_mm"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        log.warning(
            "the prepared registration model cannot be read (%s); it is made anew", type(exc).__name__
        )
        return None


def _made_with(settings: ModelSettings | None) -> str:
    return f"{FORMAT} {settings or ModelSettings()!r}"
