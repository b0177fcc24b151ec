"""Heavy work in a child process: it dies with its parent, and whatever happens in it becomes an answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import GeometryError, SpineprintError
from service.geometry.progress import silent
from service.workflow import tether
from service.workflow.standby import Standby
from service.workflow.tether import Child, run_tethered
from tests.support_dicom import wait_until

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable  # the fixture below puts another one in its place

#: Stands for `service.cli run-task`: the same child side, with tasks made for these tests.
CHILD = """
import os, subprocess, sys, time
from pathlib import Path
from service.errors import GeometryError
from service.workflow.tether import serve_task

def echo(argument, progress):
    for n in range(3):
        progress("step", n / 2)
    return dict(argument)

def refuse(argument, progress):
    raise GeometryError("No path.", next_step="Move it.", code="geometry.no_path", details={"slices": [1, 2]})

def defect(argument, progress):
    raise KeyError("secret")

def memory(argument, progress):
    raise MemoryError

def crash(argument, progress):
    sys.stderr.write("about to crash\\n")
    os.abort()

def noisy(argument, progress):
    print("a library prints this")
    os.system("echo so does a program")
    return {"ok": True}

def forever(argument, progress):
    helper = subprocess.Popen(["sleep", "300"])
    Path(argument["pids"]).write_text(f"{os.getpid()} {helper.pid}")
    while True:
        time.sleep(0.05)
        progress("still at it", 0.5)

def numpy_forever(argument, progress):
    import numpy as np
    Path(argument["pids"]).write_text(f"{os.getpid()} {os.getpid()}")
    a = np.random.default_rng(0).random((400, 400))
    while True:
        a = np.linalg.qr(a)[0] + 1e-3

def lingering(argument, progress):
    import threading
    threading.Thread(target=lambda: time.sleep(300)).start()
    return {"ok": True}

def nice(argument, progress):
    return {"nice": os.nice(0)}

tasks = {f.__name__: f for f in (echo, refuse, defect, memory, crash, noisy, forever, numpy_forever, lingering)}
def who(argument, progress):
    progress("here", 0.5)
    return {"pid": os.getpid()}

told = []

def remembers(argument, progress):
    return {"told": told, "argument": argument}

def prepare(kind):
    return told.append if kind == "remembers" else None

tasks["verify"] = tasks["nice"] = nice
tasks |= {"who": who, "remembers": remembers}
raise SystemExit(serve_task(sys.argv[-1], tasks, prepare))
"""


@pytest.fixture(autouse=True)
def _own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_tethered` starts `<python> -m service.cli run-task <kind>`: here `<python>` is a script that starts ours."""
    child = tmp_path / "child.py"
    child.write_text(CHILD, "utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{PYTHON}" "{child}" "$@"\n', "utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TETHER_PYTHON", str(python))
    monkeypatch.setattr(tether.sys, "executable", str(python))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_argument_progress_and_result_pass_through():
    seen: list[tuple[str, float]] = []
    argument = {"files": ["ä☂"], "target": [1.5, -2.0, None], "long": "x" * 300_000}
    result = run_tethered("echo", argument, lambda stage, f: seen.append((stage, f)), timeout_s=200)
    assert result == argument
    assert seen == [("step", 0.0), ("step", 0.5), ("step", 1.0)]


def test_all_work_gives_way_to_a_verification():
    """On two busy cores the surgeon at the table comes before a model for next week."""
    own = os.nice(0)
    assert run_tethered("verify", {}, silent, timeout_s=200) == {"nice": own}
    assert run_tethered("nice", {}, silent, timeout_s=200) == {"nice": min(19, own + tether.GIVE_WAY)}


def test_a_refusal_comes_back_as_it_was():
    with pytest.raises(GeometryError) as caught:
        run_tethered("refuse", {}, silent, timeout_s=200)
    error = caught.value
    assert (error.message, error.next_step, error.code, error.details) == (
        "No path.", "Move it.", "geometry.no_path", {"slices": [1, 2]},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [("defect", "task.defect", False), ("memory", "task.memory", True), ("crash", "task.crashed", True),
     ("unknown-kind", "task.defect", False)],
)  # fmt: skip
def test_every_bad_end_has_its_code(kind: str, code: str, retryable: bool):
    with pytest.raises(SpineprintError) as caught:
        run_tethered(kind, {}, silent, timeout_s=200)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert caught.value.next_step
    assert "secret" not in str(caught.value)


def test_what_libraries_print_does_not_disturb():
    assert run_tethered("noisy", {}, silent, timeout_s=200) == {"ok": True}


def _pids(path: Path) -> tuple[int, int]:
    wait_until(lambda: path.exists() and len(path.read_text().split()) == 2, 20, "the child did not start")
    first, second = path.read_text().split()
    return int(first), int(second)


def test_a_task_that_takes_too_long_is_stopped_with_all_it_started(tmp_path: Path):
    pids = tmp_path / "pids"
    with pytest.raises(SpineprintError) as caught:
        run_tethered("forever", {"pids": str(pids)}, silent, timeout_s=3)
    assert (caught.value.code, caught.value.retryable) == ("task.timeout", True)
    child, helper = _pids(pids)
    wait_until(lambda: not _alive(child) and not _alive(helper), 5, "something is still running")


def test_a_task_that_answers_but_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tether, "_END_WITHIN_S", 0.5)
    started = time.monotonic()
    assert run_tethered("lingering", {}, silent, timeout_s=60) == {"ok": True}
    assert time.monotonic() - started < 30


