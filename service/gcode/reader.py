"""Read a G-code file into arrays: fast, streaming, strict, and knowing nothing of the slicer that wrote it.

Numbers are parsed for a block of lines at once with numpy, so that a file of 20 MB takes about a second.
Whatever is not a plain move is kept as text with its line number for the audit to judge.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import InputRefusedError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BLOCK_BYTES = 4 << 20
_LONGEST_NUMBER = 12
_HEADER_LINE_LIMIT = 100
_WORDS = b"XYZEF"
_MODES = ("G90", "G91", "G92", "M82", "M83")
_GZIP_MAGIC = b"\x1f\x8b"


class TextLine(NamedTuple):
    """A line that is not a plain move, as written, with its number from 1. A tuple: a file has 100,000 of them."""

    number: int
    text: str


@dataclass(frozen=True)
class Gcode:
    """A whole file. Lengths in mm on the plate, feeds in mm/s, extrusion in mm of filament.

    All arrays are over the moves G0/G1 in order (N rows). `start`/`end` (N, 3): nozzle path, NaN before the
    first position is known; `extruded` (N): filament of the move, negative for retraction; `feed` (N);
    `layer` (N): number from `;LAYER:`, -1 before the first; `kind` and `mesh` (N): index into `kinds` and
    `meshes` (index 0 is the empty name before the first comment); `line` (N): line number; `rapid` (N): G0.
    """

    header: tuple[TextLine, ...]
    others: tuple[TextLine, ...]
    """Comments and commands after the header that are not moves, in order."""
    by_word: Mapping[str, list[TextLine]]
    """`others` by their command word, or by the word before the colon of a comment (`;LAYER`), in order: there are
    a hundred thousand of them, sorted once and not searched by every check."""
    faults: tuple[str, ...]
    """What could not be read."""
    line_count: int
    start: FloatArray
    end: FloatArray
    extruded: FloatArray
    feed: FloatArray
    layer: IntArray
    kind: IntArray
    mesh: IntArray
    line: IntArray
    rapid: NDArray[np.bool_]
    kinds: tuple[str, ...]
    meshes: tuple[str, ...]

    @cached_property
    def is_printed_line(self) -> NDArray[np.bool_]:
        """Moves that lay down a line: they travel in the plane and push filament."""
        printed: NDArray[np.bool_] = self.moves_in_plane & (self.extruded > 0)
        return printed

    @cached_property
    def moves_in_plane(self) -> NDArray[np.bool_]:
        """Moves that change X or Y."""
        x, y = self.start[:, 0] != self.end[:, 0], self.start[:, 1] != self.end[:, 1]
        return np.asarray(x | y, dtype=np.bool_)

    @cached_property
    def path_mm(self) -> FloatArray:
        """Length of every move."""
        step = self.end - self.start
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", step, step)), dtype=np.float64)

    @cached_property
    def end_sequence_line(self) -> int:
        """After it the end moves the plate out of the way, relatively; past the file when it has no such end."""
        relative = self.by_word.get("G91", [])
        printed = np.flatnonzero(self.is_printed_line)
        begins = relative[-1].number if relative else 0
        there = printed.size and begins > int(self.line[printed[-1]])
        return begins if there else self.line_count + 1

    def of_kind(self, *names: str) -> NDArray[np.bool_]:
        """Moves whose `;TYPE:` is one of `names`."""
        return np.isin(self.kind, [i for i, name in enumerate(self.kinds) if name in names])

    def of_mesh(self, name: str) -> NDArray[np.bool_]:
        """Moves whose `;MESH:` is `name`."""
        return np.isin(self.mesh, [i for i, known in enumerate(self.meshes) if known == name])


@dataclass
class _Block:
    """Columns of a run of lines; NaN where a word is absent. `others` hold the lines that are no moves."""

    words: FloatArray  # (n, 5): X Y Z E F of the moves
    rapid: NDArray[np.bool_]
    line: IntArray
    others: list[TextLine]
    faults: list[str]
    line_count: int


def read_gcode(path: Path) -> Gcode:
    """Read `.gcode` or `.gcode.gz` (told by content, not by name).

    Raises InputRefusedError when the file cannot be opened or unpacked. Faults inside are returned, not raised.
    """
    blocks: list[_Block] = []
    first_line = 1
    try:
        for chunk in _chunks(path):
            block = _parse_block(chunk, first_line)
            blocks.append(block)
            first_line += block.line_count
    except (OSError, EOFError) as error:
        raise InputRefusedError(
            "The G-code file cannot be opened or is cut off.", next_step="Slice the model again."
        ) from error
    return _assemble(blocks)


def _chunks(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines."""
    with path.open("rb") as plain:
        packed = plain.read(2) == _GZIP_MAGIC
        plain.seek(0)
        source = cast("BinaryIO", gzip.GzipFile(fileobj=plain)) if packed else plain
        rest = b""
        while block := source.read(_BLOCK_BYTES):
            block = rest + block
            cut = block.rfind(b"\n") + 1
            rest = block[cut:]
            if cut:
                yield block[:cut]
        if rest:
            # The last line has no end: keep it, the audit sees that the file stops there.
            yield rest + b"\n"


