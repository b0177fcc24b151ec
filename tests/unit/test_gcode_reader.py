"""The vectorised reader against a plain line-by-line one, and its strictness."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InputRefusedError
from service.gcode import reader
from service.gcode.reader import read_gcode

HEAD = ";START_OF_HEADER\n;FLAVOR:Griffin\n;END_OF_HEADER\n"


def plain_reading(lines: list[str]) -> list[tuple[float, ...]]:
    """Every move as (x, y, z, pushed filament, feed mm/min), by the simplest possible loop."""
    at = {"X": math.nan, "Y": math.nan, "Z": math.nan, "E": 0.0, "F": math.nan}
    relative, found = False, []
    for line in lines:
        word, *rest = line.split()
        if word in {"G90", "G91"}:
            relative = word == "G91"
        elif word == "G92":
            at["E"] = float(rest[0][1:])
        elif word in {"G0", "G1"}:
            before = at["E"]
            for item in rest:
                letter, value = item[0], float(item[1:])
                at[letter] = at[letter] + value if relative and letter != "F" else value
            found.append((at["X"], at["Y"], at["Z"], at["E"] - before, at["F"]))
    return found


number = st.integers(-9_999_999, 9_999_999).map(lambda n: f"{n / 1000:g}" if n % 7 else f"{n // 1000}")
positive = st.integers(1, 15000).map(str)


@st.composite
def move(draw) -> str:
    letters = draw(st.lists(st.sampled_from("XYZE"), min_size=1, max_size=4, unique=True))
    words = [f"{letter}{draw(number)}" for letter in letters]
    if draw(st.booleans()):
        words.insert(0, f"F{draw(positive)}")
    return " ".join([draw(st.sampled_from(["G0", "G1"])), *words])


line = st.one_of(
    move(),
    move(),
    move(),
    st.sampled_from(["G90", "G91", "M107", "M204 S500"]),
    st.builds("G92 E{}".format, number),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(line, min_size=1, max_size=40), st.sampled_from([7, 64, 1 << 20]))
def test_reads_what_a_plain_loop_reads_whatever_the_block_size(tmp_path_factory, lines, block):
    path = tmp_path_factory.mktemp("reader") / "a.gcode"
    path.write_text(HEAD + "G0 X0 Y0 Z0 E0 F600\n" + "\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_BLOCK_BYTES", block)
        gcode = read_gcode(path)
    expected = np.array(plain_reading(["G0 X0 Y0 Z0 E0 F600", *lines]))
    assert gcode.faults == ()
    np.testing.assert_allclose(gcode.end, expected[:, :3], atol=1e-6)
    np.testing.assert_allclose(gcode.extruded, expected[:, 3], atol=1e-6)
    np.testing.assert_allclose(gcode.feed * 60, expected[:, 4], atol=1e-6)
    np.testing.assert_allclose(gcode.start[1:], gcode.end[:-1])


@pytest.mark.parametrize(
    "bad",
    [
        "G1 X1.2.3 Y4",
        "G1 X1 X2",
        "G1 Q5",
        "G1 X",
        "G1 X1e5",
        "G1 X1 ;note",
        "G1  X1",
        "G1 X--1",
        "G0 Xnan",
        "G1 ",
        "G1 X1234567890123",
    ],
)
def test_a_move_that_is_not_wholly_understood_is_a_fault(tmp_path, bad):
    path = tmp_path / "a.gcode"
    path.write_text(HEAD + f"G0 X1 Y1 Z1\n{bad}\n")
    assert [fault.split()[1] for fault in read_gcode(path).faults] == ["5"]


@pytest.mark.parametrize(
    "bad",
    [
        b" M104 S300",
        b"\tM104 S300",
        b" G1 X2",
        b" ;LAYER:3",
        b"G1 X2 E1\rM104 S300",
        b"M107\rM104 S300",
        b"M107\r\r",
        b";TYPE:FILL\rM104 S300",
        b"G1 X2\x0cG28",
        b"M107\x0b",
        b"\0M104 S300",
        "M104\xa0S300".encode(),
        "M104 S２１０".encode(),
    ],
)
def test_what_a_printer_may_read_as_another_command_is_a_fault(tmp_path, bad):
    """Firmware skips a leading blank and ends a line at a carriage return."""
    path = tmp_path / "a.gcode"
    path.write_bytes(HEAD.encode() + b"G0 X1 Y1 Z1\n" + bad + b"\nG0 X3\n")
    assert {fault.split()[1] for fault in read_gcode(path).faults} == {"5"}


def test_every_command_has_a_word_even_where_the_line_is_at_fault(tmp_path):
    path = tmp_path / "a.gcode"
    path.write_text(HEAD + " M104 S300\n\tT1\nM107\n")
    assert set(reader.commands(read_gcode(path))) == {"M104", "T1", "M107"}


def test_layers_types_and_meshes_are_those_of_the_last_comment(tmp_path):
    path = tmp_path / "a.gcode"
    path.write_text(
        HEAD
        + "G0 X0 Y0 Z0.2 F6000\n;LAYER:0\n;MESH:part.stl\n;TYPE:SKIN\nG1 X1 E1\n;TYPE:FILL\nG1 X2 E2\n"
        + ";LAYER:1\n;MESH:NONMESH\nG0 X5\n"
    )
    gcode = read_gcode(path)
    assert list(gcode.layer) == [-1, 0, 0, 1]
    assert [gcode.kinds[i] for i in gcode.kind] == ["", "SKIN", "FILL", "FILL"]
    assert [gcode.meshes[i] for i in gcode.mesh] == ["", "part.stl", "part.stl", "NONMESH"]
    assert list(gcode.is_printed_line) == [False, True, True, False]
    assert list(gcode.line) == [4, 8, 10, 13]


def test_gzip_is_told_by_content_and_a_cut_one_is_refused(tmp_path):
    text = (HEAD + "".join(f"G1 X{i} Y{i % 7} E{i}\n" for i in range(2000))).encode()
    packed = tmp_path / "a.gcode"
    packed.write_bytes(gzip.compress(text, mtime=0))
    assert len(read_gcode(packed).end) == 2000
    packed.write_bytes(gzip.compress(text, mtime=0)[:-400])
    with pytest.raises(InputRefusedError):
        read_gcode(packed)


def test_windows_line_ends_read_the_same(tmp_path):
    path = tmp_path / "a.gcode"
    path.write_bytes((HEAD + "G0 X1 Y2 Z3\nM104 S0\n").replace("\n", "\r\n").encode())
    gcode = read_gcode(path)
    assert gcode.faults == ()
    assert list(gcode.end[0]) == [1, 2, 3]
    assert [t.text for t in gcode.others] == ["M104 S0"]


def test_an_empty_file_is_read_as_nothing(tmp_path):
    path = tmp_path / "a.gcode"
    path.write_bytes(b"")
    gcode = read_gcode(path)
    assert len(gcode.end) == 0
    assert gcode.line_count == 0
