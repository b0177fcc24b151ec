"""A printer that fails at telling, and files of ours that were damaged: each print still comes to its true end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from adapters.ultimaker.client import Answer, PrinterClient
from adapters.ultimaker.reading import job_from, number, text
from service.domain.case import CaseState
from service.domain.print_job import PrintState
from service.domain.print_outcome import Outcome
from service.store import blobs, sterile
from service.store.database import reading
from service.workflow import print_stop
from service.workflow.print_trace import outcomes
from tests.contract.test_print_run import Room
from tests.contract.test_print_run import room as room  # noqa: PLC0414 - a fixture
from tests.support_app import TECHNICIAN

P = PrintState


def _odd(change: Callable[[Answer], Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer about the current job goes through `change` on its way."""
    real = PrinterClient.get

    def get(self: PrinterClient, path: str) -> Answer:
        answer = real(self, path)
        return change(answer) if path.endswith("/print_job") else answer

    monkeypatch.setattr(PrinterClient, "get", get)


def test_what_no_database_holds_is_not_taken_from_a_printer() -> None:
    assert text("K\udcf6rper \0") == "K\N{REPLACEMENT CHARACTER}rper \N{REPLACEMENT CHARACTER}"
    assert text("Körper 😀") == "Körper 😀"
    assert number(10**400) is None
    job = job_from(
        {"uuid": "u", "name": "n", "state": "printing", "time_elapsed": 1e300, "progress": 10**400}
    )
    assert job is not None and job.time_elapsed_s is None and job.progress is None


@pytest.mark.parametrize(
    "change",
    [
        lambda a: Answer(200, json.dumps(json.loads(a.body) | {"name": "K\udcf6rper"}).encode()),
        lambda a: Answer(200, a.body[:-1] + b',"time_total":1' + b"0" * 400 + b"}"),
        lambda a: Answer(200, json.dumps(json.loads(a.body) | {"time_elapsed": 1e300}).encode()),
        lambda _a: Answer(200, b"[" * 200_000),
    ],
    ids=["surrogate", "hundreds of digits", "longer than any print", "deep"],
)
def test_an_odd_answer_stops_no_poll(
    room: Room, change: Callable[[Answer], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    room.start()
    room.send()
    with monkeypatch.context() as patch:
        _odd(change, patch)
        assert room.wait(5).state in (P.PRINTING, P.AWAITING_REMOVAL)
    assert room.wait(5000).state is P.AWAITING_REMOVAL
    room.device.panel("clear")
    assert room.wait(5).state is P.FINISHED


def test_a_stop_that_was_done_and_answered_with_a_failure_was_done_from_here(room: Room) -> None:
    room.start()
    room.send()
    room.wait(400)
    room.device.fault("work_then_500", method="PUT", count=1)
    room.device.fault("work_then_500", match="/action", count=1)
    print_stop.command(room.rig.app, room.job().token, "abort", TECHNICIAN)
    room.device.lift_faults()
    room.wait(200)
    room.device.panel("clear")
    job = room.wait(5)
    assert job.state is P.ABORTED
    with reading(room.rig.app.engine) as connection:
        assert outcomes(connection, [job])[job.token] is Outcome.STOPPED_HERE
    assert "stopped from here" in room.case.attention["message"]


def test_a_damaged_report_of_ours_leaves_the_part_unproven_not_the_printer_reserved(room: Room) -> None:
    room.start()
    room.send()
    room.wait(5000)
    with reading(room.rig.app.engine) as connection:
        report = blobs.current(connection, room.case_id)["model_report"].path
    report.chmod(0o600)
    report.write_text("{", "utf-8")
    room.device.panel("clear")
    assert room.wait(5).state is P.FINISHED
    assert room.reserved() == "" and room.case.state is CaseState.PRINTED
    with reading(room.rig.app.engine) as connection:
        item: Any = sterile.items_of_case(connection, room.case_id)[-1]
    assert item.design.sealed_cavities is None and item.design.channels_mm is None
