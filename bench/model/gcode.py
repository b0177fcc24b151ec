"""the G-code of every phantom and real case: our audit, and UltiMaker's own reader of print files"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.cura_engine.engine import CuraEngineSlicer
from bench.model import phantom, solid
from bench.model.report import Line, table
from bench.slice import slice_argument
from bench.slice.charon import NotToBeHadError, gcode_reader, unpacked
from service.errors import GeometryError
from service.geometry.anatomy import Isolation
from service.geometry.orientation import choose_orientation
from service.geometry.progress import silent
from service.geometry.solid import build_solid
from service.workflow.tasks.model_task import write_geometry
from service.workflow.tasks.packed import packed_volumes
from service.workflow.tasks.slice_task import slice_task

NAME = "gcode"
_CODE = "K7Q-4M2"
"""Raised on each model as on a real one."""


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.description = "takes --cases, --add-cases and --variants of the other parts"


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    folder = work / "charon"
    folder.mkdir()
    try:
        reader = gcode_reader(unpacked(folder))
    except NotToBeHadError as why:
        raise SystemExit(f"gcode: {why}") from why
    slicer = CuraEngineSlicer()

    def measured(isolate: Callable[[], Isolation]) -> dict[str, Any]:
        case = work / "gcode-case"
        case.mkdir()
        try:
            return _measured(isolate, case, slicer, reader)
        finally:
            shutil.rmtree(case)

    return {"rows": solid.rows_of(NAME, options, work, measured), "engine": slicer.describe()}


def _measured(
    isolate: Callable[[], Isolation], case: Path, slicer: CuraEngineSlicer, reader: Any
) -> dict[str, Any]:
    try:
        found = isolate()
        built = build_solid(found.outer, solid.planned(found), case_code=_CODE)
    except GeometryError as refusal:
        return {"refused": refusal.code, "words": refusal.message}
    pose = choose_orientation(built.vertices, built.faces, built.plan, cavity=built.cavity)
    write_geometry(case, built, pose)
    for name, content in packed_volumes(found).items():
        (case / name).write_bytes(content)
    # What the comparison with the bone reads of a model's report: where the raised marks are.
    (case / "report.json").write_text(json.dumps({"marks": [mark.to_document() for mark in built.marks]}))
    result = slice_task(slicer, slice_argument(case, case), silent)
    audit, printed = result["audit"], result["audit"]["measures"].get("printed") or {}
    packed = case / "print.gcode.gz"
    return {
        "audit": "passed" if audit["passed"] else "; ".join(f["code"] for f in audit["findings"]),
        "charon": _read_by(reader, packed),
        "megabytes": round(len(gzip.decompress(packed.read_bytes())) / 1e6, 1),
        "hours": round(result["print_time_s"] / 3600, 1),
        "grams": round(result["weight_g"], 1),
        "surface_p95_mm": printed.get("surface_p95_mm"),
        "bone_p95_mm": (printed.get("bone") or {}).get("p95_mm"),
    }


def _read_by(reader: Any, packed: Path) -> str:
    """'accepted', or what the reader says; it raises exceptions of many kinds."""
    with gzip.open(packed, "rb") as stream:
        try:
            header = reader.parseHeader(stream)
        except Exception as refusal:  # noqa: BLE001 - whatever it raises is its answer
            return f"refused: {refusal}"
    return "accepted" if header["machine_type"] == "Ultimaker 3" else f"machine {header['machine_type']}"


def lines(result: dict[str, Any]) -> list[Line]:
    rows = result["rows"]
    sliced = [r for r in rows if "refused" not in r]
    wanted = len(phantom.EVERY) + solid.PLANNED_REAL
    found = [Line("every case sliced", f"{len(sliced)} of {wanted}", len(sliced) == wanted)]
    for text, key, good in (
        ("our audit passes", "audit", "passed"),
        ("accepted by UltiMaker's reader (libCharon)", "charon", "accepted"),
    ):
        bad = [f"{r['case']}: {r[key]}" for r in sliced if r[key] != good]
        measured = f"{len(sliced) - len(bad)} of {len(sliced)}" + (f" (not: {', '.join(bad)})" if bad else "")
        found.append(Line(text, measured, not bad))
    return found


def page(result: dict[str, Any]) -> str:
    rows = []
    for r in result["rows"]:
        if "refused" in r:
            rows.append([r["case"], f"refused: {r['words']}", *[""] * 6])
        else:
            keys = ("audit", "charon", "megabytes", "hours", "grams", "surface_p95_mm", "bone_p95_mm")
            rows.append([r["case"], *(str(r[k]) for k in keys)])
    head = ["case", "our audit", "UltiMaker's reader", "MB", "hours", "g", "predicted print to model, p95 mm",
            "to the bone in the CT, p95 mm"]  # fmt: skip
    return f"Engine: {result['engine']}.\n\n{table(head, rows)}"
