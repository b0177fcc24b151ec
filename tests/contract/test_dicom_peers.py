"""Ways in which real programs bring images to the node beside plain storescu: dcmsend, C-MOVE, late re-sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless

from adapters.dicom_node import DicomNode, NodeConfig
from service.ports import Peer, ReceivedInstance
from tests.support_dicom import (
    ROOT,
    ct_slice,
    free_port,
    listens,
    need,
    run,
    running,
    save,
    wait_until,
    wire_bytes,
    write_series,
)
from tests.support_orthanc import orthanc


@dataclass
class World:
    node: DicomNode
    got: list[ReceivedInstance]

    def contents(self) -> list[bytes]:
        return sorted(wire_bytes(instance.path) for instance in self.got)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.got) >= count, 20, f"{len(self.got)} of {count} instances arrived")


@contextmanager
def node(tmp_path: Path, *titles: str, **changes: object) -> Iterator[World]:
    got: list[ReceivedInstance] = []
    peers = tuple(Peer(title, "127.0.0.1", 0) for title in titles)
    settings = NodeConfig("127.0.0.1", 0, tmp_path / "store", peers=peers, disk_reserve_bytes=1 << 20)
    started = DicomNode(replace(settings, **changes), got.append)
    started.start()
    try:
        yield World(started, got)
    finally:
        started.stop()


def contents(files: list[Path]) -> list[bytes]:
    return sorted(wire_bytes(file) for file in files)


def dcmsend(tmp_path: Path, port: int, *arguments: object) -> dict[str, int]:
    """What dcmsend says it sent, by status. Its exit code says nothing: it is 0 even when all were refused."""
    report = tmp_path / "report.txt"
    run(
        "dcmsend", "-nh", "-dn", "+crf", report, "-aet", "CTSCANNER", "-aec", "SPINEPRINT",
        "127.0.0.1", port, *arguments,
    )  # fmt: skip
    text = report.read_text()
    found = {
        name.strip(): int(number)
        for name, number in re.findall(r"^ +\* with status (\w+) *: (\d+)", text, re.MULTILINE)
    }
    return {name: number for name, number in found.items() if number}


def mixed_study(folder: Path) -> list[Path]:
    """What dcmsend has to take several presentation contexts for."""
    files = write_series(folder, 12, seed=1)
    for number, syntax in enumerate((JPEGLSLossless, RLELossless)):
        ds = ct_slice(number, series=f"{ROOT}.3", seed=5)
        ds.compress(syntax)
        files.append(save(ds, folder / f"compressed{number}"))
    return files


def test_dcmsend_of_a_folder_with_several_syntaxes(tmp_path: Path) -> None:
    files = mixed_study(tmp_path / "study")
    with node(tmp_path, "CTSCANNER") as world:
        assert dcmsend(tmp_path, world.node.port, "+sd", tmp_path / "study") == {"SUCCESS": 14}
        world.wait_for(14)
        assert world.contents() == contents(files)
        assert {str(i.transfer_syntax_uid) for i in world.got} >= {str(JPEGLSLossless), str(RLELossless)}
        # again: a retry of the whole study changes nothing and is Success
        assert dcmsend(tmp_path, world.node.port, "+sd", tmp_path / "study") == {"SUCCESS": 14}
        wait_until(lambda: world.node.counters().get("duplicates") == 14)


def test_dcmsend_hears_that_the_disk_is_full(tmp_path: Path) -> None:
    write_series(tmp_path / "study", 3)
    with node(tmp_path, "CTSCANNER", disk_reserve_bytes=1 << 60) as world:
        said = dcmsend(tmp_path, world.node.port, "+sd", tmp_path / "study")
        assert sum(said.values()) == 3 and "SUCCESS" not in said
        assert world.node.counters()["refused_storage"] == 3
        assert world.got == []
        (event, *_) = [e for e in world.node.take_events() if e.kind == "refused_storage"]
        assert event.calling_ae == "CTSCANNER" and "A700" in event.what and "disk" in event.what


def test_one_image_per_association(tmp_path: Path) -> None:
    """Some modalities open an association for each image."""
    files = write_series(tmp_path / "ct", 8, seed=2)
    with node(tmp_path, "CTSCANNER") as world:
        for file in files:
            run("storescu", "-aet", "CTSCANNER", "-aec", "SPINEPRINT", "127.0.0.1", world.node.port, file)
        world.wait_for(8)
        assert world.contents() == contents(files)
        assert len({i.association for i in world.got}) == 8


def test_movescu_has_orthanc_send_a_study_to_us(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 6, seed=3)
    dicom = free_port()
    with node(tmp_path, "PACS") as world, orthanc(tmp_path, world.node.port, dicom):
        run("storescu", "-aet", "CTSCANNER", "-aec", "PACS", "127.0.0.1", dicom, "+sd", tmp_path / "ct")
        run(
            "movescu", "-S", "-aet", "CTSCANNER", "-aec", "PACS", "-aem", "SPINEPRINT",
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={ROOT}.1", "127.0.0.1", dicom,
        )  # fmt: skip
        world.wait_for(6)
        assert world.contents() == contents(files)
        assert {i.calling_ae for i in world.got} == {"PACS"}


def test_movescu_has_dcmqrscp_send_one_series_to_us(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 4, seed=4)
    write_series(tmp_path / "other", 2, series=f"{ROOT}.8")
    port = free_port()
    archive = tmp_path / "archive"
    archive.mkdir()
    with node(tmp_path, "ARCHIVE") as world:
        settings = tmp_path / "dcmqrscp.cfg"
        settings.write_text(
            f"""
