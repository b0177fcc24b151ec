"""A small reader of Griffin G-code: header, layers with their times, nozzle temperatures.

Independent of the service's own reader on purpose. Header rules: reference sheet section 6.1.
"""

from __future__ import annotations

import gzip
import io
import math
import re
from bisect import bisect_right
from dataclasses import dataclass, field

MAX_PLAIN_BYTES = 512 * 1024 * 1024
HEADER_LINES = 100

_REQUIRED = (
    "HEADER_VERSION",
    "FLAVOR",
    "GENERATOR.NAME",
    "GENERATOR.VERSION",
    "GENERATOR.BUILD_DATE",
    "TARGET_MACHINE.NAME",
    "BUILD_PLATE.INITIAL_TEMPERATURE",
    "PRINT.SIZE.MIN.X",
    "PRINT.SIZE.MIN.Y",
    "PRINT.SIZE.MIN.Z",
    "PRINT.SIZE.MAX.X",
    "PRINT.SIZE.MAX.Y",
    "PRINT.SIZE.MAX.Z",
)
_REQUIRED_PER_TRAIN = ("INITIAL_TEMPERATURE", "MATERIAL.VOLUME_USED", "NOZZLE.DIAMETER")
_WORD = re.compile(r"([A-Z])(-?\d*\.?\d+)")


@dataclass(frozen=True)
class Layer:
    number: int
    z_mm: float
    end_s: float
    """Seconds from the start of the file to the end of this layer."""
    end_share: float = 0.0
    """Share of the file's bytes up to there."""


@dataclass(frozen=True)
class GcodeFile:
    header: dict[str, str]
    header_faults: tuple[str, ...]
    layers: tuple[Layer, ...]
    duration_s: float
    nozzle_targets: tuple[tuple[float, float], ...] = ()
    """(seconds from the start, degrees C) of M104/M109 for the first head, in order."""
    filament_mm: float = 0.0

    @property
    def has_header(self) -> bool:
        return "HEADER_VERSION" in self.header

    def number(self, key: str, default: float = 0.0) -> float:
        try:
            value = float(self.header.get(key, ""))
        except ValueError:
            return default
        return value if math.isfinite(value) else default

    @property
    def trains(self) -> tuple[int, ...]:
        """Head numbers that the header says are used."""
        return tuple(n for n in (0, 1) if any(k.startswith(f"EXTRUDER_TRAIN.{n}.") for k in self.header))

    def layer_at(self, file_s: float) -> Layer | None:
        if not self.layers:
            return None
        index = bisect_right([layer.end_s for layer in self.layers], file_s)
        return self.layers[min(index, len(self.layers) - 1)]

    def share_at(self, file_s: float) -> float:
        """Share of the bytes that are done: within a layer they go by evenly."""
        before_s = before = 0.0
        for layer in self.layers:
            if file_s < layer.end_s:
                part = (file_s - before_s) / max(1e-9, layer.end_s - before_s)
                return before + part * (layer.end_share - before)
            before_s, before = layer.end_s, layer.end_share
        return 1.0

    def nozzle_target_at(self, file_s: float) -> float | None:
        index = bisect_right(self.nozzle_targets, (file_s, math.inf))
        return self.nozzle_targets[index - 1][1] if index else None


