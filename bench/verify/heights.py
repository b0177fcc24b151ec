"""Heights after the cement, recovery and Cobb angle: phantoms scanned with a part of their height restored."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.verify import anatomies
from bench.verify.anatomies import Anatomy
from bench.verify.cases import Case, restored_scene
from bench.verify.runner import run_all
from service.domain.plan import Plan, VertebraFrame
from service.geometry import angles
from service.geometry.anatomy import Seeds
from service.geometry.heights import PLACES, body_heights
from service.geometry.isolation import isolate_vertebra
from service.geometry.plates import Body, find_bodies, read_bodies, target_field, write_bodies
from service.geometry.restoration import Restoration
from service.geometry.verification import verify
from service.geometry.volume import Volume
from service.imaging.series import load_series
from simulators.oarm import make_scan
from simulators.phantom import PhantomParameters
from simulators.phantom.shape import vertebra_sdf

Array = NDArray[np.float64]
#: What the project aims at (geometry reference, section 6: endplate heights to half a millimetre).
AIM_MM = 0.5
AIM_DEG = 2.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--height-scans", type=int, default=24, help="scans with restored height")


def run(options: argparse.Namespace, work: Path) -> bool:
    phantoms = []
    for name in anatomies.names(options.set):
        own = anatomies.parameters(name)
        if own is not None and own.wedge >= 0.1:
            phantoms.append(name)
    cases = [
        Case(options.set, n, phantoms[n % len(phantoms)], "heights") for n in range(options.height_scans)
    ]
    return report(run_all(height_row, cases, work, options.jobs, options.rows))


def height_row(case: Case, work: Path) -> dict[str, Any]:
    """One scan with restored height: found and true values, plain numbers."""
    anatomy = anatomies.load(case.anatomy, work)
    own = anatomies.parameters(case.anatomy)
    if own is None:
        raise ValueError(f"{case.anatomy} is no phantom")
    made = restored_scene(case, anatomy, own.wedge)
    scan = make_scan(anatomy.folder, cement=made.cement, settings=made.settings, focus=made.focus)
    volume = Volume(scan.grey, scan.scan_from_ijk)
    found = verify(
        None,
        anatomy.mask,
        anatomy.outer,
        anatomy.plan,
        volume,
        model=anatomy.model,
        bodies=_bodies(anatomy, own, work),
    )
    row: dict[str, Any] = {
        "case": case.index,
        "anatomy": case.anatomy,
        "measured": found.measured,
        "reason": found.reason_code,
        "clipped": made.clipped,
        "cement": True,
    }
    after = replace(own, wedge=made.settings.wedge_after or 0.0)
    truth = json.loads((anatomy.folder.parent / "truth.json").read_text("utf-8"))
    row["true_before"] = _true_heights(own, anatomy.plan)
    row["true_after"] = _true_heights(after, anatomy.plan)
    row["true_cobb"] = _true_cobb(truth, scan.truth["neighbour_motion_preop"], anatomy.plan.vertebra_frame)
    return row | _told(found.restoration)


def _told(restored: Restoration | None) -> dict[str, Any]:
    if restored is None:
        return {"told": None}
    cobb = restored.cobb
    return {
        "told": {
            "before": restored.before.as_tuple(),
            "after": restored.after_mm,
            "sigma": restored.sigma_mm,
            "normal": restored.normal_mm,
            "recovery": restored.recovery_percent,
            "cobb": None if cobb is None else [cobb.before_deg, cobb.after_deg, cobb.sigma_deg],
        }
    }


def _bodies(anatomy: Anatomy, own: PhantomParameters, work: Path) -> tuple[Body, ...]:
    """Endplates as the service keeps them: its own fit to the neighbours, made once and kept."""
    kept = work / anatomy.name / "plates.npz"
    if not kept.is_file():
        ct = load_series(anatomy.folder).volume
        truth = json.loads((anatomy.folder.parent / "truth.json").read_text("utf-8"))
        seeds = Seeds(**{k: np.asarray(v, dtype=np.float64) for k, v in truth["seeds"].items()})
        neighbours = isolate_vertebra(ct, own.level, seeds).neighbours
        write_bodies(find_bodies(ct, (target_field(anatomy.outer, anatomy.plan), *neighbours)), kept)
    return read_bodies(kept)


def _true_heights(own: PhantomParameters, plan: Plan) -> list[float] | None:
    """The report's definition on the phantom's own surface, in the plan's frame."""
    middle = np.asarray(plan.body_centre)
    half, step = np.array([9.0, 32.0, 24.0]), np.array([1.0, 0.6, 0.4])
    shape = np.ceil(2 * half / step).astype(int)
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = middle - half
    k, j, i = np.indices(tuple(shape[::-1])).reshape(3, -1)
    points = np.stack([i, j, k], axis=1) * step + middle - half
    parts = np.array_split(points, 4)
    values = np.concatenate([vertebra_sdf(own.level, part, own) for part in parts])
    field = Volume(values.reshape(tuple(shape[::-1])).astype(np.float32), affine)
    found = body_heights(field, plan)
    return None if found is None else list(found.as_tuple())


