"""The audit passes a real file and catches every way it is spoilt."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable

import numpy as np
import pytest

from service.gcode import checks
from service.gcode.audit import Channel
from service.gcode.reader import read_gcode
from tests.support_gcode import RADIUS, SlicedPart, sliced_part
from tests.support_spoilt_gcode import EXPECTED, audit, codes
from tests.support_spoilt_unseen import filled_cavity
from tests.support_spoilt_ways import (
    MUTATIONS,
    blocked_channel,
    check_caught,
    nozzle_dives,
    one_wall_missing,
    spoilt,
)


@pytest.fixture(scope="session")
def sliced() -> SlicedPart:
    return sliced_part()


@pytest.fixture(scope="session")
def good(sliced) -> tuple[str, ...]:
    return tuple(sliced.gcode.read_text().splitlines())


def test_a_good_file_passes_and_is_measured(sliced):
    report = audit(sliced)
    assert codes(report) == set()
    assert report.passed
    measures = report.measures
    assert measures["layers"] == 65
    assert measures["part_over_mesh"] == pytest.approx(1.02, abs=0.03)
    assert measures["layer_off_most"] < 0.05  # the limit is 0.06, so that a wall cannot be missing
    assert measures["support_mm3"] > 10  # under the ledge, so the channel check had something to find
    assert measures["filler_mm3"] > 10
    assert measures["channels"][0]["free_radius_mm"] > 1.1
    assert measures["channels"][0]["walled_fraction"] == 1.0
    assert measures["fastest_mm_s"]["WALL-OUTER"] == 36.0
    document = report.to_document()
    assert json.loads(json.dumps(document, allow_nan=False))["passed"] is True


@pytest.mark.parametrize(("mutation", "code"), MUTATIONS, ids=lambda item: getattr(item, "__name__", ""))
def test_a_spoilt_file_is_caught(sliced, good, tmp_path, mutation, code):
    check_caught(audit(sliced, spoilt(good, mutation, tmp_path)), mutation, code)


def test_a_line_through_the_channel_is_the_only_thing_found(sliced, good, tmp_path):
    """The mutation is so careful that nothing but the channel check can see it."""
    path = tmp_path / "spoilt.gcode"
    path.write_text("\n".join(blocked_channel(list(good), random.Random(3))) + "\n")
    assert codes(audit(sliced, path)) == {"channel.blocked"}


@pytest.mark.parametrize(
    ("engine", "path_mm", "width_mm", "found"),
    [
        ("4.13.0", 0.4, 0.14, False),
        ("4.13.0", 8.0, 0.14, True),
        ("4.13.0", 8.0, 0.64, True),
        ("5.0.0", 8.0, 0.14, True),
        ("5.0.0", 8.0, 0.64, False),
        ("5.0.0", 8.0, 0.72, True),
    ],
)
def test_only_a_layer_with_some_path_is_judged_by_its_mean_width(
    good, tmp_path, engine, path_mm, width_mm, found
):
    """The tip of a point is a few tenths of a millimetre of thin line; a whole layer as thin is a fault.

    Of Cura 5 it may be one wide wall.
    """
    last = max(i for i, t in enumerate(good) if re.search(r"^G1 .*E[\d.]+", t))
    counter = float(re.search(r"E([\d.]+)", good[last])[1])
    push = path_mm * width_mm * 0.2 / EXPECTED.filament_mm2
    tip = [
        ";LAYER:65",
        ";TYPE:WALL-OUTER",
        ";MESH:part.stl",
        "G0 F9000 X110 Y105 Z13.2",
        f"G1 F1800 X{110 + path_mm} Y105 E{counter + push:.5f}",
    ]
    path = tmp_path / "tip.gcode"
    path.write_text("\n".join([*good[: last + 1], *tip, *good[last + 1 :]]) + "\n")
    gcode = read_gcode(path)
    widths = checks._line_widths(gcode, EXPECTED.of_engine(engine), gcode.is_printed_line)
    assert [f.code for f in widths] == (["extrusion.width"] if found else [])


@pytest.mark.parametrize("mutation", [one_wall_missing, nozzle_dives], ids=lambda item: item.__name__)
def test_what_is_wrong_in_one_layer_only_is_seen(sliced, good, tmp_path, mutation):
    """So little of the whole file that neither its volume nor its outline tells."""
    path = tmp_path / "spoilt.gcode"
    path.write_text("\n".join(mutation(list(good), random.Random(5))) + "\n")
    assert len(codes(audit(sliced, path))) == 1


def test_a_channel_that_is_elsewhere_is_not_called_open(sliced):
    report = audit(sliced, channels=[Channel((60, 0, 9), (60, 12, 5), RADIUS)])
    assert codes(report) == {"channel.absent"}


def test_a_filler_nobody_asked_for_is_a_fault(sliced):
    assert codes(audit(sliced, filler_mesh=None)) == {"filler.unasked"}


def test_a_cavity_filled_solid_is_told_by_its_filler_alone(sliced, good, tmp_path):
    """Speeds, accelerations, widths and the header's volume are right: only the filler's mesh tells."""
    found = codes(audit(sliced, spoilt(good, filled_cavity, tmp_path)))
    assert found <= {"filler.dense", "filler.deep", "filler.layer"}


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
