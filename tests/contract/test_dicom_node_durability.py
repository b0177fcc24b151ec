"""What was answered with Success survives kill -9 at any moment, byte for byte; nothing is half-written."""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from adapters.dicom_node.durable_store import DurableStore, Outcome, dataset_bytes, is_uid
from adapters.dicom_node.part10 import InstanceFacts, read_facts
from bench.dicom.senders import acknowledged
from service.errors import StorageError
from tests.support_dicom import CT_IMAGE, ROOT, need, wire_bytes, write_series

ROOT_OF_PROJECT = Path(__file__).resolve().parents[2]

# The signal is blocked before anything else is imported: a numerical library's threads, started at import, would
# otherwise take it with the default action.
NODE = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
from pathlib import Path
from adapters.dicom_node import DicomNode, NodeConfig

seen = open(sys.argv[2], "a", buffering=1)
config = NodeConfig("127.0.0.1", 0, Path(sys.argv[1]), require_known_callers=False, disk_reserve_bytes=0)
node = DicomNode(config, lambda instance: print(instance.sop_instance_uid, file=seen))
node.start()
print(node.port, flush=True)
signal.sigwait([signal.SIGTERM])
node.stop()
"""


def start_node(store: Path, seen: Path) -> tuple[subprocess.Popen[str], int]:
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(store), str(seen)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT_OF_PROJECT,
    )
    assert node.stdout is not None
    with node.stdout:
        return node, int(node.stdout.readline())


@pytest.mark.parametrize("round_", range(4))
def test_kill_9_under_parallel_senders(tmp_path: Path, round_: int) -> None:
    storescu = need("storescu")
    sent: dict[str, bytes] = {}
    uids: dict[str, str] = {}
    for sender in range(4):
        for file in write_series(
            tmp_path / f"ct{sender}", 40, series=f"{ROOT}.8{sender}", size=96, seed=sender + 1
        ):
            sent[str(file)] = wire_bytes(file)
            uids[str(file)] = str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
    store, seen = tmp_path / "store", tmp_path / "seen"
    node, port = start_node(store, seen)
    senders = [
        subprocess.Popen(
            [
                storescu,
                "-v",
                "-R",
                "+sd",
                "-aec",
                "SPINEPRINT",
                "127.0.0.1",
                str(port),
                str(tmp_path / f"ct{n}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    # the moment is drawn from where the run is, so that a slow machine is hit in the middle as well
    enough = random.Random(round_).randint(12, 60)
    end = time.monotonic() + 30
    while time.monotonic() < end and sum(1 for _ in (store / "instances").rglob("*.dcm")) < enough:
        time.sleep(0.002)
    node.send_signal(signal.SIGKILL)
    node.wait(10)
    success = [file for sender in senders for file in acknowledged(sender.communicate(timeout=60)[1])]
    assert 0 < len(success) < len(sent)

    node, _ = start_node(store, seen)
    end = time.monotonic() + 20
    while time.monotonic() < end and any((store / "pending").iterdir()):
        time.sleep(0.02)
    node.terminate()
    assert node.wait(20) == 0

    stored = {read_facts(p).sop_instance_uid: p for p in (store / "instances").rglob("*.dcm")}
    for file in success:
        assert dataset_bytes(stored[uids[file]]) == sent[file]
    for path in stored.values():
        facts = read_facts(path)
        data = dataset_bytes(path)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts.size, facts.sha256)
    assert not list((store / "incoming").iterdir())
    assert {uids[f] for f in success} <= set(stored) == set(seen.read_text().split())


def facts(uid: str = f"{ROOT}.1.1") -> InstanceFacts:
    return InstanceFacts(
        CT_IMAGE,
        uid,
        "1.2.840.10008.1.2",
        "CT",
        "US",
        "10.0.0.1",
        "a1",
        datetime(2024, 1, 2, tzinfo=UTC),
        "",
        0,
    )


def test_pending_survives_until_retired_even_without_its_final_link(tmp_path: Path) -> None:
    store = DurableStore(tmp_path, reserve_bytes=0)
    store.open()
    kept = store.keep(facts(), b"data set one")
    # a power cut may lose the link that had no barrier of its own
    kept.instance.path.unlink()
    again = DurableStore(tmp_path, reserve_bytes=0)
    again.open()
    (waiting,) = again.waiting()
    assert waiting == kept and waiting.outcome is Outcome.NEW
    assert dataset_bytes(waiting.instance.path) == b"data set one"
    again.retire(waiting)
    assert list(again.waiting()) == []
    assert again.keep(facts(), b"data set one").outcome is Outcome.DUPLICATE


def test_conflict_keeps_both_and_is_replayed_as_conflict(tmp_path: Path) -> None:
    store = DurableStore(tmp_path, reserve_bytes=0)
    store.open()
    first = store.keep(facts(), b"one")
    second = store.keep(facts(), b"two")
    assert (first.outcome, second.outcome) == (Outcome.NEW, Outcome.CONFLICT)
    assert dataset_bytes(first.instance.path) == b"one" and dataset_bytes(second.instance.path) == b"two"
    outcomes = {k.instance.sha256: k.outcome for k in store.waiting()}
    assert outcomes == {first.instance.sha256: Outcome.NEW, second.instance.sha256: Outcome.CONFLICT}


def test_a_damaged_pending_file_does_not_stop_the_node(tmp_path: Path) -> None:
    store = DurableStore(tmp_path, reserve_bytes=0)
    store.open()
    good = store.keep(facts(), b"one")
    (tmp_path / "pending" / "ab-cd.dcm").write_bytes(b"rotten")
    assert [k.instance for k in store.waiting()] == [good.instance]
    assert [p.name for p in (tmp_path / "quarantine").iterdir()] == ["ab-cd.dcm.damaged"]


def test_cut_off_files_are_swept_at_start(tmp_path: Path) -> None:
    store = DurableStore(tmp_path, reserve_bytes=0)
    store.open()
    (tmp_path / "incoming" / "x.part").write_bytes(b"half")
    assert store.open() == 1
    assert not list((tmp_path / "incoming").iterdir())


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = DurableStore(tmp_path, reserve_bytes=0)
    store.open()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError) as refused:
            store.keep(facts(), b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert refused.value.code == "storage.full"
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert store.keep(facts(), b"x" * 100_000).outcome is Outcome.NEW


@pytest.mark.parametrize("text", ["", "1..2", "../../x", "1.2/3", "1.2.", "1" * 65, "1.2\n", "１.2", "1.2\0"])
def test_what_is_not_a_uid(text: str) -> None:
    assert not is_uid(text)


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.2", "1.02.3", "9" * 64])
def test_what_is_a_uid(text: str) -> None:
    assert is_uid(text)
