"""The heavy tasks' own rules: what may be printed is the approved part, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from service.errors import GeometryError, InputRefusedError
from service.geometry.mesh import read_stl, write_stl
from service.geometry.progress import silent
from service.workflow.tasks.inspect_task import inspect_study
from service.workflow.tasks.model_task import model_task
from service.workflow.tasks.slice_task import check_same_part
from tests.support_dicom import write_series


def _part(folder: Path) -> tuple[Path, Path, Path]:
    """An asymmetric part, the same in another pose, and the pose."""
    body = trimesh.util.concatenate(
        [
            trimesh.creation.box((20, 12, 8)),
            trimesh.creation.icosphere(radius=4).apply_translation((12, 3, 1)),
        ]
    )
    matrix = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))
    matrix[:3, 3] = (3, -4, 20)
    mesh, printed, layout = folder / "model.stl", folder / "print.stl", folder / "print.json"
    write_stl(body.vertices, body.faces, mesh)
    moved = body.copy().apply_transform(matrix)
    write_stl(moved.vertices, moved.faces, printed)
    layout.write_text(json.dumps({"print_from_lps": matrix.tolist()}))
    return mesh, printed, layout


def test_the_approved_part_in_its_pose_is_accepted(tmp_path: Path) -> None:
    check_same_part(*_part(tmp_path))


@pytest.mark.parametrize("fault", ["scaled", "dented", "moved", "another"])
def test_any_other_part_is_refused(tmp_path: Path, fault: str) -> None:
    mesh, printed, layout = _part(tmp_path)
    part = read_stl(printed)
    vertices, faces = part.vertices.copy(), part.faces
    if fault == "scaled":
        vertices *= 1.01
    elif fault == "dented":
        vertices[5] += 0.5
    elif fault == "moved":
        vertices += 1.0
    else:
        other = trimesh.creation.icosphere(radius=9)
        vertices, faces = other.vertices, other.faces
    write_stl(vertices, faces, printed)
    with pytest.raises(GeometryError) as refused:
        check_same_part(mesh, printed, layout)
    assert refused.value.code == "geometry.other_mesh"


def test_a_mirrored_part_is_refused_even_when_the_layout_says_so(tmp_path: Path) -> None:
    mesh, printed, layout = _part(tmp_path)
    matrix = np.array(json.loads(layout.read_text())["print_from_lps"]) @ np.diag([-1.0, 1.0, 1.0, 1.0])
    source = read_stl(mesh)
    moved = source.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    write_stl(moved, source.faces[:, ::-1], printed)
    layout.write_text(json.dumps({"print_from_lps": matrix.tolist()}))
    with pytest.raises(GeometryError):
        check_same_part(mesh, printed, layout)


def test_a_model_needs_points_or_a_mask(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    write_series(folder)
    with pytest.raises(InputRefusedError) as refused:
        model_task({"ct": str(folder), "level": "L1", "out": str(tmp_path)}, silent)
    assert refused.value.code == "inputs.missing"
    assert not (tmp_path / "model.stl").exists()


@pytest.mark.parametrize("source", ["target", "mask"])
def test_a_level_that_cannot_be_made_is_refused_before_anything_is_read(tmp_path: Path, source: str) -> None:
    for level in ("S1", "T7"):
        argument = {"ct": str(tmp_path / "none"), "level": level, "out": str(tmp_path), source: "x"}
        with pytest.raises(InputRefusedError) as refused:
            model_task(argument, silent)
        assert refused.value.code == "input.level"


def test_inspection_names_the_series_and_its_slices(tmp_path: Path) -> None:
    files = [str(f) for f in write_series(tmp_path / "ct")]
    result = inspect_study({"files": files}, silent)
    assert result["slices"] == len(files)
    assert result["series_uid"]
