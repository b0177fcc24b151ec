"""the printable solid of every phantom and real case, measured on the finished mesh"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.model import phantom
from bench.model.isolation import FOUND
from bench.model.report import Line, table
from bench.model.studies import Study, drawn_seeds, studies
from service.domain.plan import ModelSettings, Plan
from service.errors import GeometryError
from service.geometry.anatomy import Isolation
from service.geometry.isolation import isolate_vertebra
from service.geometry.selfcheck import check_model
from service.geometry.solid import build_solid
from service.geometry.trajectories import plan_trajectories

NAME = "solid"
#: Levels of the real studies: chest 7, lumbar 5, crop 1.
PLANNED_REAL = 13


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--cases", default="", help="beginnings of names, comma between: 'phantom,chest T9' (default: all)"
    )
    parser.add_argument("--add-cases", action="store_true", help="keep the cases that the JSON holds already")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    return {"rows": rows_of(NAME, options, work, _measured)}


def rows_of(
    name: str,
    options: argparse.Namespace,
    work: Path,
    measure: Callable[[Callable[[], Isolation]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """A row for each chosen case, in the order of all cases; with --add-cases beside those that the JSON holds."""
    kept = options.out / f"{name}.json"
    old = json.loads(kept.read_text("utf-8"))["rows"] if options.add_cases and kept.exists() else []
    rows = []
    for case, isolate in _cases(work, options):
        rows.append({"case": case} | measure(isolate))
        print("  " + ", ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    again = {row["case"] for row in rows}
    return [*(row for row in old if row["case"] not in again), *rows]


def _cases(work: Path, options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Isolation]]]:
    wanted = tuple(options.cases.split(","))

    def chosen(name: str) -> bool:
        return name.startswith(wanted)

    for variant in phantom.chosen(options):
        if chosen(f"phantom {variant}"):
            yield f"phantom {variant}", partial(phantom.isolated_again, variant)
    if not all(one.startswith("phantom") for one in wanted):
        for study in studies(work):
            for level in study.levels:
                if chosen(f"{study.name} {level}"):
                    yield f"{study.name} {level}", partial(_real, study, level)


def _real(study: Study, level: str) -> Isolation:
    known = FOUND.get((study.name, level))
    return known or isolate_vertebra(study.ct, level, drawn_seeds(study, level, 0))


def _measured(isolate: Callable[[], Isolation]) -> dict[str, Any]:
    try:
        return solid_figures(isolate())
    except GeometryError as refusal:
        return {"refused": refusal.code, "words": refusal.message}


def planned(found: Isolation) -> Plan:
    paths = plan_trajectories(found.outer, found.landmarks).trajectories
    x, y, z = (float(v) for v in found.landmarks.body_centre)
    return Plan(found.level, "", found.landmarks.frame, (x, y, z), paths, ModelSettings())


def solid_figures(found: Isolation) -> dict[str, Any]:
    plan = planned(found)
    began = time.process_time()
    solid = build_solid(found.outer, plan)
    built = time.process_time()
    check = check_model(solid.vertices, solid.faces, solid.plan, outer=found.outer)
    return {
        "build_cpu_s": round(built - began, 1),
        "check_cpu_s": round(time.process_time() - built, 1),
        "paths": len(plan.trajectories),
        "faces": check.faces,
        "wall_mean_mm": check.wall.mean_mm and round(check.wall.mean_mm, 3),
        "wall_p1_mm": check.wall.p1_mm and round(check.wall.p1_mm, 3),
        "thicker_share": round(check.wall.thicker_share, 3),
        "axis_mm": _worst(c.axis_mm for c in check.channels),
        "axis_deg": _worst(c.axis_deg for c in check.channels),
        "diameter_error_mm": _worst(
            None if c.diameter_mm is None else abs(c.diameter_mm - plan.model.channel_diameter_mm)
            for c in check.channels
        ),
        "closed": check.watertight and check.winding_consistent and check.bodies == 1,
        "closed_voids": check.closed_voids,
        "unreached_mm3": round(check.unreached_mm3, 1),
        "vents": len(check.vents),
        "hollow_ml": round(check.hollow_ml, 1),
        "made_solid_ml": solid.measures["made_solid_ml"],
        "surface_p99_mm": check.surface_p99_mm and round(check.surface_p99_mm, 3),
        "failures": list(check.failures),
    }


def _worst(values: Any) -> float | None:
    """Largest of the values; None (not measurable) when any of them is, or there is none."""
    known = list(values)
    return None if not known or None in known else round(max(known), 4)


def lines(result: dict[str, Any]) -> list[Line]:
    rows = [r for r in result["rows"] if "refused" not in r]
    refused = [r["case"] for r in result["rows"] if "refused" in r]
    wanted = (
        ("wall mean 2.00 ± 0.02 mm", "wall_mean_mm", lambda v: abs(v - 2.0) <= 0.02),
        ("wall 1st percentile at least 1.95 mm", "wall_p1_mm", lambda v: v >= 1.95),
        ("channel axis within 0.1 mm", "axis_mm", lambda v: v <= 0.1),
        ("channel axis within 0.1°", "axis_deg", lambda v: v <= 0.1),
        ("channel diameter within 0.05 mm", "diameter_error_mm", lambda v: v <= 0.05),
        ("watertight, manifold, one body", "closed", bool),
        ("no closed void", "closed_voids", lambda v: v == 0),
        ("every hollow reached by a 2.5 mm ball (crevices to 5 mm³ let pass)", "unreached_mm3", lambda v: v == 0),
        ("both paths planned", "paths", lambda v: v == 2),
        ("the self-check passes", "failures", lambda v: not v),
    )  # fmt: skip
    found = []
    for text, key, holds in wanted:
        bad = [r["case"] for r in rows if r[key] is None or not holds(r[key])]
        measured = f"{len(rows) - len(bad)} of {len(rows)} cases" + (
            f" (not: {', '.join(bad)})" if bad else ""
        )
        found.append(Line(text, measured + _span(rows, key), not bad))
    wanted_cases = len(phantom.EVERY) + PLANNED_REAL
    found.append(
        Line(
            "every case run", f"{len(result['rows'])} of {wanted_cases}", len(result["rows"]) == wanted_cases
        )
    )
    found.append(Line("no case refused", f"refused: {', '.join(refused) or 'none'}", not refused))
    return found


def _span(rows: list[dict[str, Any]], key: str) -> str:
    values = [r[key] for r in rows if isinstance(r[key], float)]
    return f"; {min(values):.3f} to {max(values):.3f}" if values else ""


def page(result: dict[str, Any]) -> str:
    head = ["case", "wall mean / p1 mm", "axis mm / °", "diameter error mm", "vents", "hollow ml", "made solid ml",
            "faces", "not met"]  # fmt: skip
    rows = []
    for r in result["rows"]:
        if "refused" in r:
            rows.append([r["case"], f"refused: {r['words']}", *[""] * 7])
            continue
        rows.append(
            [
                r["case"],
                f"{r['wall_mean_mm']} / {r['wall_p1_mm']}",
                f"{r['axis_mm']} / {r['axis_deg']}",
                str(r["diameter_error_mm"]),
                str(r["vents"]),
                f"{r['hollow_ml']:.1f}",
                f"{r['made_solid_ml']:.1f}",
                str(r["faces"]),
                "; ".join(r["failures"]) or "-",
            ]
        )
    return table(head, rows)
