"""The pictures of one scan as they are looked at: title, picture, legend in words, notice. No patient data.

One size for all, so that a screen can put any of them in the same place: the picture on the left, beside it the tip
enlarged and what the lines mean.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from service.domain.plan import VertebraFrame
from service.geometry.needle_planes import PicturePlane, PlaneName, along_needle, through
from service.geometry.volume import Volume
from service.results import needle_view3d
from service.results.needle_slices import (
    DARK,
    LIGHT,
    NEEDLE,
    OUTLINE,
    PLAN,
    Lines,
    Scene,
    ShownNeedle,
    fused,
    grey,
    whole_window,
    write_frame,
)
from service.results.pictures import NOTICE, font
from service.results.render import BONE

WIDTH, HEIGHT = 1120, 770
TOP, BOTTOM = 46, 28
PICTURE = (760, HEIGHT - TOP - BOTTOM)
"""Columns and rows of the picture itself; its pixel (0, 0) stands at (0, TOP) of the whole."""
MM_PER_PIXEL = 0.1
DETAIL_PIXELS = 316
_DETAIL_MM = (9.0, 18.0)
"""Least and greatest edge of the enlarged piece."""
_SIDE = PICTURE[0] + 22
_FAINT = (168, 182, 192)
_PAPER = (20, 30, 38)

#: Axes of a scan that was not related to the plan.
_LPS = VertebraFrame((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
_SEEN = {"sagittal": "upright, seen from the left", "axial": "across, seen from the feet"}


@dataclass(frozen=True, eq=False)
class NeedlePicture:
    """`name` is unique in its scan; `plane` maps its pixels to points where it is one plane (`PicturePlane`)."""

    name: str
    kind: str
    """slice | view | plain."""
    pedicle: str | None
    title: str
    image: Image.Image
    plane: dict[str, Any] | None = None


@dataclass(frozen=True)
class Caption:
    """What stands on every picture: level, case code and number of the scan; never patient data."""

    level: str
    case_code: str
    scan_number: int

    def line(self) -> str:
        return f"{self.level} · case {self.case_code} · scan {self.scan_number}"


def needle_slices(scene: Scene, needles: Sequence[ShownNeedle], caption: Caption) -> list[NeedlePicture]:
    """Two pictures for each needle."""
    made = []
    for needle in needles:
        others = [n for n in needles if n is not needle]
        for name in ("sagittal", "axial"):
            made.append(_slice(scene, needle, others, name, caption))
    return made


def _slice(
    scene: Scene, needle: ShownNeedle, others: Sequence[ShownNeedle], name: PlaneName, caption: Caption
) -> NeedlePicture:
    plane = along_needle(name, needle.at, needle.axis, scene.frame, size=PICTURE, mm_per_pixel=MM_PER_PIXEL)
    picture = fused(scene, plane, needle, others)
    middle, size_mm = _detail_of(plane, needle)
    detail = plane.part(middle, size_mm, DETAIL_PIXELS)
    low, high = plane.pixels(detail.points(np.array([[0, 0], [DETAIL_PIXELS - 1, DETAIL_PIXELS - 1]])))[:, :2]
    box = Lines(plane)
    box.box(low, high)
    picture = box.over(picture)
    write_frame(picture, plane, scene.frame)
    what = "needle" if needle.tip is not None else "planned path"
    title = f"{needle.pedicle.capitalize()} {what}, {_SEEN[name]}"
    sheet = _sheet(picture, title, caption)
    enlarged = fused(scene, detail, needle)
    _place_detail(sheet, enlarged, size_mm, "tip" if needle.tip is not None else "target")
    _legend(sheet, TOP + DETAIL_PIXELS + 62, [needle], _beside(plane, needle))
    if needle.tip_to_target_mm is not None:
        spread = "" if needle.uncertainty_mm is None else f" ± {needle.uncertainty_mm:.1f}"
        text = f"tip to target {needle.tip_to_target_mm:.1f}{spread} mm"
        ImageDraw.Draw(sheet).text(
            (_SIDE, HEIGHT - BOTTOM - 22), text, fill=LIGHT, font=font(25), anchor="lm"
        )
    return NeedlePicture(
        f"{needle.pedicle}-{name}", "slice", needle.pedicle, title, sheet, plane.to_document(x=0, y=TOP)
    )


def _detail_of(plane: PicturePlane, needle: ShownNeedle) -> tuple[Any, float]:
    """(middle, edge in mm) of the enlarged piece: it holds tip and target where they are near enough."""
    low, high = _DETAIL_MM
    if needle.tip is None or needle.planned is None:
        return needle.at, low
    target = np.asarray(needle.planned.target, dtype=np.float64)
    apart = np.linalg.norm(plane.pixels(target)[0, :2] - plane.pixels(needle.tip)[0, :2]) * plane.mm_per_pixel
    wanted = float(apart) * 1.3 + 4.0
    return (needle.tip, high) if wanted > high else ((needle.tip + target) / 2.0, max(low, wanted))


def _beside(plane: PicturePlane, needle: ShownNeedle) -> str:
    """How far the target lies from the plane, which the picture itself cannot show."""
    if needle.planned is None:
        return "No path was approved for this pedicle."
    off = float(plane.pixels(np.array(needle.planned.target))[0, 2])
    if abs(off) < 0.05:
        return "The target lies in this plane."
    return f"The target lies {abs(off):.1f} mm {'behind' if off > 0 else 'in front of'} this plane."


def overview(scene: Scene, needles: Sequence[ShownNeedle], caption: Caption) -> NeedlePicture:
    """Three views of the vertebra in 3-D."""
    bone = needle_view3d.bone_mesh(scene.outer)
    inside = needle_view3d.parts(needles, scene.channel_diameter_mm)
    name, large = needle_view3d.draw(bone, inside, scene.frame, 0, PICTURE)
    title = f"3-D, {name}"
    sheet = _sheet(large, title, caption)
    draw = ImageDraw.Draw(sheet)
    height = 226
    for number in (1, 2):
        name, small = needle_view3d.draw(bone, inside, scene.frame, number, (DETAIL_PIXELS, height - 24))
        y = TOP + 6 + (number - 1) * (height + 8)
        draw.text((_SIDE, y), name, fill=_FAINT, font=font(17))
        sheet.paste(small, (_SIDE, y + 24))
    _legend(sheet, TOP + 2 * (height + 8) + 14, needles, "", solid=True)
    return NeedlePicture("view", "view", None, title, sheet)


def plain_slices(scan: Volume, reason: str, caption: Caption) -> NeedlePicture:
    """A scan that was not measured: three planes through the middle of its field, as it came. Its own frame."""
    centre = scan.to_lps((np.array([scan.values.shape[::-1]]) - 1) / 2.0)[0]
    reach = min(s * n for s, n in zip(scan.spacing_mm, scan.values.shape[::-1], strict=True))
    edge = WIDTH // 3 - 6
    window = whole_window(scan)
    title = "The scan as it came, not measured"
    sheet = _blank(title, caption)
    draw = ImageDraw.Draw(sheet)
    for number, (name, right, down) in enumerate(
        (
            ("axial", (1.0, 0, 0), (0, 1.0, 0)),
            ("sagittal", (0, 1.0, 0), (0, 0, -1.0)),
            ("coronal", (1.0, 0, 0), (0, 0, -1.0)),
        )
    ):
        plane = through(
            name, centre, np.array(right), np.array(down), size=(edge, edge), mm_per_pixel=float(reach) / edge
        )
        picture = grey(scan, plane.grid(), plane, window)
        write_frame(picture, plane, _LPS, bar_mm=20)
        x = 4 + number * (edge + 5)
        sheet.paste(picture, (x, TOP + 30))
        draw.text((x + 4, TOP + 5), name, fill=LIGHT, font=font(19))
    draw.text((14, TOP + edge + 56), "Why: ", fill=LIGHT, font=font(26))
    for row, line in enumerate(textwrap.wrap(reason, 78)[:6]):
        draw.text((92, TOP + edge + 56 + 36 * row), line, fill=LIGHT, font=font(26))
    return NeedlePicture("plain", "plain", None, title, sheet)


# --- parts of a sheet ------------------------------------------------------------------------------------


def _blank(title: str, caption: Caption) -> Image.Image:
    sheet = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((14, TOP // 2), title, fill=LIGHT, font=font(25), anchor="lm")
    draw.text((WIDTH - 14, TOP // 2), caption.line(), fill=_FAINT, font=font(19), anchor="rm")
    draw.text((14, HEIGHT - BOTTOM // 2), NOTICE, fill=_FAINT, font=font(15), anchor="lm")
    return sheet


def _sheet(picture: Image.Image, title: str, caption: Caption) -> Image.Image:
    sheet = _blank(title, caption)
    sheet.paste(picture, (0, TOP))
    return sheet


def _place_detail(sheet: Image.Image, enlarged: Image.Image, size_mm: float, what: str) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((_SIDE, TOP + 6), f"the {what}, enlarged ({size_mm:.0f} mm across)", fill=_FAINT, font=font(17))
    sheet.paste(enlarged, (_SIDE, TOP + 32))
    draw.rectangle(
        [_SIDE, TOP + 32, _SIDE + DETAIL_PIXELS - 1, TOP + 31 + DETAIL_PIXELS], outline=LIGHT, width=2
    )
    length = 2.0 / size_mm * DETAIL_PIXELS
    x, y = _SIDE + 14, TOP + 32 + DETAIL_PIXELS - 14
    for colour, thick in ((DARK, 8), (LIGHT, 4)):
        draw.line([(x, y), (x + length, y)], fill=colour, width=thick)
    draw.text(
        (x + length + 10, y), "2 mm", fill=LIGHT, font=font(18), anchor="lm", stroke_width=3, stroke_fill=DARK
    )


def _legend(
    sheet: Image.Image, top: int, needles: Sequence[ShownNeedle], note: str, *, solid: bool = False
) -> None:
    """What each line means, in words beside its shape."""
    rows = [("outline", "vertebra before (CT)")]
    if any(n.planned is not None for n in needles):
        rows += [("plan", "planned channel"), ("target", "planned target")]
    measured = [n for n in needles if n.tip is not None]
    if measured:
        rows += [("needle", "measured needle"), ("tip", "measured tip")]
    spread = measured[0].uncertainty_mm if len(measured) == 1 else None
    if spread and not solid:
        rows.append(("spread", f"± {spread:.1f} mm, where the tip may be (k = 2)"))
    draw = ImageDraw.Draw(sheet)
    step = 35
    for number, (sign, words) in enumerate(rows):
        y = top + number * step
        _sign(sheet, sign, y, solid=solid)
        size = 19 if len(words) < 30 else 15
        draw.text((_SIDE + 66, y), words, fill=LIGHT, font=font(size), anchor="lm")
    for row, line in enumerate(textwrap.wrap(note, 36)):
        draw.text(
            (_SIDE, top + len(rows) * step + 8 + 23 * row), line, fill=LIGHT, font=font(18), anchor="lm"
        )


def _sign(sheet: Image.Image, sign: str, y: int, *, solid: bool) -> None:
    patch = PicturePlane("legend", np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), 1.0, 56, 32)
    lines, middle = Lines(patch), np.array([28.0, 16.0])
    if solid:
        colour = {"outline": BONE, "plan": PLAN, "target": PLAN}.get(sign, NEEDLE)
        _solid_sign(sheet, sign, colour, y)
        return
    if sign == "outline":
        lines.curve(np.array([[4, 22], [16, 12], [30, 18], [42, 8], [52, 14]], dtype=np.float64), OUTLINE)
    elif sign == "plan":
        lines.double_dashes(np.array([2.0, 16.0]), np.array([56.0, 16.0]), 11.0, PLAN)
    elif sign == "target":
        lines.ring(middle, PLAN, faint=True)
    elif sign == "needle":
        lines.curve(np.array([[2.0, 16.0], [54.0, 16.0]]), NEEDLE)
    elif sign == "tip":
        lines.diamond(middle, NEEDLE)
    else:
        lines.dotted(middle, 13.0, NEEDLE)
    sheet.paste(lines.over(Image.new("RGB", (56, 32), _PAPER)), (_SIDE, y - 16))


def _solid_sign(sheet: Image.Image, sign: str, colour: tuple[int, int, int], y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    if sign in ("target", "tip"):
        draw.ellipse([_SIDE + 19, y - 9, _SIDE + 37, y + 9], fill=colour)
    elif sign == "plan":
        for x in (2, 22, 42):
            draw.rectangle([_SIDE + x, y - 5, _SIDE + x + 13, y + 5], fill=colour)
    else:
        draw.rectangle([_SIDE + 2, y - 5, _SIDE + 54, y + 5], fill=colour)
