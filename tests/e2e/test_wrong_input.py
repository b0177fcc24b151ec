"""What goes wrong in hospitals, through the real interfaces: each ends in a named state with what, where, next step.

The O-arm scan of another patient and the unreachable printer are in `test_journey`, where a case waits for them.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from simulators.demo.client import Service, ServiceError
from tests.e2e.stages import (
    WatchedStage,
    case_in,
    case_of,
    metrics,
    running_stage,
    send_files,
    study_of,
    wait_for,
)
from tests.support_dicom import ROOT, ct_slice, save, write_series

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


@dataclass
class World:
    stage: WatchedStage
    service: Service
    phantom: dict[str, Any]
    """Truth of the phantom, whose study is in the service."""

    def phantom_case(self, *states: str) -> dict[str, Any]:
        return case_in(self.service, self.phantom["study_instance_uid"], *states)

    def received(self) -> dict[str, Any]:
        """The phantom's case waiting for inputs, whatever an earlier test left."""
        case = self.phantom_case("RECEIVED", "NEEDS_ATTENTION")
        if case["state"] == "NEEDS_ATTENTION":
            self.service.post(f"/api/v1/cases/{case['id']}/resume", who="piet")
        return self.phantom_case("RECEIVED")

    @property
    def ct(self) -> Path:
        return self.stage.out / "phantom" / "dicom"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_stage(tmp_path_factory.mktemp("wrong") / "out", quiet_s=1.0) as (stage, service):
        ct, phantom = stage.make_phantom()
        stage.route_from_pacs(ct)
        yield World(stage, service, phantom)


def uids(number: int) -> dict[str, str]:
    """Study and series of one test's own."""
    return {"study": f"{ROOT}.70.{number}", "series": f"{ROOT}.70.{number}.1"}


def stored(world: World, files: list[Path]) -> bool:
    return {str(dcmread(f, specific_tags=[]).file_meta.MediaStorageSOPInstanceUID) for f in files} <= (
        world.stage.originals()
    )


def assert_told(told: dict[str, Any], code: str, *words: str) -> None:
    """A code, a sentence with the words, and a next step."""
    assert told["code"] == code, told
    assert told["message"].strip() and told["next_step"].strip(), told
    for word in words:
        assert word in told["message"], (word, told["message"])


def assert_study_told(study: dict[str, Any], code: str) -> None:
    assert_told(
        {
            "code": study["reason_code"],
            "message": study["reason"] or "",
            "next_step": study["next_step"] or "",
        },
        code,
    )


# --- at the door ------------------------------------------------------------------------------------------


def test_a_study_that_is_not_ct_is_set_aside(world: World, tmp_path: Path) -> None:
    def as_mr(_index: int, ds: FileDataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MR_IMAGE
        ds.Modality = "MR"

    ids = uids(1)
    files = write_series(tmp_path / "mr", 12, change=as_mr, **ids)
    assert set(send_files(world.stage, files)) == {SUCCESS}
    study = wait_for(lambda: _study_in(world, ids["study"], "REFUSED"))
    assert_study_told(study, "intake.not_ct")
    assert "MR" in study["reason"]
    assert case_of(world.service, ids["study"]) is None
    assert stored(world, files)


def test_two_patients_in_one_study_need_a_person(world: World, tmp_path: Path) -> None:
    ids = uids(2)

    def half(index: int, ds: FileDataset) -> None:
        ds.PatientID = "TEST-1" if index < 6 else "TEST-2"

    files = write_series(tmp_path / "mixed", 12, change=half, **ids)
    assert set(send_files(world.stage, files)) == {SUCCESS}
    case = case_in(world.service, ids["study"], "NEEDS_ATTENTION")
    assert_told(case["attention"], "intake.mixed_patients", "2 different patient IDs")
    assert "TEST-" not in case["attention"]["message"]
    assert stored(world, files)


def test_missing_slices_are_named_and_sending_them_heals_the_case(world: World, tmp_path: Path) -> None:
    ids = uids(3)
    files = write_series(tmp_path / "gap", 24, **ids)
    late = [f for f in files if int(dcmread(f).InstanceNumber) in (11, 12)]
    first = [f for f in files if f not in late]
    assert set(send_files(world.stage, first)) == {SUCCESS}
    case = case_in(world.service, ids["study"], "NEEDS_ATTENTION", "RECEIVED")
    # the neighbours of the gap are slices 10 and 13
    assert_told(case["attention"], "imaging.gap", "2 slice(s) are missing", "10", "13")
    assert stored(world, first)
    assert set(send_files(world.stage, late)) == {SUCCESS}
    healed = case_in(world.service, ids["study"], "RECEIVED")
    assert (healed["id"], healed["inspection"]["slices"], healed["attention"]) == (case["id"], 24, None)


def test_a_file_cut_off_in_its_pixels_is_named_and_a_whole_copy_heals_the_case(
    world: World, tmp_path: Path
) -> None:
    ids = uids(4)
    files = write_series(tmp_path / "cut", 16, **ids)
    victim = next(f for f in files if int(dcmread(f).InstanceNumber) == 7)
    whole = shutil.copy(victim, tmp_path / "whole.dcm")
    victim.write_bytes(victim.read_bytes()[:-700])
    assert set(send_files(world.stage, files)) == {SUCCESS}
    case = case_in(world.service, ids["study"], "NEEDS_ATTENTION", "RECEIVED")
    assert case["state"] == "NEEDS_ATTENTION"
    assert_told(case["attention"], "imaging.pixels", "slice 7")
    assert stored(world, files)
    # doing what the next step says must lead on
    assert send_files(world.stage, [Path(whole)]) == [SUCCESS]
    healed = case_in(world.service, ids["study"], "RECEIVED")
    assert healed["inspection"]["slices"] == 16


def test_a_file_that_cannot_be_parsed_is_kept_and_counted(world: World, tmp_path: Path) -> None:
    counter = "spineprint_unreadable_files"
    before = metrics(world.stage, world.service)[counter]
    file = save(ct_slice(0, **uids(5)), tmp_path / "good.dcm")
    whole = file.read_bytes()
    start = whole.index(b"\x08\x00")  # the data set; the file meta before it stays as it is
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(whole[:start] + bytes(range(1, 250)) * 9)
    assert send_files(world.stage, [bad]) == [SUCCESS]
    wait_for(lambda: metrics(world.stage, world.service)[counter] == before + 1)
    assert stored(world, [file])  # under the UID of its file meta
    assert study_of(world.service, uids(5)["study"]) is None


def _study_in(world: World, uid: str, state: str) -> dict[str, Any] | None:
    study = study_of(world.service, uid)
    return study if study and study["state"] == state else None


# --- inputs of people -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "code"), [("air", "geometry.seed_in_air"), ("flank", "geometry.seed_off_bone")]
)
def test_a_point_in_the_wrong_place_is_refused_in_words_and_can_be_given_again(
    world: World, where: str, code: str
) -> None:
    case = world.received()
    level, seeds = world.phantom["target"], world.phantom["seeds"]
    affine, size = np.array(case["inspection"]["lps_from_ijk"]), case["inspection"]["size"]
    behind = affine @ [
        size[0] / 2,
        size[1] - 4.0,
        size[2] / 2,
        1.0,
    ]  # the patient lies in the air of the scanner
    flank = np.add(seeds["target"], [-45.0, 0.0, 0.0])  # psoas and fat beside the body
    point = [float(v) for v in (behind[:3] if where == "air" else flank)]
    world.service.post(f"/api/v1/cases/{case['id']}/inputs", {"level": level, "target": point}, who="piet")
    parked = world.phantom_case("NEEDS_ATTENTION", "PLAN_READY")
    assert parked["state"] == "NEEDS_ATTENTION"
    assert_told(parked["attention"], code, "target point")
    world.service.post(f"/api/v1/cases/{case['id']}/resume", who="piet")
    assert world.phantom_case("RECEIVED")["attention"] is None
    assert stored(world, list(world.ct.glob("*.dcm")))


