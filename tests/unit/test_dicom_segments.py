"""The segment log: what was durable is found again, and only that; barriers are shared; nothing is freed too early."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.dicom_node import durable_store, segments
from adapters.dicom_node import landing as landing_module
from adapters.dicom_node.direct_io import flag_for, room
from adapters.dicom_node.durable_store import DurableStore, Kept, Outcome, dataset_bytes
from adapters.dicom_node.landing import MOST_IN_MEMORY, Landing
from adapters.dicom_node.part10 import InstanceFacts, read_facts, read_meta
from adapters.dicom_node.segment_files import BLOCK, Record, record_header
from adapters.dicom_node.segments import SegmentLog
from adapters.dicom_node.writer import Writer
from service.errors import StorageError
from tests.support_dicom import CT_IMAGE, ROOT, wait_until

SEGMENT = 16 * BLOCK
SCRATCH, FIRST = durable_store._SCRATCH_BYTES, landing_module._FIRST_BYTES
"""What a store copies in one piece, and what a landing holds before it grows."""


def facts(number: int, data: bytes) -> InstanceFacts:
    return InstanceFacts(
        sop_class_uid=CT_IMAGE,
        sop_instance_uid=f"{ROOT}.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae="CTSCANNER",
        called_ae="SPINEPRINT",
        peer_address="127.0.0.1",
        association="a" * 32,
        received_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )


def opened(folder: Path, spare: int = 1) -> tuple[SegmentLog, list[Record]]:
    log = SegmentLog(folder / "segments", segment_bytes=SEGMENT, spare_segments=spare)
    return log, log.open()


def append(log: SegmentLog, number: int, data: bytes) -> Record:
    frame = room(BLOCK + len(data))
    frame[BLOCK : BLOCK + len(data)] = data
    return log.append(facts(number, data), frame)


def content(record: Record) -> bytes:
    return b"".join(bytes(block) for block in record.blocks())


def test_records_are_found_again_in_order_with_bytes_and_facts(tmp_path: Path) -> None:
    log, found = opened(tmp_path)
    assert found == []
    data = {n: os.urandom(n * 977) for n in range(1, 12)}
    for number, some in data.items():
        append(log, number, some)
    log.close()
    _, found = opened(tmp_path)
    assert [content(r) for r in found] == list(data.values())
    assert [r.facts for r in found] == [facts(n, some) for n, some in data.items()]


@pytest.mark.parametrize("damage", ["data", "header", "facts", "cut"])
def test_a_record_that_was_cut_off_is_passed_over_and_those_behind_it_are_kept(
    tmp_path: Path, damage: str
) -> None:
    log, _ = opened(tmp_path)
    records = [append(log, n, bytes([n]) * 5000) for n in (1, 2, 3)]
    victim = records[1]
    where = {"data": victim.offset + 4000, "header": victim.offset - BLOCK + 10, "facts": victim.offset - BLOCK + 80,
             "cut": victim.offset - BLOCK}[damage]  # fmt: skip
    os.pwrite(victim.segment.descriptor, b"\xee" * (BLOCK if damage == "cut" else 4), where)
    log.close()
    _, found = opened(tmp_path)
    assert [r.facts.sop_instance_uid for r in found] == [f"{ROOT}.1", f"{ROOT}.3"]


def test_records_of_an_earlier_version_are_found_by_their_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_check(*arguments: object) -> bytes:
        return record_header(*arguments[:-1], "")  # type: ignore[arg-type]

    monkeypatch.setattr(segments, "record_header", without_check)
    log, _ = opened(tmp_path)
    append(log, 1, b"a" * 9000)
    cut = append(log, 2, b"b" * 9000)
    os.pwrite(cut.segment.descriptor, b"\xee", cut.offset + 8999)
    log.close()
    _, (found,) = opened(tmp_path)
    assert (content(found), found.check) == (b"a" * 9000, "")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    "size", [1, 4095, 4096, 4097, SCRATCH - 1, SCRATCH, SCRATCH + 1, 2 * SCRATCH + 1, MOST_IN_MEMORY + 7]
)
def test_the_file_of_a_record_holds_its_bytes_and_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    """With O_DIRECT, and as on a file system that cannot."""
    for module in (segments, durable_store):
        monkeypatch.setattr(module, "flag_for", lambda folder: flag_for(folder) if direct else 0)
    log = SegmentLog(tmp_path / "segments", segment_bytes=64 << 20, spare_segments=0)
    log.open()
    store = DurableStore(tmp_path / "store", reserve_bytes=0)
    store.open()
    landing = Landing(log, lambda _: None, largest_bytes=1 << 30)
    records = []
    for number in (1, 2):
        data = os.urandom(size)
        records.append((land(landing, facts(number, data), data, 131_000), data))
    for record, data in records:
        path = store.place(record).instance.path
        assert dataset_bytes(path) == data
        assert read_facts(path).sha256 == hashlib.sha256(data).hexdigest()
        assert path.stat().st_size == read_meta(path).dataset_offset + size
        assert pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=[]
        ).file_meta.MediaStorageSOPInstanceUID
    assert not list(tmp_path.rglob("*.probe")) and not list(tmp_path.rglob("*.part"))


def test_a_log_that_reads_back_other_bytes_makes_no_file(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    data = b"a" * 9000
    record = replace(append(log, 1, data), facts=replace(facts(1, data), sha256=""))
    os.pwrite(record.segment.descriptor, b"\xee", record.offset + 8000)
    store = DurableStore(tmp_path / "store", reserve_bytes=0)
    store.open()
    with pytest.raises(StorageError) as told:
        store.place(record)
    assert told.value.code == "storage.damaged"
    assert not list((tmp_path / "store").rglob("*.dcm")) and not list((tmp_path / "store").rglob("*.part"))


def test_a_damaged_record_is_set_aside_and_told_and_those_behind_it_get_their_files(tmp_path: Path) -> None:
    seen: list[Kept] = []
    told: list[tuple[Record, Path]] = []
    log, _, writer = rig(tmp_path, seen, on_damaged=lambda record, path: told.append((record, path)))
    data = {n: bytes([n]) * 9000 for n in (1, 2, 3)}
    records = [replace(append(log, n, d), facts=replace(facts(n, d), sha256="")) for n, d in data.items()]
    os.pwrite(records[1].segment.descriptor, b"\xee", records[1].offset + 8000)
    for record in records:
        writer.enqueue(record)
    writer.start()
    assert writer.settle(20.0)
    assert [k.instance.sop_instance_uid for k in seen] == [f"{ROOT}.1", f"{ROOT}.3"]
    ((record, path),) = told
    assert record is records[1] and path.parent.name == "quarantine" and path.suffix == ".damaged"
    assert dataset_bytes(path) == data[2][:8000] + b"\xee" + data[2][8001:]
    for kept in seen:
        writer.acknowledged(kept)
    wait_until(lambda: log.spare == 1, 10)  # nothing of it keeps the segment
    writer.stop(5.0)


def test_a_full_disk_keeps_neither_store_nor_log_from_starting(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "spineprint-test", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        log, _ = opened(tmp_path, spare=0)
        append(log, 1, b"a" * 9000)
        log.close()
        DurableStore(tmp_path / "store", reserve_bytes=0).open()
        with (tmp_path / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        DurableStore(tmp_path / "store", reserve_bytes=0).open()
        log, found = opened(tmp_path, spare=0)
        assert [content(r) for r in found] == [b"a" * 9000]
        log.close()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], capture_output=True, check=True)


def test_a_segment_used_again_forgets_what_it_held(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    old = [append(log, n, b"old" * 3000) for n in range(3)]
    for record in old:
        log.placed(record)
    assert log.retire(also_active=True) == 1
    append(log, 77, b"new")
    assert len(list((tmp_path / "segments").glob("*.seg"))) == 1, "the file is used again"
    log.close()
    _, found = opened(tmp_path)
    assert [r.facts.sop_instance_uid for r in found] == [f"{ROOT}.77"]


def test_nothing_is_freed_while_one_record_waits(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    first, second = append(log, 1, b"a" * 9000), append(log, 2, b"b" * 9000)
    log.placed(first)
    assert log.retire(also_active=True) == 0
    log.placed(second)
    assert log.retire(also_active=True) == 1


def test_nothing_is_freed_when_the_sync_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = opened(tmp_path)
    record = append(log, 1, b"a" * 9000)
    log.placed(record)

    def failing(folder: Path) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(segments, "sync_file_system", failing)
    with pytest.raises(StorageError):
        log.retire(also_active=True)
    log.close()
    _, found = opened(tmp_path)
    assert len(found) == 1


def test_after_a_failed_barrier_nothing_is_acknowledged_from_that_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path)
    good = append(log, 1, b"a")
    real = os.fdatasync

    def failing(descriptor: int) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(StorageError, match="cannot be written"):
        append(log, 2, b"b")
    monkeypatch.setattr(os, "fdatasync", real)
    after = append(log, 3, b"c")
    assert after.segment is not good.segment
    log.placed(good)
    log.placed(after)
    log.retire(also_active=True)
    assert not good.segment.path.exists(), "a file whose sync failed is not used again"


def test_parallel_writers_wait_each_for_itself_and_all_hear_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SegmentLog(tmp_path / "segments", segment_bytes=4 << 20, spare_segments=1)
    log.open()
    real, descriptors, together = os.fdatasync, set(), threading.Barrier(4)

    def slow(descriptor: int) -> None:
        descriptors.add(descriptor)
        together.wait(10)  # passes only when four wait at the same time
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    run_in_threads(4, lambda n: append(log, n, b"x" * 6000))
    assert len(descriptors) == 4, "a failed write-back is told once to each open descriptor"

    def failing_once(descriptor: int) -> None:
        if together.wait(10) == 0:
            raise OSError(5, "no")
        threading.Event().wait(0.1)

    monkeypatch.setattr(os, "fdatasync", failing_once)
    told: list[str] = []

    def refused(n: int) -> None:
        with pytest.raises(StorageError) as error:
            append(log, 10 + n, b"y" * 6000)
        told.append(error.value.code)

    run_in_threads(4, refused)
    assert told == ["storage.failed"] * 4
    log.close()
    assert len(SegmentLog(tmp_path / "segments", segment_bytes=4 << 20, spare_segments=1).open()) >= 4


def run_in_threads(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3 * SEGMENT), min_size=1, max_size=8), st.data())
def test_any_sizes_and_any_subset_placed_replays_to_what_was_not_retired(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log, _ = opened(folder)
    records = [append(log, n, bytes([n + 1]) * size) for n, size in enumerate(sizes)]
    placed = data.draw(st.sets(st.sampled_from(range(len(records)))))
    for number in placed:
        log.placed(records[number])
    log.retire(also_active=data.draw(st.booleans()))
    log.close()
    _, found = opened(folder)
    missing = set(range(len(records))) - {int(r.facts.sop_instance_uid.rsplit(".", 1)[1]) for r in found}
    assert missing <= placed
    for record in found:
        assert xxhash.xxh3_128_hexdigest(content(record)) == record.check


# --- landing and writer -----------------------------------------------------------------------------------


def land(landing: Landing, about: InstanceFacts, data: bytes, piece: int) -> Record:
    landing.begin()
    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        view = landing.view(len(part))
        view[:] = part
        view.release()
        landing.filled(len(part))
    return landing.finish(replace(about, sha256=""))


@pytest.mark.parametrize(
    "size",
    [1, 4096, FIRST, FIRST + 1, 2 * FIRST + 1, MOST_IN_MEMORY, MOST_IN_MEMORY + 1, 3 * MOST_IN_MEMORY + 5],
)
def test_what_lands_in_pieces_is_what_was_sent(tmp_path: Path, size: int) -> None:
    log = SegmentLog(tmp_path / "segments", segment_bytes=SEGMENT, spare_segments=0)
    log.open()
    landing = Landing(log, lambda _: None, largest_bytes=1 << 30)
    data = os.urandom(size)
    record = land(landing, facts(1, data), data, 131_000)
    assert record.facts == replace(facts(1, data), sha256="")
    assert record.check == xxhash.xxh3_128_hexdigest(data)
    assert content(record) == data
    assert len(landing.view(1)) == 1, "the buffer is ready for the next"
    log.close()
    _, found = opened(tmp_path)
    assert [content(r) for r in found] == [data]


def test_what_is_too_large_or_finds_no_room_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)

    def full(_: int) -> None:
        raise StorageError("full", code="storage.full")

    data = bytes(MOST_IN_MEMORY + (1 << 20))
    with pytest.raises(StorageError) as told:
        land(Landing(log, lambda _: None, largest_bytes=1 << 20), facts(1, data), data, 131_000)
    assert told.value.code == "storage.size"
    with pytest.raises(StorageError) as told:
        land(Landing(log, full, largest_bytes=1 << 30), facts(1, data), data, 131_000)
    assert told.value.code == "storage.full"
    assert not list((tmp_path / "segments").glob("*.big"))
    log.close()
    assert opened(tmp_path)[1] == []


def rig(
    folder: Path, sink: list[Kept], on_damaged: Callable[[Record, Path], None] = lambda _record, _path: None
) -> tuple[SegmentLog, DurableStore, Writer]:
    store = DurableStore(folder, reserve_bytes=0)
    store.open()
    log, _ = opened(folder)
    return log, store, Writer(log, store, sink.append, on_damaged)


def test_the_writer_keeps_the_segment_until_the_sink_has_it_or_a_mark_is_made(tmp_path: Path) -> None:
    placed: list[Kept] = []
    log, store, writer = rig(tmp_path, placed)
    record = append(log, 1, b"a" * 9000)
    writer.start()
    writer.enqueue(record)
    assert writer.settle(10)
    assert dataset_bytes(placed[0].instance.path) == b"a" * 9000
    assert log.retire(also_active=True) == 0, "the sink does not have it yet"
    assert not list((tmp_path / "pending").iterdir())
    writer.acknowledged(placed[0])
    wait_until(lambda: log.retire(also_active=True) == 1 or not record.segment.waiting)
    writer.stop(5)
    assert store.free_bytes() > 0


def test_a_sink_that_does_not_return_costs_a_mark_and_not_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.dicom_node.writer._PATIENCE_S", 0.2)
    placed: list[Kept] = []
    log, _, writer = rig(tmp_path, placed)
    writer.start()
    writer.enqueue(append(log, 1, b"a" * 9000))
    wait_until(lambda: len(list((tmp_path / "pending").iterdir())) == 1, 10, "no mark was made")
    writer.acknowledged(placed[0])
    assert not list((tmp_path / "pending").iterdir())
    writer.stop(5)


def test_replay_writes_again_what_a_power_cut_left_unfinished(tmp_path: Path) -> None:
    placed: list[Kept] = []
    log, store, _ = rig(tmp_path, placed)
    record = append(log, 1, b"right" * 2000)
    kept = store.place(record)
    kept.instance.path.chmod(0o640)
    kept.instance.path.write_bytes(kept.instance.path.read_bytes()[:-100])
    again = store.place(record, replayed=True)
    assert again.outcome is Outcome.NEW
    assert dataset_bytes(again.instance.path) == b"right" * 2000
    assert store.place(record, replayed=True).outcome is Outcome.DUPLICATE


def test_other_content_goes_to_quarantine_and_never_over_the_first(tmp_path: Path) -> None:
    placed: list[Kept] = []
    log, store, _ = rig(tmp_path, placed)
    first, second = append(log, 1, b"first"), append(log, 1, b"second")
    kept, other = store.place(first), store.place(second)
    assert (kept.outcome, other.outcome) == (Outcome.NEW, Outcome.CONFLICT)
    assert dataset_bytes(kept.instance.path) == b"first"
    assert dataset_bytes(other.instance.path) == b"second"
    assert other.instance.path.parent.name == "quarantine"
    assert read_facts(other.instance.path).sha256 == second.facts.sha256


@pytest.mark.parametrize("conflict", [False, True])
def test_the_same_image_kept_twice_at_the_same_time_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conflict: bool
) -> None:
    """Two uploads of one image: one has handed it over and forgotten the mark before the other names it."""
    store = DurableStore(tmp_path / "store", reserve_bytes=0)
    store.open()
    data = b"b" * 9000
    if conflict:
        store.retire(store.keep(facts(1, b"a" * 9000), b"a" * 9000))
    write = store._write_pending

    def the_other_is_faster(known: InstanceFacts, content: bytes) -> Path:
        pending = write(known, content)
        monkeypatch.setattr(store, "_write_pending", write)
        store.retire(store.keep(known, content))
        return pending

    monkeypatch.setattr(store, "_write_pending", the_other_is_faster)
    kept = store.keep(facts(1, data), data)
    assert kept.outcome is (Outcome.CONFLICT if conflict else Outcome.DUPLICATE)
    assert dataset_bytes(kept.instance.path) == data
    store.retire(kept)
