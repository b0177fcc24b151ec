"""`model.json`: what a converted network expects of its input and what its output means.

Written by `deploy/convert_segmentation_model.py`; read here with every value checked, as it decides how the CT is
laid before the network. Axes are told by the direction in which an array axis grows: S head, I feet, A belly, P back,
R and L the patient's right and left.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.domain.plan import LEVELS
from service.errors import ToolMissingError

SCHEMA = "spineprint.segmentation-model/1"
DESCRIPTION = "model.json"
MODEL = "model.onnx"
#: ONNX files are protocol buffers, which end at 2 GiB.
MOST_BYTES = (1 << 31) - 1
_MOST_DESCRIPTION = 1 << 20
_AXES = ("SI", "AP", "RL")
_LEVEL = re.compile(r"(?:vertebrae?[_ ])?(C[1-7]|T1[0-3]|T[1-9]|L[1-6]|S1)", re.IGNORECASE)
CONVERT = (
    "Convert the trained folder again with deploy/convert_segmentation_model.py (docs/segmentation-model.md)."
)


@dataclass(frozen=True)
class Description:
    """What `model.json` says. `axes`, `spacing_mm` and `patch` are in the order of the network's array axes.

    `classes` by output channel, channel 0 is the background; `low_hu` and `high_hu` clip the CT, then `mean_hu` is
    taken off and the rest divided by `sd_hu` (nnU-Net's CTNormalization).
    """

    name: str
    source: str
    licence: str
    sha256: str
    description_sha256: str
    axes: tuple[str, str, str]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    low_hu: float
    high_hu: float
    mean_hu: float
    sd_hu: float
    classes: tuple[str, ...]

    @property
    def levels(self) -> tuple[str, ...]:
        """By channel: the level of the spine, "" for everything else."""
        return tuple(level_of(name) for name in self.classes)


def level_of(name: str) -> str:
    """ "vertebrae_L1" and "L1" are L1; "" when the class is not one vertebra."""
    found = _LEVEL.fullmatch(name.strip())
    return found.group(1).upper() if found else ""


def read_description(folder: Path) -> Description:
    """Of the model in `folder`.

    Raises
    ------
    ToolMissingError
        `tool.segmentation_model`: there is none, it cannot be read, or one of its values cannot be.
    """
    path = folder / DESCRIPTION
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_DESCRIPTION + 1)
    except OSError as error:
        raise unusable(
            f"There is no {DESCRIPTION} in the folder of the segmentation model that can be read.",
            "Name the folder that holds model.onnx and model.json: [isolation] segmentation_model.",
        ) from error
    if len(content) > _MOST_DESCRIPTION:
        raise unusable(f"{DESCRIPTION} is too long to be a description of a model.")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise unusable(f"{DESCRIPTION} is damaged: it is no JSON.") from error
    try:
        found = _description(document, hashlib.sha256(content).hexdigest())
    except (KeyError, TypeError, ValueError) as error:
        words = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise unusable(f"{DESCRIPTION} cannot be used: {words}.") from error
    _require_vertebrae(found)
    return found


def _description(document: Mapping[str, Any], sha256: str) -> Description:
    if document["schema"] != SCHEMA:
        raise ValueError(f"its schema is {str(document['schema'])[:60]!r}, not {SCHEMA!r}")
    network, grey = document["network"], document["normalisation"]
    if grey["scheme"] != "CTNormalization":
        raise ValueError(f"its grey values are scaled by {str(grey['scheme'])[:60]!r}, so it is not for CT")
    low, high, mean, sd = (_number(grey, k) for k in ("low_hu", "high_hu", "mean_hu", "sd_hu"))
    if not (low < high and sd > 0):
        raise ValueError("low_hu must be below high_hu, and sd_hu above 0")
    spacing = _three(document["spacing_mm"], "spacing_mm")
    patch = _three(document["patch"], "patch")
    if not all(0.2 <= s <= 10 for s in spacing) or not all(p == int(p) and 8 <= p <= 512 for p in patch):
        raise ValueError("spacing_mm must be 0.2 to 10 and patch whole numbers of 8 to 512")
    return Description(
        name=_text(document, "name"),
        source=_text(document, "source"),
        licence=_text(document, "licence"),
        sha256=_text(network, "sha256").lower(),
        description_sha256=sha256,
        axes=_axes(document["axes"]),
        spacing_mm=spacing,
        patch=(int(patch[0]), int(patch[1]), int(patch[2])),
        low_hu=low,
        high_hu=high,
        mean_hu=mean,
        sd_hu=sd,
        classes=tuple(str(name) for name in document["classes"]),
    )


def _require_vertebrae(found: Description) -> None:
    levels = [level for level in found.levels if level]
    missing = [level for level in LEVELS if level not in levels]
    if missing:
        raise unusable(
            f"The segmentation model '{found.name}' is not one of vertebrae: it has no class for "
            f"{', '.join(missing)}.",
            "Install a model with a class for each vertebra, such as TotalSegmentator's part for vertebrae.",
        )
    if len(set(levels)) != len(levels) or found.levels[0]:
        raise unusable(
            f"The classes of '{found.name}' are not clear: the background is first, each level once."
        )


def _axes(values: Sequence[str]) -> tuple[str, str, str]:
    axes = tuple(str(v) for v in values)
    kinds = sorted(n for axis in axes for n, pair in enumerate(_AXES) if len(axis) == 1 and axis in pair)
    if len(axes) != 3 or kinds != [0, 1, 2]:
        raise ValueError("axes must name three directions of the patient, such as S, A, R")
    return axes[0], axes[1], axes[2]


def _three(values: Sequence[float], name: str) -> tuple[float, float, float]:
    if len(values) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise ValueError(f"{name} must be three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def _number(part: Mapping[str, Any], key: str) -> float:
    value = part[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be a number")
    return float(value)


def _text(part: Mapping[str, Any], key: str) -> str:
    value = part[key]
    if not isinstance(value, str) or not 0 < len(value) <= 300 or not value.isprintable():
        raise ValueError(f"{key} must be a text")
    return value


def unusable(message: str, next_step: str = CONVERT) -> ToolMissingError:
    return ToolMissingError(
        f"The segmentation model cannot be used. {message}",
        next_step=next_step,
        code="tool.segmentation_model",
    )
