"""Marks on the body's sides: read back from the relief letter by letter, and left out where there is no room."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from service.domain.plan import ModelSettings, Vent
from service.geometry import glyphs
from service.geometry.fields import prepare_bone, segment_distance
from service.geometry.marking import Mark, choose_marks, lines_of, raise_marks
from tests.unit import solid_shapes as shapes

PIXEL_MM = 0.1


@pytest.fixture(scope="module")
def plan():
    return shapes.vertebra_plan(shapes.vertebra(step=0.6))


@pytest.fixture(scope="module")
def bone():
    return prepare_bone(shapes.vertebra(step=0.6), step_mm=0.4, shell_mm=2.0, min_feature_mm=0.8)


def relief(field, bone, mark: Mark):
    """What somebody sees who looks at the mark from outside: how far out the material reaches, rows from the top."""
    width, height = mark.size_mm
    across = np.arange(-width / 2.0, width / 2.0, PIXEL_MM)
    up = np.arange(height / 2.0, -height / 2.0, -PIXEL_MM)
    along = np.arange(3.0, -8.0, -0.1)
    x, y, z = np.meshgrid(across, up, along)
    axes = np.array([mark.reading, mark.up, mark.outward])
    points = np.stack([x, y, z], axis=-1) @ axes + np.array(mark.centre)
    kji = (points - bone.grid.origin)[..., ::-1] / bone.grid.step_mm
    values = ndimage.map_coordinates(field, kji.reshape(-1, 3).T, order=1).reshape(x.shape)
    first = np.argmax(values < 0, axis=2)
    return along[first]


def ideal(letter: str, unit_mm: float, stroke_mm: float, shape: tuple[int, int]):
    rows, columns = np.indices(shape)
    points = np.stack(
        [columns.ravel() * PIXEL_MM - stroke_mm / 2.0, (shape[0] - 1 - rows.ravel()) * PIXEL_MM - stroke_mm / 2.0],
        axis=1,
    )  # fmt: skip
    near = np.full(len(points), np.inf)
    for stroke in glyphs.GLYPHS[letter]:
        corners = unit_mm * np.array(stroke)
        for start, end in pairwise(corners):
            near = np.minimum(near, segment_distance(points, start, end))
    return (near < stroke_mm / 2.0).reshape(shape).astype(float)


def read(picture, mark: Mark) -> list[str]:
    """Each cell of the mark against every glyph there is; the likest is what it says."""
    cell = (glyphs.WIDTH * mark.unit_mm + mark.stroke_mm, glyphs.HEIGHT * mark.unit_mm + mark.stroke_mm)
    shape = (round(cell[1] / PIXEL_MM), round(cell[0] / PIXEL_MM))
    lines = []
    for row, line in enumerate(mark.lines):
        said = ""
        for column in range(len(line)):
            left = column * (cell[0] + mark.gap_mm) + (column > 0) * mark.gap_mm
            top = row * (cell[1] + mark.gap_mm)
            first = round(top / PIXEL_MM), round(left / PIXEL_MM)
            seen = picture[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]
            likeness = {
                letter: np.corrcoef(
                    seen.ravel(), ideal(letter, mark.unit_mm, mark.stroke_mm, seen.shape).ravel()
                )[0, 1]
                for letter in glyphs.GLYPHS
            }
            said += max(likeness, key=lambda letter: likeness[letter])
        lines.append(said)
    return lines


@pytest.mark.parametrize("code", ["82DPXQ", "S5B8Z2", "0OQI1L"])
def test_the_marks_are_read_from_outside_side_by_side(bone, plan, code: str) -> None:
    marks = choose_marks(bone, plan, code)
    assert [mark.side for mark in marks] == ["left", "right"]
    part = bone.field.copy()
    raise_marks(part, bone, marks)
    assert (part <= bone.field).all(), "nothing is taken away"
    for mark in marks:
        picture = relief(part, bone, mark) - relief(bone.field, bone, mark)
        assert read(picture, mark) == list(lines_of(mark.side, code))
        assert picture.max() < 1.6 * mark.raise_mm
        assert float((mark.outward @ np.array([1.0, 0.0, 0.0])) > 0) == (mark.side == "left"), (
            "left is +x in LPS"
        )


def test_letters_stay_in_the_wall(bone, plan) -> None:
    marks = choose_marks(bone, plan, "82DPXQ")
    part = bone.field.copy()
    raise_marks(part, bone, marks)
    changed = part != bone.field
    assert changed.any()
    assert (bone.field[changed] > -1.2).all(), "deeper than that there may be a hollow"


def test_every_glyph_is_its_own_and_in_its_cell() -> None:
    pictures = {letter: ideal(letter, 0.6, 0.9, (45, 33)) for letter in glyphs.GLYPHS}
    for letter, strokes in glyphs.GLYPHS.items():
        points = np.array([p for stroke in strokes for p in stroke])
        assert (points >= 0).all() and (points <= (glyphs.WIDTH, glyphs.HEIGHT)).all(), letter
        for other in set(glyphs.GLYPHS) - {letter}:
            assert np.corrcoef(pictures[letter].ravel(), pictures[other].ravel())[0, 1] < 0.97, letter + other


def test_a_vent_is_kept_free(bone, plan) -> None:
    (mark, _) = choose_marks(bone, plan, "82DPXQ")
    vent = Vent(mark.centre, mark.outward, 3.4)
    (moved, *_) = choose_marks(bone, replace(plan, model=ModelSettings(vents=(vent,))), "82DPXQ")
    assert not moved.covers(np.array([vent.position]), 0.0)[0]


def test_without_room_or_code_nothing_is_written(bone, plan) -> None:
    assert choose_marks(bone, plan, "") == ()
    assert choose_marks(bone, plan, "***") == ()
    assert choose_marks(bone, plan, "A" * 40) == ()
    assert lines_of("left", "ABCDE") == ("LABC", "^DE ")


def test_a_mark_is_read_back_from_the_models_report(bone, plan) -> None:
    for mark in choose_marks(bone, plan, "82DPXQ"):
        back = Mark.from_document(json.loads(json.dumps(mark.to_document())))
        assert (back.side, back.lines, back.size_mm) == (mark.side, mark.lines, mark.size_mm)
        around = np.array(mark.centre) + np.random.default_rng(5).uniform(-15.0, 15.0, (4000, 3))
        assert (back.covers(around, 1.0) == mark.covers(around, 1.0)).mean() > 0.999


def test_a_report_from_before_does_not_say_where_a_mark_stands(bone, plan) -> None:
    document = choose_marks(bone, plan, "82DPXQ")[0].to_document()
    del document["reading"]
    with pytest.raises(KeyError):
        Mark.from_document(document)
