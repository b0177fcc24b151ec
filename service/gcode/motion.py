"""How fast the head moves, with what acceleration, and the fan: the profile's own values, neither more nor less."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gcode.expected import ExpectedPrint, Finding
from service.gcode.reader import FloatArray, Gcode, TextLine

_Rows = NDArray[np.bool_]


def check_motion(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    """Speeds, accelerations, jerks and fan."""
    yield from _unknown_kinds(gcode, expected)
    wanted = _printing_speeds(gcode, expected)
    yield from _too_fast(gcode, expected, wanted)
    yield from _too_slow(gcode, expected, wanted)
    yield from _travel(gcode, expected)
    yield from _dynamics(gcode, expected)
    yield from _fan(gcode, expected)


def _by_kind(gcode: Gcode, value: Callable[[str], float]) -> FloatArray:
    """A value of every move by the name of its feature."""
    table = np.array([value(name) for name in gcode.kinds], dtype=np.float64)
    return np.asarray(table[gcode.kind], dtype=np.float64)


def _rising(gcode: Gcode, expected: ExpectedPrint, first: float, final: FloatArray | float) -> FloatArray:
    """What rises from the first layer to its final value."""
    slow = expected.motion.slowdown_layers
    share = np.clip(gcode.layer, 0, slow) / slow
    return np.asarray(first + (final - first) * share, dtype=np.float64)


def _unknown_kinds(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    unknown = [name for name in gcode.kinds if name not in expected.speed_shares]
    if (gcode.is_printed_line & gcode.of_kind(*unknown)).any():
        yield Finding("speed.kind", "Lines are printed outside any known feature type.")


def _printing_speeds(gcode: Gcode, expected: ExpectedPrint) -> FloatArray:
    """Of every move by its feature and layer; NaN where the feature is unknown."""
    final = _by_kind(gcode, lambda name: expected.speed_shares.get(name, np.nan)) * expected.print_speed_mm_s
    return _rising(gcode, expected, expected.motion.first_layer_share * expected.print_speed_mm_s, final)


def _too_fast(gcode: Gcode, expected: ExpectedPrint, wanted: FloatArray) -> Iterator[Finding]:
    # a speed that is not known compares as not below the limit
    fast = (
        gcode.is_printed_line & np.isfinite(wanted) & ~(gcode.feed <= wanted + expected.speed_tolerance_mm_s)
    )
    for index in np.unique(gcode.kind[fast]):
        rows = np.flatnonzero(fast & (gcode.kind == index))
        worst = rows[int(np.argmax(gcode.feed[rows] - wanted[rows]))]
        yield Finding(
            "speed.high",
            f"A {_feature(gcode, int(index), expected)} line is printed at {gcode.feed[worst]:.1f} mm/s in line "
            f"{int(gcode.line[worst])}, allowed {wanted[worst] + expected.speed_tolerance_mm_s:.1f}.",
        )


def _feature(gcode: Gcode, index: int, expected: ExpectedPrint) -> str:
    """Only a name that is in the profile: any other text of the file may be a person's."""
    name = gcode.kinds[index]
    return name if name in expected.speed_shares else "unnamed"