def _parse_block(chunk: bytes, first_line: int) -> _Block:
    """Parse whole lines. A move is `G0`/`G1` and words X Y Z E F, each once, with plain decimal numbers."""
    data = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    padded = np.concatenate((data, np.zeros(_LONGEST_NUMBER + 4, np.uint8)))
    is_move = (
        (padded[starts] == ord("G"))
        & ((padded[starts + 1] == ord("0")) | (padded[starts + 1] == ord("1")))
        & (padded[starts + 2] == ord(" "))
    )
    words, good = _move_words(padded, data.size, starts, is_move)
    faults = [
        f"line {first_line + row} holds what a printer may read as another command than it looks"
        for row in _odd_lines(padded, data.size, starts)[:5]
    ]
    for row in np.flatnonzero(is_move & ~good)[:5]:
        faults.append(f"line {first_line + int(row)} is not a move that can be read")
    rest = np.flatnonzero(~is_move & (ends > starts))
    others: list[TextLine] = []
    known: dict[bytes, str] = {}  # the same few dozen lines come again and again
    places = zip((rest + first_line).tolist(), starts[rest].tolist(), ends[rest].tolist(), strict=True)
    for number, begin, end in places:
        written = chunk[begin:end]
        text = known.get(written)
        if text is None:
            text = known[written] = written.decode("utf-8", errors="replace").rstrip("\r")
        others.append(TextLine(number, text))
    rows = np.flatnonzero(is_move & good)
    return _Block(
        words=words[rows],
        rapid=padded[starts[rows] + 1] == ord("0"),
        line=rows + first_line,
        others=others,
        faults=faults,
        line_count=int(ends.size),
    )


def _odd_lines(padded: NDArray[np.uint8], size: int, starts: IntArray) -> list[int]:
    """Rows that begin with a blank, or hold anything but printable ASCII before their line end.

    A printer skips a leading blank, and takes a carriage return for the end of a line: both hide a command.
    """
    data = padded[:size]
    odd = np.flatnonzero(((data - 0x20) > 0x5E) & (data != ord("\n")))  # wraps for what is below 0x20
    odd = odd[(padded[odd] != ord("\r")) | (padded[odd + 1] != ord("\n"))]
    rows = np.searchsorted(starts, odd, side="right") - 1
    return sorted({*rows.tolist(), *np.flatnonzero(padded[starts] == ord(" ")).tolist()})


