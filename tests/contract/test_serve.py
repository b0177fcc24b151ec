"""The daemon as a process: it comes up, is ready, and stops cleanly when asked to, with work in hand too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support_dicom import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_stops_cleanly_when_told_to(tmp_path: Path, number: signal.Signals):
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SPINEPRINT_")} | {
        "SPINEPRINT_DATA_DIR": str(tmp_path / "data"),
        "SPINEPRINT_WEB__PORT": str(port),
        "SPINEPRINT_DICOM__PORT": str(free_port()),
        "SPINEPRINT_DICOM__DISK_RESERVE_MB": "0",
    }
    log = tmp_path / "log"
    with log.open("w") as errors:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve"],
            cwd=ROOT,
            env=environ,
            stderr=errors,
            stdout=errors,
        )
        try:

            def ready() -> bool:
                assert daemon.poll() is None, log.read_text()[-2000:]
                try:
                    return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(ready, 40, "the daemon did not become ready")
            daemon.send_signal(number)
            assert daemon.wait(20) == 0, log.read_text()[-2000:]
        finally:
            daemon.kill()
            daemon.wait(10)
    text = log.read_text()
    assert "spineprint is up" in text
    assert "spineprint has stopped" in text
    assert "Traceback" not in text
