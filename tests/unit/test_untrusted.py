"""A bone that is not trusted is refused and kept aside; points beside a mask are said to be unused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.domain.case import CaseState
from service.errors import GeometryError, ImagingError
from service.geometry.anatomy import Isolation, Quality
from service.geometry.isolation_checks import GateSettings, judge
from service.geometry.landmarks import find_landmarks
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti
from service.store import blobs
from service.store.database import reading
from service.workflow import build, person_steps
from service.workflow.tasks.handed_out import FILE, read_handed_out, write_handed_out
from service.workflow.tasks.points_used import points_unused, points_used, surface_points_met
from service.workflow.tasks.untrusted import FOLDER, require_confidence
from tests.support_app import PLANNER, Rig, bring
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
    missed = replace(bone, quality=Quality(0.4, ("The surface misses 1 of 3 surface points (...).",), {}))
    with pytest.raises(GeometryError) as refused:
        require_confidence(missed, 0.5, tmp_path, edited=False)
    assert "Take away the surface points" in refused.value.next_step


def test_points_beside_a_mask_are_not_listed_as_used(bone: Isolation) -> None:
    centre = [float(v) for v in bone.landmarks.body_centre]
    plates = [[0.0, 0.0, 0.0]] * 4
    argument = {"mask": "m.nii.gz", "target": centre, "endplates": plates, "surface_points": [centre]}
    assert points_used(argument, bone) == {}
    (said,) = points_unused(argument, bone)
    assert "target, endplates, surface points" in said
    assert surface_points_met(argument, bone) == {}
    far = [centre[0], centre[1], centre[2] + 32.0]
    assert "another level" in points_unused({**argument, "target": far}, bone)[1]
    assert points_used({"target": centre, "above": None}, bone) == {"target": centre}
    assert points_unused({"target": centre}, bone) == []


def test_the_report_says_how_far_the_surface_lies_from_each_surface_point(bone: Isolation) -> None:
    k, j, i = np.argwhere(np.abs(bone.outer.values) < 0.3)[0]
    on_it = bone.outer.to_lps(np.array([[i, j, k]], dtype=np.float64))[0]
    far = [float(v) for v in bone.landmarks.body_centre + np.array([90.0, 0.0, 0.0])]
    points = [[float(v) for v in on_it], far]
    used = points_used({"target": [0.0, 0.0, 0.0], "surface_points": points}, bone)
    assert used["surface_points"] == points
    said = surface_points_met({"surface_points": points}, bone)["surface_points"]
    assert [row["point"] for row in said] == points
    assert abs(said[0]["off_mm"]) < 0.31 and said[1]["off_mm"] > 30.0
    assert surface_points_met({"target": far}, bone) == {}


@pytest.mark.parametrize(("share", "at_most"), [(0.3, 1.0), (0.5, 0.7), (0.95, 0.4)])
def test_a_surface_that_shows_no_bone_is_trusted_less(bone: Isolation, share: float, at_most: float) -> None:
    measures = {"volume_ml": 40.0, "metal_ml": 0.0, "edge_voxels": 0.0, "tunnels": 1.0}
    quality = judge(measures | {"share_without_threshold": share}, bone.landmarks, "L1", GateSettings())
    assert at_most - 0.1 <= quality.confidence <= at_most


def test_the_mask_handed_out_stays_through_builds_from_edited_ones(bone: Isolation, tmp_path: Path) -> None:
    assert read_handed_out(None, tmp_path) is None
    write_handed_out(bone, tmp_path)
    smaller = replace(bone, mask=replace(bone.mask, values=bone.mask.values * 0))
    edited = replace(smaller, quality=Quality(1.0, (), {"drawn_out_ml": 0.4, "drawn_in_ml": 0.0}))
    write_handed_out(edited, tmp_path)
    kept = read_handed_out(None, tmp_path)
    assert kept is not None
    np.testing.assert_array_equal(kept.values, bone.mask.values)
    write_handed_out(smaller, tmp_path)
    other = read_handed_out(str(tmp_path / FILE), tmp_path / "elsewhere")
    assert other is not None and not other.values.any(), "an isolation that is no edit takes its place"
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(ImagingError) as refused:
        read_handed_out(None, tmp_path)
    assert refused.value.code == "imaging.handed_out" and FILE in refused.value.message


def test_the_case_keeps_what_was_not_trusted_until_a_model_is_built(rig: Rig) -> None:
    refusal = GeometryError("Not trusted.", next_step="Correct it.", code="geometry.low_confidence")

    def refused(argument: Mapping[str, Any]) -> dict[str, Any]:
        out = Path(argument["out"])
        (out / FOLDER).mkdir()
        for name in (*build.UNTRUSTED, *build.HANDED_OUT):
            (out / name).write_text(name, "utf-8")
        raise refusal

    model = rig.tasks._model
    rig.tasks._model = refused  # type: ignore[method-assign]
    case = bring(rig, CaseState.RECEIVED)
    build.give_inputs(rig.app, case.id, build.ModelInputs("L1", target=(1.0, 2.0, 3.0)), PLANNER)
    rig.run_jobs("build")
    assert rig.case(case.id).state is CaseState.NEEDS_ATTENTION
    with reading(rig.app.engine) as connection:
        kept = blobs.current(connection, case.id)
    assert set(kept) >= {*build.UNTRUSTED.values(), *build.HANDED_OUT.values()}
    assert kept["untrusted_mask_seg_nrrd"].path.name.endswith(".seg.nrrd")

    def trusted(argument: Mapping[str, Any]) -> dict[str, Any]:
        (Path(argument["out"]) / FILE).write_text("the mask", "utf-8")
        return model(argument)

    rig.tasks._model = trusted  # type: ignore[method-assign]
    person_steps.resume(rig.app, case.id, PLANNER)
    build.give_inputs(rig.app, case.id, build.ModelInputs("L1", target=(1.0, 2.0, 3.0)), PLANNER)
    rig.run_jobs("build")
    assert rig.case(case.id).state is CaseState.PLAN_READY
    with reading(rig.app.engine) as connection:
        kept = blobs.current(connection, case.id)
    assert not {k for k in kept if k.startswith("untrusted")} and "mask_handed_out" in kept
    handed_out = str(kept["mask_handed_out"].path)
    assert build.build_argument(rig.app, rig.case(case.id), Path("work"))["handed_out"] == handed_out
    rig.tasks._model = model  # type: ignore[method-assign]  # as from an edited mask: none is handed out
    build.give_inputs(rig.app, case.id, build.ModelInputs("L1", target=(1.0, 2.0, 3.5)), PLANNER)
    rig.run_jobs("build")
    assert rig.case(case.id).state is CaseState.PLAN_READY
    assert build.build_argument(rig.app, rig.case(case.id), Path("work"))["handed_out"] == handed_out


def test_the_service_knows_the_names_the_task_writes() -> None:
    assert {str(Path(name).parent) for name in build.UNTRUSTED} == {FOLDER}
    assert list(build.HANDED_OUT) == [FILE]
