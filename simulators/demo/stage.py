"""The stage of a journey: simulators, service, users, studies; reused by the end-to-end tests."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom

from simulators.demo.client import Service
from simulators.demo.journey import ADMIN, CAST
from simulators.demo.processes import (
    Ports,
    Process,
    run_cli,
    service_process,
    start_pacs,
    start_printer,
    wait_until_up,
    write_config,
)


class StageError(Exception):
    """Something on the stage failed; the text says what."""


@dataclass
class Stage:
    """Everything that runs during a journey. `out` holds data, logs, studies, and what the PACS received."""

    out: Path
    printer_speed: float = 4000.0
    small: bool = False
    quiet_s: float = 2.0
    oarm_quiet_s: float = 1.0
    ports: Ports = field(default_factory=Ports.choose)
    passwords: dict[str, str] = field(default_factory=lambda: {n: secrets.token_urlsafe(9) for n in CAST})
    processes: list[Process] = field(default_factory=list)
    printer_url: str = ""
    config: Path = Path()
    daemon: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.web}"

    def start(self) -> Service:
        """Bring everything up: simulators, users, pairing, service."""
        printer, self.printer_url = start_printer(
            self.out, speed=self.printer_speed, state=self.out / "printer.json"
        )
        self.processes.append(printer)
        self.processes.append(start_pacs(self.out, self.ports.pacs))
        self.config = write_config(
            self.out, self.ports, self.printer_url, quiet_s=self.quiet_s, oarm_quiet_s=self.oarm_quiet_s
        )
        # The first administrator is made on the machine itself; the others by the administrator over the network.
        display, _roles = CAST[ADMIN]
        run_cli(self.config, ["user", "add", ADMIN, "--name", display, "--role", "admin", "--password-stdin"],
                stdin=self.passwords[ADMIN] + "\n")  # fmt: skip
        run_cli(self.config, ["printer", "pair", "um3-sim"])
        self.daemon = service_process(self.out, self.config)
        self.processes.append(self.daemon)
        self.daemon.start()
        wait_until_up(self.daemon, self.url)
        service = Service(self.url, self.passwords)
        for name, (display, roles) in CAST.items():
            if name != ADMIN:
                body = {
                    "username": name,
                    "display_name": display,
                    "roles": roles,
                    "password": self.passwords[name],
                }
                service.post("/api/v1/users", body, who=ADMIN)
        return service

    def kill_and_restart(self) -> None:
        """kill -9 of the service's whole process group, then start again on the same data."""
        assert self.daemon is not None
        self.daemon.kill_group()
        self.daemon.start()
        wait_until_up(self.daemon, self.url)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()

    def make_phantom(self, level: str = "L1") -> tuple[Path, dict[str, Any]]:
        """A phantom study of today and its truth."""
        folder = self.out / "phantom"
        arguments = [
            "--out",
            str(folder),
            "--level",
            level,
            "--study-date",
            datetime.now(UTC).strftime("%Y%m%d"),
        ]
        self._run("simulators.phantom", arguments + (["--small"] if self.small else []))
        truth: dict[str, Any] = json.loads((folder / "truth.json").read_text("utf-8"))
        return folder / "dicom", truth

    def route_from_pacs(self, folder: Path) -> None:
        """What a PACS does when it auto-routes a study."""
        self._run("simulators.pacs", ["send", str(folder), "--to", self._node(), "--calling-ae", "PACS"])

    def scan_with_needle(
        self, ct: Path, plan: Mapping[str, Any], out: Path, *, send: bool = True, options: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Put a needle near the left (or only) planned path, scan it, send the scan; returns the truth.

        `options` are further ones of `simulators.oarm`; without `send` the scan only lies in `out`/dicom.
        """
        path = next((t for t in plan["trajectories"] if t["pedicle"] == "left"), plan["trajectories"][0])
        entry, target = np.array(path["entry"]), np.array(path["target"])
        axis = (target - entry) / np.linalg.norm(target - entry)
        # A good but human placement: a few tenths of a millimetre beside the plan, the hub outside the skin side.
        tip, hub = target + np.array([0.3, -0.2, 0.2]), entry - 40.0 * axis + np.array([-0.5, 0.3, 0.4])
        needle = ",".join(f"{v:.3f}" for v in (*hub, *tip))
        arguments = ["scan", "--preop", str(ct), f"--needle={needle}", "--out", str(out), *options]
        if send:
            arguments += ["--send", self._node(), "--calling-ae", "OARM"]
        self._run("simulators.oarm", arguments + (["--small"] if self.small else []))
        truth: dict[str, Any] = json.loads((out / "truth.json").read_text("utf-8"))
        return truth

    def clear_plate(self) -> None:
        httpx.post(f"{self.printer_url}/panel/clear", json={}, timeout=10.0)

    def printer_ledger(self) -> list[dict[str, Any]]:
        """Every print the printer ever started, as the printer itself counts them."""
        found: list[dict[str, Any]] = httpx.get(f"{self.printer_url}/panel/ledger", timeout=10.0).json()
        return found

    def pacs_received(self) -> list[dict[str, Any]]:
        index = self.out / "pacs" / "index.jsonl"
        return [json.loads(line) for line in index.read_text("utf-8").splitlines()] if index.is_file() else []

    def _node(self) -> str:
        return f"SPINEPRINT@127.0.0.1:{self.ports.dicom}"

    def _run(self, module: str, arguments: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], text=True, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise StageError(f"{module} failed: {done.stderr.strip()[-500:] or done.stdout.strip()[-500:]}")


def first_header(folder: Path) -> pydicom.Dataset:
    """Header of any image of a study (for its UIDs and patient)."""
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            return pydicom.dcmread(file, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
    raise StageError(f"there is no DICOM file in {folder}")
