"""The PACS simulator against DCMTK's tools, which were written by other people from the same standard."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EncapsulatedPDFStorage,
    EncapsulatedSTLStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from simulators.pacs import Faults, PacsSink, send_directory
from simulators.phantom.ct_series import Patient, SeriesHeader, stable_uid, write_ct_series

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("storescu", "storescp", "echoscu")),
    reason="needs DCMTK (storescu, storescp, echoscu)",
)


def _header(key: str) -> SeriesHeader:
    return SeriesHeader(
        patient=Patient(),
        study_uid=stable_uid("study", key),
        series_uid=stable_uid("series", key),
        frame_of_reference_uid=stable_uid("frame", key),
        accession="A1",
        study_id="1",
        study_date="20260302",
        study_time="101500",
        study_description="test",
        series_description="test",
        series_number=1,
        manufacturer="Simulated CT",
        model_name="test",
        station_name="SIM",
        protocol="test",
        body_part="TLSPINE",
        kernel="B",
        kvp=120.0,
        tube_current_ma=250,
        exposure_time_ms=750,
        thickness_mm=1.0,
    )


def _series(folder: Path, key: str, slices: int = 3) -> list[Path]:
    voxels = np.arange(slices * 16 * 16, dtype=np.int16).reshape(slices, 16, 16)
    return write_ct_series(voxels, np.eye(4), _header(key), folder)


def _encapsulated(path: Path, sop_class: str, syntax: str) -> str:
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=[str(path)])
    item.StudyInstanceUID, item.SeriesInstanceUID = stable_uid("s"), stable_uid("t")
    item.PatientID, item.PatientName, item.Modality = "PH-0001", "PHANTOM^ONE", "DOC"
    item.EncapsulatedDocument = b"solid body  "
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = syntax
    item.save_as(path, enforce_file_format=True)
    return str(item.SOPInstanceUID)


def _dcmtk(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], check=check, capture_output=True, text=True, timeout=60)


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[PacsSink]:
    with PacsSink(tmp_path / "sink") as running:
        yield running


def test_dcmtk_is_answered_and_its_images_are_kept_byte_for_byte(sink: PacsSink, tmp_path: Path) -> None:
    files = _series(tmp_path / "ct", "a")
    _dcmtk("echoscu", "-aec", sink.ae_title, sink.host, str(sink.port))
    _dcmtk("storescu", "-aec", sink.ae_title, "-aet", "OTHER", sink.host, str(sink.port), *files)
    received = sink.received
    assert len(received) == 3
    assert {entry["calling_ae"] for entry in received} == {"OTHER"}
    for entry, sent in zip(received, files, strict=True):
        kept, original = dcmread(sink.path_of(entry)), dcmread(sent)
        assert kept.PixelData == original.PixelData
        assert kept == original


@pytest.mark.parametrize("sop_class", [EncapsulatedPDFStorage, EncapsulatedSTLStorage])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_result_documents_are_taken_in(sink: PacsSink, tmp_path: Path, sop_class: str, syntax: str) -> None:
    (tmp_path / "in").mkdir()
    uid = _encapsulated(tmp_path / "in" / "doc.dcm", sop_class, syntax)
    results = send_directory(tmp_path / "in", sink.ae_title, sink.host, sink.port)
    assert [r.status for r in results] == [0]
    (entry,) = sink.received
    assert (entry["sop_instance_uid"], entry["transfer_syntax_uid"]) == (uid, syntax)


def test_refusals_are_counted_and_then_end(tmp_path: Path) -> None:
    _series(tmp_path / "ct", "b", slices=4)
    with PacsSink(tmp_path / "sink", faults=Faults(refuse_first=2, refuse_status=0xA900)) as sink:
        results = send_directory(tmp_path / "ct", sink.ae_title, sink.host, sink.port)
        assert [r.status for r in results] == [0xA900, 0xA900, 0, 0]
        assert [r.stored for r in results] == [False, False, True, True]
        assert len(sink.received) == 2


def test_a_dropped_association_is_seen_by_dcmtk_and_the_next_one_works(tmp_path: Path) -> None:
    files = _series(tmp_path / "ct", "c")
    with PacsSink(tmp_path / "sink", faults=Faults(drop_associations=1, drop_at=2)) as sink:
        call = ("storescu", "-aec", sink.ae_title, sink.host, str(sink.port), *files)
        assert _dcmtk(*call, check=False).returncode != 0
        assert len(sink.received) == 1
        assert _dcmtk(*call).returncode == 0
        assert len({e["sop_instance_uid"] for e in sink.received}) == 3


def test_a_silent_sink_runs_the_sender_into_its_own_time_limit(tmp_path: Path) -> None:
    _series(tmp_path / "ct", "d", slices=1)
    with PacsSink(tmp_path / "sink", faults=Faults(silent=True)) as sink:
        (result,) = send_directory(tmp_path / "ct", sink.ae_title, sink.host, sink.port, timeout_s=1.0)
    assert result.status < 0
    assert not result.stored


@pytest.fixture
def dcmtk_receiver(tmp_path: Path) -> Iterator[tuple[int, Path, Path]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder, log = tmp_path / "received", tmp_path / "log.txt"
    folder.mkdir()
    with log.open("w") as out:
        process = subprocess.Popen(
            ["storescp", "-v", "-od", str(folder), "-aet", "PEER", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port, folder, log
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_a_folder_of_two_studies_goes_to_dcmtk_in_two_associations(
    tmp_path: Path, dcmtk_receiver: tuple[int, Path, Path]
) -> None:
    port, folder, log = dcmtk_receiver
    files = _series(tmp_path / "ct" / "one", "e") + _series(tmp_path / "ct" / "two", "f")
    (tmp_path / "ct" / "truth.json").write_text("{}")
    results = send_directory(tmp_path / "ct", "PEER", "127.0.0.1", port, calling_ae="ROUTER")
    assert [r.status for r in results] == [0] * 6
    kept = {dcmread(p).SOPInstanceUID: dcmread(p).PixelData for p in folder.iterdir()}
    assert kept == {dcmread(p).SOPInstanceUID: dcmread(p).PixelData for p in files}
    time.sleep(0.2)
    assert log.read_text().count("Association Acknowledged") == 2


def test_a_sender_that_breaks_off_delivers_only_what_came_before(
    tmp_path: Path, dcmtk_receiver: tuple[int, Path, Path]
) -> None:
    port, folder, _ = dcmtk_receiver
    _series(tmp_path / "ct", "g", slices=4)
    results = send_directory(tmp_path / "ct", "PEER", "127.0.0.1", port, abort_after=2)
    assert [r.stored for r in results] == [True, True, False, False]
    assert len(list(folder.iterdir())) == 2


def test_nobody_listening_gives_a_result_for_each_instance(tmp_path: Path) -> None:
    _series(tmp_path / "ct", "h", slices=2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        results = send_directory(tmp_path / "ct", "X", "127.0.0.1", closed.getsockname()[1], timeout_s=2)
    assert [r.stored for r in results] == [False, False]


def test_as_its_own_process_it_takes_in_and_ends_cleanly(tmp_path: Path) -> None:
    files = _series(tmp_path / "ct", "i")
    command = [sys.executable, "-m", "simulators.pacs", "sink", "--folder", str(tmp_path / "sink")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        sent = _dcmtk(sys.executable, "-m", "simulators.pacs", "send", tmp_path / "ct", "--to", address)
        assert sent.stdout.startswith("3 of 3")
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0
        process.communicate()
    assert len(list((tmp_path / "sink").rglob("*.dcm"))) == len(files)
