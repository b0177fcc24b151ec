"""Background loops of the daemon: each does one small thing again and again, and survives its own failures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from service.errors import SpineprintError

log = logging.getLogger("spineprint.loops")

_SHORTEST_PAUSE_S = 0.05


class Loop:
    """Calls `step` every `interval_s` on its own thread until stopped. `last_ok_s` feeds the health page."""

    def __init__(self, name: str, interval_s: float, step: Callable[[], object]) -> None:
        self.name = name
        self._interval_s = interval_s
        self._step = step
        self._stop = threading.Event()
        self._nudged = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._last_ok = time.monotonic()
        self.failures = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stop.set()
        self._nudged.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def nudge(self) -> None:
        """There is something to do: do not wait for the next turn."""
        self._nudged.set()

    @property
    def seconds_since_ok(self) -> float:
        return time.monotonic() - self._last_ok

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
                self._last_ok = time.monotonic()
                pause_s = self._interval_s
            except SpineprintError as exc:
                self.failures += 1
                log.warning("loop %s: %s", self.name, exc)
                pause_s = max(self._interval_s, 2.0)
            except Exception:
                # A loop that dies silently would stop the hospital's work; it says so and goes on.
                self.failures += 1
                log.exception("loop %s failed", self.name)
                pause_s = max(self._interval_s, 2.0)
            if self._nudged.wait(pause_s):
                # what nudges again and again gets a turn this often at most
                self._stop.wait(_SHORTEST_PAUSE_S)
                self._nudged.clear()
