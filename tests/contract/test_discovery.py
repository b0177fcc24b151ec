"""Printers found by multicast DNS: a real announcement of the simulator, a real search, over loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from adapters.ultimaker.discovery import LONGEST_S, MdnsDiscovery, found_in
from service import cli_admin
from service.cli import main_app
from service.errors import ConflictError, DeviceError, ToolMissingError
from service.ports import FoundPrinter
from service.workflow import identity
from tests.support_api import web_over
from tests.support_app import PASSWORD, add_people, make_rig

LOOPBACK = "127.0.0.1"
ROOT = Path(__file__).parents[2]


class Announced:
    """The simulator as a process, announcing itself on loopback."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "simulators.ultimaker", "--mdns", *options],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()  # the announcing child must end by itself
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def printer() -> Iterator[Announced]:
    made = Announced("--name", "um3-found", "--option", "cluster_size=1", "--option", "typeid=9511")
    try:
        if not str(made.ready["mdns"]).startswith("ultimakersystem-"):
            pytest.skip(f"no multicast on loopback here: {made.ready['mdns']}")
        yield made
    finally:
        made.end()


def looked(printer: Announced, seconds: float = 1.5) -> FoundPrinter:
    found = [p for p in MdnsDiscovery([LOOPBACK]).discover(seconds) if p.url == printer.ready["url"]]
    assert found, "announced and not found"
    return found[0]


def test_the_simulated_printer_is_found_with_what_it_says_of_itself(printer: Announced) -> None:
    found = looked(printer)
    assert found == FoundPrinter(
        instance=printer.ready["mdns"], url=printer.ready["url"], name="um3-found", model="Ultimaker 3 Extended",
        machine="9511.0", firmware="4.3.3.20180529", cores=("AA 0.4", "BB 0.4"), cluster=True,
    )  # fmt: skip
    assert httpx.get(f"{found.url}/api/v1/printer/status").json() == "idle"


def test_the_command_line_tells_what_is_configured(
    printer: Announced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        f'data_dir = "{tmp_path}"\n[[printers]]\nname = "left"\nurl = "{printer.ready["url"]}"\n'
        f'credentials_file = "{tmp_path}/left.json"\n'
    )
    arguments = ["printer", "discover", "--interface", LOOPBACK, "--config", str(config)]
    monkeypatch.setattr(cli_admin.console, "_width", 80)  # the narrowest terminal, and what a pipe gets
    answer = CliRunner().invoke(main_app, arguments)
    assert answer.exit_code == 0, answer.output
    lines = [row for row in answer.output.splitlines() if printer.ready["url"] in row]
    assert len(lines) == 1, answer.output
    assert "left" in lines[0] and "um3-found" in lines[0] and "…" not in answer.output


def test_a_technician_looks_over_http(printer: Announced, tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    app = replace(rig.app, discovery=MdnsDiscovery([LOOPBACK]))
    client = TestClient(web_over(app))
    answers = {}
    for username in ("technician", "surgeon"):
        add_people(app, username)
        secret, _, _ = identity.log_in(app, username, PASSWORD)
        answers[username] = client.post(
            "/api/v1/printers/discover", headers={"Authorization": f"Bearer {secret}"}
        )
    assert answers["surgeon"].status_code == 403
    row = next(p for p in answers["technician"].json() if p["url"] == printer.ready["url"])
    assert (row["name"], row["configured_as"]) == ("um3-found", None)
    app.engine.dispose()


def test_a_printer_that_is_killed_is_announced_no_more() -> None:
    made = Announced("--name", "um3-gone")
    if not str(made.ready["mdns"]).startswith("ultimakersystem-"):
        made.end()
        pytest.skip(f"no multicast on loopback here: {made.ready['mdns']}")
    try:
        looked(made)
    finally:
        made.end()
    ends = time.monotonic() + 20.0
    while any(p.url == made.ready["url"] for p in MdnsDiscovery([LOOPBACK]).discover(0.7)):
        assert time.monotonic() < ends, "still announced"


# --- without the package, without a network --------------------------------------------------------------------


@pytest.fixture
def without_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find a `zeroconf` that cannot be imported, as where it is not installed."""
    (tmp_path / "zeroconf.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))


@pytest.mark.usefixtures("without_package")
def test_where_the_package_is_missing_it_is_said_in_words() -> None:
    with pytest.raises(ToolMissingError) as caught:
        MdnsDiscovery([LOOPBACK]).discover(0.2)
    assert caught.value.code == "tool.no_discovery"
    assert "requirements/discovery.txt" in caught.value.next_step


@pytest.mark.usefixtures("without_package")
def test_a_simulator_without_the_package_runs_and_says_why_it_is_silent() -> None:
    made = Announced()
    try:
        assert made.ready["mdns"] == "the package 'zeroconf' is not installed"
        assert httpx.get(f"{made.ready['url']}/api/v1/printer/status").json() == "idle"
    finally:
        made.end()


def test_a_search_from_an_address_that_is_not_ours_is_a_fault_in_words() -> None:
    with pytest.raises(DeviceError) as caught:
        MdnsDiscovery(["203.0.113.77"]).discover(0.2)
    assert caught.value.code == "device.discovery"


def test_one_search_at_a_time() -> None:
    search = MdnsDiscovery([LOOPBACK])
    assert LONGEST_S <= 15
    with search._searching, pytest.raises(ConflictError):
        search.discover(0.1)


# --- what strangers send ---------------------------------------------------------------------------------------

GOOD = {
    "instance": "ultimakersystem-x", "addresses": ["192.0.2.7"], "port": 80,
    "txt": {"type": "printer", "name": "um3", "machine": "9066.0", "firmware_version": "4.3.3"},
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        json.dumps(GOOD | {"txt": {"type": "scanner"}}),
        json.dumps(GOOD | {"txt": {}}),
        json.dumps(GOOD | {"txt": []}),
        json.dumps(GOOD | {"addresses": []}),
        json.dumps(GOOD | {"addresses": ["http://evil/"]}),
        json.dumps(GOOD | {"addresses": None}),
        json.dumps(GOOD | {"port": 0}),
        json.dumps(GOOD | {"port": "80"}),
    ],
)
def test_what_is_no_printer_is_left_out(line: str) -> None:
    assert [p.url for p in found_in(f"{line}\n{json.dumps(GOOD)}\n")] == ["http://192.0.2.7"]


def test_an_unknown_machine_is_shown_without_a_model() -> None:
    (found,) = found_in(json.dumps(GOOD | {"txt": GOOD["txt"] | {"machine": "1234.5"}, "port": 8080}))  # type: ignore[operator]
    assert (found.model, found.machine, found.url) == ("", "1234.5", "http://192.0.2.7:8080")
    assert found.cluster is False and found.cores == ()