def test_a_listener_that_fails_leaves_no_child_behind(tmp_path: Path):
    pids = tmp_path / "pids"

    def failing(_stage: str, _fraction: float) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run_tethered("forever", {"pids": str(pids)}, failing, timeout_s=60)
    child, helper = _pids(pids)
    wait_until(lambda: not _alive(child) and not _alive(helper), 5, "something is still running")


PARENT = """
import json, os, sys
from service.workflow import tether
tether.sys.executable = os.environ["TETHER_PYTHON"]
tether.run_tethered(sys.argv[1], {"pids": sys.argv[2]}, lambda s, f: None, timeout_s=300)
"""


@pytest.mark.parametrize("kind", ["forever", "numpy_forever"])
def test_kill_9_of_the_parent_ends_the_child_and_what_it_started_at_once(tmp_path: Path, kind: str):
    pids = tmp_path / "pids"
    parent = subprocess.Popen([PYTHON, "-c", PARENT, kind, str(pids)], cwd=ROOT)
    try:
        child, helper = _pids(pids)
        assert _alive(child)
        assert _alive(helper)
    finally:
        parent.kill()
        parent.wait(10)
    wait_until(lambda: not _alive(child) and not _alive(helper), 3, "an orphan works on")


def test_kill_9_of_the_whole_process_group_too(tmp_path: Path):
    pids = tmp_path / "pids"
    parent = subprocess.Popen([PYTHON, "-c", PARENT, "forever", str(pids)], cwd=ROOT, start_new_session=True)
    child, helper = _pids(pids)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait(10)
    wait_until(lambda: not _alive(child) and not _alive(helper), 3, "an orphan works on")


def test_lines_that_are_not_ours_are_passed_over():
    progress: list[tuple[str, float]] = []
    note: Callable[[str, float], None] = lambda s, f: progress.append((s, f))  # noqa: E731
    lines: list[Any] = [
        "noise\n",
        "5\n",
        "[1]\n",
        "null\n",
        json.dumps({"progress": 0.5, "stage": "x"}) + "\n",
    ]
    assert tether._follow(iter(lines), note) is None  # type: ignore[arg-type]
    assert tether._follow(iter([*lines, '{"result": {}}\n']), note) == {"result": {}}  # type: ignore[arg-type]
    assert progress == [("x", 0.5)] * 2


# --- in waiting -------------------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        if child.alive:
            child.end()


