"""A child process that stands ready for urgent work, with everything loaded, while such work may come.

Starting one and loading the numerical packages takes a second and a half; at an operating table they are not the
time to do it. Ready means: for the next task of its kind. Each serves once, so that no task meets what another left.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.errors import SpineprintError
from service.geometry.progress import Progress
from service.workflow.tether import PIPE_BYTES, Child, run_tethered

log = logging.getLogger("spineprint.tasks")


_AROUND = 80
"""Bytes that JSON and a message's frame add to a file's name, at most."""


class Standby:
    """Runs tasks; those of `kind` in a child that stands ready when there is one. Safe for several threads."""

    def __init__(self, kind: str, *, timeout_s: float, start: Callable[[str], Child] = Child) -> None:
        self._kind = kind
        self._timeout_s = timeout_s
        self._start = start
        self._lock = threading.Lock()
        self._ready: Child | None = None
        self._told: set[str] = set()
        self._running = 0

    def keep(self, wanted: bool) -> None:
        """Called again and again: start the child, replace one that has gone, or end one that nobody will need.

        While a task of its kind runs none is started: it would take the processor from the very task.
        """
        with self._lock:
            gone = self._ready if self._ready is not None and not (wanted and self._ready.alive) else None
            if gone is not None:
                self._ready = None
            if wanted and self._ready is None and not self._running:
                self._ready = self._start(self._kind)
                self._told.clear()
        if gone is not None:
            if wanted:
                log.warning("the child in waiting for '%s' has gone; another takes its place", self._kind)
            gone.end()

    def tell(self, files: Sequence[str]) -> None:
        """Files of a scan that is arriving, for the child in waiting to read; those it knows are passed over."""
        with self._lock:
            if self._ready is None:
                return
            fresh = [file for file in files if file not in self._told]
            text = sum(len(file) + _AROUND for file in (*self._told, *fresh))
            if fresh and text < PIPE_BYTES // 2:
                self._told.update(fresh)
                self._ready.tell({"scan_files": fresh})

    def run(self, kind: str, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Raises what `run_tethered` raises."""
        if kind != self._kind:
            return run_tethered(kind, argument, progress, timeout_s=self._timeout_s)
        with self._lock:
            child, self._ready = self._ready, None
            self._running += 1
        try:
            if child is not None:
                try:
                    return run_tethered(kind, argument, progress, timeout_s=self._timeout_s, child=child)
                except SpineprintError:
                    if child.asked:
                        raise
                    log.warning("the child in waiting for '%s' had gone; a new one does the work", kind)
            return run_tethered(kind, argument, progress, timeout_s=self._timeout_s)
        finally:
            with self._lock:
                self._running -= 1

    def close(self) -> None:
        self.keep(False)
