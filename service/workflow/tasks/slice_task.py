"""The approved mesh to audited G-code."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from service.domain.costs import Prices, estimate
from service.errors import GeometryError, StorageError, ToolMissingError
from service.geometry.mesh import read_stl
from service.geometry.progress import Progress
from service.ports import Slicer, SliceResult, SliceSettings
from service.workflow.print_proof import BoneFiles, PrintProof, print_from_lps
from service.workflow.tasks.by_hand import hand_over

_GZIP_LEVEL = 5


def slice_task(slicer: Slicer, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Argument: print_mesh, mesh, layout, plan, blocker, filler, out; outer and model_report for the comparison with
    the CT; prices ([costs] of the configuration); by_hand, where the meshes lie and the settings go without a slicer;
    private_words, which the file must not hold and which are written nowhere.

    Writes print.gcode.gz, print.report.json and, when the audit passes, print.errors.png (against the model) and
    print.bone.png (against the bone in the CT).

    Raises
    ------
    GeometryError : the mesh to print is not the approved one in another pose.
    ToolMissingError : no slicer; meshes and settings are handed over with it (`hand_over`).
    """
    out, print_mesh, layout = Path(argument["out"]), Path(argument["print_mesh"]), Path(argument["layout"])
    progress("slicing", 0.05)
    with ThreadPoolExecutor(1) as beside:
        # beside the engine, which is a process of its own; a wrong part ends here before anything of it is used
        same = beside.submit(check_same_part, Path(argument["mesh"]), print_mesh, layout)
        try:
            result = _slice(slicer, argument)
        except ToolMissingError as missing:
            same.result()
            raise hand_over(missing, argument) from missing
        same.result()
        progress("auditing", 0.85)
        packed = beside.submit(_pack, result.gcode, out / "print.gcode.gz")
        filler = _path(argument.get("filler"))
        proof = PrintProof.read(result.gcode, print_mesh, layout, Path(argument["plan"]), filler)
        report = proof.audit(argument.get("private_words") or ())
        packed.result()
    if report.passed:
        progress("predicting the printed part", 0.92)
        report = proof.with_prediction(
            report,
            picture=out / "print.errors.png",
            bone=bone_files(argument),
            bone_picture=out / "print.bone.png",
        )
    result.gcode.unlink()
    figures = _figures(result, Prices.from_document(argument.get("prices")))
    document = {
        **report.to_document(),
        **figures,
        "material_mm3": round(result.material_mm3, 1),
        "weight_g": round(figures["weight_g"], 2),
        "layers": result.layer_count,
    }
    (out / "print.report.json").write_text(json.dumps(document, indent=2, sort_keys=True), "utf-8")
    return {"audit": report.to_document(), **figures}


def _slice(slicer: Slicer, argument: Mapping[str, Any]) -> SliceResult:
    return slicer.slice(
        Path(argument["print_mesh"]),
        Path(argument["out"]) / "print.gcode",
        SliceSettings(),
        blocker_stl=_path(argument.get("blocker")),
        filler_stl=_path(argument.get("filler")),
    )


def _figures(result: SliceResult, prices: Prices) -> dict[str, Any]:
    """What the print takes; `cost` only where something has a price."""
    grams = result.material_mm3 / 1000.0 * SliceSettings().material_density_g_cm3
    cost = estimate(prices, weight_g=grams, print_time_s=result.print_time_s)
    return {
        "engine": result.engine,
        "print_time_s": result.print_time_s,
        "material_mm3": result.material_mm3,
        "weight_g": grams,
        **({"cost": cost} if cost else {}),
    }


def bone_files(argument: Mapping[str, Any]) -> BoneFiles | None:
    """The CT's surface and the model's report, when both are at hand."""
    outer, model_report = _path(argument.get("outer")), _path(argument.get("model_report"))
    return BoneFiles(outer, model_report) if outer and model_report else None


def _pack(plain: Path, packed: Path) -> None:
    """The file that is sent, from the one that is audited; unpacked again and compared before it counts.

    Equal content gives equal bytes: no name and no time in it. Raises StorageError.
    """
    content = plain.read_bytes()
    packed.write_bytes(gzip.compress(content, compresslevel=_GZIP_LEVEL, mtime=0))
    if gzip.decompress(packed.read_bytes()) != content:
        raise StorageError(
            "The packed G-code is not the one that was written.",
            next_step="Check the disk of the data folder; then slice again.",
        )


def check_same_part(mesh: Path, print_mesh: Path, layout: Path) -> None:
    """The printed mesh must be the approved mesh under the recorded rigid transform, vertex by vertex."""
    approved, printed = read_stl(mesh), read_stl(print_mesh)
    matrix = print_from_lps(layout)
    rotation = matrix[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) and np.linalg.det(rotation) > 0
    same = approved.vertices.shape == printed.vertices.shape and approved.faces.shape == printed.faces.shape
    if same and rigid:
        moved = approved.vertices @ rotation.T + matrix[:3, 3]
        a, b = np.sort(moved.sum(axis=1)), np.sort(printed.vertices.sum(axis=1))
        size = np.ptp(moved, axis=0) - np.ptp(printed.vertices, axis=0)
        same = bool(np.abs(a - b).max() < 1e-2 and np.abs(size).max() < 1e-2)
    if not (same and rigid):
        raise GeometryError(
            "The mesh to print is not the approved mesh.",
            next_step="Build the model again and have it approved.",
            code="geometry.other_mesh",
        )


def _path(value: object) -> Path | None:
    return Path(str(value)) if value else None
