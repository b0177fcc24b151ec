"""The audit passes a real file and catches every way it is spoilt."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable

import numpy as np
import pytest

from service.gcode.audit import AuditReport, Channel, ExpectedPrint, audit_gcode
from service.ports import SliceSettings
from tests.support_gcode import ENTRY, RADIUS, TARGET, SlicedPart, sliced_part

SECRET = "Mustermann"


@pytest.fixture(scope="session")
def sliced() -> SlicedPart:
    return sliced_part()


@pytest.fixture(scope="session")
def good(sliced) -> tuple[str, ...]:
    return tuple(sliced.gcode.read_text().splitlines())


def audit(sliced: SlicedPart, path=None, **changes) -> AuditReport:
    arguments = {
        "expected": ExpectedPrint.from_settings(SliceSettings()),
        "part_mesh": sliced.part,
        "channels": [(ENTRY, TARGET, RADIUS)],
        "forbidden_words": [SECRET],
    }
    return audit_gcode(path or sliced.gcode, **{**arguments, **changes})


def codes(report: AuditReport) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity == "fault"}


def test_a_good_file_passes_and_is_measured(sliced):
    report = audit(sliced)
    assert codes(report) == set()
    assert report.passed
    measures = report.measures
    assert measures["layers"] == 65
    assert measures["part_over_mesh"] == pytest.approx(1.02, abs=0.03)
    assert measures["support_mm3"] > 10  # under the ledge, so the channel check had something to find
    assert measures["filler_mm3"] > 10
    assert measures["channels"][0]["free_radius_mm"] > 1.1
    assert measures["channels"][0]["walled_fraction"] == 1.0
    assert measures["fastest_mm_s"]["WALL-OUTER"] == 36.0
    document = report.to_document()
    assert json.loads(json.dumps(document, allow_nan=False))["passed"] is True


# --- twelve ways to spoil it, and some more ------------------------------------------------------------------


Lines = list[str]
Mutation = Callable[[Lines, random.Random], Lines]


def replaced(lines: Lines, pattern: str, by: str, count: int = 1) -> Lines:
    """Lines with the first `count` matches changed; the mutation must really change something."""
    done, result = 0, []
    for line in lines:
        hit = done < count and re.search(pattern, line) is not None
        result.append(re.sub(pattern, by, line) if hit else line)
        done += hit
    assert done
    return result


def inserted(lines: Lines, chance: random.Random, *new: str) -> Lines:
    at = chance.randrange(len(lines) // 4, 3 * len(lines) // 4)
    return [*lines[:at], *new, *lines[at:]]


def scaled(lines: Lines, letter: str, factor: float, shift: float = 0.0, only: str = r"^G[01] ") -> Lines:
    def change(match: re.Match[str]) -> str:
        return f"{letter}{float(match.group(1)) * factor + shift:.5f}"

    pattern = re.compile(rf"\b{letter}(-?[\d.]+)")
    stop = lines.index("G91")
    return [pattern.sub(change, t) if i < stop and re.search(only, t) else t for i, t in enumerate(lines)]


def hotter_nozzle(lines, _):
    return replaced(lines, r"^M109 S210$", "M109 S230")


def hotter_header(lines, _):
    return replaced(lines, r"INITIAL_TEMPERATURE:210", "INITIAL_TEMPERATURE:215")


def hotter_later(lines, chance):
    return inserted(lines, chance, "M104 S211")


def missing_layer(lines, chance):
    layer = chance.randrange(5, 60)
    begin, end = lines.index(f";LAYER:{layer}"), lines.index(f";LAYER:{layer + 1}")
    return lines[:begin] + lines[end:]


def thicker_layer(lines, chance):
    """One layer is printed 0.05 mm higher."""
    height = chance.randrange(5, 60) * 0.2
    return replaced(lines, rf"^(G0 .*Z){height:.5g}$", rf"\g<1>{height + 0.05:.5g}", count=9)


def blocked_channel(lines, chance, kind="WALL-INNER"):
    """One line through the channel, the extruder's counter consistently moved on after it."""
    share = chance.uniform(0.2, 0.7)
    x, y, z = np.asarray(ENTRY) + share * np.subtract(TARGET, ENTRY) + [116.5, 107.5, 0]
    layer = int(z / 0.2)
    at = lines.index(f";LAYER:{layer}")
    while not re.match(r"G1 X\S+ Y\S+ E", lines[at]):
        at += 1
    counter = float(lines[at].split("E")[1])
    back = " ".join(lines[at].split()[1:3])
    feed = next(m[0] for t in reversed(lines[:at]) if (m := re.search(r"F[0-9.]+", t)) and t.startswith("G1"))
    x0, x1, push = x - 0.9, x + 0.9, 0.0203
    crossing = [
        f";TYPE:{kind}",
        f"G0 F15000 X{x0:.3f} Y{y:.3f}",
        f"G1 F900 X{x1:.3f} Y{y:.3f} E{counter + push:.5f}",
    ]
    rest = scaled(lines[at + 1 :], "E", 1.0, push)
    return [*lines[: at + 1], *crossing, f"G0 F15000 {back}", f"G1 {feed}", *rest]


