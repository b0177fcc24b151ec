"""A case from its CT to the printed part as people bring it there: over HTTP, printed on the simulated Ultimaker 3.

Only the heavy computations are small ones (`tests.support_app`); the images come as the DICOM node hands them over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from adapters.ultimaker import PrinterSettings, Timeouts, UltimakerPrinter, pair
from service.domain.case import CaseState
from service.workflow import print_run
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.options import Options
from simulators.ultimaker.simulator import Simulator
from tests.support_api import web_over
from tests.support_app import PASSWORD, STUDY, Rig, new_case, receive, study_quiet
from tests.support_sterile import Room
from tests.support_ultimaker import in_process

SCAN = "1.2.826.0.1.3680043.10.9999.7"
OARM = {
    "peers": [
        {"ae_title": "OARM", "host": "127.0.0.1", "port": 1, "roles": ["oarm"]},
        {"ae_title": "CT1", "host": "127.0.0.1", "port": 1, "roles": ["planning_ct"]},
    ]
}
_QUICK = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(2.0, 5.0, 5.0))


@contextlib.contextmanager
def printed_over_http(rig: Rig, folder: Path) -> Iterator[Room]:
    """A room whose part came off the simulated printer; every decision was a request of a person."""
    with in_process(Simulator(Options(auto_allow=True), MachineClock(0.0))) as device:
        credentials = folder / "um3.json"
        pair(device.url, credentials, poll_s=0.01)
        printer = UltimakerPrinter("um3", device.url, credentials, _QUICK)
        rig.with_printers({"um3": printer})
        room = Room(rig, web_over(rig.app))
        _to_sliced(room)
        seen = _case(room)["artifacts"]["gcode"]["sha256"]
        answer = _post(room, "technician", "print", printer="um3", bed_clear=True, gcode_sha256=seen)
        assert answer["state"] == "INTENT"
        rig.run_jobs("send_print")
        device.panel("clock", advance_s=3600)
        print_run.poll(rig.app, printer)
        device.panel("clear")
        device.panel("clock", advance_s=5)
        print_run.poll(rig.app, printer)
        (item,) = _case(room)["items"]
        room.item_id = item["id"]
        assert room.case_state is CaseState.PRINTED
        yield room


def scan_measured(room: Room) -> None:
    """The O-arm scan comes in and is measured, which is what the case waits for before it can close."""
    for index in range(2):
        receive(room.rig, index, calling_ae="OARM", study=SCAN, series=f"{SCAN}.1")
    study_quiet(room.rig)
    room.rig.run_verify(room.rig.case(room.case_id))
    assert room.case_state is CaseState.VERIFIED


@contextlib.contextmanager
def served(room: Room) -> Iterator[str]:
    """The pages and the API of this room by a real server; its address."""
    server = uvicorn.Server(uvicorn.Config(room.web, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        (socket,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def at_once(url: str, requests: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
    """Send (session secret, path, body) in parallel, each on a connection of its own that is open already."""
    barrier = threading.Barrier(len(requests))
    answers: list[httpx.Response | None] = [None] * len(requests)

    def send(index: int) -> None:
        secret, path, body = requests[index]
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=120) as client:
            client.get("/health/live")
            barrier.wait()
            answers[index] = client.post(path, json=body)

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=180)
    found = [a for a in answers if a is not None]
    assert len(found) == len(requests)
    return found


def _to_sliced(room: Room) -> None:
    rig = room.rig
    today = rig.clock.now().strftime("%Y%m%d")
    room.case_id = new_case(rig, study=STUDY, StudyDate=today).id
    study_quiet(rig)
    rig.run_jobs("inspect")
    _post(room, "planner", "inputs", level="L1", target=[1.0, -2.0, 3.0])
    rig.run_jobs("build")
    made = _case(room)["artifacts"]
    _post(
        room, "surgeon", "approve", plan_sha256=made["plan"]["sha256"], mesh_sha256=made["mesh"]["sha256"],
        acknowledged=["planning.1"], password=PASSWORD,
    )  # fmt: skip
    rig.run_jobs("slice")
    assert room.case_state is CaseState.SLICED


def _post(room: Room, who: str, step: str, **body: Any) -> dict[str, Any]:
    answer = room.client(who).post(f"/api/v1/cases/{room.case_id}/{step}", json=body)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def _case(room: Room) -> dict[str, Any]:
    answer = room.client("technician").get(f"/api/v1/cases/{room.case_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
