"""Turn CuraEngine's raw file into the file the printer gets.

CuraEngine writes the Griffin header before it slices, so time, material and size are missing; the complete
header appears in its log only (reference/slicing.md section 2; newer releases write it into the file). This
puts both together, computes the size from the moves, and drops every comment that is not one of the few
the printer and the viewer use, so that no file name or path can travel along.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import SpineprintError

_LOG_MARK = "Gcode header after slicing:"
_HEADER_START = ";START_OF_HEADER"
_HEADER_END = ";END_OF_HEADER"
_KEY = re.compile(r";([A-Z][A-Z0-9_.]*):([^\r\n]*)")
_KEPT_COMMENT = re.compile(
    rb";(?:LAYER:-?\d+|LAYER_COUNT:\d+|TIME_ELAPSED:[\d.]+"
    rb"|TYPE:[A-Z-]+|MESH:(?:part|filler|blocker)\.stl|MESH:NONMESH)\Z"
)
_MOVE = re.compile(
    rb"^G([01])(?: F[\d.]+)?(?: X(-?[\d.]+))?(?: Y(-?[\d.]+))?(?: Z(-?[\d.]+))?(?: E(-?[\d.]+))?$",
    re.MULTILINE,
)
_GZIP_LEVEL = 6

# The order in which UltiMaker's own files have them; every key but the last three is demanded by their reader.
_ORDER = (
    "HEADER_VERSION",
    "FLAVOR",
    "GENERATOR.NAME",
    "GENERATOR.VERSION",
    "GENERATOR.BUILD_DATE",
    "TARGET_MACHINE.NAME",
    "EXTRUDER_TRAIN.0.INITIAL_TEMPERATURE",
    "EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED",
    "EXTRUDER_TRAIN.0.MATERIAL.GUID",
    "EXTRUDER_TRAIN.0.NOZZLE.DIAMETER",
    "EXTRUDER_TRAIN.0.NOZZLE.NAME",
    "BUILD_PLATE.TYPE",
    "BUILD_PLATE.INITIAL_TEMPERATURE",
    "PRINT.TIME",
    "PRINT.GROUPS",
    "PRINT.SIZE.MIN.X",
    "PRINT.SIZE.MIN.Y",
    "PRINT.SIZE.MIN.Z",
    "PRINT.SIZE.MAX.X",
    "PRINT.SIZE.MAX.Y",
    "PRINT.SIZE.MAX.Z",
)
_OLD_NAMES = {"TIME": "PRINT.TIME"}


@dataclass(frozen=True)
class Finalised:
    """What the finished file says about itself."""

    header: Mapping[str, str]
    print_time_s: int
    material_mm3: float
    layer_count: int


def header_from_log(log: str) -> dict[str, str]:
    """The complete header CuraEngine 4.13 and 5.x print to their log after slicing; empty when there is none."""
    start = log.rfind(_LOG_MARK)
    if start < 0:
        return {}
    end = log.find(_HEADER_END, start)
    return _keys(log[start : end if end >= 0 else start + 8000])


def finalise(raw: bytes, log: str, out: Path, *, fixed: Mapping[str, str]) -> Finalised:
    """Write `out` (`.gcode`, or `.gcode.gz` by its name) whole or not at all; equal input gives equal bytes.

    `fixed` are header values that must win over what the engine says (material GUID, plate type, machine).
    Raises SpineprintError when the header cannot be completed or nothing was sliced.
    """
    head, body = _split(raw)
    header = {**_keys(head), **header_from_log(log), **fixed}
    for old, new in _OLD_NAMES.items():
        if old in header:
            header.setdefault(new, header.pop(old))
    body, layers = _with_printed_layers(body, _layer_count(body))
    # The end code drives away with relative moves; it prints nothing and would spoil the size.
    low, high = _print_size(body.partition(b"\nG91")[0])
    for axis, lowest, highest in zip("XYZ", low, high, strict=True):
        header[f"PRINT.SIZE.MIN.{axis}"] = f"{lowest:g}"
        header[f"PRINT.SIZE.MAX.{axis}"] = f"{highest:g}"
    text = _header_text(header)
    engine_line = f";Generated with {header['GENERATOR.NAME']} {header['GENERATOR.VERSION']}\n"
    content = text.encode("ascii") + engine_line.encode("ascii") + _clean(body)
    _write_whole(out, content)
    return Finalised(
        header=header,
        print_time_s=round(float(header["PRINT.TIME"])),
        material_mm3=float(header["EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED"]),
        layer_count=layers,
    )


def _keys(text: str) -> dict[str, str]:
    return {match.group(1): match.group(2).strip() for match in _KEY.finditer(text)}


def _split(raw: bytes) -> tuple[str, bytes]:
    end = raw.find(_HEADER_END.encode())
    if not raw.lstrip().startswith(_HEADER_START.encode()) or end < 0:
        raise _incomplete("it has no Griffin header")
    line_end = raw.find(b"\n", end)
    return raw[:end].decode("ascii", errors="replace"), raw[line_end + 1 :]


def _layer_count(body: bytes) -> int:
    match = re.search(rb"^;LAYER_COUNT:(\d+)", body, re.MULTILINE)
    count = int(match.group(1)) if match else 0
    if count <= 0:
        raise SpineprintError(
            "The slicing engine found nothing to print in the model (0 layers).",
            next_step="Check that the model is closed (watertight) and lies on the plate; then slice again.",
            code="slicer.empty",
        )
    return count


def _with_printed_layers(body: bytes, stated: int) -> tuple[bytes, int]:
    """State the layers that are there.

    The engine counts layers by the height of its meshes and leaves out those at the very top in which nothing is
    wide enough to print (a pointed process). Only that is put right: a gap anywhere else stays for the audit.
    """
    numbers = [int(m.group(1)) for m in re.finditer(rb"^;LAYER:(-?\d+)", body, re.MULTILINE)]
    if not 0 < len(numbers) < stated or numbers != list(range(len(numbers))):
        return body, stated
    line = f";LAYER_COUNT:{len(numbers)}".encode("ascii")
    return re.sub(rb"^;LAYER_COUNT:\d+", line, body, count=1, flags=re.MULTILINE), len(numbers)


def _print_size(body: bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds in mm on the plate of the nozzle path while it extrudes."""
    table = np.array(_MOVE.findall(body), dtype="S12").reshape(-1, 5)
    extrudes = (table[:, 0] == b"1") & (table[:, 4] != b"") & ((table[:, 1] != b"") | (table[:, 2] != b""))
    # A line is printed from the position before it to its own end: both count.
    involved = extrudes | np.append(extrudes[1:], False)
    if not extrudes.any():
        raise _incomplete("nothing is extruded in it")
    low: list[float] = []
    high: list[float] = []
    for column in (1, 2, 3):
        position = _held(table[:, column])[involved]
        low.append(round(float(np.nanmin(position)), 3))
        high.append(round(float(np.nanmax(position)), 3))
    return tuple(low), tuple(high)