def support_in_channel(lines, chance):
    return blocked_channel(lines, chance, "SUPPORT")


def other_flavour(lines, _):
    return replaced(lines, ";FLAVOR:Griffin", ";FLAVOR:Marlin")


def other_machine(lines, _):
    return replaced(lines, "TARGET_MACHINE.NAME:.*", "TARGET_MACHINE.NAME:Ultimaker S5")


def off_the_bed(lines, _):
    moved = scaled(lines, "X", 1.0, 110.0)
    return [re.sub(r"(SIZE\.M..\.X:)([\d.]+)", lambda m: f"{m[1]}{float(m[2]) + 110:g}", t) for t in moved]


def moved_on_the_bed(lines, _):
    """Still on the plate, but no longer where the channels were checked."""
    moved = scaled(lines, "Y", 1.0, 9.0, only=r"^G[01] .*X")
    return [re.sub(r"(SIZE\.M..\.Y:)([\d.]+)", lambda m: f"{m[1]}{float(m[2]) + 9:g}", t) for t in moved]


def doubled_speed(lines, _):
    return scaled(lines, "F", 2.0, only=r"^G1 .*X")


def second_extruder(lines, chance):
    return inserted(lines, chance, "T1")


def second_train(lines, _):
    return replaced(lines, ";BUILD_PLATE.TYPE", ";EXTRUDER_TRAIN.1.NOZZLE.DIAMETER:0.4\n;BUILD_PLATE.TYPE")


def forbidden_command(lines, chance):
    return inserted(lines, chance, chance.choice(["G28", "M140 S90", "M500", "M117 hello", "G2 X1 Y1 I1 J1"]))


def wrong_bed(lines, _):
    return replaced(lines, "BUILD_PLATE.INITIAL_TEMPERATURE:60", "BUILD_PLATE.INITIAL_TEMPERATURE:80")


def path_in_comment(lines, chance):
    return inserted(lines, chance, chance.choice([";MESH:/home/user/case/part.stl", r";C:\scans\a.stl"]))


def name_in_comment(lines, chance):
    return inserted(lines, chance, f";{SECRET.upper()}")


def name_in_known_comment(lines, _):
    return replaced(lines, ";Generated with.*", f";Generated with Cura_SteamEngine {SECRET}")


