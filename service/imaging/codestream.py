"""What a compressed frame says about its own size, read before a decoder is let at it.

JPEG (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 and HTJ2K (T.800, T.814) carry width and height a second time, inside
the code stream; decoders allocate by that and not by the DICOM header. JPEG 2000 also lets a few bytes ask for
millions of tiles, precincts and layers.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

_SEQUENTIAL, _LOSSLESS = frozenset({0xC0, 0xC1}), frozenset({0xC3})
_HUFFMAN_FRAMES = _SEQUENTIAL | _LOSSLESS
_LS_FRAMES = frozenset({0xF7})
_JPEG_FRAMES = {
    "1.2.840.10008.1.2.4.50": _SEQUENTIAL,
    "1.2.840.10008.1.2.4.57": _LOSSLESS,
    "1.2.840.10008.1.2.4.70": _LOSSLESS,
    "1.2.840.10008.1.2.4.80": _LS_FRAMES,
    "1.2.840.10008.1.2.4.81": _LS_FRAMES,
}
"""Kinds of frame header taken in a transfer syntax (T.81 table B.1, T.87). Some encoders write the extended one into
baseline files."""
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"

_START_OF_SCAN, _HUFFMAN_TABLES, _LS_EXTENSION = 0xDA, 0xC4, 0xF8
_OTHER_SEGMENTS = frozenset({0xDB, 0xDD, _LS_EXTENSION, 0xFE, *range(0xE0, 0xF0)})
"""Quantisation, restart interval, JPEG-LS parameters, comment, application data."""
_LS_OVERSIZE = 4
_SIZ, _COD, _COC, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
_MOST_BITS = 16
_MOST_TILES = 1024
_MOST_PACKETS = 4 << 20
"""Precincts times layers, for which a decoder keeps state; a 512 x 512 slice of usual settings has under 1000."""


@dataclass(frozen=True)
class Expected:
    """What the DICOM header says of each frame."""

    rows: int
    columns: int
    bits_allocated: int


def fault(frame: bytes, syntax: str, expected: Expected) -> str | None:
    """Why this frame must not be decoded, in words that follow "its"; None when nothing speaks against it."""
    try:
        if syntax in _JPEG_FRAMES:
            return _jpeg_fault(frame, expected, _JPEG_FRAMES[syntax])
        if syntax in _JPEG_2000:
            return _jpeg_2000_fault(frame, expected)
        if syntax == RLE:
            return _rle_fault(frame, expected)
    except (struct.error, IndexError):
        return "code stream ends within its header"
    return None


# --- JPEG and JPEG-LS -------------------------------------------------------------------------------------


def _jpeg_fault(frame: bytes, expected: Expected, frame_kinds: frozenset[int]) -> str | None:
    """Everything up to the first scan is in order: a decoder that meets something else may end its process."""
    if frame[:2] != b"\xff\xd8":
        return "code stream is not JPEG"
    at, sized = 2, False
    tables: set[int] = set()
    while True:
        marker, length = _next_segment(frame, at)
        at = marker + 1
        kind = frame[marker]
        if kind == _START_OF_SCAN:
            return (
                _scan_fault(frame, at, frame_kinds, tables) if sized else "code stream does not say its size"
            )
        if kind == _LS_EXTENSION and frame[at + 2] == _LS_OVERSIZE:
            return "code stream announces an oversized picture"
        if kind in frame_kinds:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 2)
            # beyond it a decoder ends in an exception of C++ that nothing here could catch
            if not 2 <= bits <= min(expected.bits_allocated, _MOST_BITS):
                return f"code stream says {bits} bits a pixel"
            if wrong := _size_fault(rows, columns, components, expected):
                return wrong
            sized = True
        elif kind == _HUFFMAN_TABLES:
            tables |= _huffman_tables(frame[at + 2 : at + length])
        elif kind not in _OTHER_SEGMENTS:
            return f"code stream has a part that does not belong there (FF{kind:02X})"
        at += length


def _huffman_tables(segment: bytes) -> set[int]:
    """Class and destination of each table (T.81 B.2.4.2). Raises IndexError when one is cut off."""
    found, at = set(), 0
    while at < len(segment):
        symbols = sum(segment[at + 1 : at + 17])
        if at + 17 + symbols > len(segment) or symbols > 256:
            raise IndexError(at)
        found.add(segment[at])
        at += 17 + symbols
    return found


def _scan_fault(frame: bytes, at: int, frame_kinds: frozenset[int], tables: set[int]) -> str | None:
    """`at` is where the length of the scan's header stands (T.81 B.2.3)."""
    if frame[at + 2] != 1:
        return f"first scan has {frame[at + 2]} colours"
    wanted = frame[at + 4]
    if frame_kinds <= _HUFFMAN_FRAMES:
        needed = {wanted >> 4} if frame_kinds == _LOSSLESS else {wanted >> 4, 0x10 | wanted & 0x0F}
        if not needed <= tables:
            return "code stream lacks a Huffman table"
    return None


