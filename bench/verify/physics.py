"""The same scenes through the fast simulator and the one with cone-beam physics, measured and set side by side.

Needs itk-rtk (requirements/physics.txt). The service's method is only measured here, nothing in it was chosen on these
scans.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.verify import anatomies
from bench.verify.cases import Case, Scene, physics_cases, physics_scene
from bench.verify.image_figures import IdealScene, ideal_scene, image_figures
from bench.verify.judge import judged
from bench.verify.runner import run_all
from simulators.oarm import PhysicsMissingError, make_scan, small_physics
from simulators.oarm.physics.rtk import require

Row = dict[str, Any]
KINDS = ("fast", "physics")
#: Rows of the table of images: key, title, digits.
_IMAGES = (
    ("noise", "noise in soft tissue far from metal, sd, HU", 0),
    ("cupping", "middle of the field less its rim, HU", 0),
    ("fwhm_bone_mm", "blur at the bone, FWHM, mm", 2),
    ("fwhm_needle_mm", "blur at the needle's shaft, FWHM, mm", 2),
    ("needle", "grey of the shaft's middle, HU", 0),
    ("streak_5", "streaks 5 mm from the needle, half range of 90 %, HU", 0),
    ("streak_10", "streaks 10 mm from the needle, HU", 0),
    ("streak_25", "the same 25 mm away and more, HU", 0),
    ("shade_5", "mean shade 5 mm from the needle, HU", 0),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--physics-scans", type=int, default=8, help="scenes, each scanned twice")


def run(options: argparse.Namespace, work: Path) -> bool:
    try:
        require()
    except PhysicsMissingError as fault:
        raise SystemExit(str(fault)) from fault
    phantoms = [n for n in anatomies.names(options.set) if anatomies.parameters(n) is not None]
    cases = physics_cases(options.set, options.physics_scans, phantoms[::2][:3])
    return report(run_all(physics_row, cases, work, options.jobs, options.rows))


def physics_row(case: Case, work: Path) -> Row:
    """Both scans of a scene judged; the top of the row is the physics', for the line that the runner prints."""
    anatomy = anatomies.load(case.anatomy, work)
    made = physics_scene(case, anatomy)
    sides: dict[str, Row] = {}
    ideal: IdealScene | None = None
    for kind in KINDS:
        scan = make_scan(
            anatomy.folder,
            needles=made.needles,
            cement=made.cement,
            settings=made.settings,
            focus=made.focus,
            physics=small_physics() if kind == "physics" else None,
        )
        ideal = ideal or ideal_scene(scan, anatomy.folder, made)
        sides[kind] = judged(anatomy, made, scan) | {"image": image_figures(scan, ideal, made)}
    base = {"case": case.index, "anatomy": case.anatomy, "scene": _scene_words(made)}
    return base | sides["physics"] | {"cement": bool(made.cement)} | sides


def _scene_words(made: Scene) -> str:
    words = [made.needles[0].tip_shape]
    words += ["clipped"] if made.clipped else []
    words += ["cement"] if made.cement else []
    words += ["moves 1 mm, 0.4°"] if made.settings.motion else []
    return ", ".join(words)


def report(rows: Sequence[Row]) -> bool:
    """Print both tables and the lines; True when the physics scans hold what the fast ones do."""
    _print_scenes(rows)
    _print_images(rows)
    return _print_lines(rows)


def _pair(rows: Row, text: Any) -> str:
    return " / ".join(text(rows[kind]) for kind in KINDS)


def _needle(side: Row) -> Row | None:
    found = side.get("found") or []
    return found[0] if len(found) == 1 and not found[0]["missed"] else None


def _of_needle(key: str, form: str) -> Any:
    return lambda side: format(_needle(side)[key], form) if _needle(side) else "-"  # type: ignore[index]


def _print_scenes(rows: Sequence[Row]) -> None:
    print(
        "\n| scene, fast / physics | TRE, mm | tip, mm | along, mm | stated u(tip), mm | axis, deg | margin, mm (true) "
        "| verdict (true) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        tre = _pair(row, lambda s: f"{s['tre_mm']:.3f}" if "tre_mm" in s else "-")
        true = next((n["true_margin"] for n in map(_needle, (row[k] for k in KINDS)) if n), None)
        margin = _pair(row, _of_margin) + (f" ({true:+.2f})" if true is not None else "")
        within = next((row[k]["truth_within"] for k in KINDS if "truth_within" in row[k]), None)
        told = _pair(row, _verdict) + ("" if within is None else f" ({'within' if within else 'beyond'})")
        print(
            f"| {row['anatomy']}, {row['scene']} | {tre} | {_pair(row, _of_needle('tip_mm', '.2f'))} | "
            f"{_pair(row, _of_needle('along_mm', '+.2f'))} | {_pair(row, _of_needle('u_tip_mm', '.2f'))} | "
            f"{_pair(row, _of_needle('axis_deg', '.2f'))} | {margin} | {told} |"
        )


def _of_margin(side: Row) -> str:
    needle = _needle(side)
    return "-" if needle is None or needle["margin"] is None else f"{needle['margin']:+.2f}"


def _verdict(side: Row) -> str:
    if not side["measured"]:
        return f"refused: {side['reason']}"
    return f"{side['verdict']}" + (f", {side['needles_reason']}" if side["needles_reason"] else "")


def _print_images(rows: Sequence[Row]) -> None:
    print("\n| what differs in the images, mean (smallest to largest) | fast | physics |\n|---|---|---|")
    for key, title, digits in _IMAGES:
        cells = []
        for kind in KINDS:
            values = [r[kind]["image"][key] for r in rows if r[kind]["image"].get(key) is not None]
            spread = (np.mean(values), min(values), max(values)) if values else None
            cells.append(
                "-" if spread is None else "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*spread, d=digits)
            )
        print(f"| {title} | {cells[0]} | {cells[1]} |")


def _print_lines(rows: Sequence[Row]) -> bool:
    good = True
    for kind in KINDS:
        sides = [r[kind] for r in rows]
        needles = [n for n in map(_needle, sides) if n]
        measured = sum(s["measured"] for s in sides)
        inside = [v for n in needles for v in n["inside"].values()]
        false_calls = sum(s.get("verdict") == "accurate" and not s["truth_within"] for s in sides)
        missed = sum(n["missed"] for s in sides for n in s.get("found", ()))
        share = 100 * float(np.mean(inside)) if inside else 0.0
        lines = (
            ("scans measured", f"{measured} of {len(rows)}", measured == len(rows)),
            ("needles missed or invented", f"{missed}", missed == 0),
            ("inside k = 2 >= 95 %", f"{share:.0f} % of {len(inside)} values", share >= 95.0),
            ("accurate although beyond tolerance", f"{false_calls}", false_calls == 0),
        )
        for name, figure, holds in lines:
            print(f"{'PASS' if holds else 'FAIL'}  {kind}: {name}: {figure}")
            good = good and bool(holds)
    return good