def _move_words(
    padded: NDArray[np.uint8], size: int, starts: IntArray, is_move: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Values (lines, 5) of X Y Z E F and which move lines are entirely understood."""
    # Every word follows a blank; the blank after "G0"/"G1" is the first one of a move line.
    blanks = np.flatnonzero(padded[:size] == ord(" "))
    row = np.searchsorted(starts, blanks, side="right") - 1
    inside = is_move[row]
    blanks, row = blanks[inside], row[inside]
    column = np.full(256, -1)
    for index, letter in enumerate(_WORDS):
        column[letter] = index
    words = np.full((starts.size, 5), np.nan)
    good = np.ones(starts.size, np.bool_)
    which = column[padded[blanks + 1]]
    values, valid = _decimals(padded, blanks + 2)
    valid &= which >= 0
    # a second X in one line would be read differently by different firmware
    slot = row * 5 + np.maximum(which, 0)
    valid &= np.bincount(slot, minlength=starts.size * 5)[slot] == 1
    good[row[~valid]] = False
    words.ravel()[slot[valid]] = values[valid]
    good &= np.bincount(row, minlength=starts.size) > 0
    return words, good


def _decimals(padded: NDArray[np.uint8], begin: IntArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Plain decimal numbers starting at `begin`, each ended by a blank or a line end."""
    negative = padded[begin] == ord("-")
    at = begin + negative
    whole = np.zeros(begin.size)
    decimals = np.zeros(begin.size)
    digits = np.zeros(begin.size, np.int64)
    seen_point = np.zeros(begin.size, np.bool_)
    ended = np.zeros(begin.size, np.bool_)
    broken = np.zeros(begin.size, np.bool_)
    for _ in range(_LONGEST_NUMBER + 1):
        character = padded[at]
        digit = character - ord("0")  # wraps for what is below '0', so one comparison is enough
        is_digit = (digit < 10) & ~ended
        ended |= (character == ord(" ")) | (character == ord("\n")) | (character == ord("\r"))
        is_point = (character == ord(".")) & ~ended
        broken |= (~is_digit & ~is_point & ~ended) | (is_point & seen_point)
        whole = np.where(is_digit, whole * 10 + digit, whole)
        decimals += is_digit & seen_point
        digits += is_digit
        seen_point |= is_point
        if ended.all():
            break
        at = at + 1
        np.minimum(at, padded.size - 1, out=at)
    value = whole / np.power(10.0, decimals)
    return np.where(negative, -value, value), ended & ~broken & (digits > 0)


def _assemble(blocks: list[_Block]) -> Gcode:
    others = [line for block in blocks for line in block.others]
    header, body = _split_header(others)
    words = np.concatenate([b.words for b in blocks]) if blocks else np.empty((0, 5))
    line = np.concatenate([b.line for b in blocks]) if blocks else np.empty(0, np.int64)
    rapid = np.concatenate([b.rapid for b in blocks]) if blocks else np.empty(0, np.bool_)
    faults = [fault for block in blocks for fault in block.faults]
    by_word = _by_word(body)
    changes = sorted((t for w in _MODES for t in by_word.get(w, [])), key=lambda t: t.number)
    start, end, extruded, feed = _follow(words, line, changes, faults)
    layer = _labels(by_word.get(";LAYER", []), line, r";LAYER:(-?\d+)")
    kind, kinds = _named(by_word.get(";TYPE", []), line, ";TYPE:")
    mesh, meshes = _named(by_word.get(";MESH", []), line, ";MESH:")
    return Gcode(
        header=tuple(header),
        others=tuple(body),
        by_word=by_word,
        faults=tuple(faults[:20]),
        line_count=sum(block.line_count for block in blocks),
        start=start,
        end=end,
        extruded=extruded,
        feed=feed / 60.0,
        layer=layer,
        kind=kind,
        mesh=mesh,
        line=line,
        rapid=rapid,
        kinds=kinds,
        meshes=meshes,
    )


def _split_header(others: list[TextLine]) -> tuple[list[TextLine], list[TextLine]]:
    """The header ends at ;END_OF_HEADER or at the first ;LAYER, within about 100 lines (libCharon)."""
    for index, line in enumerate(others):
        if line.number > _HEADER_LINE_LIMIT or line.text.startswith(";LAYER"):
            return others[:index], others[index:]
        if line.text.strip() == ";END_OF_HEADER":
            return others[: index + 1], others[index + 1 :]
    return others, []


def _follow(
    words: FloatArray, line: IntArray, mode_changes: list[TextLine], faults: list[str]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Positions, extrusion and feed of every move, run by run between changes of mode (G90/91, M82/83, G92)."""
    count = len(words)
    end = np.full((count, 3), np.nan)
    extruded = np.zeros(count)
    position = np.full(4, np.nan)  # X Y Z and the extruder's counter
    position[3] = 0.0
    absolute = absolute_e = True
    cursor = 0
    for change in [*mode_changes, None]:
        stop = count if change is None else int(np.searchsorted(line, change.number))
        rows = slice(cursor, stop)
        if stop > cursor:
            for axis in range(3):
                end[rows, axis], _ = _track(words[rows, axis], position[axis], absolute=absolute)
                position[axis] = end[stop - 1, axis]
            _, extruded[rows] = _track(words[rows, 3], position[3], absolute=absolute and absolute_e)
            position[3] += float(extruded[rows].sum())
        cursor = stop
        if change is not None:
            absolute, absolute_e = _switch(change, absolute, absolute_e, position, faults)
    start = np.vstack((np.full((1, 3), np.nan), end[:-1])) if count else end.copy()
    held_feed, _ = _track(words[:, 4], np.nan, absolute=True)
    return start, end, extruded, held_feed


def _track(column: FloatArray, before: float, *, absolute: bool) -> tuple[FloatArray, FloatArray]:
    """Value after each row and its change, from a column with NaN where the word is absent."""
    if not absolute:
        step = np.nan_to_num(column)
        return before + np.cumsum(step), step
    given = ~np.isnan(column)
    last = np.maximum.accumulate(np.where(given, np.arange(column.size), -1)) if column.size else column
    after = np.where(last >= 0, column[np.maximum(last, 0).astype(np.int64)], before)
    return after, np.diff(after, prepend=before) if column.size else after


def _switch(
    change: TextLine, absolute: bool, absolute_e: bool, position: FloatArray, faults: list[str]
) -> tuple[bool, bool]:
    word = change.text[:3]
    if word == "G92":
        match = re.fullmatch(r"G92 E(-?\d+(?:\.\d+)?)", change.text.strip())
        if match:
            position[3] = float(match.group(1))
        else:
            faults.append(f"line {change.number} sets a position other than the extruder's")
    elif word in {"G90", "G91"}:
        absolute = word == "G90"
    else:
        absolute_e = word == "M82"
    return absolute, absolute_e


def _labels(body: list[TextLine], line: IntArray, pattern: str) -> IntArray:
    """The number a comment gives to all moves after it; -1 before the first."""
    marks = [(t.number, int(m.group(1))) for t in body if (m := re.fullmatch(pattern, t.text.strip()))]
    values = np.array([-1, *(value for _, value in marks)], np.int64)
    return values[np.searchsorted(np.array([number for number, _ in marks], np.int64), line)]


def _named(body: list[TextLine], line: IntArray, prefix: str) -> tuple[IntArray, tuple[str, ...]]:
    """Index of the name a comment gives to all moves after it, and the names."""
    index: dict[str, int] = {"": 0}
    marks = [
        (t.number, index.setdefault(t.text[len(prefix) :].strip(), len(index)))
        for t in body
        if t.text.startswith(prefix)
    ]
    values = np.array([0, *(value for _, value in marks)], np.int64)
    found: IntArray = values[np.searchsorted(np.array([number for number, _ in marks], np.int64), line)]
    return found, tuple(index)


def _by_word(lines: Sequence[TextLine]) -> dict[str, list[TextLine]]:
    found: dict[str, list[TextLine]] = {}
    place: dict[str, list[TextLine]] = {}  # of each text, so that every text is taken apart once
    for line in lines:
        among = place.get(line.text)
        if among is None:
            # the first word wherever it stands: one that is lost here is seen by no check
            first = line.text.split(":" if line.text.startswith(";") else None, maxsplit=1)
            word = first[0].strip() if first else ""
            among = place[line.text] = found.setdefault(word, [])
        among.append(line)
    found.pop("", None)
    return found


def commands(gcode: Gcode) -> Mapping[str, list[TextLine]]:
    """Lines after the header that are neither comments nor moves, by their command word."""
    return {word: lines for word, lines in gcode.by_word.items() if not word.startswith(";")}
