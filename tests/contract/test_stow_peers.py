"""STOW-RS from other people's programs and from our own sender."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapters.dicom_web import StowSender, StowTarget
from service.ports import Destination
from tests.support_app import STUDY, Rig
from tests.support_dicom import ROOT, wire_bytes, write_series
from tests.support_pacs import orthanc
from tests.support_web import DoorRig, served_door


@pytest.fixture
def served(rig: Rig) -> Iterator[DoorRig]:
    with served_door(rig) as made:
        yield made


def test_orthanc_sends_a_study_to_us_over_the_web(served: DoorRig, tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 12, size=128)
    secret = served.machine("dicom_web").headers["authorization"]
    server = {"Url": f"{served.url}/dicom-web/", "HttpHeaders": {"Authorization": secret}}
    with orthanc(tmp_path / "pacs", plugins=True, DicomWeb={"Servers": {"spine": server}}) as pacs:
        for file in files:
            httpx.post(f"{pacs.url}/instances", content=file.read_bytes(), timeout=30).raise_for_status()
        studies = pacs.get("/studies")
        for _ in range(2):  # again is as good as once
            answer = httpx.post(
                f"{pacs.url}/dicom-web/servers/spine/stow",
                json={"Resources": studies, "Synchronous": True},
                timeout=60,
            )
            assert answer.status_code == 200, answer.text
    kept = served.instances(STUDY)
    assert len(kept) == 12
    assert {wire_bytes(Path(k.path)) for k in kept} == {wire_bytes(f) for f in files}


def test_orthanc_hears_that_its_token_is_wrong(served: DoorRig, tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 2, size=16)
    server = {"Url": f"{served.url}/dicom-web/", "HttpHeaders": {"Authorization": "Bearer guessed"}}
    with orthanc(tmp_path / "pacs", plugins=True, DicomWeb={"Servers": {"spine": server}}) as pacs:
        for file in files:
            httpx.post(f"{pacs.url}/instances", content=file.read_bytes(), timeout=30).raise_for_status()
        answer = httpx.post(
            f"{pacs.url}/dicom-web/servers/spine/stow",
            json={"Resources": pacs.get("/studies"), "Synchronous": True},
            timeout=60,
        )
        assert answer.status_code >= 400
    assert served.instances(STUDY) == []


def test_our_own_sender_and_our_own_server_understand_each_other(served: DoorRig, tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 3, size=32)
    secret = served.machine("dicom_web").headers["authorization"].removeprefix("Bearer ")
    (tmp_path / "secret").write_text(secret, "ascii")
    target = StowTarget("SPINE", f"{served.url}/dicom-web", "any", tmp_path / "secret")
    statuses = StowSender(target).send(files, Destination("SPINE", "", 0))
    assert [s.accepted for s in statuses] == [True] * 3, statuses
    assert sorted(i.sop_uid for i in served.instances(STUDY)) == [f"{ROOT}.2.{n}" for n in (1, 2, 3)]
