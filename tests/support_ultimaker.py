"""Starts the simulated Ultimaker 3 as a process of its own, for contract and end-to-end tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from simulators.ultimaker.options import Options
from simulators.ultimaker.server import address, listen, make_server
from simulators.ultimaker.simulator import Simulator

READY_WITHIN_S = 20.0

#: What a printer is switched to for each interface that it may be sent jobs by. The file reaches the machine at once.
FIRMWARE: Mapping[str, Mapping[str, object]] = {
    "direct": {},
    "cluster": {"cluster_size": 1, "cluster_sent_s": 0.0},
}


def options_for(interface: str, **switches: object) -> Options:
    """Switches of a simulated printer whose jobs come by this interface."""
    options = Options(auto_allow=True)
    for name, value in {**FIRMWARE[interface], **switches}.items():
        options.change(name, value)
    return options


@dataclass
class RunningSimulator:
    """A simulator that answers. `panel` is the person at the printer, not part of the device API."""

    url: str
    pid: int
    process: subprocess.Popen[str] | None
    """None when it runs in a thread of the test (`in_process`)."""

    def panel(self, path: str, **body: object) -> Any:
        """POST to /panel/<path>; the JSON of the answer. Raises requests.HTTPError when it says no."""
        answer = requests.post(f"{self.url}/panel/{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def look(self, path: str = "") -> Any:
        """GET /panel[/<path>]."""
        answer = requests.get(f"{self.url}/panel{'/' + path if path else ''}", timeout=10)
        answer.raise_for_status()
        return answer.json()

    def fault(self, kind: str, **narrow: object) -> None:
        self.panel("faults", kind=kind, **narrow)

    def lift_faults(self) -> None:
        requests.delete(f"{self.url}/panel/faults", timeout=10).raise_for_status()

    def ledger(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.look("ledger")
        return found

    def kill(self) -> None:
        """kill -9: the power is gone. Start again with the same state file to see the boot."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


def start_simulator(
    *,
    speed: float = 2000.0,
    port: int = 0,
    auto_allow: bool = True,
    state: Path | None = None,
    clear_after_s: float | None = None,
    options: Sequence[str] = (),
    name: str = "um3-sim",
) -> RunningSimulator:
    """Start and wait for the ready line. The caller stops it (`process.terminate()`); see `simulator`."""
    command = [sys.executable, "-m", "simulators.ultimaker", "--port", str(port), "--name", name]
    command += ["--speed", str(speed)]
    command += ["--panel-auto-allow"] if auto_allow else []
    command += ["--state", str(state)] if state is not None else []
    command += ["--clear-after", str(clear_after_s)] if clear_after_s is not None else []
    for option in options:
        command += ["--option", option]
    root = Path(__file__).resolve().parent.parent
    # its own session: killing the process group of the service must not kill the printer
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    watchdog = threading.Timer(READY_WITHIN_S, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    if not line:
        process.wait(5)
        raise RuntimeError(f"the printer simulator did not start (exit {process.returncode})")
    ready = json.loads(line)
    return RunningSimulator(ready["url"], ready["pid"], process)


def stop_simulator(running: RunningSimulator) -> None:
    process = running.process
    assert process is not None
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def simulator(**settings: Any) -> Iterator[RunningSimulator]:
    """`with simulator(speed=5000) as printer:`; the settings are those of `start_simulator`."""
    running = start_simulator(**settings)
    try:
        yield running
    finally:
        stop_simulator(running)


@contextmanager
def in_process(sim: Simulator) -> Iterator[RunningSimulator]:
    """The same server in a thread: starts in milliseconds, and the test may set `sim` up beforehand."""
    ready = threading.Event()
    sock = listen("127.0.0.1", 0)
    server = make_server(sim, ready.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[sock]), daemon=True)
    thread.start()
    assert ready.wait(READY_WITHIN_S), "the printer simulator did not start"
    try:
        yield RunningSimulator(address(sock), os.getpid(), None)
    finally:
        # it ends by itself within a tenth of a second, and closes its socket; only a test that lets another
        # simulator go on from the same memory needs to wait for that, or two would write the one file
        server.should_exit = True
        if sim.state_file is not None:
            thread.join(READY_WITHIN_S)
            assert not thread.is_alive(), "the printer simulator did not end"


def small_gcode(
    *,
    layers: int = 8,
    seconds: int = 600,
    nozzle: str = "AA 0.4",
    guid: str = "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9",
) -> str:
    """A complete small Griffin file: a ring of 20 mm per layer, 0.2 mm high each."""
    top = round(0.2 * layers, 2)
    header = f"""\
;START_OF_HEADER
;HEADER_VERSION:0.1
;FLAVOR:Griffin
;GENERATOR.NAME:Cura_SteamEngine
;GENERATOR.VERSION:4.13.0
;GENERATOR.BUILD_DATE:2021-11-03
;TARGET_MACHINE.NAME:Ultimaker 3
;EXTRUDER_TRAIN.0.INITIAL_TEMPERATURE:210
;EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED:1200
;EXTRUDER_TRAIN.0.MATERIAL.GUID:{guid}
;EXTRUDER_TRAIN.0.NOZZLE.DIAMETER:0.4
;EXTRUDER_TRAIN.0.NOZZLE.NAME:{nozzle}
;BUILD_PLATE.TYPE:glass
;BUILD_PLATE.INITIAL_TEMPERATURE:60
;PRINT.TIME:{seconds}
;PRINT.GROUPS:1
;PRINT.SIZE.MIN.X:90
;PRINT.SIZE.MIN.Y:90
;PRINT.SIZE.MIN.Z:0.2
;PRINT.SIZE.MAX.X:110
;PRINT.SIZE.MAX.Y:110
;PRINT.SIZE.MAX.Z:{top}
;END_OF_HEADER
T0
M82
G92 E0
M109 S210
G280
;LAYER_COUNT:{layers}
"""
    lines, e_mm = [header], 0.0
    for layer in range(layers):
        lines.append(f";LAYER:{layer}\nG0 F9000 X90 Y90 Z{0.2 * (layer + 1):.2f}\n")
        for x, y in ((110, 90), (110, 110), (90, 110), (90, 90)):
            e_mm += 0.25
            lines.append(f"G1 F3000 X{x} Y{y} E{e_mm:.5f}\n")
        lines.append(f";TIME_ELAPSED:{seconds * (layer + 1) / layers:.3f}\n")
    return "".join(lines)
