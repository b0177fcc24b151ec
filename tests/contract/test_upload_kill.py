"""The web process under kill -9 and under large files: what was answered for is there, memory stays small."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from adapters.dicom_node.durable_store import is_intact
from service.bootstrap import open_app
from service.config import load_config
from service.domain.people import Role
from service.store import studies
from service.store.database import open_engine, reading
from service.workflow import identity
from tests.support_app import PASSWORD
from tests.support_dicom import ROOT, ct_slice, free_port, save, wait_until, wire_bytes
from tests.support_web import BOUNDARY, STOW_TYPE, ct_file, related, stow, upload, zipped

PROJECT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("SPINEPRINT_KILL_ROUNDS", "1"))


@dataclass
class Served:
    """`spineprint serve --role web` on a data folder, to be killed and started again."""

    data: Path
    log: Path
    port: int = 0
    secret: str = ""
    session: str = ""
    process: subprocess.Popen[bytes] | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        own = {
            "SPINEPRINT_DATA_DIR": str(self.data),
            "SPINEPRINT_WEB__PORT": str(self.port),
            "SPINEPRINT_DICOM__DISK_RESERVE_MB": "0",
        }
        return {k: v for k, v in os.environ.items() if not k.startswith("SPINEPRINT_")} | own | self.extra

    def prepare(self) -> None:
        app = open_app(load_config(None, self.environ))
        identity.add_user(
            app, username="ada", display_name="Ada", roles=[Role.PLANNER.value], password=PASSWORD, by="test"
        )
        self.session, _, _ = identity.log_in(app, "ada", PASSWORD)
        self.secret = identity.add_token(app, "machine", ["dicom_web"], "test")
        app.engine.dispose()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve", "--role", "web"],
                cwd=PROJECT, env=self.environ, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self._ready, 120, "the web process did not come up")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health/live", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)

    def client(self, secret: str) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {secret}"},
            timeout=120,
        )

    def anonymous_bytes(self) -> int:
        """Memory of the process that is no file's."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) << 10

    def stored(self) -> dict[str, tuple[str, int]]:
        """SOP instance UID -> path of the copy in use, and how many copies."""
        engine = open_engine(load_config(None, self.environ).resolved_database_url)
        with reading(engine) as connection:
            rows = [
                i for s in studies.listed(connection) for i in studies.instances_of(connection, s.study_uid)
            ]
        engine.dispose()
        return {r.sop_uid: (r.path, sum(o.sop_uid == r.sop_uid for o in rows)) for r in rows}


@contextmanager
def serving(folder: Path, **extra: str) -> Iterator[Served]:
    made = Served(folder / "data", folder / "log", free_port(), extra=extra)
    made.prepare()
    made.start()
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()


def _stow_all(served: Served, batches: list[list[Path]], answered: set[str], stop: threading.Event) -> None:
    with served.client(served.secret) as client:
        for batch in batches:
            if stop.is_set():
                return
            try:
                answer = stow(client, related(*(f.read_bytes() for f in batch)))
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                answered |= {i["00081155"]["Value"][0] for i in answer.json()["00081199"]["Value"]}