def _standby(started: list[Child], kind: str = "who") -> Standby:
    def start(kind: str) -> Child:
        started.append(Child(kind))
        return started[-1]

    return Standby(kind, timeout_s=200, start=start)


def test_the_child_in_waiting_does_the_work_once(started: list[Child]):
    standby = _standby(started)
    for _ in range(3):
        standby.keep(True)
    assert standby.run("who", {}, silent) == {"pid": started[0].pid}
    assert standby.run("who", {}, silent)["pid"] not in [c.pid for c in started]
    standby.keep(True)
    assert standby.run("nice", {}, silent)["nice"] >= 0, "another kind gets a child of its own"
    assert started[1].alive
    assert [c.pid for c in started][1:] == [standby.run("who", {}, silent)["pid"]]


def test_a_child_in_waiting_that_has_gone_is_no_reason_not_to_measure(started: list[Child]):
    standby = _standby(started)
    standby.keep(True)
    started[0].kill()
    wait_until(lambda: not started[0].alive, 5, "it lives on")
    assert standby.run("who", {}, silent)["pid"] != started[0].pid
    standby.keep(True)
    started[1].kill()
    wait_until(lambda: not started[1].alive, 5, "it lives on")
    standby.keep(True)
    assert standby.run("who", {}, silent) == {"pid": started[2].pid}


def test_none_is_started_while_a_task_of_its_kind_runs(started: list[Child]):
    standby = _standby(started)
    standby.run("who", {}, lambda _stage, _fraction: standby.keep(True))
    assert not started
    standby.keep(True)
    assert len(started) == 1


def test_who_is_not_needed_any_more_is_ended(started: list[Child]):
    standby = _standby(started)
    standby.keep(True)
    standby.keep(False)
    assert not started[0].alive
    standby.keep(True)
    standby.close()
    assert not started[1].alive


def test_files_of_an_arriving_scan_are_told_once_to_each_child_and_before_the_question(started: list[Child]):
    standby = _standby(started, "remembers")
    standby.tell(["too early"])
    standby.keep(True)
    standby.tell(["a", "b"])
    standby.tell(["a", "b", "c"])
    answer = standby.run("remembers", {"scan": 7}, silent)
    assert answer == {"told": [{"scan_files": ["a", "b"]}, {"scan_files": ["c"]}], "argument": {"scan": 7}}
    assert standby.run("remembers", {}, silent)["told"] == [], "a child started for a task knows nothing"
    standby.keep(True)
    standby.tell(["a"])
    assert standby.run("remembers", {}, silent)["told"] == [{"scan_files": ["a"]}]


def test_more_files_than_the_pipe_holds_do_not_stop_the_daemon(started: list[Child]):
    standby = _standby(started, "remembers")
    standby.keep(True)
    started_at = time.monotonic()
    for n in range(60):
        standby.tell([f"{n}/{i}" + "x" * 100 for i in range(100)])
    assert time.monotonic() - started_at < 5
    told = standby.run("remembers", {}, silent)["told"]
    assert 0 < sum(len(message["scan_files"]) for message in told) < 6000


def test_what_is_told_to_a_kind_that_does_nothing_ahead_is_passed_over(started: list[Child]):
    standby = _standby(started)
    standby.keep(True)
    standby.tell(["a"])
    assert standby.run("who", {}, silent) == {"pid": started[0].pid}


WAITING_PARENT = """
import os, sys, time
from pathlib import Path
from service.workflow import tether
tether.sys.executable = os.environ["TETHER_PYTHON"]
child = tether.Child("forever")
Path(sys.argv[1]).write_text(f"{child.pid} {child.pid}")
time.sleep(300)
"""


def test_kill_9_of_the_parent_ends_a_child_in_waiting(tmp_path: Path):
    pids = tmp_path / "pids"
    parent = subprocess.Popen([PYTHON, "-c", WAITING_PARENT, str(pids)], cwd=ROOT)
    try:
        child, _ = _pids(pids)
        assert _alive(child)
    finally:
        parent.kill()
        parent.wait(10)
    wait_until(lambda: not _alive(child), 10, "an orphan waits on")
