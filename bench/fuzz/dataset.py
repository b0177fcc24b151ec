"""Whatever may lie in a received DICOM file: the header reader of the intake and the reader of whole series.

A case is one file. It may be read or refused with a `SpineprintError`; it must not raise anything else, take more
than `MOST_S` of processor time, or give a volume larger than its bytes allow. Compressed frames go through the real
decoders, in this process.
"""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
import time
import zlib
from atexit import register
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence

from bench.fuzz.mutate import Unit
from service.errors import SpineprintError
from service.geometry.series_gate import GatePolicy
from service.imaging.instance_header import read_header
from service.imaging.series import is_whole, load_series

MOST_S = 2.0
_MOST_BYTES_PER_BYTE = 4096
_POLICY = GatePolicy(min_slices=1, max_thickness_mm=1e6)
_SIDE = 16
_UID = "1.2.840.10008.1.2"
_CT, _ENHANCED, _XA_3D = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.13.1.1",
)
_ROOT = "1.2.826.0.1.3680043.10.9999.5"
_HTJ2K = Path(__file__).parents[2] / "tests" / "fixtures" / "htj2k_32x32.j2c"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_MOST_UNITS = 400

WORDS = (
    struct.pack("<HHL", 0xFFFE, 0xE000, _UNDEFINED),
    struct.pack("<HHL", 0xFFFE, 0xE000, 0),
    struct.pack("<HHL", 0xFFFE, 0xE00D, 0),
    struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
    struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, _UNDEFINED),
    struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED),
    struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 0xFFFF),
    b"\x28\x00\x08\x00IS\x0a\x004294967295",
    b"1\\2\\3\\4\\5\\6", b"1e308", b"-nan", b"OB", b"SQ", b"UN", b"\xff\xff",
    b"\xff\x4f\xff\x51", b"\xff\xd8", b"\xff\xd9",
)  # fmt: skip
"""Item marks, lengths without an end, sizes beyond reason, and the marks of code streams."""


def one_case(data: bytes) -> None:
    """Raises when the readers do anything but read or refuse."""
    folder = _folder()
    file = folder / "case"
    file.write_bytes(data)
    start = time.process_time()
    _refusing(lambda: read_header(file))
    loaded = _refusing(lambda: load_series([file], policy=_POLICY))
    # of the refused ones a third, which halves the time of a run
    whole = (loaded is not None or zlib.crc32(data) % 3 == 0) and _refusing(lambda: is_whole(file))
    took = time.process_time() - start
    if took > MOST_S:
        raise AssertionError(f"took {took:.1f} s of processor time")
    if loaded is not None:
        if not whole:
            raise AssertionError("a file that can be read is called incomplete")
        if loaded.volume.values.nbytes > _MOST_BYTES_PER_BYTE * len(data) + (64 << 20):
            raise AssertionError(f"{len(data)} bytes became {loaded.volume.values.nbytes}")


def _refusing(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except SpineprintError as refusal:
        if not refusal.message or not refusal.next_step or refusal.code == "internal":
            raise AssertionError(f"a refusal without words: {refusal!r}") from refusal
        return None


@cache
def _folder() -> Path:
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-dataset-", dir=shared if shared.is_dir() else None))
    register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- valid files ------------------------------------------------------------------------------------------


@cache
def seeds() -> list[bytes]:
    """Every way of writing an image that the reader takes, small."""
    plain = _classic()
    made = [_written(plain, f"{_UID}{ending}") for ending in ("", ".1", ".2", ".1.99")]
    made += [_compressed(syntax) for syntax in (f"{_UID}.5", f"{_UID}.4.80", f"{_UID}.4.90")]
    made += [_by_gdcm(57), _by_gdcm(70), _htj2k()]
    for sop_class in (_ENHANCED, _XA_3D):
        for undefined in (False, True):
            made.append(_written(_multi_frame(sop_class, undefined=undefined), f"{_UID}.1"))
    made.append(_written(_multi_frame(_ENHANCED, undefined=False), _UID))
    packed = _multi_frame(_ENHANCED, undefined=True)
    packed.file_meta = _meta(packed, f"{_UID}.1")
    packed.compress(f"{_UID}.5", generate_instance_uid=False)
    made.append(_written(packed, f"{_UID}.5"))
    return made


def _classic(side: int = _SIDE) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = _CT, f"{_ROOT}.1"
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.Manufacturer = "20240102", "101500.5", "CT", "ACME"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "A^B", "P1", "19500101"
    ds.ContrastBolusAgentSequence = DicomSequence([Dataset()])
    ds.KVP, ds.ConvolutionKernel, ds.GantryDetectorTilt = "120", ["B", "3"], "0"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (f"{_ROOT}.{n}" for n in (2, 3, 4))
    ds.SeriesNumber, ds.InstanceNumber, ds.SliceThickness = 1, 1, "1"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [0.5, 0.5]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
    ds.add_new("PixelPaddingValue", "US", 0)
    ds.PixelData = np.random.default_rng(1).integers(0, 4000, (side, side)).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _multi_frame(sop_class: str, *, undefined: bool, frames: int = 4) -> Dataset:
    ds = _classic()
    ds.SOPClassUID, ds.NumberOfFrames = sop_class, frames
    ds.PixelData = ds.PixelData * frames
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    groups = []
    for n in range(frames):
        group = Dataset()
        group.PlanePositionSequence = _item(ImagePositionPatient=[0, 0, n])
        group.PixelValueTransformationSequence = _item(RescaleSlope="2", RescaleIntercept=str(-n))
        group.FrameContentSequence = _item(StackID="1")
        groups.append(group)
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=[0.5, 0.5], SliceThickness="1")
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    if undefined:
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            ds[keyword].is_undefined_length = True
            for item in ds[keyword].value:
                item.is_undefined_length_sequence_item = True
    return ds


