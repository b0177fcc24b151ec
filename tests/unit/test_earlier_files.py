"""A run into the folder of an earlier one: nothing of the earlier model is taken for the new one's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import trimesh

from service.domain.plan import ModelSettings, Plan, VertebraFrame
from service.geometry.mesh import Mesh
from service.geometry.orientation import Orientation
from service.geometry.solid import Solid
from service.workflow.tasks.handed_out import FILE, handed_out_hash
from service.workflow.tasks.model_task import _forget_earlier, write_geometry

FRAME = VertebraFrame((0.0, 0.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class _AsItIs:
    """A print pose that moves nothing."""

    size_mm = (10.0, 10.0, 10.0)

    def apply(self, mesh: Mesh) -> Mesh:
        return mesh

    def to_document(self) -> dict[str, Any]:
        return {}


def solid_without_hollow() -> Solid:
    box = trimesh.creation.box((10.0, 10.0, 10.0)).apply_translation((0.0, 0.0, 5.0))
    part = Mesh(np.asarray(box.vertices), np.asarray(box.faces, dtype=np.int64))
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    plan = Plan("L1", "", FRAME, (0.0, 0.0, 5.0), (), ModelSettings())
    return cast(
        Solid, SimpleNamespace(plan=plan, vertices=part.vertices, faces=part.faces, mesh=part, cavity=nothing)
    )


def test_a_filler_of_an_earlier_model_does_not_stay(tmp_path: Path) -> None:
    for name in ("filler.stl", "blocker.stl"):
        (tmp_path / name).write_bytes(b"of another bone")
    write_geometry(tmp_path, solid_without_hollow(), cast(Orientation, _AsItIs()))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model.stl", "plan.json", "print.json", "print.stl"]


def test_the_word_about_an_earlier_model_goes_before_the_new_one_is_written(tmp_path: Path) -> None:
    for name in ("report.json", "mask.seg.dcm", "mask.seg.nrrd"):
        (tmp_path / name).write_bytes(b"earlier")
    _forget_earlier(tmp_path, {"mask": str(tmp_path / "mask.seg.dcm")})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mask.seg.dcm", "mask.seg.nrrd"], (
        "given by a person"
    )
    _forget_earlier(tmp_path, {})
    assert [f.name for f in tmp_path.iterdir()] == ["mask.seg.nrrd"]


def test_the_mask_handed_out_is_among_the_hashes_where_it_decides(tmp_path: Path) -> None:
    assert handed_out_hash({"mask": "m.nii.gz", "out": str(tmp_path)}) is None
    (tmp_path / FILE).write_bytes(b"what was edited")
    expected = hashlib.sha256(b"what was edited").hexdigest()
    assert handed_out_hash({"mask": "m.nii.gz", "out": str(tmp_path)}) == expected
    assert handed_out_hash({"mask": None, "out": str(tmp_path)}) is None, "without a mask it decides nothing"
    other = tmp_path / "other.nii.gz"
    other.write_bytes(b"another")
    found = handed_out_hash({"mask": "m.nii.gz", "handed_out": str(other), "out": str(tmp_path)})
    assert found == hashlib.sha256(b"another").hexdigest()