def _too_slow(gcode: Gcode, expected: ExpectedPrint, wanted: FloatArray) -> Iterator[Finding]:
    """Slower than the profile only where a layer would be done too soon to harden, and then as slow as that needs."""
    profile, tolerance = expected.motion, expected.speed_tolerance_mm_s
    printed = gcode.is_printed_line
    slow = printed & (gcode.feed < wanted - tolerance)
    crawling = slow & (gcode.feed < profile.least_mm_s - tolerance)
    times = _layer_times(gcode, wanted)
    for layer in np.unique(gcode.layer[slow]):
        here = slow & (gcode.layer == layer)
        longest = profile.min_layer_s + profile.min_layer_tolerance_s
        needless = times.by_profile[layer] > profile.min_layer_s or times.as_written[layer] > longest
        if layer < 0 or needless or (here & crawling).any():
            row = int(np.flatnonzero(here)[0])
            yield Finding(
                "speed.low",
                f"From line {int(gcode.line[row])} on layer {int(layer)} is printed at {gcode.feed[row]:.1f} mm/s, "
                f"the profile has {wanted[row]:.1f}.",
            )
    shortest = profile.min_layer_s - profile.min_layer_tolerance_s
    for layer in np.flatnonzero(times.as_written + times.standing < shortest):
        feeds = gcode.feed[printed & (gcode.layer == layer)]
        # the factor is one for the whole layer: it ends where the slowest feature is at the least speed
        if feeds.size and feeds.min() > profile.least_mm_s + tolerance:
            yield Finding("speed.high", f"Layer {int(layer)} is done before it can harden.")


@dataclass(frozen=True)
class _Times:
    """Seconds of each layer: lines and travel with the profile's speeds and with the file's, and retractions."""

    by_profile: FloatArray
    as_written: FloatArray
    standing: FloatArray


def _layer_times(gcode: Gcode, wanted: FloatArray) -> _Times:
    there = slice(0, int(np.searchsorted(gcode.line, gcode.end_sequence_line)))
    printed, layer = gcode.is_printed_line[there], np.maximum(gcode.layer[there], 0)
    path = np.where(gcode.layer[there] >= 0, gcode.path_mm[there], 0.0)
    pushed = np.where(path == 0.0, np.abs(gcode.extruded[there]), 0.0)
    feed = np.maximum(gcode.feed[there], 1e-6)
    # what has no speed is a finding elsewhere and takes no time here
    written = np.nan_to_num(path / feed)
    by_profile = np.where(printed, np.nan_to_num(path / wanted[there]), written)
    count = int(gcode.layer.max(initial=0)) + 1

    def summed(seconds: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(layer, seconds, count), dtype=np.float64)

    return _Times(summed(by_profile), summed(written), summed(np.nan_to_num(pushed / feed)))


