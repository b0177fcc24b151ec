"""Heavy work in a child process that dies with its parent.

The parent holds the write end of the child's standard input and never closes it before the child is done; when
the parent dies, by kill -9 too, the child reads end-of-file and exits at once. So after a restart no orphan
works on the same case. The child talks in JSON lines on standard output.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from service.errors import SpineprintError, from_document
from service.geometry.progress import Progress

log = logging.getLogger("spineprint.tasks")

#: One kind of heavy work: JSON-able argument and progress in, JSON-able result out.
Task = Callable[[Mapping[str, Any], Progress], dict[str, Any]]

#: Kinds of work somebody waits for at an operating table; all others give way to them.
URGENT = ("verify", "correct")
#: What the others add to their niceness: a model build then takes a tenth of a core from a verification.
GIVE_WAY = 10

#: What a child in waiting may be told before it is asked; nothing depends on whether it was.
Ahead = Callable[[Mapping[str, Any]], None]

#: Room for what is said to a child that does not listen yet.
PIPE_BYTES = 1 << 20
_AHEAD = "ahead of the argument"
_EXIT_ORPHANED = 70
_END_WITHIN_S = 30.0
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Child:
    """One child process for one task: started, and then given its argument at once or later (`standby`)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.last_words = ""
        """The end of what it wrote as errors, once it is over."""
        self.asked = False
        """It has got its argument."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child, in `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "run-task", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
            text=True,
            encoding="utf-8",
            process_group=0,  # so that whatever the task starts (the slicer) can be ended with it
            pipesize=PIPE_BYTES,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def ask(
        self, argument: Mapping[str, Any], progress: Progress, *, timeout_s: float
    ) -> dict[str, Any] | None:
        """Its answer, once it is over; None when it ended without one."""
        watchdog = threading.Timer(timeout_s, self.kill)
        watchdog.start()
        try:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(json.dumps(dict(argument)) + "\n")
            self._process.stdin.flush()
            self.asked = True
            return _follow(self._process.stdout, progress)
        except BrokenPipeError:
            return None
        finally:
            watchdog.cancel()
            self.end(within_s=_END_WITHIN_S)

    def tell(self, ahead: Mapping[str, Any]) -> None:
        """Something its task can do before it is asked (`Ahead`). It must fit into the pipe with all told before.

        Whether the child still lives shows when it is asked.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({_AHEAD: dict(ahead)}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            log.debug("task %s had already gone", self.kind)

    def end(self, *, within_s: float = 0.0) -> None:
        """Cut the tether, and end whatever of it is left after `within_s`."""
        process = self._process
        if process.stdin:
            try:
                process.stdin.close()
            except BrokenPipeError:
                log.debug("task %s had already gone", self.kind)
        if within_s:
            try:
                process.wait(timeout=within_s)
            except subprocess.TimeoutExpired:
                log.warning("task %s answered but did not end; it is stopped", self.kind)
        self.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        with self._errors as errors:
            errors.seek(0)
            self.last_words = errors.read()[-2000:].decode("utf-8", "replace")

    def kill(self) -> None:
        """End the child and everything it started. The group outlives its leader while any of them runs."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("task process %d and all it started had already gone", self._process.pid)


def run_tethered(
    kind: str,
    argument: Mapping[str, Any],
    progress: Progress,
    *,
    timeout_s: float,
    child: Child | None = None,
) -> dict[str, Any]:
    """Run one task in a child process, `child` when one stands ready, and wait for its result.

    Raises
    ------
    SpineprintError
        What the task raised, rebuilt here; or code `task.crashed` / `task.timeout`.
    """
    child = child or Child(kind)
    started = time.monotonic()
    outcome = child.ask(argument, progress, timeout_s=timeout_s)
    if outcome is not None and "result" in outcome:
        result: dict[str, Any] = outcome["result"]
        return result
    if outcome is not None and "error" in outcome:
        raise from_document(outcome["error"])
    log.error("task %s ended with %s: %s", kind, child.exit_code, child.last_words)
    if time.monotonic() - started >= timeout_s:
        raise SpineprintError(
            f"The computation '{kind}' took longer than {timeout_s:.0f} s and was stopped.",
            next_step="Resume the case to try again; if it repeats, send the support bundle.",
            code="task.timeout",
            retryable=True,
        )
    raise SpineprintError(
        f"The computation '{kind}' ended unexpectedly (exit {child.exit_code}).",
        next_step="Resume the case to try again; if it repeats, send the support bundle.",
        code="task.crashed",
        retryable=True,
    )


def _follow(lines: IO[str], progress: Progress) -> dict[str, Any] | None:
    for line in lines:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            log.warning("a task wrote a line that is not ours: %.200s", line.rstrip())
            continue
        if not isinstance(message, dict):
            log.warning("a task wrote a line that is not ours: %.200s", line.rstrip())
        elif "progress" in message:
            progress(str(message["stage"]), float(message["progress"]))
        elif "result" in message or "error" in message:
            found: dict[str, Any] = message
            return found
    return None


def serve_task(
    kind: str, tasks: Mapping[str, Task], prepare: Callable[[str], Ahead | None] | None = None
) -> int:
    """The child's side: load what the task needs, read the argument, watch the tether, run, answer.

    `prepare` does the loading, before the argument is there, and gives what takes messages that come before it.
    Returns the exit code.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not disturb the channel
    if kind not in URGENT:
        os.nice(GIVE_WAY)
    ahead = prepare(kind) if prepare is not None else None
    argument = _await_argument(ahead)
    if argument is None:
        return _EXIT_ORPHANED  # a child in waiting whose parent is gone, or has no use for it
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()

    def say(message: Mapping[str, object]) -> None:
        channel.write(json.dumps(message, default=str) + "\n")
        channel.flush()

    def progress(stage: str, fraction: float) -> None:
        say({"stage": stage, "progress": round(float(fraction), 4)})

    try:
        say({"result": tasks[kind](argument, progress)})
    except SpineprintError as exc:
        say({"error": exc.to_document()})
        return exc.exit_code
    except MemoryError:
        say(
            {
                "error": SpineprintError(
                    "Not enough memory for this scan.",
                    code="task.memory",
                    next_step="Free memory on the server, then resume the case.",
                    retryable=True,
                ).to_document()
            }
        )
        return 1
    except Exception as exc:  # noqa: BLE001 - the outermost loop of a worker process: everything must become an answer
        traceback.print_exc()
        say({"error": _unexpected(kind, exc).to_document()})
        return 1
    return 0


def _await_argument(ahead: Ahead | None) -> Mapping[str, Any] | None:
    while line := sys.stdin.readline():
        message: dict[str, Any] = json.loads(line)
        if set(message) != {_AHEAD}:
            return message
        if ahead is not None:
            ahead(message[_AHEAD])
    return None


def _unexpected(kind: str, exc: Exception) -> SpineprintError:
    if isinstance(exc, OSError) and exc.errno in _DISK_FAULTS:
        # the store brings the database's packages, which a child needs for this word only
        from service.store.blobs import storage_error

        return storage_error(exc, Path("work"))
    return SpineprintError(
        f"The computation '{kind}' failed unexpectedly.",
        code="task.defect",
        next_step="This is a defect: send the support bundle. The case can be resumed.",
    )


def _exit_when_orphaned() -> None:
    while sys.stdin.readline():
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # the group is ours (see `run_tethered`): what we started goes too
    os._exit(_EXIT_ORPHANED)
