"""Three printers, ten cases: printed by the time of their operation, none left behind, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.ultimaker import PrinterSettings, Timeouts, UltimakerPrinter, pair
from service.domain.case import CaseState
from service.domain.print_queue import Waiting, forecast, in_order
from service.errors import ConflictError, NotFoundError
from service.store import prints
from service.store.database import reading
from service.workflow import person_steps, print_queue, print_run
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.options import Options
from simulators.ultimaker.simulator import Simulator
from tests.support_app import PLANNER, TECHNICIAN, Rig, bring, make_rig
from tests.support_ultimaker import RunningSimulator, in_process

_NAMES = ("um3-a", "um3-b", "um3-c")
_SETTINGS = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(2.0, 2.0, 2.0))
#: Days until the operation, in the order in which the cases come; None: not known.
_DAYS = (9, 3, None, 5, 2, 11, 4, None, 8, 6)


@pytest.fixture(params=["sqlite", "postgresql"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Rig, dict[str, RunningSimulator]]]:
    url = request.getfixturevalue("migrated_postgres_url") if request.param == "postgresql" else ""
    rig = make_rig(tmp_path, database_url=url)
    with ExitStack() as stack:
        devices = {}
        for name in _NAMES:
            sim = Simulator(Options(name=name, auto_allow=True), MachineClock(0.0))
            devices[name] = stack.enter_context(in_process(sim))
            pair(devices[name].url, tmp_path / f"{name}.json", poll_s=0.01)
        rig.with_printers(
            {n: UltimakerPrinter(n, d.url, tmp_path / f"{n}.json", _SETTINGS) for n, d in devices.items()}
        )
        yield rig, devices
        rig.app.engine.dispose()


def _come(rig: Rig, number: int, days: float | None) -> str:
    study = f"1.2.826.0.1.3680043.10.7777.{number}"
    case = bring(rig, CaseState.SLICED, study=study, series=f"{study}.1")
    if days is not None:
        person_steps.set_surgery_time(rig.app, case.id, PLANNER, case.created_at + timedelta(days=days))
    return case.id


def _print_one(rig: Rig, device: RunningSimulator, name: str) -> None:
    """From the started job to the cleared plate."""
    rig.run_jobs("send_print")
    printer = rig.app.printers[name]
    device.panel("clock", advance_s=6000)
    print_run.poll(rig.app, printer)
    device.panel("clear")
    print_run.poll(rig.app, printer)


def _next(rig: Rig, name: str) -> None:
    """A person asks what is next, looks at it, and starts it; again when somebody else was quicker."""
    while True:
        row = print_queue.list_queue(rig.app)[0]
        try:
            print_queue.start_next(
                rig.app, name, TECHNICIAN, case_id=row["case_id"], seen_gcode_sha256=row["gcode_sha256"],
                bed_clear=True,
            )  # fmt: skip
            return
        except ConflictError:
            if rig.case(row["case_id"]).state is CaseState.SLICED:
                raise


def _started(rig: Rig) -> list[str]:
    with reading(rig.app.engine) as connection:
        jobs = sorted(prints.listed(connection), key=lambda j: (j.requested_at, j.token))
    return [job.case_id for job in jobs]


def test_three_printers_ten_cases_and_an_urgent_one(room: tuple[Rig, dict[str, RunningSimulator]]):
    rig, devices = room
    known = {_come(rig, number, days): days for number, days in enumerate(_DAYS)}
    wanted = sorted(known, key=lambda c: (7.0 if known[c] is None else known[c], list(known).index(c)))
    assert [row["case_id"] for row in print_queue.list_queue(rig.app)] == wanted
    urgent = ""
    turn = 0
    while print_queue.list_queue(rig.app):
        name = _NAMES[turn % len(_NAMES)]
        rig.clock.advance(seconds=60)
        _next(rig, name)
        if turn >= 2:  # all three are busy before the first is emptied
            ready = _NAMES[(turn - 2) % len(_NAMES)]
            _print_one(rig, devices[ready], ready)
        if turn == 4:
            urgent = _come(rig, 99, 0.5)
        turn += 1
    for left in range(turn - 2, turn):
        name = _NAMES[left % len(_NAMES)]
        _print_one(rig, devices[name], name)
    order = _started(rig)
    assert order == [*wanted[:5], urgent, *wanted[5:]]
    assert [rig.case(c).state for c in order] == [CaseState.PRINTED] * 11
    starts = [start["name"] for device in devices.values() for start in device.ledger()]
    assert len(starts) == len(set(starts)) == 11
    with pytest.raises(NotFoundError):
        print_queue.start_next(
            rig.app, _NAMES[0], TECHNICIAN, case_id=urgent, seen_gcode_sha256="0" * 64, bed_clear=True
        )


def test_three_people_at_three_printers_at_once_take_three_cases(
    room: tuple[Rig, dict[str, RunningSimulator]],
):
    rig, _ = room
    first = [_come(rig, number, days) for number, days in enumerate((1, 2, 3, 4))]
    together = threading.Barrier(3)
    failed: list[BaseException] = []

    def press(name: str) -> None:
        together.wait(10)
        try:
            _next(rig, name)
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=press, args=(name,)) for name in _NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert set(_started(rig)) == set(first[:3])
    assert [row["case_id"] for row in print_queue.list_queue(rig.app)] == first[3:]


def test_the_forecast_counts_on_printers_that_can_print(room: tuple[Rig, dict[str, RunningSimulator]]):
    rig, devices = room
    _come(rig, 0, 5)

    def row() -> dict[str, Any]:
        for printer in rig.app.printers.values():
            print_run.poll(rig.app, printer)
        return print_queue.list_queue(rig.app)[0]

    assert print_queue.list_queue(rig.app)[0]["ready_by"] is None, "nobody has looked at a printer yet"
    assert row()["not_counted"] == []
    idle = row()["print_start"]
    devices["um3-a"].fault("refuse_connection")
    gcode = rig.app.config.data_dir / "other.gcode"
    gcode.write_text(rig.tasks.gcode)
    for name in ("um3-b", "um3-c"):
        rig.app.printers[name].send(gcode, f"somebody-elses-{name}")
        devices[name].panel("clock", advance_s=300)
    foreign = row()
    assert foreign["not_counted"] == ["um3-a does not answer"]
    assert foreign["print_start"] > idle + timedelta(minutes=30), "after the foreign job and its clean-up"
    devices["um3-b"].panel("clock", advance_s=6000)
    assert (row()["printer"], row()["print_start"]) == ("um3-b", rig.clock.now() + timedelta(minutes=30))
    for name in ("um3-b", "um3-c"):
        devices[name].fault("refuse_connection")
    nobody = row()
    assert (nobody["ready_by"], nobody["print_start"]) == (None, None)
    assert nobody["no_forecast"].startswith("No printer can be counted on: um3-a does not answer;")


def test_an_overdue_case_is_last_and_is_started_only_by_name(
    room: tuple[Rig, dict[str, RunningSimulator]],
):
    rig, _ = room
    overdue, wanted = _come(rig, 0, 1), _come(rig, 1, 6)
    rig.clock.advance(seconds=2 * 86400)
    rows = print_queue.list_queue(rig.app)
    assert [(r["case_id"], r["overdue"]) for r in rows] == [(wanted, False), (overdue, True)]
    assert "has passed" in rows[1]["no_forecast"] and rows[1]["ready_by"] is None
    late = {"case_id": overdue, "seen_gcode_sha256": rows[1]["gcode_sha256"], "bed_clear": True}
    with pytest.raises(ConflictError) as refused:
        print_queue.start_next(rig.app, "um3-a", TECHNICIAN, **late)
    assert (refused.value.code, refused.value.details) == ("print.not_next", {"case_id": wanted})
    _next(rig, "um3-a")
    with pytest.raises(ConflictError) as refused:
        print_queue.start_next(rig.app, "um3-b", TECHNICIAN, **late)
    assert refused.value.code == "print.overdue"
    print_run.start_print(rig.app, overdue, "um3-b", TECHNICIAN, bed_clear=True)
    assert set(_started(rig)) == {wanted, overdue}


NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def _case(code: str, days: float | None, *, hours: float = 4.0, came_h: float = 0.0) -> Waiting:
    surgery = NOW + timedelta(days=days) if days is not None else None
    return Waiting(code, code, NOW + timedelta(hours=came_h), surgery, hours * 3600.0)


def test_a_case_without_a_date_is_not_passed_for_ever():
    """Every day a case for the operation in eight days comes: it stays behind the one that waits without a date."""
    stream = [_case(f"D{day}", day + 8.0, came_h=24.0 * day) for day in range(30)]
    assert in_order([*stream, _case("UNDATED", None)], NOW)[0].code == "UNDATED"


def test_the_forecast_counts_printers_turnover_and_what_comes_after():
    free = {"a": NOW, "b": NOW + timedelta(hours=1)}
    found = forecast([_case("X", 2), _case("Y", 0.5), _case("Z", 3)], free, timedelta(hours=30), NOW)
    assert [(f.waiting.code, f.printer) for f in found] == [("Y", "a"), ("X", "b"), ("Z", "a")]
    assert found[0].ready_by == NOW + timedelta(hours=34)
    assert found[0].late_h == 22.0
    assert found[1].late_h == 0.0
    assert found[2].print_start == NOW + timedelta(hours=4, minutes=30)
    assert forecast([_case("X", 2)], {}, timedelta(0), NOW) == []
    assert forecast([_case("N", None)], free, timedelta(0), NOW)[0].late_h is None


def test_a_row_tells_weight_and_cost_where_the_hospital_states_prices(tmp_path: Path) -> None:
    costs = {"currency": "CHF", "pla_per_kg": 40.0, "printer_per_h": 6.0}
    rows = []
    for name, sections in (("priced", {"costs": costs}), ("unpriced", {})):
        rig = make_rig(tmp_path / name, **sections)
        bring(rig, CaseState.SLICED)
        rows += print_queue.list_queue(rig.app)
        rig.app.engine.dispose()
    assert [row["weight_g"] for row in rows] == [1.5, 1.5]
    assert [row["cost"] for row in rows] == [
        {"currency": "CHF", "material": 0.06, "printer": 1.0, "total": 1.06},
        None,
    ]
