"""Read a DICOM file without trusting it: what it says about its own size never decides about memory or time.

A few kilobytes may unpack to gigabytes (deflate reaches 1:1032, a header may announce 65535 x 65535 pixels),
claim lengths beyond the file, or hold millions of empty elements. Everything that opens a DICOM file goes through
here; whatever asks for more than an image can need ends in a refusal (`imaging.unsafe`).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import filereader
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from service.errors import ImagingError

READ_FAILURES = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    OverflowError,
    # of the library, for an element put off until it is asked for, in a file that cannot be read twice alike
    StopIteration,
    MemoryError,
    OSError,
    struct.error,
    zlib.error,
)
"""What pydicom raises for files that are not DICOM or are damaged (it has no common base class)."""

HEADER_BYTES = 32 << 20
"""All that is not pixels; an enhanced CT writes about 2 kB for each of its frames."""
_MOST_READS = 400_000
"""Reads of the parser, two or three for an element: about 2500 frames with all their functional groups."""
PLAIN_BYTES = 16 << 20
MOST_EXPANSION = 200
"""Up to the first nothing is asked; beyond it, images that pack better than the second are not measured ones."""
MOST_PIXELS = 1 << 30
"""About 4000 slices of 512 x 512."""
_LONG_TEXT = 64 << 10
_LONG_NUMBERS = 1 << 20
_TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"))
_NUMBER_VRS = frozenset(("FD", "FL", "SL", "SS", "UL", "US", "AT"))
_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_DEFERRED_BYTES = 16 << 20
_PARSED_LATE = frozenset(tag_for_keyword(word) for word in (
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SegmentSequence",
    "ContrastBolusAgentSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "CTImageFrameTypeSequence", "XRay3DFrameTypeSequence",
    "CTReconstructionSequence", "CTXRayDetailsSequence", "CTExposureSequence", "CTAcquisitionDetailsSequence",
    "FrameContentSequence", "SegmentIdentificationSequence",
))  # fmt: skip
"""Sequences this service looks into. With a defined length pydicom parses them when they are first asked for."""
_DEEPEST = 3


def unsafe(what: str) -> ImagingError:
    return ImagingError(
        f"A DICOM file was not read because {what}: it is damaged or made to exhaust the service.",
        next_step="Ask the sending system's support about this file; send the study again from the PACS.",
        code="imaging.unsafe",
    )


def read_file(file: Path, *, pixels: bool, most_expansion: int = MOST_EXPANSION) -> FileDataset:
    """One Part-10 file, in bounded memory and time.

    Parameters
    ----------
    pixels : with its pixel data (still encoded), or only what lies before it.
    most_expansion : how many times its size the file may stand for, beyond `PLAIN_BYTES`.

    Raises
    ------
    ImagingError (`imaging.unsafe`) when it asks for more than an image can need; one of `READ_FAILURES` when it
    is not DICOM or damaged.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        meta, plain = _plain(stream, size, most_expansion)
        if pixels and size <= PLAIN_BYTES and not isinstance(plain, _Inflated):
            # it cannot be more than the little it is, whatever its header says: one reading is enough
            whole = _parse(plain, meta, file, to_the_end=True)
            _announced_bytes(whole, size, most_expansion)
            return whole
        header = _parse(plain, meta, file)
        if not pixels:
            return header
        room = _announced_bytes(header, size, most_expansion) + HEADER_BYTES
        if plain.size > room and not isinstance(plain, _Inflated):
            raise unsafe("it is far larger than the pixels it announces")
        plain.allow(room)
        plain.seek(0)
        return _parse(plain, meta, file, to_the_end=True)


def announced_pixels(ds: Dataset) -> int:
    """Rows x columns x frames as the header says; 0 when it says nothing usable."""
    sides = [ds.get("Rows"), ds.get("Columns"), ds.get("NumberOfFrames") or 1]
    found = 1
    for side in sides:
        try:
            found *= max(0, int(side if side is not None else 0))
        except (TypeError, ValueError, OverflowError):
            return 0
    return found


def check_announced(ds: Dataset, file_bytes: int) -> int:
    """Pixels that the header announces. Raises ImagingError when the file cannot hold them, or it makes no sense."""
    try:
        _announced_bytes(ds, file_bytes, MOST_EXPANSION)
        return announced_pixels(ds)
    except READ_FAILURES as error:
        raise ImagingError(
            "The header of an image does not say how large it is: the file is damaged.",
            next_step="Send the series again.",
            code="imaging.unreadable",
        ) from error


def _announced_bytes(ds: Dataset, file_bytes: int, most_expansion: int) -> int:
    pixels = announced_pixels(ds)
    samples = int(ds.get("SamplesPerPixel") or 1)
    bits = int(ds.get("BitsAllocated") or 16)
    if pixels > MOST_PIXELS or not 1 <= samples <= 4 or not 1 <= bits <= 64:
        raise unsafe(f"it announces {float(pixels):.1e} pixels of {samples} x {bits} bits")
    content = pixels * samples * bits // 8
    if content > PLAIN_BYTES and content > most_expansion * file_bytes:
        raise unsafe(f"it announces {content >> 20} MB of pixels and holds {file_bytes >> 10} kB")
    return content


# --- streams ----------------------------------------------------------------------------------------------


