"""The processes of a demonstration: service, printer, PACS. Each in its own group, all ended with the demo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


class StartError(Exception):
    """A process did not come up; the text says which and where its log is."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def end_orderly_on_sigterm() -> None:
    """Let SIGTERM unwind this program like Ctrl-C does, so that what it started is ended with it."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@dataclass
class Process:
    """One program with its log file."""

    name: str
    arguments: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self, *, first_line: bool = False) -> str:
        """Start it; returns its first line of output when asked for."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.arguments,
                stdout=subprocess.PIPE if first_line else log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        if not first_line:
            return ""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise StartError(f"{self.name} did not start; see {self.log}")
        return line

    def kill_group(self) -> None:
        """kill -9 of the whole process group: what a power cut does to the software."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def stop(self, timeout_s: float = 20.0) -> int | None:
        """SIGTERM; returns the exit code, or None when it had to be killed."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_group()
            return None


@dataclass(frozen=True)
class Ports:
    web: int
    dicom: int
    pacs: int

    @staticmethod
    def choose() -> Ports:
        return Ports(free_port(), free_port(), free_port())


def start_printer(out: Path, *, speed: float, state: Path | None = None) -> tuple[Process, str]:
    """The simulated Ultimaker 3; returns it and its address."""
    arguments = [sys.executable, "-m", "simulators.ultimaker", "--port", "0", "--speed", str(speed)]
    arguments += ["--name", "um3-sim", "--panel-auto-allow"]
    if state:
        arguments += ["--state", str(state)]
    process = Process("printer", arguments, out / "logs" / "printer.log")
    ready: dict[str, Any] = json.loads(process.start(first_line=True))
    return process, str(ready["url"])


def start_pacs(out: Path, port: int) -> Process:
    """A PACS that takes our results."""
    arguments = [
        sys.executable,
        "-m",
        "simulators.pacs",
        "sink",
        "--folder",
        str(out / "pacs"),
        "--port",
        str(port),
    ]
    process = Process("pacs", arguments, out / "logs" / "pacs.log")
    process.start(first_line=True)
    return process


def write_config(
    out: Path, ports: Ports, printer_url: str, *, quiet_s: float = 2.0, oarm_quiet_s: float = 1.0
) -> Path:
    """The configuration file of the demonstration's service."""
    text = f"""# Made by the demonstration. `simulation` lets its clock be moved; refused beside real devices.
data_dir = "{out / "data"}"

[web]
port = {ports.web}

[dicom]
ae_title = "SPINEPRINT"
port = {ports.dicom}
quiet_s = {quiet_s}
oarm_quiet_s = {oarm_quiet_s}
disk_reserve_mb = 200

[[dicom.peers]]
ae_title = "PACS"
host = "127.0.0.1"
port = {ports.pacs}
roles = ["planning_ct", "pacs"]

[[dicom.peers]]
ae_title = "OARM"
host = "127.0.0.1"
port = {ports.pacs}
roles = ["oarm"]

[[printers]]
name = "um3-sim"
url = "{printer_url}"
credentials_file = "{out / "data" / "um3-sim.credentials.json"}"
poll_s = 0.5

[simulation]
enabled = true
"""
    path = out / "spineprint.toml"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def service_process(out: Path, config: Path) -> Process:
    return Process(
        "service",
        [sys.executable, "-m", "service.cli", "serve", "--config", str(config)],
        out / "logs" / "service.log",
    )


def wait_until_up(process: Process, url: str, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.process is not None and process.process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health/live", timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise StartError(f"the service did not come up; see {process.log}")


def run_cli(config: Path, arguments: list[str], *, stdin: str = "") -> str:
    """One `spineprint` command; its output. Raises StartError with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments, "--config", str(config)],
        input=stdin, text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise StartError(
            f"`spineprint {' '.join(arguments)}` failed: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
