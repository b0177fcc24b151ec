"""What a campaign runs on: the service as a process to be killed, simulated printers as processes, sliced cases."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from adapters.ultimaker import pair
from bench.printing.scenario import MACHINES, SPARES
from bench.printing.wire import Wire
from service.domain.case import CaseState
from service.ops.clock import SystemClock
from service.ports import bare_name
from service.store import approvals, prints
from service.store.cases import Case
from service.store.database import reading
from service.store.prints import PrintJob
from simulators.demo.processes import Process
from tests.support_app import Rig, bring, make_rig
from tests.support_postgres import running_cluster
from tests.support_ultimaker import small_gcode

POLL_S = 0.5
#: More than the making of a case takes on the clock of the use cases.
_A_CASE = timedelta(minutes=10)
#: Machine seconds per second while a scenario runs; the driver moves the clock over the long stretches.
SPEED = 30.0
#: 180 mm high: as large a file as the simple one can be.
_LAYERS = 900


@dataclass
class Device:
    """One printer: its process, the cable to it, the machine it is."""

    name: str
    process: Process
    panel_url: str
    wire: Wire
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def interface(self) -> str:
        return "cluster" if self.options.get("cluster_size") else "direct"

    @property
    def names_jobs_alike(self) -> bool:
        """The machine shows a job under the identifier that it was accepted by."""
        return bool(self.options.get("cluster_same_uuid", True))

    def queued(self, token: str) -> bool:
        """Whether a job of this name waits in its queue, as somebody at its display would see."""
        waits = ("queued", "sent_to_printer")
        return any(token in job["name"] and job["status"] in waits for job in self.look()["queue"])

    def panel(self, path: str, **body: object) -> Any:
        answer = httpx.post(f"{self.panel_url}/panel/{path}", json=body, timeout=30)
        return answer.json() if answer.status_code == 200 else None

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.panel_url}/panel", timeout=30).json()
        return found

    def lift_faults(self) -> None:
        httpx.delete(f"{self.panel_url}/panel/faults", timeout=30).raise_for_status()

    def starts(self, tokens: set[str]) -> list[dict[str, Any]]:
        """The printer's own ledger: every start under one of these names."""
        ledger = httpx.get(f"{self.panel_url}/panel/ledger", timeout=30).json()
        return [start for start in ledger if bare_name(start["name"]) in tokens]

    def history(self, uuid: str) -> dict[str, Any] | None:
        """Only while it answers and tells the truth."""
        entries = httpx.get(f"{self.panel_url}/api/v1/history/print_jobs?count=1000", timeout=30).json()
        return next((entry for entry in entries if entry["uuid"] == uuid), None)


@dataclass
class Service:
    """`spineprint serve --role worker`, killed with its whole group and started again at once."""

    process: Process
    kills: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kill(self) -> None:
        with self._lock:
            self.process.kill_group()
            self.kills += 1
            self.process.start()

    def process_id(self) -> int:
        """Of the process that runs now, or ran last."""
        return self.process.process.pid if self.process.process else 0

    def end_if_dead(self) -> int | None:
        """Exit code when it ended by itself, which it never should."""
        with self._lock:
            return self.process.process.poll() if self.process.process else None


