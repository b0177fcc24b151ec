"""The printer's mDNS record, announced by a child process (`simulators.mdns`)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import suppress

from simulators.ultimaker.simulator import Simulator


def instance_of(name: str) -> str:
    """`ultimakersystem-<mac>`; the address is made of the name, so that it is the same at every start."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"ultimakersystem-02{digest[:10]}"  # 02: an address nobody was sold (locally administered)


def txt_of(sim: Simulator) -> dict[str, str]:
    """Reference sheet, section 7. `cluster_size` only where the cluster firmware is switched on."""
    options = sim.machine.options
    record = {
        "type": "printer",
        "name": options.name,
        "machine": f"{options.typeid}.0",
        "firmware_version": options.firmware,
    }
    for number, slot in enumerate(sim.machine.slots):
        record[f"hotend_type_{number}"] = slot.core
        record[f"hotend_serial_{number}"] = slot.serial
    if options.cluster_size:
        record["cluster_size"] = str(options.cluster_size)
    return record


class Announcement:
    """Runs from the start to `close`. `words` says why nothing is announced; empty when it is."""

    def __init__(self, sim: Simulator, address: str, port: int) -> None:
        command = [sys.executable, "-m", "simulators.mdns", "--address", address, "--port", str(port)]
        command += ["--instance", instance_of(sim.machine.options.name), "--txt", json.dumps(txt_of(sim))]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._child.stdout is not None
        self.words = "" if self._child.stdout.readline().strip() == "announced" else self._why()

    def _why(self) -> str:
        _, said = self._child.communicate(timeout=10)
        if self._child.returncode == 3:
            return "the package 'zeroconf' is not installed"
        return (said.strip().splitlines() or ["it ended"])[-1]

    def close(self) -> None:
        """The goodbye, at most some seconds."""
        with suppress(subprocess.TimeoutExpired, ValueError):
            self._child.communicate(timeout=5)
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait(5)
