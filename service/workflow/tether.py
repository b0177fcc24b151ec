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
from service.store.blobs import storage_error

log = logging.getLogger("spineprint.tasks")

#: One kind of heavy work: JSON-able argument and progress in, JSON-able result out.
Task = Callable[[Mapping[str, Any], Progress], dict[str, Any]]

#: Kinds of work somebody waits for at an operating table; all others give way to them.
URGENT = ("verify",)
#: What the others add to their niceness: a model build then takes a tenth of a core from a verification.
GIVE_WAY = 10

_EXIT_ORPHANED = 70
_END_WITHIN_S = 30.0
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def run_tethered(
    kind: str, argument: Mapping[str, Any], progress: Progress, *, timeout_s: float
) -> dict[str, Any]:
    """Run one task in a child process and wait for its result.

    Raises
    ------
    SpineprintError
        What the task raised, rebuilt here; or code `task.crashed` / `task.timeout`.
    """
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "run-task", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
            text=True,
            encoding="utf-8",
            process_group=0,  # so that whatever the task starts (the slicer) can be ended with it
        )
        started = time.monotonic()
        watchdog = threading.Timer(timeout_s, _kill_group, (child,))
        watchdog.start()
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps(dict(argument)) + "\n")
            child.stdin.flush()
            outcome = _follow(child.stdout, progress)
        except BrokenPipeError:
            outcome = None
        finally:
            watchdog.cancel()
            if child.stdin:
                try:
                    child.stdin.close()
                except BrokenPipeError:
                    log.debug("task %s had already gone", kind)
            try:
                child.wait(timeout=_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                log.warning("task %s answered but did not end; it is stopped", kind)
            _kill_group(child)
            child.wait()
            if child.stdout:
                child.stdout.close()
        if outcome is not None and "result" in outcome:
            result: dict[str, Any] = outcome["result"]
            return result
        if outcome is not None and "error" in outcome:
            raise from_document(outcome["error"])
        errors.seek(0)
        tail = errors.read()[-2000:].decode("utf-8", "replace")
        log.error("task %s ended with %s: %s", kind, child.returncode, tail)
        if time.monotonic() - started >= timeout_s:
            raise SpineprintError(
                f"The computation '{kind}' took longer than {timeout_s:.0f} s and was stopped.",
                next_step="Resume the case to try again; if it repeats, send the support bundle.",
                code="task.timeout",
                retryable=True,
            )
        raise SpineprintError(
            f"The computation '{kind}' ended unexpectedly (exit {child.returncode}).",
            next_step="Resume the case to try again; if it repeats, send the support bundle.",
            code="task.crashed",
            retryable=True,
        )


def _kill_group(child: subprocess.Popen[str]) -> None:
    """End the child and everything it started. The group outlives its leader while any of them runs."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("task process %d and all it started had already gone", child.pid)


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


def serve_task(kind: str, tasks: Mapping[str, Task]) -> int:
    """The child's side: read the argument, watch the tether, run, answer. Returns the exit code."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not disturb the channel
    if kind not in URGENT:
        os.nice(GIVE_WAY)
    argument = json.loads(sys.stdin.readline() or "{}")
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


def _unexpected(kind: str, exc: Exception) -> SpineprintError:
    if isinstance(exc, OSError) and exc.errno in _DISK_FAULTS:
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
