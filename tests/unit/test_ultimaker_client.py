"""Credentials on disk, the lookup's honesty on printers that do not turn pages, G-code heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.ultimaker import Credentials, PrinterClient, load_credentials, store_credentials
from adapters.ultimaker.client import Answer
from adapters.ultimaker.faults import CredentialsError
from adapters.ultimaker.firmware import traits_for
from adapters.ultimaker.lookup import Wanted, find_job
from adapters.ultimaker.preflight import finding_reasons, read_head
from service.errors import ConfigError
from service.ports import LookupOutcome, PrinterJob
from tests.support_ultimaker import small_gcode

SECRET = "f00dfeed" * 8


def test_credentials_come_back_and_stay_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "c.json"
    given = Credentials("id-1", SECRET, "spineprint", "room-3", "http://192.0.2.7")
    store_credentials(path, given)
    store_credentials(path, given)
    assert load_credentials(path) == given
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["c.json"]
    assert SECRET not in f"{given} {given!r}"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", json.dumps({"schema": "other", "id": "a", "key": "b"})]
)
def test_damaged_credentials_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(CredentialsError):
        load_credentials(path)


def test_credentials_open_to_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    store_credentials(path, Credentials("id-1", SECRET))
    path.chmod(0o640)
    with pytest.raises(CredentialsError, match="read by others") as caught:
        load_credentials(path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["", "printer", "ftp://printer", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError):
        PrinterClient(url)


class _Printer(PrinterClient):
    """A device with a history of its own manners; only the lookup is under test here."""

    def __init__(self, history: list[dict[str, Any]], *, turns_pages: bool, status: str = "idle") -> None:
        super().__init__("http://192.0.2.1")
        self._history, self._turns, self._status = history, turns_pages, status

    def get(self, path: str) -> Answer:
        if path == "/print_job":
            return Answer(404, b"{}")
        if path == "/printer/status":
            return Answer(200, json.dumps(self._status).encode())
        offset = int(path.partition("offset=")[2].partition("&")[0]) if self._turns else 0
        return Answer(200, json.dumps(self._history[offset : offset + 50]).encode())


def _entries(count: int) -> list[dict[str, Any]]:
    return [{"uuid": f"u{i}", "name": f"n{i}", "result": "Finished"} for i in range(count)]


@pytest.mark.parametrize(
    ("count", "turns", "name", "outcome"),
    [
        (0, True, "n1", LookupOutcome.ABSENT),
        (50, True, "x", LookupOutcome.ABSENT),
        (120, True, "n119", LookupOutcome.FOUND),
        (120, True, "x", LookupOutcome.ABSENT),
        (120, False, "n119", LookupOutcome.UNSURE),
        (120, False, "n3", LookupOutcome.FOUND),
        (30, False, "x", LookupOutcome.ABSENT),
        (2100, True, "x", LookupOutcome.UNSURE),
    ],
)
def test_absent_is_said_only_after_the_whole_history(
    count: int, turns: bool, name: str, outcome: LookupOutcome
) -> None:
    printer = _Printer(_entries(count), turns_pages=turns)
    assert find_job(printer, Wanted(name), 0.0).outcome is outcome


@pytest.mark.parametrize("status", ["booting", "printing", "", "odd"])
def test_a_missing_job_is_no_evidence_while_the_printer_is_up_to_something(status: str) -> None:
    printer = _Printer(_entries(3), turns_pages=True, status=status)
    assert find_job(printer, Wanted("x"), 0.0).outcome is LookupOutcome.UNSURE


@pytest.mark.parametrize(
    ("name", "fits"),
    [("case-1", True), ("case-1.gcode", True), ("case-1.gcode.gz", True), ("case-11", False), ("", False)],
)
def test_the_name_may_come_back_with_its_ending(name: str, fits: bool) -> None:
    job = PrinterJob("u", name, "printing", "", None, None, None)
    assert Wanted("case-1").fits(job) is fits
    assert not Wanted("").fits(job)
    assert Wanted("other", "u").fits(job)


@pytest.mark.parametrize(
    ("ours", "theirs", "own_uuid", "fits"),
    [("a", "b", True, False), ("a", "b", False, True), ("a", "a", True, True), ("", "b", True, True),
     ("a", "", True, True)],
)  # fmt: skip
def test_a_name_under_another_identifier_is_a_copy_where_the_machine_s_own_is_known(
    ours: str, theirs: str, own_uuid: bool, fits: bool
) -> None:
    job = PrinterJob(theirs, "case-1", "printing", "", None, None, None)
    assert Wanted("case-1", ours, own_uuid=own_uuid).fits(job) is fits


@pytest.mark.parametrize("own_uuid", [True, False])
def test_the_history_is_searched_by_identifier_before_the_newest_of_the_name(own_uuid: bool) -> None:
    history = [
        {"uuid": "copy", "name": "case-1", "result": "Finished"},
        {"uuid": "ours", "name": "case-1", "result": "Aborted"},
    ]
    wanted = Wanted("case-1", "ours", own_uuid=own_uuid)
    found = find_job(_Printer(history, turns_pages=True), wanted, 0.0).job
    assert found is not None and (found.uuid, found.result) == ("ours", "Aborted")


@pytest.mark.parametrize(
    ("name", "may"),
    [("SP-A-1f2e3d-12", False), ("SP-A-1f2e3d-1", False), ("SP-A-1f2e3d-", True), ("SP-A-1f2e", True),
     ("sp_a_1f2e3d_12", True), ("SP-A", False), ("SP-B-1f2e3d-12", False), ("", False)],
)  # fmt: skip
def test_a_name_that_may_be_ours_by_a_rule_of_the_firmware(name: str, may: bool) -> None:
    job = PrinterJob("u", name, "printing", "", None, None, None)
    assert Wanted("SP-A-1f2e3d-12").may_be(job) is may
    assert not Wanted("SP-A-1f2e3d-12", "known").may_be(job)


def test_the_head_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gcode"
    path.write_text(small_gcode(nozzle="AA 0.8", guid="ABC"))
    head = read_head(path)
    assert (head.nozzle, head.material_guid) == ("AA 0.8", "abc")
    assert b";END_OF_HEADER" in head.raw
    assert b";LAYER:" not in head.raw


def test_findings_count_unless_both_are_pla() -> None:
    mismatch = [{"fault_code": "GUID_MISMATCH", "fault_level": "WARNING", "message": "m", "data": ""}]
    assert finding_reasons(mismatch, materials_fit=True) == []
    assert len(finding_reasons(mismatch, materials_fit=False)) == 1
    assert len(finding_reasons([{"fault_code": "NEW_CODE"}, None], materials_fit=True)) == 2
    assert len(finding_reasons("yes", materials_fit=True)) == 1


@pytest.mark.parametrize(
    ("version", "checks"),
    [("3.5.0.20160901", False), ("4.3.3.20180529", True), ("6.5.1", True), ("", True)],
)
def test_firmware_traits(version: str, checks: bool) -> None:
    assert traits_for(version).validates_header is checks
