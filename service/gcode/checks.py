"""The single checks of the audit. Each gets the file and what was ordered, and yields findings.

No message repeats text of the file: a comment that should not be there may hold a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.gcode.expected import ExpectedPrint, Finding, PartSize
from service.gcode.header import KNOWN_PLA_GUIDS, Header, text_faults
from service.gcode.private_words import word_in
from service.gcode.reader import FloatArray, Gcode, TextLine, commands

MODEL_KINDS = ("WALL-OUTER", "WALL-INNER", "SKIN", "FILL")
SUPPORT_KINDS = ("SUPPORT", "SUPPORT-INTERFACE")
FILLER_MESH = "filler.stl"

_ALLOWED: dict[str, str] = {
    "T0": "",
    "G90": "",
    "G91": "",
    "G92": r"E-?\d+(\.\d+)?",
    "G280": r"(S1)?",
    "M82": "",
    "M104": r"(T0 )?S\d+(\.\d+)?",
    "M106": r"S\d+(\.\d+)?",
    "M107": "",
    "M109": r"(T0 )?S\d+(\.\d+)?",
    "M204": r"S\d+",
    "M205": r"X\d+(\.\d+)?( Y\d+(\.\d+)?)?",
}
_KNOWN_COMMENTS = re.compile(
    r";(LAYER:\d+|LAYER_COUNT:\d+|TIME_ELAPSED:\d+(\.\d+)?|MESH:(part\.stl|filler\.stl|NONMESH)"
    r"|TYPE:(SKIRT|WALL-OUTER|WALL-INNER|SKIN|FILL|SUPPORT|SUPPORT-INTERFACE|PRIME-TOWER)"
    r"|Generated with Cura_SteamEngine [45](\.\d{1,2}){1,2}(-(alpha|beta)(\.\d{1,2})?)?)",
    re.ASCII,
)
_PATH = re.compile(r"[A-Za-z]:\\|\\\\\w|(^|[\s:=\"'])~?/[\w.-]+/|file:|\w/\w+/\w")
_LONGEST_RETRACTION_MM = 8.0
# Gap filling between walls reaches 0.95 mm in 4.13 files of a vertebra.
_WIDEST_LINE_MM = 1.2
# What five decimals of the extruder's counter and three of a place may add to a move.
_ROUNDED_FILAMENT_MM = 0.0002
_SHORT_PATH_MM = 5.0
"""A layer with less path of the part is the tip of a point, whose few lines the slicer thins out."""
_EMPTY_TOP_LAYERS = 2
_LAYER_COUNT_TOLERANCE = 2.5
# A line ends short of a pointed tip; it never lies outside the model by more than the slicer's rounding.
_OUTSIDE_MODEL_MM, _SHORT_OF_MODEL_MM = 0.1, 2.5


def check_header(header: Header, expected: ExpectedPrint) -> Iterator[Finding]:
    for fault in header.faults:
        yield Finding("header.form", fault[0].upper() + fault[1:] + ".")
    if header.values.get("HEADER_VERSION") != "0.1":
        yield Finding("header.version", "The header version is not 0.1.")
    if header.values.get("FLAVOR") != expected.flavour:
        yield Finding("header.flavour", f"The G-code flavour is not {expected.flavour}.")
    if header.values.get("TARGET_MACHINE.NAME") not in expected.machines:
        yield Finding("header.machine", "The file is for another machine than the Ultimaker 3.")
    if any(re.match(r"EXTRUDER_TRAIN\.(?!0\.)", key) for key in header.values):
        yield Finding("extruder.second", "The header asks for a second extruder.")
    train = "EXTRUDER_TRAIN.0."
    guid = header.values.get(train + "MATERIAL.GUID", "")
    if guid != expected.material_guid or guid not in KNOWN_PLA_GUIDS:
        yield Finding("header.material", "The material is not the PLA that was ordered.")
    if header.values.get(train + "NOZZLE.NAME") != expected.nozzle_name:
        yield Finding("header.nozzle", f"The print core is not {expected.nozzle_name}.")
    numbers = (
        (train + "INITIAL_TEMPERATURE", expected.nozzle_c, "temperature.nozzle", "Nozzle temperature"),
        ("BUILD_PLATE.INITIAL_TEMPERATURE", expected.bed_c, "temperature.bed", "Bed temperature"),
        (train + "NOZZLE.DIAMETER", expected.nozzle_mm, "header.nozzle", "Nozzle diameter"),
    )
    for key, wanted, code, words in numbers:
        value = header.number(key)
        if not abs(value - wanted) <= expected.temperature_tolerance_c:
            yield Finding(code, f"{words} in the header is {value:g}, ordered was {wanted:g}.")


def check_comments(gcode: Gcode, forbidden_words: Sequence[str]) -> Iterator[Finding]:
    """Only keys and comments of a known form; no path; none of the given words anywhere, in any case."""
    for fault in text_faults(gcode.header):
        yield Finding("header.text", fault[0].upper() + fault[1:] + ".")
    words = [word.strip() for word in forbidden_words if len(word.strip()) >= 2]
    first = _first_of_each(gcode.others)
    for text, line in (*((t.text, t) for t in gcode.header), *first.items()):
        if _PATH.search(text):
            yield Finding("comment.path", f"Line {line.number} holds a file path.")
        if any(word_in(word, text) for word in words):
            yield Finding(
                "comment.forbidden", f"Line {line.number} holds a word that must not leave the house."
            )
    for text, line in first.items():
        if ";" in text and not _KNOWN_COMMENTS.fullmatch(text.strip()):
            yield Finding("comment.unknown", f"Line {line.number} has a comment of unknown form.")


def _first_of_each(lines: Sequence[TextLine]) -> dict[str, TextLine]:
    """Where each text comes first: the same few dozen come a hundred thousand times."""
    first: dict[str, TextLine] = {}
    for line in lines:
        first.setdefault(line.text, line)
    return first


def check_commands(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    for fault in gcode.faults:
        yield Finding("command.unreadable", fault[0].upper() + fault[1:] + ".")
    found = commands(gcode)
    for word, lines in found.items():
        if re.fullmatch(r"T\d+", word) and word != "T0":
            yield Finding("extruder.second", f"Line {lines[0].number} changes to another extruder.")
        elif word not in _ALLOWED:
            yield Finding("command.forbidden", f"Line {lines[0].number} has a command that is not allowed.")
        else:
            pattern = re.compile(_ALLOWED[word], re.ASCII)
            bad = [
                t
                for text, t in _first_of_each(lines).items()
                if not pattern.fullmatch(text.strip()[len(word) :].strip())
            ]
            if bad:
                yield Finding(
                    "command.forbidden", f"Line {bad[0].number} has a command with an odd argument."
                )
    yield from _primings(gcode)
    yield from _nozzle_temperature(gcode, expected)


def _primings(gcode: Gcode) -> Iterator[Finding]:
    """Each pushes a blob out where the nozzle is: once, beside the part."""
    lines = gcode.by_word.get("G280", [])
    printed = gcode.line[gcode.is_printed_line]
    if len(lines) > 1 or (lines and printed.size and lines[0].number > int(printed[0])):
        yield Finding("command.priming", f"Line {lines[-1].number} primes the nozzle while it prints.")


def _nozzle_temperature(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    heats = [
        (line.number, float(match.group(2)))
        for word in ("M104", "M109")
        for line in commands(gcode).get(word, [])
        if (match := re.search(r"(^|\s)S(\d+(?:\.\d+)?)", line.text))
    ]
    heats.sort()
    printed = gcode.line[gcode.is_printed_line]
    last = int(printed[-1]) if printed.size else 0
    first = int(printed[0]) if printed.size else 0
    for number, value in heats:
        ordered = abs(value - expected.nozzle_c) <= expected.temperature_tolerance_c
        off_at_the_end = value == 0.0 and number > last
        if not (ordered or off_at_the_end):
            yield Finding(
                "temperature.nozzle",
                f"Line {number} sets the nozzle to {value:g}, not {expected.nozzle_c:g}.",
            )
    if not any(number < first for number, _ in heats):
        yield Finding("temperature.nozzle", "The nozzle is not heated before the first line.")
    if not heats or heats[-1][0] < last or heats[-1][1] != 0.0:
        yield Finding("temperature.end", "The nozzle is not switched off at the end.")


def check_layers(gcode: Gcode, header: Header, expected: ExpectedPrint, part: PartSize) -> Iterator[Finding]:
    counts = _numbers(gcode, ";LAYER_COUNT", r"(\d+)")
    numbers = _numbers(gcode, ";LAYER", r"(-?\d+)")
    if len(counts) != 1 or counts[0] <= 0:
        yield Finding("layer.count", "The number of layers is not stated once.")
    elif numbers != list(range(counts[0])):
        yield Finding("layer.missing", f"The layers are not numbered 0 to {counts[0] - 1} without a gap.")
    height = part.high[2] - part.low[2]
    if abs(len(numbers) - height / expected.layer_mm) > _LAYER_COUNT_TOLERANCE:
        yield Finding("layer.count", f"{len(numbers)} layers do not make the model's {height:.2f} mm.")
    printed = gcode.is_printed_line
    layer, top = gcode.layer[printed], gcode.end[printed, 2]
    off = np.abs(top - (layer + 1) * expected.layer_mm) > expected.layer_tolerance_mm
    slanted = np.abs(gcode.start[printed, 2] - top) > expected.layer_tolerance_mm
    if off.any() or slanted.any():
        number = int(gcode.line[printed][off | slanted][0])
        yield Finding("layer.height", f"From line {number} on layers are not {expected.layer_mm:g} mm apart.")
    present = np.unique(gcode.layer[part_lines(gcode)])
    if present.size:
        # the last layers of a rounded top can be thinner than any line; nowhere else may one be empty
        holes = int(present[-1]) + 1 - present.size
        if holes > 0 or len(numbers) - 1 - int(present[-1]) > _EMPTY_TOP_LAYERS:
            yield Finding("layer.missing", "There are layers that print nothing of the model.")
    yield from _ending(gcode, header)


def _numbers(gcode: Gcode, word: str, pattern: str) -> list[int]:
    """Whole numbers of the comments `word:number`, in order."""
    form = re.compile(f"{word}:{pattern}")
    return [int(m.group(1)) for t in gcode.by_word.get(word, []) if (m := form.fullmatch(t.text.strip()))]


def _ending(gcode: Gcode, header: Header) -> Iterator[Finding]:
    times = [
        float(t.text.split(":")[1])
        for t in gcode.by_word.get(";TIME_ELAPSED", [])
        if re.fullmatch(r";TIME_ELAPSED:[\d.]+", t.text)
    ]
    stated = header.number("PRINT.TIME")
    if any(after < before for before, after in pairwise(times)):
        yield Finding("file.time", "The times of the layers do not follow each other.")
    if not times or not abs(times[-1] - stated) <= max(2.0, 0.01 * stated):
        yield Finding("file.end", "The file ends at another time than its header states.")


def first_layer_s(gcode: Gcode) -> float | None:
    """When the first layer is done, by the slicer's own clock."""
    first = next(iter(gcode.by_word.get(";TIME_ELAPSED", [])), None)
    match = re.fullmatch(r";TIME_ELAPSED:(\d+(?:\.\d+)?)", first.text) if first else None
    return round(float(match.group(1)), 1) if match else None