def _item(**values: Any) -> DicomSequence:
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return DicomSequence([one])


def _meta(ds: Dataset, syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    return meta


def _written(ds: Dataset, syntax: str) -> bytes:
    head, body = DicomBytesIO(), DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, _meta(ds, syntax), enforce_standard=True)
    body.is_little_endian, body.is_implicit_VR = syntax != f"{_UID}.2", syntax == _UID
    if syntax == f"{_UID}.2":
        pixels = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds = pydicom.Dataset(ds)
        ds.PixelData = pixels
        ds["PixelData"].VR = "OW"
    write_dataset(body, ds)
    content = body.getvalue()
    if syntax == f"{_UID}.1.99":
        engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        content = engine.compress(content) + engine.flush()
    return bytes(128) + b"DICM" + head.getvalue() + content


def _compressed(syntax: str) -> bytes:
    ds = _classic(32)  # five halvings of JPEG 2000 need as much
    ds.file_meta = _meta(ds, f"{_UID}.1")
    ds.compress(syntax, generate_instance_uid=False)
    return _written(ds, syntax)


def _by_gdcm(process: int) -> bytes:
    """JPEG lossless, which only GDCM encodes here: process 14 with any predictor (.57) or the first (.70)."""
    import gdcm

    source, target = _folder() / "plain", _folder() / "packed"
    source.write_bytes(_written(_classic(), f"{_UID}.1"))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    if not reader.Read():
        raise RuntimeError("GDCM does not read the seed")
    kinds = {57: gdcm.TransferSyntax.JPEGLosslessProcess14, 70: gdcm.TransferSyntax.JPEGLosslessProcess14_1}
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kinds[process]))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError("GDCM does not encode JPEG lossless")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.Write()
    return target.read_bytes()


def _htj2k() -> bytes:
    ds = _classic(32)
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
    ds.PixelData = encapsulate([_HTJ2K.read_bytes()])
    ds["PixelData"].is_undefined_length = True
    return _written(ds, f"{_UID}.4.201")


# --- where the parts are ----------------------------------------------------------------------------------


def units(data: bytes) -> Sequence[Unit]:
    """Elements and items of an explicit little endian file, also of nested ones; the meta group of any other."""
    found: list[Unit] = []
    _walk(data, 132, len(data), found)
    return found


def _walk(data: bytes, at: int, end: int, found: list[Unit]) -> None:
    while at + 8 <= end and len(found) < _MOST_UNITS:
        group, element, vr, short = struct.unpack_from("<HH2sH", data, at)
        if group == 0xFFFE:
            (length,) = struct.unpack_from("<L", data, at + 4)
            head, size, place = 8, 4, at + 4
        elif vr in _LONG and at + 12 <= end:
            (length,) = struct.unpack_from("<L", data, at + 8)
            head, size, place = 12, 4, at + 8
        elif vr.isalpha() and vr.isupper():
            length, head, size, place = short, 8, 2, at + 6
        else:
            return
        stop = at + head if length == _UNDEFINED else min(at + head + length, end)
        found.append(Unit(at, stop, place, size, big_endian=False))
        nested = vr == b"SQ" or (group == 0xFFFE and element == 0xE000)
        if nested and length != _UNDEFINED and length >= 8:
            _walk(data, at + head, stop, found)
        at = stop


def read_seed(data: bytes) -> tuple[int, ...]:
    """Shape of the volume in a valid file, for the test that the seeds reach the decoders."""
    file = _folder() / "case"
    file.write_bytes(data)
    return load_series(file, policy=_POLICY).volume.values.shape


def transfer_syntax(data: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).file_meta.TransferSyntaxUID)
