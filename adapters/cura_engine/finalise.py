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

from adapters.cura_engine.print_size import printed_bounds
from service.errors import SpineprintError

_LOG_MARK = "Gcode header after slicing:"
_HEADER_START = ";START_OF_HEADER"
_HEADER_END = ";END_OF_HEADER"
_KEY = re.compile(r";([A-Z][A-Z0-9_.]*):([^\r\n]*)")
_KEPT_COMMENT = re.compile(
    rb";(?:LAYER:-?\d+|LAYER_COUNT:\d+|TIME_ELAPSED:[\d.]+"
    rb"|TYPE:[A-Z-]+|MESH:(?:part|filler|blocker)\.stl|MESH:NONMESH)\Z"
)
# A literal beginning lets the search leap; "^" would stop at each of a million lines.
_LAYER_COUNT, _LAYER = re.compile(rb";LAYER_COUNT:(\d+)"), re.compile(rb";LAYER:(-?\d+)")
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
    bounds = printed_bounds(body[: body.find(b"\nG91") if b"\nG91" in body else len(body)])
    if bounds is None:
        raise _incomplete("nothing is extruded in it")
    for axis, lowest, highest in zip("XYZ", *bounds, strict=True):
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
    match = _LAYER_COUNT.search(body)
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
    numbers = [int(m.group(1)) for m in _LAYER.finditer(body)]
    if not 0 < len(numbers) < stated or numbers != list(range(len(numbers))):
        return body, stated
    line = f";LAYER_COUNT:{len(numbers)}".encode("ascii")
    return _LAYER_COUNT.sub(line, body, count=1), len(numbers)


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
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
    if not body.endswith(b"\n"):
        body += b"\n"
    kept: list[bytes] = []
    done = 0
    while (mark := body.find(b";", done)) >= 0:
        begin, end = body.rfind(b"\n", 0, mark) + 1, body.index(b"\n", mark)
        kept.append(body[done:begin])
        command = body[begin:mark].rstrip()
        if command:
            kept.append(command + b"\n")
        elif begin == mark and _KEPT_COMMENT.match(body[mark:end]):
            kept.append(body[mark : end + 1])
        done = end + 1
    kept.append(body[done:])
    clean = b"".join(kept)
    for doubled in (b" \n", b"\t\n", b"\n\n"):
        while doubled in clean:
            clean = clean.replace(doubled, b"\n")
    return clean.removeprefix(b"\n")


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
