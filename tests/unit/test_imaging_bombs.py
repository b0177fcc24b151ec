"""Files that are small and ask for gigabytes, or never end: refused in words, in bounded time and memory.

Each is read in a process of its own, whose peak memory and time are measured.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from service.errors import SpineprintError
from service.imaging import dataset
from service.imaging.instance_header import read_header
from service.imaging.series import is_whole, load_series
from tests.support_dicom import ct_slice, save, write_series

LIMIT_MB = 300
"""Growth allowed over an idle reader; the bombs below ask for 1 GB and more."""
LIMIT_S = 10.0


# Not forked from the tests' own process: after an hour of other tests that one has threads, sockets and database
# connections, and a child that inherits them can die of tidying them up.
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload([__name__])


def outcome(what: str, path: Path, most_reads: int = dataset._MOST_READS) -> tuple[str, str]:
    """Code and message of a reading in its own process, within the limits."""
    ours, theirs = _CLEAN.Pipe()
    child = _CLEAN.Process(target=read_and_tell, args=(theirs, what, path, most_reads))
    child.start()
    theirs.close()
    assert ours.poll(120), "it does not end"
    try:
        code, message, grown_mb, took_s = ours.recv()
    except EOFError:
        child.join(10)
        pytest.fail(f"{what} of {path.name}: ended without an answer, exit code {child.exitcode}")
    child.join(10)
    assert child.exitcode == 0
    assert grown_mb < LIMIT_MB, f"{code}: {grown_mb} MB"
    assert took_s < LIMIT_S, f"{code}: {took_s:.1f} s"
    return code, message


def read_and_tell(answer: Any, what: str, path: Path, most_reads: int) -> None:
    dataset._MOST_READS = most_reads
    idle, start = peak_mb(), time.process_time()
    try:
        {"load": load_series, "header": read_header, "whole": is_whole}[what](path)
        code, message = "read", ""
    except SpineprintError as refusal:
        code, message = refusal.code, refusal.message
    answer.send((code, message, peak_mb() - idle, time.process_time() - start))


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def deflated(path: Path, ds: FileDataset, pack: Callable[[Any], bytes]) -> Path:
    """Rewrite a slice deflated and without its pixels; what `pack` compresses is appended to its data set."""
    del ds.PixelData
    body = DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = True, False
    write_dataset(body, ds)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, ds.file_meta)
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = engine.compress(body.getvalue()) + pack(engine) + engine.flush()
    path.write_bytes(bytes(128) + b"DICM" + head.getvalue() + packed)
    return path


def zeros(engine: Any, megabytes: int) -> bytes:
    block = bytes(1 << 20)
    return b"".join(engine.compress(block) for _ in range(megabytes))


def explicit(tag: tuple[int, int], vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHL", *tag, vr, 0, length)


@pytest.fixture(
    scope="module", params=[(0x0009, 0x1010), (0x7FE0, 0x0010)], ids=["private element", "pixel data"]
)
def thousandfold(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, bool]:
    """A file of 0.5 MB with 512 MB in one element, and whether that is the pixel data."""
    tag, size = request.param, 1 << 29
    bomb = deflated(
        tmp_path_factory.mktemp("bomb") / "bomb",
        ct_slice(11),
        lambda e: e.compress(explicit(tag, b"OB", size)) + zeros(e, size >> 20),
    )
    assert size / bomb.stat().st_size > 900
    return bomb, tag[0] == 0x7FE0


@pytest.mark.parametrize("what", ["load", "header", "whole"])
def test_a_deflated_data_set_that_expands_a_thousandfold(
    tmp_path: Path, thousandfold: tuple[Path, bool], what: str
) -> None:
    bomb, in_the_pixels = thousandfold
    if what == "load":
        write_series(tmp_path, 11)
        shutil.copy(bomb, tmp_path)
    code, message = outcome(what, tmp_path if what == "load" else bomb)
    if what == "load":
        assert code == "imaging.unsafe" and "unpacks to more than" in message
    elif what == "header":
        # pixels are not unpacked for the header; anything before them is
        assert code == ("read" if in_the_pixels else "imaging.unsafe")


def test_a_deflated_series_of_blank_frames_announced_as_large_as_it_unpacks(tmp_path: Path) -> None:
    frames = 1000
    size = frames * 512 * 512 * 2
    ds = ct_slice(0, NumberOfFrames=frames, Rows=512, Columns=512)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    bomb = deflated(
        tmp_path / "bomb",
        ds,
        lambda e: e.compress(explicit((0x7FE0, 0x0010), b"OW", size)) + zeros(e, size >> 20),
    )
    assert size / bomb.stat().st_size > 900
    code, message = outcome("load", tmp_path)
    assert code == "imaging.unsafe" and "announces 500 MB of pixels" in message


def compressed(syntax: pydicom.uid.UID) -> FileDataset:
    ds = ct_slice(11, size=64, seed=3)
    if syntax in (HTJ2KLossless, JPEG2000Lossless, JPEGLSLossless, RLELossless):
        ds.compress(JPEG2000Lossless if syntax == HTJ2KLossless else syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
    return ds


def repacked(ds: FileDataset, edit: Callable[[bytearray], None]) -> FileDataset:
    frame = bytearray(next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
    edit(frame)
    ds.PixelData = encapsulate([bytes(frame)])
    ds["PixelData"].is_undefined_length = True
    return ds


def giant_siz(frame: bytearray) -> None:
    at = frame.index(b"\xff\x51")
    struct.pack_into(">II", frame, at + 6, 60000, 60000)
    struct.pack_into(">II", frame, at + 22, 60000, 60000)


def tiny_tiles(frame: bytearray) -> None:
    struct.pack_into(">II", frame, frame.index(b"\xff\x51") + 22, 1, 1)


def many_layers_and_precincts(frame: bytearray) -> None:
    at = frame.index(b"\xff\x52")
    levels = frame[at + 9]
    frame[at + 4] |= 1
    struct.pack_into(">H", frame, at + 6, 65535)
    length = struct.unpack_from(">H", frame, at + 2)[0] + levels + 1
    struct.pack_into(">H", frame, at + 2, length)
    frame[at + 14 : at + 14] = bytes(levels + 1)


def giant_ls(frame: bytearray) -> None:
    struct.pack_into(">HH", frame, frame.index(b"\xff\xf7") + 5, 65500, 65500)


def oversize_ls(frame: bytearray) -> None:
    frame[2:2] = b"\xff\xf8" + struct.pack(">HBBII", 12, 4, 4, 60000, 60000)


@pytest.mark.parametrize(
    ("syntax", "edit", "words"),
    [
        (JPEG2000Lossless, giant_siz, "60000 x 60000 pixels, the header says 64 x 64"),
        (HTJ2KLossless, giant_siz, "60000 x 60000 pixels"),
        (JPEG2000Lossless, tiny_tiles, "4096 tiles"),
        (JPEG2000Lossless, many_layers_and_precincts, "packets"),
        (JPEGLSLossless, giant_ls, "65500 x 65500 pixels"),
        (JPEGLSLossless, oversize_ls, "oversized"),
    ],
)
def test_a_code_stream_that_is_larger_than_the_header_says(
    tmp_path: Path, syntax: pydicom.uid.UID, edit: Callable[[bytearray], None], words: str
) -> None:
    ds = repacked(compressed(syntax), edit)
    write_series(tmp_path, 11, size=64)
    save(ds, tmp_path / "bomb")
    code, message = outcome("load", tmp_path)
    assert code == "imaging.unsafe" and re.search(words, message) and "slice 12" in message


def test_a_jpeg_that_is_larger_than_the_header_says(tmp_path: Path) -> None:
    ds = ct_slice(11, size=64)
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    frame = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB3B", 11, 16, 65500, 65500, 1, 1, 0x11, 0)
    ds.PixelData = encapsulate([frame + b"\xff\xda\0\x08\x01\x01\0\0\0\0\0\0\xff\xd9"])
    ds["PixelData"].is_undefined_length = True
    write_series(tmp_path, 11, size=64)
    save(ds, tmp_path / "bomb")
    code, message = outcome("load", tmp_path)
    assert code == "imaging.unsafe" and "65500 x 65500" in message


def test_header_and_code_stream_agree_on_a_giant(tmp_path: Path) -> None:
    ds = repacked(compressed(JPEG2000Lossless), giant_siz)
    ds.Rows = ds.Columns = 60000
    save(ds, tmp_path / "bomb")
    code, message = outcome("load", tmp_path)
    assert code in ("imaging.unsafe", "imaging.no_ct", "imaging.too_few") and message
    write_series(tmp_path, 11, size=64)
    code, message = outcome("load", tmp_path)
    assert code == "imaging.unsafe" and "3.6e+09 pixels" in message


def test_run_lengths_that_unpack_to_more_than_the_slice(tmp_path: Path) -> None:
    ds = ct_slice(11, size=64)
    ds.file_meta.TransferSyntaxUID = RLELossless
    segment = b"\x81\x00" * (8 << 20)
    frame = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    write_series(tmp_path, 11, size=64)
    save(ds, tmp_path / "bomb")
    code, message = outcome("load", tmp_path)
    assert code in ("imaging.pixels", "imaging.unsafe") and "slice 12" in message


@pytest.mark.parametrize("frames", [2_000_000_000, 500_000, 13, 0])
def test_number_of_frames_that_is_not_true(tmp_path: Path, frames: int) -> None:
    from tests.unit.test_imaging_series import enhanced

    ds = enhanced(12)
    ds.NumberOfFrames = str(frames)
    save(ds, tmp_path / "one")
    code, message = outcome("load", tmp_path)
    assert (
        code in ("imaging.unsafe", "imaging.no_position", "imaging.too_few", "imaging.too_large") and message
    )


def test_number_of_frames_with_one_place_for_all(tmp_path: Path) -> None:
    ds = ct_slice(0, NumberOfFrames="2000000000")
    save(ds, tmp_path / "one")
    code, _ = outcome("load", tmp_path)
    assert code == "imaging.unsafe"


def nested(depth: int, *, undefined: bool) -> bytes:
    """Bytes of an element (0040,0275) of items within items."""
    if undefined:
        head = explicit((0x0040, 0x0275), b"SQ", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        tail = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        return head * depth + tail * depth
    body = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body
        body = explicit((0x0040, 0x0275), b"SQ", len(item)) + item
    return body


@pytest.mark.parametrize("what", ["load", "header"])
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_nested_beyond_recursion(tmp_path: Path, undefined: bool, what: str) -> None:
    folder = tmp_path / "series"
    write_series(folder, 11)
    bomb = save(ct_slice(11), folder / "bomb")
    raw = bomb.read_bytes()
    cut = raw.index(b"\x7f\xe0"[::-1] + b"\x10\x00OW")
    bomb.write_bytes(raw[:cut] + nested(20_000, undefined=undefined) + raw[cut:])
    code, message = outcome(what, folder if what == "load" else bomb)
    # a nest of known length is never entered, so the slice is whole and readable
    assert (code == "imaging.unreadable" and message) if undefined else code == "read"


def test_millions_of_empty_elements(tmp_path: Path) -> None:
    bomb = save(ct_slice(11), tmp_path / "bomb")
    raw = bomb.read_bytes()
    cut = raw.index(b"\x20\x00\x0d\x00UI")
    extra = b"".join(struct.pack("<HH2sH", 0x0019, n & 0xFFFF, b"LO", 0) for n in range(1 << 16)) * 60
    bomb.write_bytes(raw[:cut] + extra + raw[cut:])
    code, message = outcome("header", bomb)
    assert code == "imaging.unsafe" and "more elements than an image can need" in message


def test_a_sequence_of_known_length_with_millions_of_items(tmp_path: Path) -> None:
    write_series(tmp_path, 11)
    bomb = save(ct_slice(11), tmp_path / "bomb")
    raw = bomb.read_bytes()
    cut = raw.index(b"\xe0\x7f\x10\x00OW")
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * (1 << 18)
    bomb.write_bytes(raw[:cut] + explicit((0x5200, 0x9230), b"SQ", len(items)) + items + raw[cut:])
    for what, path, most in (("load", tmp_path, dataset._MOST_READS), ("header", bomb, 50_000)):
        # the second time with a lower limit: to reach the service's own takes seconds
        code, message = outcome(what, path, most)
        assert code == "imaging.unsafe" and "more elements than an image can need" in message


def test_a_number_list_of_megabytes(tmp_path: Path) -> None:
    ds = ct_slice(11)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    bomb = save(ds, tmp_path / "bomb")
    raw = bomb.read_bytes()
    cut = raw.index(b"\x28\x00\x30\x00")
    value = b"1\\" * (6 << 20)
    bomb.write_bytes(raw[:cut] + struct.pack("<HHL", 0x0028, 0x0030, len(value)) + value + raw[cut + 16 :])
    code, message = outcome("header", bomb)
    assert code == "imaging.unsafe" and "(0028,0030)" in message


def test_a_length_far_beyond_the_file(tmp_path: Path) -> None:
    bomb = save(ct_slice(11), tmp_path / "bomb")
    raw = bomb.read_bytes()
    cut = raw.index(b"\x20\x00\x0d\x00UI")
    bomb.write_bytes(raw[:cut] + explicit((0x0019, 0x1010), b"OB", 0xFFFFFFF0) + raw[cut:])
    code, message = outcome("header", bomb)
    assert code in ("imaging.no_identity", "imaging.unreadable") and message


def test_a_blank_slice_is_no_bomb(tmp_path: Path) -> None:
    """Deflate packs an empty slice better than 200-fold; that alone must not refuse it."""

    def blank(index: int, ds: FileDataset) -> None:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.PixelData = bytes(2 * 512 * 512)

    write_series(tmp_path, 10, size=512, change=blank)
    assert outcome("load", tmp_path)[0] == "read"


def test_many_frames_with_all_their_groups_are_read(tmp_path: Path) -> None:
    count = 1000
    ds = ct_slice(0, size=4, NumberOfFrames=count, ImagePositionPatient=None)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.PixelData = np.zeros((count, 4, 4), "<i2").tobytes()
    frames = []
    for n in range(count):
        frame = Dataset()
        for keyword in ("PlanePositionSequence", "FrameContentSequence", "CTExposureSequence",
                        "CTAcquisitionDetailsSequence", "CTReconstructionSequence"):  # fmt: skip
            setattr(frame, keyword, DicomSequence([Dataset()]))
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, float(n)]
        frame.CTExposureSequence[0].ExposureTimeInms = 500.0
        frame.FrameContentSequence[0].StackID = "1"
        frame.FrameContentSequence[0].InStackPositionNumber = n + 1
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    save(ds, tmp_path / "one")
    assert outcome("load", tmp_path)[0] == "read"