def _held(column: NDArray[np.bytes_]) -> NDArray[np.float64]:
    """A coordinate per move, held from the last move that gave it."""
    given = column != b""
    last = np.maximum.accumulate(np.where(given, np.arange(column.size), -1))
    values = np.full(column.size, np.nan)
    values[given] = column[given].astype(np.float64)
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan)


def _header_text(header: Mapping[str, str]) -> str:
    optional = {"BUILD_PLATE.TYPE", "PRINT.GROUPS", "EXTRUDER_TRAIN.0.NOZZLE.NAME"}
    missing = [key for key in _ORDER if not header.get(key) and key not in optional]
    if missing:
        raise _incomplete(f"its header lacks {', '.join(missing)}")
    lines = [_HEADER_START]
    for key in _ORDER:
        if header.get(key):
            value = header[key]
            # The printer's reader splits at the colon and refuses a second one.
            if not re.fullmatch(r"[A-Za-z0-9 ._+-]+", value):
                raise _incomplete(f"the header value of {key} has characters the printer refuses")
            lines.append(f";{key}:{value}")
    return "\n".join([*lines, _HEADER_END]) + "\n"


def _clean(body: bytes) -> bytes:
    """The body without the comments that are not needed; a comment never shares a line with a command."""
    kept: list[bytes] = []
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if b";" not in line:
            if line:
                kept.append(line.rstrip())
            continue
        command = line.partition(b";")[0].rstrip()
        if command:
            kept.append(command)
        elif _KEPT_COMMENT.match(line):
            kept.append(line)
    return b"\n".join(kept) + b"\n"


def _write_whole(out: Path, content: bytes) -> None:
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("wb") as file:
            file.write(_gzipped(content) if out.name.lower().endswith(".gz") else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _gzipped(content: bytes) -> bytes:
    """Without file name and time, so that equal content gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=_GZIP_LEVEL, mtime=0) as packed:
        packed.write(content)
    return buffer.getvalue()


def _incomplete(why: str) -> SpineprintError:
    return SpineprintError(
        f"The slicing engine's file cannot be used: {why}.",
        next_step="Check which CuraEngine is installed (4.13 or 5.x) and slice again.",
        code="slicer.failed",
    )
