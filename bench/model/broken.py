"""broken input on a phantom: each must end in words, a low confidence, or the right bone all the same"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.model.phantom import Scanned, scanned, seeds_of
from bench.model.report import Line, table
from bench.model.studies import Array
from service.errors import GeometryError
from service.geometry.anatomy import Isolation, Seeds
from service.geometry.isolation import isolate_vertebra, isolation_from_mask
from service.geometry.volume import Volume

NAME = "broken"
VARIANT, LEVEL = "wedge 15 %", "L1"
#: Below this the service asks for a person; above it the bone has to be right.
CONFIDENCE_BAR, DICE_BAR = 0.5, 0.90
SCREW_HU, VESSEL_HU, KIDNEY_HU = 8000.0, 380.0, 230.0


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--inputs", default="", help="names, comma between (default: all)")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    scan = scanned(VARIANT)
    wanted = options.inputs.split(",") if options.inputs else None
    rows = []
    for name, isolate in inputs(scan).items():
        if wanted is None or name in wanted:
            rows.append({"input": name} | _outcome(isolate, scan))
            print(f"  {rows[-1]}", flush=True)
    return {"rows": rows, "planned": len(inputs(scan))}


def inputs(scan: Scanned) -> dict[str, Callable[[], Isolation]]:
    ct, seeds = scan.ct, seeds_of(scan)
    above, below = seeds.above, seeds.below
    if above is None or below is None:
        raise AssertionError("the phantom's seeds are three")
    fit = partial(isolate_vertebra, ct, LEVEL)
    return {
        "empty mask": lambda: isolation_from_mask(
            ct, Volume(np.zeros_like(scan.labels.values), ct.lps_from_ijk), LEVEL
        ),
        "target point in air": lambda: fit(Seeds(_in_air(ct, float(seeds.target[2])), above, below)),
        "target point in the vertebra above": lambda: fit(Seeds(above + 2.0, above, below)),
        "upper and lower point exchanged": lambda: fit(Seeds(seeds.target, below, above)),
        "lower point in the disc": lambda: fit(Seeds(seeds.target, above, 0.5 * (seeds.target + below))),
        "one point, in the disc below": lambda: fit(Seeds(0.5 * (seeds.target + below))),
        "cut by the scan's lower edge": lambda: isolate_vertebra(
            _cut(ct, float(seeds.target[2])), LEVEL, replace(seeds, below=None)
        ),
        "metal screw through a pedicle": lambda: isolate_vertebra(_with_screw(scan), LEVEL, seeds),
        "contrast in aorta and kidney": lambda: isolate_vertebra(_with_contrast(scan), LEVEL, seeds),
    }


def _in_air(ct: Volume, z_mm: float) -> Array:
    """The corner of a slice, where no patient reaches."""
    corner = ct.to_lps(np.array([[3.0, 3.0, ct.values.shape[0] / 2]]))[0]
    return np.array([corner[0], corner[1], z_mm])


def _cut(ct: Volume, z_mm: float) -> Volume:
    """The scan from the middle of the body upwards."""
    first = int(np.rint(ct.to_ijk(np.array([[0.0, 0.0, z_mm]]))[0, 2]))
    return ct.crop((0, 0, first), ct.values.shape[::-1])


def _painted(ct: Volume, start: Array, end: Array, radius_mm: float, hu: float) -> Volume:
    """A rod of that density, its edge as soft as a voxel."""
    low, high = np.minimum(start, end) - radius_mm - 2.0, np.maximum(start, end) + radius_mm + 2.0
    values = ct.values.astype(np.float32)
    first = np.maximum(np.floor(ct.to_ijk(low[None])[0]), 0).astype(int)
    last = np.minimum(np.ceil(ct.to_ijk(high[None])[0]) + 1, ct.values.shape[::-1]).astype(int)
    k, j, i = (n.ravel() for n in np.mgrid[first[2] : last[2], first[1] : last[1], first[0] : last[0]])
    points = ct.to_lps(np.column_stack([i, j, k]))
    along = end - start
    t = np.clip((points - start) @ along / float(along @ along), 0.0, 1.0)
    gap = np.linalg.norm(points - start - t[:, None] * along, axis=1)
    share = np.clip(0.5 + (radius_mm - gap) / 0.6, 0.0, 1.0)
    values[k, j, i] = (1.0 - share) * values[k, j, i] + share * hu
    return Volume(values, ct.lps_from_ijk)


def _with_screw(scan: Scanned) -> Volume:
    """A 5 mm titanium screw through the left pedicle, clipped as scanners clip; without its streaks."""
    pedicle = next(p for p in scan.truth["pedicles"] if p["side"] == "left")
    middle, ahead = np.asarray(pedicle["centre"]), np.asarray(scan.truth["frame"]["anterior"])
    rod = _painted(scan.ct, middle - 25.0 * ahead, middle + 20.0 * ahead, 2.5, SCREW_HU)
    return Volume(np.minimum(rod.values, 3071.0), rod.lps_from_ijk)


def _with_contrast(scan: Scanned) -> Volume:
    """Enhanced aorta against the front of the bodies, and a kidney beside them."""
    frame = {k: np.asarray(v) for k, v in scan.truth["frame"].items()}
    centre = np.asarray(scan.truth["body_centre"])
    front = 0.5 * scan.truth["body_depth_mm"] + 9.0 + 1.0
    aorta = centre + front * frame["anterior"] + 6.0 * frame["left"]
    up = 60.0 * frame["superior"]
    ct = _painted(scan.ct, aorta - up, aorta + up, 9.0, VESSEL_HU)
    kidney = centre + 55.0 * frame["left"] - 10.0 * frame["anterior"]
    return _painted(ct, kidney - 0.5 * up, kidney + 0.5 * up, 22.0, KIDNEY_HU)


def _outcome(isolate: Callable[[], Isolation], scan: Scanned) -> dict[str, Any]:
    try:
        found = isolate()
    except GeometryError as refusal:
        return {"refused": refusal.code, "words": f"{refusal.message} {refusal.next_step}"}
    index = np.argwhere(scan.labels.values)[:, ::-1]
    both = float((found.outer.sample(scan.labels.to_lps(index), outside=8.0) < 0).sum())
    mine = float((found.outer.values < 0).sum()) * found.outer.voxel_ml / scan.labels.voxel_ml
    return {
        "dice": round(2 * both / (len(index) + mine), 3),
        "confidence": found.quality.confidence,
        "words": " ".join(found.quality.reasons),
    }


def _ends_well(row: dict[str, Any]) -> bool:
    return "refused" in row or row["confidence"] < CONFIDENCE_BAR or row["dice"] >= DICE_BAR


def lines(result: dict[str, Any]) -> list[Line]:
    rows = result["rows"]
    bad = [row["input"] for row in rows if not _ends_well(row)]
    whole = len(rows) == result["planned"]
    return [
        Line(
            "broken input ends in words, a confidence that asks for a person, or the right bone",
            f"{len(rows) - len(bad)} of {len(rows)} inputs" + (f" (not: {', '.join(bad)})" if bad else ""),
            not bad and whole,
        )
    ]


def page(result: dict[str, Any]) -> str:
    rows = []
    for row in result["rows"]:
        if "refused" in row:
            rows.append([row["input"], f"refused, `{row['refused']}`", row["words"]])
        else:
            rows.append(
                [
                    row["input"],
                    f"Dice {row['dice']:.3f}, confidence {row['confidence']:.2f}",
                    row["words"] or "-",
                ]
            )
    return table(["input", "outcome", "words"], rows)
