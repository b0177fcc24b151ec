"""a synthetic 50 % wedge on real CT, with the four endplate points and without

The front of the body is pressed down by warping CT and label together; the disc above is stretched into the gap.
It keeps the texture and has no fragments or retropulsion: an easy stand-in for a fracture.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from bench.model.phantom import POINT_ERROR_MM
from bench.model.report import Line, table
from bench.model.studies import SPINE, Array, Study, body_centre, drawn_seeds, likeness, studies
from service.errors import GeometryError
from service.geometry.anatomy import EndplatePoints
from service.geometry.isolation import isolate_vertebra
from service.geometry.volume import Volume

NAME = "wedge"
LEVELS = {"lumbar": ("L1", "L2", "L3", "L4"), "chest": ("L1", "T12")}
LOSS, DISC_MM, BAR = 0.5, 8.0, 0.90


@dataclass(frozen=True, eq=False)
class Body:
    """Box of a body in its own frame; `axes` columns left, posterior, up; mm about `centre`."""

    centre: Array
    axes: Array
    front: float
    back: float
    half_width: float
    low: float
    high: float

    def lowered(self, local: Array) -> Array:
        """How far the upper plate is pressed down at local points (..., 3), mm."""
        share = np.clip((self.back - local[..., 1]) / (self.back - self.front), 0.0, 1.0)
        beside = np.clip((self.half_width + 8.0 - np.abs(local[..., 0])) / 8.0, 0.0, 1.0)
        return np.asarray(LOSS * (self.high - self.low) * share * beside)

    def undone(self, local: Array) -> Array:
        """Where each point (..., 3) of the pressed spine came from."""
        z, down = local[..., 2], self.lowered(local)
        top, roof = self.high - down, self.high + DISC_MM
        inside = self.low + (z - self.low) * (self.high - self.low) / (top - self.low)
        above = self.high + (z - top) * DISC_MM / (roof - top)
        out = local.copy()
        out[..., 2] = np.where((z < self.low) | (z > roof), z, np.where(z < top, inside, above))
        return out


def body_of(study: Study, level: str) -> Body:
    centre, above, below = (
        body_centre(study.reference(SPINE[SPINE.index(level) + step])) for step in (0, -1, 1)
    )
    up = (above - below) / np.linalg.norm(above - below)
    left = np.array([1.0, 0.0, 0.0]) - up[0] * up
    left /= np.linalg.norm(left)
    axes = np.column_stack([left, np.cross(up, left), up])
    mask = study.reference(level)
    local = (mask.to_lps(np.argwhere(mask.values)[:, ::-1]) - centre) @ axes
    middle = local[np.abs(local[:, 0]) < 6.0]
    core = middle[(np.abs(middle[:, 1]) < 7.0)]
    deep = middle[np.abs(middle[:, 2]) < 5.0]
    front = float(np.percentile(deep[:, 1], 1))
    back = float(np.percentile(deep[deep[:, 1] < 25.0, 1], 98))
    wide = local[(np.abs(local[:, 1]) < 5.0) & (np.abs(local[:, 2]) < 5.0)]
    low, high = (float(v) for v in np.percentile(core[:, 2], (1, 99)))
    return Body(centre, axes, front, min(back, -front + 4.0), float(np.abs(wide[:, 0]).max()), low, high)


def pressed(volume: Volume, body: Body, *, order: int) -> Volume:
    """The image after the fracture, on its own grid, changed around the body only."""
    values = volume.values.copy()
    index = np.indices(values.shape).reshape(3, -1)
    points = volume.to_lps(index[::-1].T)
    local = (points - body.centre) @ body.axes
    near = (np.abs(local[:, 2]) < 45.0) & (np.abs(local[:, 0]) < 60.0) & (np.abs(local[:, 1]) < 60.0)
    source = body.centre + body.undone(local[near]) @ body.axes.T
    found = ndimage.map_coordinates(
        volume.values, volume.to_ijk(source)[:, ::-1].T, order=order, mode="nearest"
    )
    values.reshape(-1)[near] = found
    return Volume(values, volume.lps_from_ijk, volume.frame_of_reference_uid)


def marked(body: Body, draw: int) -> EndplatePoints:
    """Front and back of both plates, 3 mm inside the rims, off by 0.9 mm (sd) on every axis."""
    rng = np.random.default_rng([20261126, 5, draw])
    depth = np.array([body.front + 3.0, body.back - 3.0])
    low = np.column_stack([np.zeros(2), depth, np.full(2, body.low)])
    high = np.column_stack([np.zeros(2), depth, np.full(2, body.high)])
    high[:, 2] -= body.lowered(high)
    return EndplatePoints(
        *(body.centre + p @ body.axes.T + rng.normal(0.0, POINT_ERROR_MM, (2, 3)) for p in (high, low))
    )


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--wedges", default="", help="study:level (default: all)")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    rows = []
    for study in studies(work):
        for level in LEVELS.get(study.name, ()):
            if options.wedges in ("", f"{study.name}:{level}"):
                rows.extend(_both(study, level))
    return {"rows": rows}


def _both(study: Study, level: str) -> list[dict[str, Any]]:
    body = body_of(study, level)
    broken = replace(
        study,
        ct=pressed(study.ct, body, order=1),
        labels=pressed(study.labels, body, order=0),
    )
    seeds = drawn_seeds(broken, level, 0)
    rows = []
    for with_points in (True, False):
        row: dict[str, Any] = {
            "study": study.name,
            "in_sample": study.in_sample,
            "level": level,
            "points": with_points,
        }
        given = replace(seeds, endplates=marked(body, SPINE.index(level))) if with_points else seeds
        try:
            found = isolate_vertebra(broken.ct, level, given)
            row |= asdict(likeness(found.outer, broken.reference(level)))
            row |= {"confidence": found.quality.confidence, "heights": found.landmarks.height_mm}
        except GeometryError as refusal:
            row |= {"refused": refusal.code, "words": refusal.message}
        print(f"  {row}", flush=True)
        rows.append(row)
    return rows


def lines(result: dict[str, Any]) -> list[Line]:
    """Met only when every planned level was run, so that a choice of levels cannot pass for the whole."""
    found = []
    for name, study in (("out of sample", "lumbar"), ("in-sample", "chest")):
        planned = [level for level in LEVELS[study] if level.startswith("L")]
        rows = [r for r in result["rows"] if r["study"] == study and r["level"] in planned]
        dice = {r["level"]: r.get("dice", 0.0) for r in rows if r["points"]}
        plain = {r["level"]: r.get("dice", 0.0) for r in rows if not r["points"]}
        gain = [dice[level] - plain[level] for level in dice if level in plain]
        measured = f"{len(dice)} of {len(planned)} levels run"
        if dice:
            measured += f" ({', '.join(dice)}): worst {min(dice.values()):.3f}"
            measured += f"; the points changed Dice by {np.mean(gain):+.3f} on average" if gain else ""
        found.append(
            Line(
                f"synthetic 50 % lumbar wedge with four endplate points, {name}: Dice at least {BAR:.2f}",
                measured,
                len(dice) == len(planned) and min(dice.values()) >= BAR,
            )
        )
    return found


def page(result: dict[str, Any]) -> str:
    rows = []
    for r in result["rows"]:
        figures = (
            [f"{r['dice']:.3f}", f"{r['surface_mm']:.2f}", f"{r['h95_mm']:.1f}", f"{r['confidence']:.2f}"]
            if "dice" in r
            else [f"refused: {r['words']}", "", "", ""]
        )
        rows.append([r["study"], r["level"], "in" if r["in_sample"] else "out",
                     "four points" if r["points"] else "none", *figures])  # fmt: skip
    return table(["study", "level", "sample", "aid", "Dice", "surface mm", "h95 mm", "confidence"], rows)