def _true_cobb(
    truth: dict[str, Any], moved: dict[str, list[list[float]]], frame: VertebraFrame
) -> list[float] | None:
    """(before, after) from the phantom's own endplates and the neighbours' motion."""
    rows = {v["level"]: v for v in truth["vertebrae"]}
    order = list(rows)
    at = order.index(truth["target"])
    above, below = order[at - 1], order[at + 1]
    before = [
        np.asarray(rows[above]["upper_endplate"]["normal"]),
        np.asarray(rows[below]["lower_endplate"]["normal"]),
    ]
    after = [
        np.asarray(moved[n])[:3, :3] @ v if n in moved else v
        for n, v in zip((above, below), before, strict=True)
    ]
    return [angles.cobb_deg(frame, *before), angles.cobb_deg(frame, *after)]


def report(rows: Sequence[dict[str, Any]]) -> bool:
    """Print the tables and the lines; True when all of them hold."""
    told = [r for r in rows if r["told"]]
    print("\n| place | told | error before | error after | largest | error of the change | inside k = 2 |")
    print("|---|---|---|---|---|---|---|")
    errors: list[float] = []
    inside: list[bool] = []
    for n, place in enumerate(PLACES):
        known = [r for r in told if r["told"]["after"][n] is not None]
        if not known:
            print(f"| {place} | 0/{len(rows)} | | | | | |")
            continue
        before = np.array([r["told"]["before"][n] - r["true_before"][n] for r in known])
        after = np.array([r["told"]["after"][n] - r["true_after"][n] for r in known])
        good = [abs(e) <= 2 * r["told"]["sigma"][n] for e, r in zip(after, known, strict=True)]
        errors.extend(np.abs(after).tolist())
        inside.extend(good)
        print(
            f"| {place} | {len(known)}/{len(rows)} | {_spread(before)} | {_spread(after)} | "
            f"{np.abs(after).max():.2f} | {_spread(after - before)} | {sum(good)}/{len(good)} |"
        )
    turned = _print_cobb(told, len(rows))
    share = float(np.mean(inside)) if inside else 0.0
    mean_mm = float(np.mean(errors)) if errors else np.inf
    mean_deg = float(np.abs(turned).mean()) if len(turned) else np.inf
    lines = [
        (f"height after within {AIM_MM} mm on average", f"{mean_mm:.2f} mm over {len(errors)}", mean_mm <= AIM_MM),
        ("height inside k = 2 >= 95 %", f"{sum(inside)} of {len(inside)}", share >= 0.95),
        (f"Cobb angle within {AIM_DEG} deg on average", f"{mean_deg:.1f} deg", mean_deg <= AIM_DEG),
    ]  # fmt: skip
    print()
    for name, figure, good_line in lines:
        print(f"{'PASS' if good_line else 'FAIL'}  {name}: {figure}")
    return all(good_line for *_, good_line in lines)


def _spread(values: Array) -> str:
    return f"{values.mean():+.2f} ± {values.std():.2f}"


def _print_cobb(told: Sequence[dict[str, Any]], scans: int) -> Array:
    """Print how the angle came out; returns its errors in the scan, degrees."""
    cobb = [(r["told"]["cobb"], r["true_cobb"]) for r in told if r["told"]["cobb"]]
    if not cobb:
        print("\nCobb angle told in no scan")
        return np.zeros(0)
    before = np.array([t[0] - w[0] for t, w in cobb])
    after = np.array([t[1] - w[1] for t, w in cobb])
    covered = sum(abs(t[1] - w[1]) <= 2 * t[2] for t, w in cobb)
    print(
        f"\nCobb angle told in {len(cobb)} of {scans}: error before {_spread(before)}, after {_spread(after)} deg "
        f"(largest {np.abs(after).max():.1f}), inside k = 2: {covered} of {len(cobb)}"
    )
    return after