def truncated(lines, chance):
    return lines[: chance.randrange(len(lines) // 2, len(lines) - 200)]


def tail_cut(lines, _):
    return lines[:-1]


def doubled_extrusion(lines, _):
    twice = scaled(lines, "E", 2.0)
    return [re.sub(r"(VOLUME_USED:)(\d+)", lambda m: f"{m[1]}{int(m[2]) * 2}", t) for t in twice]


def wrong_volume(lines, _):
    return replaced(lines, r"VOLUME_USED:\d+", "VOLUME_USED:900")


def two_colons(lines, _):
    return replaced(lines, "PRINT.TIME:.*", "PRINT.TIME:1:02:03")


def no_time(lines, _):
    return [line for line in lines if not line.startswith(";PRINT.TIME")]


def other_material(lines, _):
    return replaced(lines, "GUID:.*", "GUID:86a89ceb-4159-47f6-ab97-e9953803d70f")


def unreadable_move(lines, chance):
    return inserted(lines, chance, "G1 X12,5 Y3")


MUTATIONS: list[tuple[Mutation, str]] = [
    (hotter_nozzle, "temperature.nozzle"),
    (missing_layer, "layer.missing"),
    (blocked_channel, "channel.blocked"),
    (other_flavour, "header.flavour"),
    (off_the_bed, "extent.bed"),
    (doubled_speed, "speed.high"),
    (second_extruder, "extruder.second"),
    (forbidden_command, "command.forbidden"),
    (wrong_bed, "temperature.bed"),
    (path_in_comment, "comment.path"),
    (truncated, "file.end"),
    (doubled_extrusion, "extrusion.volume"),
    # further ones, each the only thing wrong with the file
    (hotter_header, "temperature.nozzle"),
    (hotter_later, "temperature.nozzle"),
    (thicker_layer, "layer.height"),
    (support_in_channel, "channel.support"),
    (other_machine, "header.machine"),
    (moved_on_the_bed, "extent.model"),
    (second_train, "extruder.second"),
    (name_in_comment, "comment.forbidden"),
    (name_in_known_comment, "comment.forbidden"),
    (tail_cut, "temperature.end"),
    (wrong_volume, "extrusion.header"),
    (two_colons, "header.form"),
    (no_time, "header.form"),
    (other_material, "header.material"),
    (unreadable_move, "command.unreadable"),
]


@pytest.mark.parametrize(("mutation", "code"), MUTATIONS, ids=lambda item: getattr(item, "__name__", ""))
def test_a_spoilt_file_is_caught(sliced, good, tmp_path, mutation, code):
    spoilt = tmp_path / "spoilt.gcode"
    spoilt.write_text("\n".join(mutation(list(good), random.Random(mutation.__name__))) + "\n")
    report = audit(sliced, spoilt)
    assert not report.passed
    assert code in codes(report)
    assert SECRET.casefold() not in json.dumps(report.to_document()).casefold()


def test_a_line_through_the_channel_is_the_only_thing_found(sliced, good, tmp_path):
    """The mutation is so careful that nothing but the channel check can see it."""
    spoilt = tmp_path / "spoilt.gcode"
    spoilt.write_text("\n".join(blocked_channel(list(good), random.Random(3))) + "\n")
    assert codes(audit(sliced, spoilt)) == {"channel.blocked"}


def test_a_channel_that_is_elsewhere_is_not_called_open(sliced):
    report = audit(sliced, channels=[Channel((60, 0, 9), (60, 12, 5), RADIUS)])
    assert codes(report) == {"channel.absent"}


def test_another_model_is_noticed(sliced):
    vertices = np.array([[0, 0, 0], [20, 0, 0], [0, 20, 0], [0, 0, 13]], float) - [5, 5, 0]
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert {"extrusion.volume", "extent.model"} <= codes(audit(sliced, part_mesh=(vertices, faces)))


def test_windows_line_ends_pass(sliced, good, tmp_path):
    path = tmp_path / "crlf.gcode"
    path.write_bytes("\r\n".join([*good, ""]).encode())
    assert audit(sliced, path).passed


def test_an_empty_file_fails_in_words(sliced, tmp_path):
    path = tmp_path / "empty.gcode"
    path.write_bytes(b"")
    assert {"header.form", "extent.empty", "layer.count"} <= codes(audit(sliced, path))


def test_fast_enough_for_a_whole_vertebra(sliced):
    """A guard that holds on a slow machine too: within so many times the cost of splitting the lines into words."""
    text = sliced.gcode.read_text()
    words = min(_timed(lambda: [line.split() for line in text.splitlines()]) for _ in range(3))
    best = min(_timed(lambda: audit(sliced)) for _ in range(3))
    print(
        f"audit: {best / len(text) * 20e6:.1f} s of processor for 20 MB, {best / words:.1f} times splitting"
    )
    assert best / words < 12


def _timed(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin
