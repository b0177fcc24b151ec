"""Where the last fit of a case left the shapes, kept so that a point moved, marked or taken away does not start anew.

Used for the same CT, level, settings and program, whatever the points; `service.geometry.refit` decides how far they
still lead to the same vertebrae. It may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.geometry.anatomy import EndplatePoints, Seeds
from service.geometry.shape_fit import PlacedShape, Pose, place
from service.geometry.spine_fit import FitStart
from service.geometry.templates import shipped_templates
from service.workflow.tasks.kept_isolation import read_kept, write_kept

FILE = "fit.npz"


def write_start(start: FitStart, folder: Path, key: str) -> None:
    """Keep it in `folder` in place of an earlier one."""
    words = {
        "key": key,
        "points": {
            "target": start.seeds.target,
            "above": start.seeds.above,
            "below": start.seeds.below,
            "endplates": None if start.seeds.endplates is None else start.seeds.endplates.all,
            "surface": start.seeds.surface,
        },
        "low": start.low,
        "high": start.high,
        "candidates": _placed(start.candidates),
        "searched": _placed(start.searched),
        "bent": _placed(start.bent),
    }
    write_kept(folder / FILE, words, {f"bent_{n}": s.vertices for n, s in enumerate(start.bent)})


def read_start(folder: Path, key: str) -> FitStart | None:
    """What is kept under this key, if anything and undamaged."""
    found = read_kept(folder / FILE, key)
    if found is None:
        return None
    words, arrays = found
    points = {name: _array(values) for name, values in words["points"].items()}
    plates = points["endplates"]
    target = points["target"]
    assert target is not None
    bent = [replace(s, vertices=arrays[f"bent_{n}"]) for n, s in enumerate(_shapes(words["bent"]))]
    return FitStart(
        seeds=Seeds(
            target,
            points["above"],
            points["below"],
            None if plates is None else EndplatePoints(plates[:2], plates[2:]),
            points["surface"],
        ),
        low=np.asarray(words["low"], dtype=np.float64),
        high=np.asarray(words["high"], dtype=np.float64),
        candidates=tuple(_shapes(words["candidates"])),
        searched=tuple(_shapes(words["searched"])),
        bent=tuple(bent),
    )


def _placed(shapes: Sequence[PlacedShape]) -> list[dict[str, Any]]:
    return [
        {
            "template": s.template.name,
            "centre": s.pose.centre,
            "axes": s.pose.axes,
            "scale": s.pose.scale,
            "score": s.score,
        }
        for s in shapes
    ]


def _shapes(words: Sequence[Mapping[str, Any]]) -> list[PlacedShape]:
    """Placed, not deformed; JSON carries every bit of a float."""
    templates = {t.name: t for t in shipped_templates()}
    found = []
    for w in words:
        pose = Pose(*(np.asarray(w[key], dtype=np.float64) for key in ("centre", "axes", "scale")))
        template = templates[w["template"]]
        found.append(PlacedShape(template, pose, float(w["score"]), place(template, pose)))
    return found


def _array(values: Any) -> NDArray[np.float64] | None:
    return None if values is None else np.asarray(values, dtype=np.float64)