NetworkTCPPort = {port}
MaxPDUSize = 131072
MaxAssociations = 8
HostTable BEGIN
spine = (SPINEPRINT, 127.0.0.1, {world.node.port})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {archive} RW (10, 100mb) ANY
AETable END
"""
        )
        with running([need("dcmqrscp"), "-c", settings, port], lambda: listens(port)):
            for folder in ("ct", "other"):
                run("storescu", "-aec", "ARCHIVE", "127.0.0.1", port, "+sd", tmp_path / folder)
            run(
                "movescu", "-S", "-aec", "ARCHIVE", "-aem", "SPINEPRINT", "-k", "QueryRetrieveLevel=SERIES",
                "-k", f"StudyInstanceUID={ROOT}.1", "-k", f"SeriesInstanceUID={ROOT}.2", "127.0.0.1", port,
            )  # fmt: skip
            world.wait_for(4)
        assert {i.calling_ae for i in world.got} == {"ARCHIVE"}
        moved = [pydicom.dcmread(i.path) for i in world.got]
        assert {str(ds.SeriesInstanceUID) for ds in moved} == {f"{ROOT}.2"}
        # dcmqrscp writes files anew, so only the content is comparable
        sent = {str(ds.SOPInstanceUID): ds.PixelData for ds in map(pydicom.dcmread, files)}
        assert {str(ds.SOPInstanceUID): ds.PixelData for ds in moved} == sent


def test_a_job_of_orthanc_that_failed_while_we_were_away_is_made_good(tmp_path: Path) -> None:
    """Orthanc does not retry by itself: somebody resubmits the job, and images may come twice."""
    files = write_series(tmp_path / "ct", 5, seed=5)
    port, dicom = free_port(), free_port()
    with orthanc(tmp_path, port, dicom) as pacs:
        run("storescu", "-aet", "CTSCANNER", "-aec", "PACS", "127.0.0.1", dicom, "+sd", tmp_path / "ct")
        (series,) = pacs.get("/series")
        job = pacs.post("/modalities/spine/store", {"Resources": [series], "Asynchronous": True})["ID"]
        wait_until(lambda: pacs.get(f"/jobs/{job}")["State"] == "Failure", 20, "the job did not fail")
        with node(tmp_path, "PACS", port=port) as world:
            pacs.post("/modalities/spine/store", {"Resources": pacs.get("/instances")[:2]})
            pacs.post(f"/jobs/{job}/resubmit", {})
            wait_until(lambda: pacs.get(f"/jobs/{job}")["State"] == "Success", 20, "the job did not succeed")
            wait_until(lambda: world.node.counters().get("duplicates") == 2)
            world.wait_for(7)
            assert {wire_bytes(i.path) for i in world.got} == set(contents(files))
            assert "conflicts" not in world.node.counters()


@pytest.mark.parametrize("options", [["-xe"], ["-xi"], ["-xb"], ["-x="]])
def test_every_uncompressed_encoding_of_storescu_is_kept(tmp_path: Path, options: list[str]) -> None:
    (file,) = write_series(tmp_path / "ct", 1, seed=6)
    with node(tmp_path, "CTSCANNER") as world:
        run(
            "storescu", "-R", *options, "-aet", "CTSCANNER", "-aec", "SPINEPRINT", "127.0.0.1",
            world.node.port, file,
        )  # fmt: skip
        world.wait_for(1)
        stored = pydicom.dcmread(world.got[0].path)
    assert stored.SOPInstanceUID == f"{ROOT}.2.1"
    assert (stored.pixel_array == pydicom.dcmread(file).pixel_array).all()