def check_extents(gcode: Gcode, header: Header, expected: ExpectedPrint, part: PartSize) -> Iterator[Finding]:
    limits = np.array(expected.volume_mm)
    # a position that is not known yet compares as neither
    outside = (gcode.end < 0.0).any() or (gcode.end > limits).any()
    if outside or not np.isfinite(gcode.end).any():
        yield Finding("extent.bed", "The nozzle would leave the build volume.")
    yield from _dives(gcode, expected)
    printed = gcode.is_printed_line
    if not printed.any():
        yield Finding("extent.empty", "Nothing is printed.")
        return
    for end, found in zip(("MIN", "MAX"), _bounds(gcode, printed), strict=True):
        stated = np.array([header.number(f"PRINT.SIZE.{end}.{axis}") for axis in "XYZ"])
        if not (np.abs(stated - found) <= 0.5).all():
            yield Finding("extent.header", f"The header's {end} size is not that of the printed lines.")
    model = part_lines(gcode)
    if model.any():
        lowest, highest = (corner[:2] - expected.bed_from_print_mm for corner in _bounds(gcode, model))
        below, above = lowest - part.low[:2], np.array(part.high[:2]) - highest
        gap = np.concatenate((below, above))
        if (gap < -_OUTSIDE_MODEL_MM).any() or (gap > _SHORT_OF_MODEL_MM).any():
            yield Finding("extent.model", "The printed lines do not lie where the model lies.")