class _Bounded(io.RawIOBase):
    """A seekable view of bytes that counts what the parser takes and never asks for more than there is.

    `pydicom` reads as much as an element claims; Python would set aside that much memory first.
    """

    def __init__(self, source: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._source, self._start, self.size = source, start, end - start
        self._at = self._reads = self._taken = 0
        self._most = HEADER_BYTES

    def allow(self, size: int) -> None:
        """Start counting anew, with so many bytes to take."""
        self._reads = self._taken = 0
        self._most = size

    def read(self, count: int | None = -1) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise unsafe("its header holds more elements than an image can need")
        wanted = self.size - self._at if count is None or count < 0 else count
        data = self._get(self._at, max(0, wanted))
        self._at += len(data)
        self._taken += len(data)
        return data

    def _get(self, at: int, count: int) -> bytes:
        count = min(count, max(0, self.size - at))
        # the search for the end of encapsulated pixels reads some bytes twice
        if self._taken + count > 2 * self._most:
            raise unsafe(f"it holds more than {self._most >> 20} MB beside its pixels")
        self._source.seek(self._start + at)
        return self._source.read(count)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class _Inflated(_Bounded):
    """The same for a deflated data set (PS3.5 A.5), unpacked only as far as it is read."""

    def __init__(self, source: BinaryIO, start: int, end: int, ceiling: int) -> None:
        super().__init__(source, start, end)
        self._ceiling = ceiling
        self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed_at, self._plain, self._ended = 0, bytearray(), False

    def _get(self, at: int, count: int) -> bytes:
        limit = min(self._most, self._ceiling)
        if at + count > limit and not self._ends_within(limit):
            raise unsafe(f"it unpacks to more than {limit >> 20} MB")
        self._ends_within(min(at + count, limit))
        return bytes(self._plain[at : at + count])

    def _ends_within(self, size: int) -> bool:
        """Unpacks just beyond `size` bytes, to know."""
        while not self._ended and len(self._plain) <= size:
            packed = self._engine.unconsumed_tail or self._more()
            if not packed:
                break
            self._plain += self._engine.decompress(packed, 1 << 18)
            self._ended = self._engine.eof
        return len(self._plain) <= size

    def _more(self) -> bytes:
        self._source.seek(self._start + self._packed_at)
        packed = self._source.read(min(1 << 16, max(0, self.size - self._packed_at)))
        self._packed_at += len(packed)
        return packed


def _plain(stream: BinaryIO, size: int, most_expansion: int) -> tuple[Any, _Bounded]:
    """File meta, and the data set as a stream of plain elements."""
    head = _Bounded(stream, 0, size)
    filereader.read_preamble(head, False)
    meta = filereader._read_file_meta_info(head)
    start = head.tell()
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return meta, _Inflated(stream, start, size, max(PLAIN_BYTES, most_expansion * size))
    return meta, _Bounded(stream, start, size)


# --- parsing ----------------------------------------------------------------------------------------------


def _parse(plain: _Bounded, meta: Any, file: Path, *, to_the_end: bool = False) -> FileDataset:
    implicit, little = _encoding(plain, meta)

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        return tag in _PIXEL_TAGS

    read = filereader.read_dataset(
        plain,
        implicit,
        little,
        stop_when=None if to_the_end else at_pixels,
        # documents and raw data are skipped where only the header is wanted
        defer_size=None if to_the_end else _DEFERRED_BYTES,
    )
    ds = FileDataset(str(file), read, b"\0" * 128, meta, implicit, little)
    ds.set_original_encoding(implicit, little, read.original_character_set)
    _secure(ds, _Budget(), 0)
    return ds


def _encoding(plain: _Bounded, meta: Any) -> tuple[bool, bool]:
    """(implicit, little endian) as the file meta says, else as the first element looks (PS3.10 7.1 requires it)."""
    syntax = str(meta.get("TransferSyntaxUID") or "")
    if syntax:
        return syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    first = plain.read(6)
    plain.seek(0)
    if len(first) < 6 or not first[4:6].isalpha() or not first[4:6].isupper():
        return True, True
    return False, int.from_bytes(first[:2], "little") < 1024


class _Budget:
    """Elements that may still be parsed inside sequences."""

    def __init__(self) -> None:
        self.reads = _MOST_READS


class _Counted(io.BytesIO):
    def __init__(self, data: bytes, budget: _Budget) -> None:
        super().__init__(data)
        self._budget = budget

    def read(self, size: int | None = -1) -> bytes:
        self._budget.reads -= 1
        if self._budget.reads < 0:
            raise unsafe("its sequences hold more elements than an image can need")
        return super().read(size)


def _secure(ds: Dataset, budget: _Budget, depth: int) -> None:
    """Parse the sequences that will be looked into, counted; refuse values whose conversion would not end.

    pydicom converts a value when it is first asked for: 16 MB of text become millions of objects.
    """
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        if isinstance(element, RawDataElement):
            if tag in _PARSED_LATE:
                element = ds[tag] = _parsed(element, ds, budget)
            else:
                _check_length(element)
        if depth < _DEEPEST and tag in _PARSED_LATE and isinstance(element.value, Sequence):
            for item in element.value:
                if isinstance(item, Dataset):
                    _secure(item, budget, depth + 1)


def _parsed(raw: RawDataElement, ds: Dataset, budget: _Budget) -> DataElement:
    if raw.value is None and raw.length:
        raise unsafe(f"one of its sequences holds more than {_DEFERRED_BYTES >> 20} MB")
    value = raw.value or b""
    items = filereader.read_sequence(
        _Counted(value, budget),
        raw.is_implicit_VR,
        raw.is_little_endian,
        len(value),
        ds.original_character_set or "iso8859",
    )
    return DataElement(raw.tag, "SQ", items)


def _check_length(raw: RawDataElement) -> None:
    length = len(raw.value) if isinstance(raw.value, bytes) else 0
    if length <= _LONG_TEXT:
        return
    try:
        vr = raw.VR if raw.VR not in (None, "UN") else dictionary_VR(raw.tag)
    except KeyError:
        return
    if vr in _TEXT_VRS or (vr in _NUMBER_VRS and length > _LONG_NUMBERS):
        raise unsafe(f"its attribute {raw.tag} holds {length >> 10} kB")