def plain_bytes(data: bytes) -> bytes:
    """The text of an upload: as it is, or unpacked when it is gzip of one or many members.

    Raises ValueError for damaged or oversized gzip.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            plain = packed.read(MAX_PLAIN_BYTES + 1)
    except (OSError, EOFError) as exc:
        raise ValueError("damaged gzip") from exc
    if len(plain) > MAX_PLAIN_BYTES:
        raise ValueError("file too large")
    return plain


def read_gcode(plain: bytes) -> GcodeFile:
    """Read header and body. Never raises for odd content; `header_faults` says what is wrong with the header."""
    lines = plain.decode("utf-8", "replace").splitlines()
    header, faults = _read_header(lines)
    body = _Body()
    for line in lines:
        body.line(line)
        body.read_bytes += len(line) + 1
    body.close_layer()
    # the header's own estimate is what the printer shows; without one the moves are timed
    stated = header.get("PRINT.TIME", header.get("TIME", ""))
    duration_s = float(stated) if stated.isdigit() and int(stated) > 0 else body.time_s
    scale = duration_s / body.time_s if body.time_s > 0 else 1.0
    return GcodeFile(
        header=header,
        header_faults=tuple(faults),
        layers=tuple(
            Layer(n, z, end * scale, read / max(1, body.read_bytes)) for n, z, end, read in body.layers
        ),
        duration_s=max(1.0, duration_s),
        nozzle_targets=tuple((t * scale, c) for t, c in body.nozzle_targets),
        filament_mm=body.filament_mm,
    )


def _read_header(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    header: dict[str, str] = {}
    faults: list[str] = []
    for line in lines[:HEADER_LINES]:
        text = line.strip()
        if text.startswith((";END_OF_HEADER", ";LAYER")):
            break
        if not text.startswith(";") or ":" not in text:
            continue
        if text.count(":") > 1:
            faults.append(f"line with two colons: {text.split(':')[0][1:]}")
            continue
        key, value = text[1:].split(":")
        header[key.strip()] = value.strip()
    return header, faults + _missing(header)


def _missing(header: dict[str, str]) -> list[str]:
    faults = [key for key in _REQUIRED if not header.get(key)]
    if not header.get("PRINT.TIME") and not header.get("TIME"):
        faults.append("PRINT.TIME")
    if header.get("HEADER_VERSION", "0.1") != "0.1":
        faults.append("HEADER_VERSION is not 0.1")
    if header.get("FLAVOR", "Griffin") != "Griffin":
        faults.append("FLAVOR is not Griffin")
    trains = [n for n in (0, 1) if any(k.startswith(f"EXTRUDER_TRAIN.{n}.") for k in header)]
    if not trains:
        faults.append("EXTRUDER_TRAIN")
    for n in trains:
        faults += [
            f"EXTRUDER_TRAIN.{n}.{item}"
            for item in _REQUIRED_PER_TRAIN
            if not header.get(f"EXTRUDER_TRAIN.{n}.{item}")
        ]
    return faults


@dataclass
class _Body:
    """Walks the commands; times by distance and feed, corrected by the slicer's own TIME_ELAPSED."""

    time_s: float = 0.0
    filament_mm: float = 0.0
    read_bytes: int = 0
    layers: list[tuple[int, float, float, int]] = field(default_factory=list)
    nozzle_targets: list[tuple[float, float]] = field(default_factory=list)
    _at: dict[str, float] = field(default_factory=lambda: {"X": 0.0, "Y": 0.0, "Z": 0.0, "E": 0.0})
    _feed_mm_s: float = 50.0
    _relative: bool = False
    _relative_e: bool = False
    _layer: int | None = None
    _head: int = 0

    def line(self, line: str) -> None:
        if line.startswith(";"):
            self._comment(line)
            return
        command, _, rest = line.partition(";")[0].strip().partition(" ")
        if command in ("G0", "G1"):
            self._move(rest)
        elif command in ("G90", "G91"):
            self._relative = self._relative_e = command == "G91"
        elif command in ("M82", "M83"):
            self._relative_e = command == "M83"
        elif command == "G92":
            self._at.update({k: float(v) for k, v in _WORD.findall(rest) if k in self._at})
        elif command in ("T0", "T1"):
            self._head = int(command[1])
        elif command in ("M104", "M109"):
            words = dict(_WORD.findall(rest))
            if int(float(words.get("T", self._head))) == 0 and "S" in words:
                self.nozzle_targets.append((self.time_s, float(words["S"])))

    def close_layer(self) -> None:
        if self._layer is not None:
            self.layers.append((self._layer, self._at["Z"], self.time_s, self.read_bytes))
            self._layer = None

    def _comment(self, line: str) -> None:
        if line.startswith(";LAYER:"):
            self.close_layer()
            text = line[7:].strip()
            self._layer = int(text) if text.lstrip("-").isdigit() else len(self.layers)
        elif line.startswith(";TIME_ELAPSED:"):
            try:
                elapsed_s = float(line[14:])
            except ValueError:
                return
            if math.isfinite(elapsed_s) and elapsed_s >= 0:
                self.time_s = elapsed_s

    def _move(self, rest: str) -> None:
        moved = {"X": 0.0, "Y": 0.0, "Z": 0.0, "E": 0.0}
        for letter, text in _WORD.findall(rest):
            value = float(text)
            if letter == "F":
                self._feed_mm_s = max(0.1, value / 60.0)
            elif letter in moved:
                relative = self._relative_e if letter == "E" else self._relative
                moved[letter] = value if relative else value - self._at[letter]
                self._at[letter] += moved[letter]
        way_mm = math.hypot(moved["X"], moved["Y"], moved["Z"]) or abs(moved["E"])
        self.time_s += way_mm / self._feed_mm_s
        self.filament_mm += moved["E"]