def _travel(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    """Moves without a line: the profile's travel speed in the plane, the machine's for the plate, retractions."""
    profile, tolerance = expected.motion, expected.speed_tolerance_mm_s
    inside = (gcode.layer >= 0) & (gcode.line < gcode.end_sequence_line)
    plane, feed = gcode.moves_in_plane, gcode.feed
    idle = inside & ~gcode.is_printed_line
    standing = idle & ~plane & (gcode.extruded != 0.0)
    lifts = idle & ~plane & (gcode.extruded == 0.0) & (gcode.start[:, 2] != gcode.end[:, 2])
    wanted = _rising(gcode, expected, profile.first_layer_travel_mm_s, profile.travel_mm_s)
    bad = ~(feed <= profile.travel_mm_s + tolerance)
    bad |= idle & plane & gcode.rapid & ~(np.abs(feed - wanted) <= tolerance)
    # the end of a wall is wiped at the speed of its line
    bad |= idle & plane & ~gcode.rapid & ~(feed <= expected.print_speed_mm_s + tolerance)
    bad |= standing & ~(feed <= profile.retraction_mm_s + tolerance)
    bad |= lifts & ~(feed <= profile.lift_mm_s + tolerance)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        yield Finding(
            "speed.travel",
            f"Line {int(gcode.line[row])} moves at {feed[row]:.1f} mm/s, which is not the profile's speed for it.",
        )


def _dynamics(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    profile = expected.motion
    printing = _rising(
        gcode,
        expected,
        profile.first_layer_acceleration,
        _by_kind(gcode, lambda name: profile.accelerations.get(name, np.nan)),
    )
    travelling = _rising(
        gcode, expected, profile.first_layer_travel_acceleration, profile.travel_acceleration
    )
    limits = (*profile.accelerations.values(), profile.first_layer_acceleration, profile.travel_acceleration)
    yield from _in_force(
        gcode, "M204", ("acceleration", "mm/s2"), limits, printing, travelling, profile.acceleration_tolerance
    )
    jerks = (*profile.jerks.values(), profile.jerk_mm_s, profile.travel_jerk_mm_s)
    yield from _in_force(
        gcode,
        "M205",
        ("jerk", "mm/s"),
        jerks,
        _by_kind(gcode, lambda name: profile.jerks.get(name, profile.jerk_mm_s)),
        np.full(gcode.line.size, profile.travel_jerk_mm_s),
        0.01,
    )


def _in_force(
    gcode: Gcode,
    word: str,
    names: tuple[str, str],
    limits: Sequence[float],
    printing: FloatArray,
    travelling: FloatArray,
    tolerance: float,
) -> Iterator[Finding]:
    """What `word` sets must lie within the profile's values everywhere, and be the right one for every move."""
    name, unit = names
    lines = gcode.by_word.get(word, [])
    numbers, values = _settings(lines)
    outside = ~((values >= min(limits) - tolerance) & (values <= max(limits) + tolerance))
    if outside.any():
        yield Finding(
            f"motion.{name}",
            f"Line {int(numbers[outside][0])} sets a {name} that the profile never has.",
        )
    now = _held(gcode, numbers, values, np.nan)
    printed = gcode.is_printed_line
    travels = gcode.rapid & gcode.moves_in_plane & (gcode.layer >= 0)
    travels &= gcode.line < gcode.end_sequence_line
    wanted = np.where(printed, printing, travelling)
    # an unknown feature is a finding of its own
    bad = (printed | travels) & np.isfinite(wanted) & ~(np.abs(now - wanted) <= tolerance)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        yield Finding(
            f"motion.{name}",
            f"Line {int(gcode.line[row])} has a {name} of {now[row]:g} {unit}, the profile has {wanted[row]:g}.",
        )


def _settings(lines: Sequence[TextLine]) -> tuple[NDArray[np.int64], FloatArray]:
    """Line numbers and the single value of each; NaN when X and Y differ or there is none."""
    known: dict[str, float] = {}
    for text in {line.text for line in lines}:
        found = {float(v) for v in re.findall(r"[A-Z](\d+(?:\.\d+)?)", text.partition(" ")[2])}
        known[text] = found.pop() if len(found) == 1 else float("nan")
    numbers = np.array([line.number for line in lines], np.int64)
    return numbers, np.array([known[line.text] for line in lines], np.float64)


def _held(gcode: Gcode, numbers: NDArray[np.int64], values: FloatArray, before: float) -> FloatArray:
    """What the settings say at every move; `before` until the first of them."""
    begins = np.searchsorted(gcode.line, numbers)
    runs = np.diff(begins, prepend=0, append=gcode.line.size)
    return np.repeat(np.concatenate(([before], values)), runs)


def _fan(gcode: Gcode, expected: ExpectedPrint) -> Iterator[Finding]:
    """In every layer the profile's fan, on and off."""
    profile = expected.motion
    lines = sorted(
        (*gcode.by_word.get("M106", []), *gcode.by_word.get("M107", [])), key=lambda line: line.number
    )
    numbers, values = _settings(lines)
    off = np.array([line.text.strip() == "M107" for line in lines], np.bool_)
    values = np.where(off, 0.0, values) if values.size else values
    # nothing said: the printer starts with the fan off
    now = _held(gcode, numbers, values, 0.0)
    wanted = profile.fan_full * np.clip(gcode.layer / profile.fan_full_layer, 0.0, 1.0)
    bad = gcode.is_printed_line & ~(np.abs(now - wanted) <= profile.fan_tolerance)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        yield Finding(
            "motion.fan",
            f"In line {int(gcode.line[row])}, layer {int(gcode.layer[row])}, the fan runs at {now[row]:.0f} of 255, "
            f"the profile has {wanted[row]:.0f}.",
        )
