"""The real DBOS behind our port, on SQLite and on PostgreSQL, in processes of its own.

DBOS is one per process, so each worker is a subprocess driven by lines: it writes what it did to a log file,
which is the witness over kill -9 and restart.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support_dicom import wait_until

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import json, os, sys, time
from pathlib import Path
from adapters.job_queue.dbos_queue import DbosJobQueue
from adapters.job_queue.engine import queue_engine
from service.errors import ConflictError
from service.ports import JobRequest

url, folder, executor = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def note(*words):
    with (folder / "log").open("a") as f:
        f.write(" ".join(words) + "\\n")

def quick(key, argument):
    note("quick", key, argument)

def slow(key, argument):
    note("begin", key)
    end = time.monotonic() + float(argument)
    while time.monotonic() < end and not (folder / "release").exists():
        time.sleep(0.02)
    note("end", key)

def flaky(key, argument):
    note("try", key)
    if not Path(argument).exists():
        raise RuntimeError("not yet")
    note("done", key)

queue = DbosJobQueue(queue_engine(url), executor, folder / f"worker-{executor}.lock")
try:
    queue.run_worker({"quick": quick, "slow": slow, "flaky": flaky}, ("cpu", "urgent", "printers", "io"))
except ConflictError as exc:
    print(json.dumps({"refused": exc.code}), flush=True)
    raise SystemExit(2)
print(json.dumps({"ready": os.getpid()}), flush=True)
for line in sys.stdin:
    verb, *rest = json.loads(line)
    answer = None
    if verb == "enqueue":
        queue.enqueue(JobRequest(**rest[0]))
    elif verb == "status":
        answer = queue.status(rest[0]).value
    elif verb == "cancel":
        queue.cancel(rest[0])
    elif verb == "stop":
        queue.stop(0)
    print(json.dumps({"answer": answer}), flush=True)
    if verb == "stop":
        os._exit(0)
"""


class Worker:
    def __init__(self, url: str, folder: Path, executor: str = "worker-1") -> None:
        self.folder = folder
        self._errors = (folder / f"{executor}.err").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url, str(folder), executor], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.first = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise AssertionError((self.folder / "worker-1.err").read_text()[-2000:])

    def ask(self, *words: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self._read()["answer"]

    def enqueue(self, key: str, kind: str, argument: str = "", queue: str = "io", **more: object) -> None:
        self.ask("enqueue", {"key": key, "kind": kind, "argument": argument, "queue": queue, **more})

    def status(self, key: str) -> str:
        return str(self.ask("status", key))

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, *lines: str, within: float = 20.0) -> None:
        wait_until(lambda: set(lines) <= set(self.log()), within, f"never saw {lines}; saw {self.log()}")

    def kill(self) -> None:
        """kill -9; harmless when it has ended already."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self._errors.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, list[Worker]]]:
    url = (
        f"sqlite:///{tmp_path / 'queue.sqlite3'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    workers: list[Worker] = []
    yield url, tmp_path, workers
    for worker in workers:
        worker.kill()


def _start(place: tuple[str, Path, list[Worker]], executor: str = "worker-1") -> Worker:
    url, folder, workers = place
    worker = Worker(url, folder, executor)
    workers.append(worker)
    return worker


def test_jobs_run_once_and_can_be_asked_about(place: tuple[str, Path, list[Worker]]):
    """One worker for several questions: starting DBOS takes longer than asking."""
    worker = _start(place)
    assert worker.status("nobody") == "unknown"

    for _ in range(3):
        worker.enqueue("a", "quick", "x")
    worker.until("quick a x")
    wait_until(lambda: worker.status("a") == "done", 10, "never done")
    worker.enqueue("a", "quick", "x")

    # a job that fails is FAILED, and asking for it again runs it again
    flag = worker.folder / "flag"
    worker.enqueue("f", "flaky", str(flag))
    wait_until(lambda: worker.status("f") == "failed", 10, "never failed")
    flag.write_text("")
    worker.enqueue("f", "flaky", str(flag))
    worker.until("done f")
    wait_until(lambda: worker.status("f") == "done", 10, "never done")

    # an urgent job does not wait behind a long one on cpu; a second cpu job does
    worker.enqueue("long", "slow", "60", "cpu", priority=10)
    worker.until("begin long")
    worker.enqueue("later", "quick", "x", "cpu", priority=10)
    worker.enqueue("sooner", "quick", "x", "cpu", priority=1)
    worker.enqueue("dropped", "quick", "x", "cpu", priority=5)
    worker.enqueue("now", "quick", "x", "urgent", priority=1)
    worker.until("quick now x", within=5)
    assert worker.status("long") == "running"
    assert worker.status("later") == "queued"
    worker.ask("cancel", "dropped")
    assert worker.status("dropped") == "cancelled"

    # one printer takes one job at a time, another printer is not held up
    worker.enqueue("p1", "slow", "60", "printers", partition="um3-a")
    worker.enqueue("p2", "quick", "x", "printers", partition="um3-a")
    worker.enqueue("p3", "quick", "x", "printers", partition="um3-b")
    worker.until("begin p1", "quick p3 x")
    assert "quick p2 x" not in worker.log()

    (worker.folder / "release").write_text("")
    worker.until("end long", "quick later x", "quick sooner x", "end p1", "quick p2 x")
    log = worker.log()
    assert log.index("quick sooner x") < log.index("quick later x")
    assert "quick dropped x" not in log
    assert log.count("quick a x") == 1
    worker.ask("stop")


def test_a_job_cut_off_by_kill_9_runs_again_and_a_finished_one_does_not(
    place: tuple[str, Path, list[Worker]],
):
    first = _start(place)
    first.enqueue("done", "quick", "x")
    first.until("quick done x")
    wait_until(lambda: first.status("done") == "done", 10, "never done")
    first.enqueue("cut", "slow", "60", "cpu")
    first.enqueue("waiting", "quick", "x", "cpu")
    first.until("begin cut")

    twin = _start(place)
    assert twin.first == {"refused": "worker.duplicate"}
    assert twin.process.wait(10) == 2
    assert first.log().count("begin cut") == 1

    first.kill()
    (first.folder / "release").write_text("")
    second = _start(place)  # the lock of a dead process is free
    assert "ready" in second.first
    second.until("end cut", "quick waiting x", within=30)
    wait_until(lambda: second.status("cut") == "done", 10, "never done")
    log = second.log()
    assert log.count("begin cut") == 2  # at least once: handlers must be idempotent
    assert log.count("end cut") == 1
    assert log.count("quick done x") == 1
    assert log.count("quick waiting x") == 1
    second.ask("stop")