def _next_segment(frame: bytes, at: int) -> tuple[int, int]:
    """Index of the marker's second byte, and the length of its segment."""
    if frame[at] != 0xFF:
        raise IndexError(at)
    while frame[at] == 0xFF:  # any number of fill bytes (T.81 B.1.1.2)
        at += 1
    length = int(struct.unpack_from(">H", frame, at + 1)[0])
    if length < 2:
        raise IndexError(at)
    return at, length


# --- JPEG 2000 and HTJ2K ----------------------------------------------------------------------------------


def _jpeg_2000_fault(frame: bytes, expected: Expected) -> str | None:
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096) if frame.startswith(_JP2_BOX) else 0
    if start < 0 or frame[start : start + 4] != b"\xff\x4f\xff\x51":
        return "code stream is not JPEG 2000"
    (width, height, x0, y0, tile_w, tile_h, tile_x0, tile_y0) = struct.unpack_from(">8I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    if wrong := _size_fault(height - y0, width - x0, components, expected):
        return wrong
    if frame[start + 43] != 1 or frame[start + 44] != 1:
        return "code stream is subsampled"
    if not tile_w or not tile_h or tile_x0 > x0 or tile_y0 > y0:
        return "code stream has impossible tiles"
    tiles = -(-(width - tile_x0) // tile_w) * -(-(height - tile_y0) // tile_h)
    if tiles > _MOST_TILES:
        return f"code stream is cut into {tiles} tiles"
    packets = _most_packets(frame, start + 2, expected)
    return None if packets <= _MOST_PACKETS else f"code stream asks for up to {packets:.0e} packets"


def _most_packets(frame: bytes, at: int, expected: Expected) -> float:
    """Upper bound of layers x precincts over the main header and all tile headers."""
    layers, precincts = 1, 1.0
    tile_end = 0
    while at + 4 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == _SOD:
            if tile_end <= at:
                break
            at = tile_end
            continue
        if marker < 0xFF00 or length < 2:
            break
        if marker == _SOT:
            (size,) = struct.unpack_from(">I", frame, at + 6)
            tile_end = at + size if size else len(frame)
        elif marker == _COD:
            layers = max(layers, struct.unpack_from(">H", frame, at + 6)[0])
            precincts = max(precincts, _precincts(frame[at + 4], frame, at + 9, expected))
        elif marker == _COC:
            # one component: its index takes one byte
            precincts = max(precincts, _precincts(frame[at + 5], frame, at + 6, expected))
        at += 2 + length
    return float(layers) * precincts


def _precincts(style: int, frame: bytes, at: int, expected: Expected) -> float:
    """`at` is where the number of decompositions stands; precinct sizes follow four bytes later (T.800 A.6.1)."""
    levels = frame[at]
    sizes = frame[at + 5 : at + 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    if levels > 32:
        raise IndexError(at)
    total = 0.0
    for index, size in enumerate(sizes):
        shrunk = 2 ** (levels - index)
        across = -(-expected.columns // shrunk) / 2 ** (size & 15)
        down = -(-expected.rows // shrunk) / 2 ** (size >> 4)
        total += (across + 2) * (down + 2)
    return total


# --- RLE --------------------------------------------------------------------------------------------------


def _rle_fault(frame: bytes, expected: Expected) -> str | None:
    """PS3.5 annex G: one segment for each byte of a pixel, in rising order."""
    count, *offsets = struct.unpack_from("<16I", frame, 0)
    if count != expected.bits_allocated // 8:
        return f"run lengths come in {count} segments for {expected.bits_allocated} bits"
    used = offsets[:count]
    if used[0] != 64 or any(b <= a for a, b in itertools.pairwise(used)) or used[-1] >= len(frame):
        return "run lengths lie outside the frame"
    ends = [*used[1:], len(frame)]
    # run lengths lengthen a segment by one byte in 128 at the worst; more than that is meant to be unpacked
    longest = 1.1 * expected.rows * expected.columns + 64
    if any(end - start > longest for start, end in zip(used, ends, strict=True)):
        return "run lengths are longer than the pixels they stand for"
    return None


def _size_fault(rows: int, columns: int, components: int, expected: Expected) -> str | None:
    if (rows, columns) != (expected.rows, expected.columns):
        return (
            f"code stream is {columns} x {rows} pixels, the header says {expected.columns} x {expected.rows}"
        )
    return None if components == 1 else f"code stream has {components} colours"
