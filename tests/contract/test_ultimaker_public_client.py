"""The public package ultimaker-printer-api, unchanged, against our simulated Ultimaker 3.

Somebody else wrote it for the real machine, so it is a second opinion on what the simulator says: shapes, words,
kinds of numbers, digest, encodings. It is a test dependency only. It keeps its own time limit of half a second.
It has no call that sends a file; the upload goes through `requests` with the package's own identity and digest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import requests

from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.options import Options
from simulators.ultimaker.simulator import Simulator
from tests.support_ultimaker import RunningSimulator, in_process, small_gcode

ultimaker = pytest.importorskip(
    "ultimaker", reason="the public package ultimaker-printer-api is not installed (requirements/dev.txt)"
)

IDENTITY = ultimaker.Identity("spineprint test", "user")
PRINT_S = 3600
PATIENCE_S = 60.0
"""The client waits half a second on its own, which a busy machine can need for an answer."""


@dataclass
class Desk:
    """The printer with nobody's finger on it yet, and the package's client for it."""

    device: RunningSimulator
    client: ultimaker.Printer

    def wait(self, machine_s: float) -> None:
        self.device.panel("clock", advance_s=machine_s)

    def pair(self) -> None:
        self.client.acquire_credentials()
        self.device.panel("pairing", allow=True)

    def upload(self, name: str) -> requests.Response:
        return requests.post(
            f"http://{self.client.host}/api/v1/print_job",
            files={"jobname": (None, name), "file": (f"{name}.gcode", small_gcode(seconds=PRINT_S))},
            auth=self.client.digest_auth(),
            timeout=PATIENCE_S,
        )

    def command(self, target: str) -> int:
        url = f"http://{self.client.host}/api/v1/print_job/state"
        reply = requests.put(url, json={"target": target}, auth=self.client.digest_auth(), timeout=PATIENCE_S)
        return reply.status_code

    def until_printing(self) -> None:
        self.wait(600)
        assert self.client.get_printer_status() == "printing"


@pytest.fixture
def desk() -> Iterator[Desk]:
    with in_process(Simulator(Options(), MachineClock(0.0))) as device:
        host, _, port = device.url.removeprefix("http://").partition(":")
        yield Desk(device, ultimaker.Printer(host, int(port), IDENTITY, timeout=PATIENCE_S))


def test_it_pairs_when_a_person_presses_allow(desk: Desk) -> None:
    desk.client.acquire_credentials()
    assert not desk.client.get_auth_verify()
    assert desk.client.get_auth_check() == "unknown"
    desk.device.panel("pairing", allow=True)
    assert desk.client.get_auth_verify()
    assert desk.client.is_authorized()


def test_it_is_told_when_a_person_presses_deny(desk: Desk) -> None:
    desk.client.acquire_credentials()
    desk.device.panel("pairing", allow=False)
    assert desk.client.get_auth_check() == "unauthorized"
    assert not desk.client.get_auth_verify()


def test_its_kept_credentials_open_the_printer_again(desk: Desk, tmp_path: Path) -> None:
    desk.pair()
    kept = ultimaker.CredentialsDict(str(tmp_path / "credentials.json"))
    desk.client.save_credentials(kept)
    kept.save()
    read = ultimaker.CredentialsDict(str(tmp_path / "credentials.json"))
    guid = desk.client.get_system_guid()
    assert isinstance(guid, UUID)
    port = int(desk.client.host.split(":")[1])
    later = ultimaker.Printer(desk.client.address, port, IDENTITY, read[guid], timeout=PATIENCE_S)
    assert later.get_auth_verify()
    assert later.get_credentials() == desk.client.get_credentials()


def test_it_reads_the_idle_machine_and_makes_it_speak(desk: Desk) -> None:
    desk.pair()
    assert desk.client.get_printer_status() == "idle"
    assert desk.client.get_system_name() == "um3-sim"
    # its put_beep is left out: it asks for a path that no Ultimaker has
    assert desk.client.put_system_display_message("Part is ready", "OK")["result"] is True


def test_it_follows_an_uploaded_job_to_its_end(desk: Desk) -> None:
    desk.pair()
    sent = desk.upload("case-1")
    assert sent.status_code == 201, sent.text
    first = desk.client.get_print_job()
    assert (first.name, first.source) == ("case-1", "WEB_API")
    assert (first.source_application, first.source_user) == IDENTITY
    assert first.uuid == sent.json()["uuid"]
    assert first.datetime_finished == ""
    desk.until_printing()
    assert (desk.client.get_print_job_name(), desk.client.get_print_job_state()) == ("case-1", "printing")
    assert desk.client.get_print_job_time_total() == timedelta(seconds=PRINT_S)
    before = desk.client.get_print_job()
    desk.wait(600)
    after = desk.client.get_print_job()
    assert after.time_elapsed - before.time_elapsed == timedelta(seconds=600)
    assert 0.0 < before.progress < after.progress < 1.0
    assert desk.client.get_print_job_progress() == pytest.approx(after.progress)
    assert desk.client.get_print_job_time_elapsed() == after.time_elapsed
    desk.wait(PRINT_S)
    done = desk.client.get_print_job()
    assert (done.state, done.result, done.progress) == ("wait_cleanup", "Finished", 1.0)
    assert len(done.datetime_finished) == len("2026-01-02T03:04:05")
    desk.device.panel("clear")
    assert desk.client.get_printer_status() == "idle"
    assert [entry["name"] for entry in desk.device.ledger()] == ["case-1"]


def test_it_sees_a_pause_and_who_asked_for_it(desk: Desk) -> None:
    desk.pair()
    desk.upload("case-1")
    desk.until_printing()
    assert desk.command("pause") == 204
    desk.wait(30)
    paused = desk.client.get_print_job()
    assert (paused.state, paused.pause_source) == ("paused", "api")
    assert desk.command("print") == 204
    desk.wait(30)
    resumed = desk.client.get_print_job()
    assert (resumed.state, resumed.pause_source) == ("printing", "")
    assert desk.command("abort") == 204
    desk.wait(120)
    assert desk.client.get_print_job().result == "Aborted"


def test_its_second_upload_is_refused_while_the_first_prints(desk: Desk) -> None:
    desk.pair()
    assert desk.upload("case-1").status_code == 201
    desk.until_printing()
    assert desk.upload("case-2").status_code == 405
    assert desk.client.get_print_job_name() == "case-1"
    assert [entry["name"] for entry in desk.device.ledger()] == ["case-1"]


def test_its_time_limit_ends_the_wait_for_a_silent_printer(desk: Desk) -> None:
    desk.pair()
    desk.device.fault("silent")
    desk.client.timeout = 0.5
    begin = time.monotonic()
    with pytest.raises(requests.exceptions.Timeout):
        desk.client.get_printer_status()
    assert time.monotonic() - begin < 5.0
    desk.client.timeout = PATIENCE_S
    desk.device.lift_faults()
    assert desk.client.get_printer_status() == "idle"