# --- the disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A stage's folder whose data folder is a file system of 96 MB of its own."""
    out = tmp_path / "out"
    (out / "data").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "spineprint-test", str(out / "data")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield out
    finally:
        subprocess.run(["umount", "--lazy", str(out / "data")], capture_output=True, check=True)


def leave_free(folder: Path, megabytes: float) -> Path:
    """Fill the file system of `folder` but for so many MB; removing the returned file frees it again."""
    filler = folder / "filler.bin"
    with filler.open("wb", buffering=0) as stream:
        while (room := shutil.disk_usage(folder).free - int(megabytes * 1e6)) > 0:
            try:
                stream.write(b"\xa5" * min(room, 1 << 20))
            except OSError as full:
                assert full.errno == errno.ENOSPC
                break
    return filler


def test_a_full_disk_refuses_parks_and_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINEPRINT_DICOM__DISK_RESERVE_MB", "16")
    with running_stage(small_disk, quiet_s=1.0) as (stage, service):
        ct, phantom = stage.make_phantom()
        study, data = phantom["study_instance_uid"], small_disk / "data"
        files = sorted(ct.glob("*.dcm"))

        # 1. the sender is told, image by image, and what was acknowledged stays
        filler = leave_free(data, 16 * 1.048576 + 3)
        statuses = send_files(stage, files)
        assert set(statuses) == {SUCCESS, OUT_OF_RESOURCES}
        kept = [f for f, status in zip(files, statuses, strict=True) if status == SUCCESS]
        assert {str(dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in kept} <= stage.originals()
        filler.unlink()
        refused = [f for f in files if f not in kept]
        assert set(send_files(stage, refused)) == {SUCCESS}
        case = case_in(service, study, "RECEIVED")
        assert case["inspection"]["slices"] == len(files)

        # 2. the job that fills the disk parks the case, and the case goes on when there is room
        filler = leave_free(data, 6)
        label = next(v["label"] for v in phantom["vertebrae"] if v["level"] == phantom["target"])
        form = {"level": phantom["target"], "label": str(label)}
        mask = ct.parent / "truth_labels.nii.gz"
        service.upload(f"/api/v1/cases/{case['id']}/mask", mask, form, who="piet")
        parked = case_in(service, study, "NEEDS_ATTENTION", "PLAN_READY")
        assert parked["state"] == "NEEDS_ATTENTION"
        assert_told(parked["attention"], "storage.full", "full")
        filler.unlink()
        service.post(f"/api/v1/cases/{case['id']}/resume", who="piet")
        case_in(service, study, "RECEIVED")
        service.upload(f"/api/v1/cases/{case['id']}/mask", mask, form, who="piet")
        ready = case_in(service, study, "PLAN_READY", "NEEDS_ATTENTION")
        assert ready["state"] == "PLAN_READY", ready["attention"]
        assert len(stage.originals()) == len(files)

        # 3. with no room at all people are refused in words, and nothing half-done remains
        filler = leave_free(data, 0)
        with pytest.raises(ServiceError) as told:
            service.upload(f"/api/v1/cases/{case['id']}/mask", mask, form, who="piet")
        assert told.value.code.startswith("storage."), told.value
        filler.unlink()
        assert case_in(service, study, "PLAN_READY")["version"] == ready["version"]