@dataclass
class World:
    rig: Rig
    service: Service
    devices: list[Device]
    spares: list[Device] = field(default_factory=list)
    free_spares: queue.SimpleQueue[Device] = field(default_factory=queue.SimpleQueue)
    database: str = "sqlite"
    _stack: ExitStack = field(default_factory=ExitStack)
    _waiting: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def make_cases(self, count: int) -> None:
        """Sliced cases, each of a study of its own, by the use cases; only the heavy computations are tiny.

        Before the service runs: it would take their jobs out of our hands.
        """
        for number in range(count):
            study = f"1.2.826.0.1.3680043.10.8888.{number}"
            case = bring(self.rig, CaseState.SLICED, study=study, series=f"{study}.1")
            self.rig.run_jobs("publish_plan")
            self._waiting.put(case.id)

    def next_case(self) -> str:
        return self._waiting.get_nowait()

    def case(self, case_id: str) -> Case:
        return self.rig.case(case_id)

    def jobs(self, case_id: str) -> list[PrintJob]:
        """Oldest attempt first."""
        with reading(self.rig.app.engine) as connection:
            return sorted(prints.listed(connection, case_id=case_id), key=lambda job: job.attempt)

    def job(self, token: str) -> PrintJob:
        with reading(self.rig.app.engine) as connection:
            return prints.get(connection, token)

    def approval_stands(self, case_id: str) -> bool:
        with reading(self.rig.app.engine) as connection:
            return approvals.standing(connection, case_id) is not None

    def reserved(self, printer: str) -> str:
        with reading(self.rig.app.engine) as connection:
            return prints.printer_rows(connection).get(printer, ("", None, None))[0]

    def close(self) -> None:
        self.service.process.stop(5.0)
        for device in [*self.devices, *self.spares]:
            device.process.stop(5.0)
            if device.process.process and device.process.process.stdout:
                device.process.process.stdout.close()
            device.wire.close()
        self.rig.app.engine.dispose()
        self._stack.close()


def build_world(folder: Path, printers: int, cases: int, database: str = "sqlite") -> World:
    """`database`: sqlite, or postgresql for a cluster of this campaign alone."""
    stack = ExitStack()
    url = stack.enter_context(running_cluster()).migrated_database() if database == "postgresql" else ""
    playing = [_device(folder, n, MACHINES[n % len(MACHINES)]) for n in range(printers)]
    spares = [_device(folder, printers + n, options) for n, options in enumerate(SPARES)]
    devices = [*playing, *spares]
    sections = {
        "printers": [
            {
                "name": d.name,
                "url": d.wire.url,
                "credentials_file": folder / f"{d.name}.json",
                "poll_s": POLL_S,
                "interface": d.interface,
            }
            for d in devices
        ]
    }
    rig = make_rig(folder / "rig", database_url=url, **sections)
    # Each case made takes the clock of the use cases on; the service has the machine's, and so have people then.
    begun = datetime.now(UTC) - cases * _A_CASE
    rig.clock.advance(seconds=(begun - rig.clock.now()).total_seconds())
    rig.tasks.gcode = small_gcode(layers=_LAYERS, seconds=1800)
    rig.with_printers(dict.fromkeys(d.name for d in devices))  # type: ignore[arg-type]  # only their names are asked
    for device in devices:
        pair(device.panel_url, folder / f"{device.name}.json", poll_s=0.05)
        device.panel("clock", speed=SPEED)
    config = folder / "spineprint.toml"
    config.write_text(_toml(rig.app.config.data_dir, url, sections["printers"]), "utf-8")
    command = [sys.executable, "-m", "service.cli", "serve", "--role", "worker", "--config", str(config)]
    service = Service(Process("service", command, folder / "logs" / "service.log"))
    world = World(rig, service, playing, spares, database=database, _stack=stack)
    for spare in spares:
        world.free_spares.put(spare)
    world.make_cases(cases)
    rig.app = replace(rig.app, clock=SystemClock())
    service.process.start()
    return world


def _device(folder: Path, number: int, options: Mapping[str, object]) -> Device:
    name = f"um3-{number}"
    command = [sys.executable, "-m", "simulators.ultimaker", "--speed", "1000", "--name", name]
    command += ["--panel-auto-allow", "--state", str(folder / f"{name}.state")]
    for option, value in options.items():
        command += ["--option", f"{option}={value}"]
    process = Process(name, command, folder / "logs" / f"{name}.log")
    ready = json.loads(process.start(first_line=True))
    return Device(name, process, ready["url"], Wire(("127.0.0.1", ready["port"])), options)


def _toml(data_dir: Path, database_url: str, printers: list[dict[str, object]]) -> str:
    lines = [f'data_dir = "{data_dir}"', 'log_level = "info"']
    lines += [f'database_url = "{database_url}"'] if database_url else []
    for printer in printers:
        lines += ["", "[[printers]]"]
        lines += [
            f'{key} = "{v}"' if isinstance(v, (str, Path)) else f"{key} = {v}" for key, v in printer.items()
        ]
    return "\n".join(lines) + "\n"