def _upload_all(served: Served, batches: list[list[Path]], answered: set[str], stop: threading.Event) -> None:
    with served.client(served.session) as client:
        for number, batch in enumerate(batches):
            if stop.is_set():
                return
            files = {f.name: f.read_bytes() for f in batch}
            sent = [("disc.zip", zipped(files))] if number % 2 else list(files.items())
            try:
                answer = upload(client, *sent)
            except httpx.TransportError:
                return
            if answer.status_code == 200 and answer.json()["refused"] == 0:
                answered |= {str(dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in batch}


@pytest.mark.timeout(600)
def test_kill_9_in_the_middle_of_uploads(tmp_path: Path) -> None:
    rng = random.Random(7)
    answered: set[str] = set()
    originals: dict[str, bytes] = {}
    with serving(tmp_path) as served:
        for round_ in range(ROUNDS):
            threads, stop = [], threading.Event()
            for number, work in enumerate((_stow_all, _stow_all, _upload_all, _upload_all)):
                series = f"{ROOT}.{round_ + 1}.{number + 1}"
                files = [
                    ct_file(
                        tmp_path / f"{round_}-{number}",
                        i,
                        size=96,
                        seed=1,
                        series=series,
                        study=f"{series}.9",
                    )
                    for i in range(120)
                ]
                originals |= {f"{series}.{i + 1}": wire_bytes(f) for i, f in enumerate(files)}
                batches = [files[i : i + 6] for i in range(0, 120, 6)]
                threads.append(threading.Thread(target=work, args=(served, batches, answered, stop)))
            for thread in threads:
                thread.start()
            # by what was answered, not by time: a busy machine would make every kill too early
            enough = len(answered) + rng.randint(20, 150)
            wait_until(lambda enough=enough: len(answered) >= enough, 60, "nothing was stored")
            time.sleep(rng.uniform(0.0, 0.1))
            served.kill()
            stop.set()
            for thread in threads:
                thread.join(60)
            served.start()
            assert list((served.data / "uploads" / "arriving").iterdir()) == []
        assert len(answered) < len(originals), "the kills came after everything was sent"
        wait_until(lambda: answered <= set(served.stored()), 60, "what was answered for is not all there")
        stored = served.stored()
    for uid, (path, copies) in stored.items():
        assert copies == 1
        assert wire_bytes(Path(path)) == originals[uid], uid
    files = list((served.data / "dicom-web" / "instances").glob("*/*.dcm"))
    assert all(is_intact(f) for f in files)
    assert not list((served.data / "dicom-web" / "incoming").iterdir())
    assert "Traceback" not in served.log.read_text()


@pytest.mark.timeout(300)
def test_a_large_instance_takes_little_memory(tmp_path: Path) -> None:
    """120 MB in one part and the same in a zip: the process grows by less than 64 MB."""
    frames, size = 240, 512
    dataset = ct_slice(0, size=8)
    dataset.Rows = dataset.Columns = size
    dataset.NumberOfFrames = frames
    dataset.PixelData = os.urandom(1 << 20) * (frames * size * size * 2 >> 20)
    big = save(dataset, tmp_path / "big")

    def body() -> Iterator[bytes]:
        yield related(b"", end=False)[:-2]
        with big.open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    with serving(tmp_path, SPINEPRINT_WEB__MAX_UPLOAD_MB="400") as served:
        highest, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                highest[0] = max(highest[0], served.anonymous_bytes())

        with served.client(served.secret) as client:
            assert stow(client, related(ct_file(tmp_path, 1).read_bytes())).status_code == 200
            before = served.anonymous_bytes()
            watcher = threading.Thread(target=watch)
            watcher.start()
            started = time.monotonic()
            answer = client.post("/dicom-web/studies", content=body(), headers={"Content-Type": STOW_TYPE})
            took_s = time.monotonic() - started
        assert answer.status_code == 200, answer.text
        archive = tmp_path / "big.zip"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.2.77"
        archive.write_bytes(zipped({"big": save(dataset, big).read_bytes()}, method=0))
        with served.client(served.session) as client, archive.open("rb") as stream:
            zipped_answer = client.post("/api/v1/uploads", files=[("file", ("big.zip", stream))])
        done.set()
        watcher.join()
        assert zipped_answer.json()["stored"] == 1, zipped_answer.text
        print(
            f"{big.stat().st_size >> 20} MB in {took_s:.1f} s, memory grew {(highest[0] - before) >> 20} MB"
        )
        assert highest[0] - before < 64 << 20
        wait_until(lambda: set(served.stored()) >= {f"{ROOT}.2.1", f"{ROOT}.2.77"}, 30)
        assert wire_bytes(Path(served.stored()[f"{ROOT}.2.77"][0])) == wire_bytes(big)


def test_the_web_role_stops_cleanly(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        with served.client(served.secret) as client:
            assert stow(client, related(ct_file(tmp_path, 1).read_bytes())).status_code == 200
        served.kill(signal.SIGTERM)
        assert served.process is not None
        assert served.process.returncode == 0, served.log.read_text()[-2000:]
        assert len(served.stored()) == 1
