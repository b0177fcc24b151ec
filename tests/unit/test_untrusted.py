"""A bone that is not trusted is refused and kept aside; points beside a mask are said to be unused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import GeometryError
from service.geometry.anatomy import Isolation, Quality
from service.geometry.isolation_checks import GateSettings, judge
from service.geometry.landmarks import find_landmarks
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti
from service.workflow.tasks.points_used import points_unused, points_used
from service.workflow.tasks.untrusted import require_confidence
from tests.unit.vertebra_model import ModelVertebra

CRUSHED = "The body has lost 40 % of its height: the four endplate points are needed."


@pytest.fixture(scope="module")
def bone() -> Isolation:
    outer = ModelVertebra().field()
    mask = Volume((outer.values < 0).astype(np.uint8), outer.lps_from_ijk)
    return Isolation("L1", mask, outer, find_landmarks(outer, "L1"), Quality(0.45, (CRUSHED,), {}), "fitted")


def test_a_refused_bone_is_left_for_a_person_and_beside_no_model(bone: Isolation, tmp_path: Path) -> None:
    with pytest.raises(GeometryError) as refused:
        require_confidence(bone, 0.5, tmp_path, edited=True)
    assert refused.value.code == "geometry.low_confidence"
    assert "--endplates" in refused.value.next_step and "min_confidence" in refused.value.next_step
    assert "before the corrections by hand" in refused.value.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["untrusted"]
    mask = read_nifti(tmp_path / "untrusted" / "mask.nii.gz")
    np.testing.assert_array_equal(mask.values, bone.mask.values)
    assert (tmp_path / "untrusted" / "outer.nii.gz").is_file()
    report = json.loads((tmp_path / "untrusted" / "report.json").read_text("utf-8"))
    assert report["passed"] is False and report["isolation"]["reasons"] == [CRUSHED]


def test_the_bar_may_be_lowered_and_other_reasons_ask_for_points(bone: Isolation, tmp_path: Path) -> None:
    require_confidence(bone, 0.4, tmp_path, edited=False)
    other = replace(bone, quality=Quality(0.4, ("Not both pedicles were found.",), {}))
    with pytest.raises(GeometryError) as refused:
        require_confidence(other, 0.5, tmp_path, edited=False)
    assert "--endplates" not in refused.value.next_step and "body centres" in refused.value.next_step


def test_points_beside_a_mask_are_not_listed_as_used(bone: Isolation) -> None:
    centre = [float(v) for v in bone.landmarks.body_centre]
    argument = {"mask": "m.nii.gz", "target": centre, "endplates": [[0.0, 0.0, 0.0]] * 4}
    assert points_used(argument) == {}
    (said,) = points_unused(argument, bone)
    assert "target, endplates" in said
    far = [centre[0], centre[1], centre[2] + 32.0]
    assert "another level" in points_unused({**argument, "target": far}, bone)[1]
    assert points_used({"target": centre, "above": None}) == {"target": centre}
    assert points_unused({"target": centre}, bone) == []


@pytest.mark.parametrize(("share", "at_most"), [(0.3, 1.0), (0.5, 0.7), (0.95, 0.4)])
def test_a_surface_that_shows_no_bone_is_trusted_less(bone: Isolation, share: float, at_most: float) -> None:
    measures = {"volume_ml": 40.0, "metal_ml": 0.0, "edge_voxels": 0.0, "tunnels": 1.0}
    quality = judge(measures | {"share_without_threshold": share}, bone.landmarks, "L1", GateSettings())
    assert at_most - 0.1 <= quality.confidence <= at_most