def _bounds(gcode: Gcode, chosen: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest X, Y, Z of the chosen moves, both ends."""
    start, end = gcode.start[chosen], gcode.end[chosen]
    return (
        np.minimum(np.nanmin(start, axis=0), np.nanmin(end, axis=0)),
        np.maximum(np.nanmax(start, axis=0), np.nanmax(end, axis=0)),
    )


def _dives(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    """In no layer may the nozzle go lower than its own height: it would plough through what is printed.

    Straight down counts as well, whether it travels there or not: down to the layer below, which is where a new
    layer begins before it lifts. The end sequence only lifts, so it is held to the last layer's height.
    """
    inside = gcode.layer >= 0
    below = gcode.layer * expected.layer_mm - expected.layer_tolerance_mm
    own = below + expected.layer_mm
    low = inside & (gcode.end[:, 2] < np.where(gcode.moves_in_plane, own, below))
    if low.any():
        yield Finding("extent.dive", f"Line {int(gcode.line[low][0])} goes into what is printed already.")


def check_layer_plastic(gcode: Gcode, expected: ExpectedPrint, areas: FloatArray) -> Iterator[Finding]:
    """Plastic of the part in each layer against the model's cross-section there (`areas`, mm2)."""
    printed = layer_plastic(gcode, expected, areas.size)
    wanted = np.pad(areas, (0, printed.size - areas.size))
    off = np.abs(printed - wanted) > expected.layer_area_share * wanted + expected.layer_area_mm2
    for layer in np.flatnonzero(off):
        yield Finding(
            "extrusion.layer",
            f"Layer {layer} lays down {printed[layer]:.0f} mm2, the model has {wanted[layer]:.0f} mm2 there.",
        )


def layer_plastic(gcode: Gcode, expected: ExpectedPrint, count: int) -> FloatArray:
    """Plastic of the part in each layer as the area (mm2) it fills; at least `count` layers."""
    model = part_lines(gcode) & (gcode.layer >= 0)
    scale = expected.filament_mm2 / expected.layer_mm
    filled = np.bincount(gcode.layer[model], gcode.extruded[model] * scale, minlength=count)
    return np.asarray(filled, dtype=np.float64)


def check_extrusion(
    gcode: Gcode, header: Header, expected: ExpectedPrint, part: PartSize
) -> Iterator[Finding]:
    area = expected.filament_mm2
    printed = gcode.is_printed_line
    ratio = float(gcode.extruded[part_lines(gcode)].sum()) * area / part.volume_mm3
    low, high = expected.volume_ratio
    if not low <= ratio <= high:
        yield Finding("extrusion.volume", f"The part gets {ratio:.2f} times the plastic of its volume.")
    total = float(gcode.extruded[printed].sum()) * area
    stated = header.number("EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED")
    if not abs(total - stated) <= max(10.0, 0.01 * stated):
        yield Finding("extrusion.header", f"{total:.0f} mm3 are extruded, the header states {stated:.0f}.")
    moved = gcode.moves_in_plane & (gcode.layer >= 0) & ~gcode.rapid
    if (gcode.extruded[moved] < -1e-4).any():
        yield Finding("extrusion.backwards", "Filament is drawn back while a line is printed.")
    if (np.abs(gcode.extruded[~printed]) > _LONGEST_RETRACTION_MM).any():
        yield Finding("extrusion.blob", "Filament is pushed or drawn far while the nozzle stands.")
    # what was drawn back, less what was pushed again: never more than one retraction either way
    standing = np.cumsum(np.where(printed, 0.0, gcode.extruded))
    if standing.size and np.ptp(standing) > 2.0 * _LONGEST_RETRACTION_MM:
        yield Finding("extrusion.blob", "Retractions and their returns do not cancel.")
    yield from _line_widths(gcode, expected, printed)


def _line_widths(gcode: Gcode, expected: ExpectedPrint, printed: NDArray[np.bool_]) -> Iterator[Finding]:
    """Plastic per length, as the width of a line one layer high: alone and as the mean of each layer."""
    length = gcode.path_mm
    scale = expected.filament_mm2 / expected.layer_mm
    # however short: a blob is a move of no length
    held = _WIDEST_LINE_MM * length[printed] / scale + _ROUNDED_FILAMENT_MM
    # a line from a place that is not known compares as not held
    beyond = ~(gcode.extruded[printed] <= held)
    if beyond.any():
        number = int(gcode.line[printed][beyond][0])
        yield Finding("extrusion.width", f"Line {number} pushes more plastic than the nozzle can lay down.")
    model = part_lines(gcode) & (gcode.layer >= 0)
    if not model.any():
        return
    plastic = np.bincount(gcode.layer[model], gcode.extruded[model] * scale)
    path = np.bincount(gcode.layer[model], length[model])
    enough = path > _SHORT_PATH_MM
    mean = plastic[enough] / path[enough]
    least, most = expected.mean_width_mm
    if mean.size and (mean.min() < least or mean.max() > most):
        yield Finding(
            "extrusion.width", f"Mean line widths reach {mean.min():.2f} to {mean.max():.2f} mm in a layer."
        )


def part_lines(gcode: Gcode) -> NDArray[np.bool_]:
    """Printed lines of the part itself: neither support, brim nor the cavity filler."""
    chosen: NDArray[np.bool_] = (
        gcode.is_printed_line & gcode.of_kind(*MODEL_KINDS) & ~gcode.of_mesh(FILLER_MESH)
    )
    return chosen
