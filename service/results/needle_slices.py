"""An O-arm scan cut along a needle, with the vertebra of the planning CT, the plan and the measured needle drawn in.

Everything is in planning LPS, mm: the scan is looked up through the registration (`scan_from_preop`). What lies
beside the plane is projected onto it at right angles. Each kind of line has a shape of its own besides its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.domain.plan import Trajectory, VertebraFrame
from service.geometry import pose
from service.geometry.needle_planes import PicturePlane
from service.geometry.volume import Volume
from service.results.pictures import font

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

#: After Okabe and Ito, so that they are told apart also without hue: light, middle and dark on a grey picture.
OUTLINE: Colour = (240, 228, 66)
PLAN: Colour = (86, 190, 255)
NEEDLE: Colour = (255, 98, 40)
LIGHT: Colour = (236, 241, 245)
DARK: Colour = (12, 19, 24)

_FINE = 2
"""Lines are drawn this much larger and averaged down: smooth edges."""
_BEYOND_MM = 400.0
"""Longer than any picture: a line that runs out of it."""
_BEFORE_ENTRY_MM = 6.0
"""The channel is drawn from so far outside the bone."""
_NEAR_MM = 8.0
"""Another needle is drawn, faintly, where its tip lies so close to the plane."""
_BODY_FAR_MM = 10.0
"""Soft tissue for the grey scale: what lies within this distance outside the bone."""


@dataclass(frozen=True, eq=False)
class ShownNeedle:
    """What is drawn of one needle. `tip` None: none was measured, and `axis` (unit) is that of the plan."""

    pedicle: str
    tip: Array | None
    axis: Array
    planned: Trajectory | None
    uncertainty_mm: float | None = None
    """Of the tip, k = 2."""
    tip_to_target_mm: float | None = None

    @property
    def at(self) -> Array:
        """Where the pictures look: the tip, or else the planned target."""
        if self.tip is not None:
            return self.tip
        if self.planned is None:
            raise ValueError("a needle without tip and plan cannot be shown")
        return np.asarray(self.planned.target, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Scene:
    """What the pictures of one scan are cut from. `outer` : signed distance to the bone, planning LPS."""

    scan: Volume
    scan_from_preop: Array
    outer: Volume
    frame: VertebraFrame
    channel_diameter_mm: float
    window: tuple[float, float]
    """Grey values shown black and white."""


def grey_window(scan: Volume, scan_from_preop: Array, outer: Volume) -> tuple[float, float]:
    """(black, white) for a scan whose grey values are no HU: from the tissue around the bone to the bone's dense part.

    Metal is less than one in twenty of a vertebra and stays above white.
    """
    field = outer.values[::3, ::3, ::3]
    index = np.argwhere(field < _BODY_FAR_MM)
    depth = field[tuple(index.T)]
    values = scan.sample(pose.apply(scan_from_preop, outer.to_lps(index[:, ::-1] * 3.0)), outside=np.nan)
    inside, around = values[depth < 0], values[(depth > 1.0) & np.isfinite(values)]
    inside = inside[np.isfinite(inside)]
    if len(inside) < 50 or len(around) < 50:
        return whole_window(scan)
    soft, dense = np.percentile(around, 20), np.percentile(inside, 95)
    step = max(float(dense - soft), 1.0)
    return float(soft - 0.35 * step), float(dense + 0.45 * step)


def whole_window(scan: Volume) -> tuple[float, float]:
    """(black, white) from the scan alone: its air and its brightest hundredth are left out."""
    values = scan.values[::4, ::8, ::8]
    low, high = np.percentile(values, [20, 99.5])
    return float(low), float(max(high, low + 1.0))


def grey(scan: Volume, points: Array, plane: PicturePlane, window: tuple[float, float]) -> Image.Image:
    """The scan at `points` (rows * columns of `plane`, in the scan's own frame); beyond its field: dark blue."""
    values = scan.sample(points, outside=np.nan).reshape(plane.rows, plane.columns)
    black, white = window
    level = np.clip((values - black) / (white - black), 0.0, 1.0) * 255.0
    missing = ~np.isfinite(values)
    rgb = np.repeat(np.where(missing, 0.0, level)[:, :, None], 3, axis=2)
    rgb[missing] = (24, 32, 44)
    return Image.fromarray(np.rint(rgb).astype(np.uint8), "RGB")


def fused(
    scene: Scene, plane: PicturePlane, needle: ShownNeedle, others: Sequence[ShownNeedle] = ()
) -> Image.Image:
    """One plane with its lines, without any writing: grey scan, bone outline, plan, needle."""
    points = plane.grid()
    base = grey(scene.scan, pose.apply(scene.scan_from_preop, points), plane, scene.window)
    layer = Lines(plane)
    layer.contours(scene.outer.sample(points, outside=10.0).reshape(plane.rows, plane.columns))
    for other in others:
        if abs(plane.pixels(other.at)[0, 2]) > _NEAR_MM:
            continue
        if other.planned is not None:
            layer.plan(other.planned, scene.channel_diameter_mm, faint=True)
        layer.needle(other, faint=True)
    if needle.planned is not None:
        layer.plan(needle.planned, scene.channel_diameter_mm)
    layer.needle(needle)
    return layer.over(base)


class Lines:
    """Lines on a picture plane, each with a dark edge so that it is seen on bone and metal as well."""

    def __init__(self, plane: PicturePlane) -> None:
        self._plane = plane
        self._layer = Image.new("RGBA", (plane.columns * _FINE, plane.rows * _FINE), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._layer)
        self._mm = plane.mm_per_pixel

    def over(self, base: Image.Image) -> Image.Image:
        small = self._layer.resize((self._plane.columns, self._plane.rows), Image.Resampling.BOX)
        return Image.alpha_composite(base.convert("RGBA"), small).convert("RGB")

    def contours(self, field: Array) -> None:
        """Where a (rows, columns) field changes sign."""
        from skimage import measure

        for line in measure.find_contours(field, 0.0):
            self.curve(line[:, ::-1], OUTLINE)

    def curve(self, points: Array, colour: Colour) -> None:
        """(N, 2) column, row."""
        self._stroke(points, colour, 2.4)

    def plan(self, path: Trajectory, diameter_mm: float, *, faint: bool = False) -> None:
        """The channel's two edges, dashed, a little beyond the entry; the target as a ring with a cross."""
        entry, target = self._plane.pixels(np.array([path.entry, path.target]))[:, :2]
        along = target - entry
        length = float(np.linalg.norm(along))
        colour = _faded(PLAN) if faint else PLAN
        if length > 1.0:
            start = entry - along / length * _BEFORE_ENTRY_MM / self._mm
            self.double_dashes(start, target, diameter_mm / self._mm, colour)
        self.ring(target, colour, faint=faint)

    def double_dashes(self, start: Array, end: Array, width: float, colour: Colour) -> None:
        """The two edges of a channel of this width, pixels."""
        along = (end - start) / np.linalg.norm(end - start)
        side = np.array([-along[1], along[0]]) * width / 2.0
        for sign in (1.0, -1.0):
            self._dashed(start + sign * side, end + sign * side, colour, 2.6)

    def ring(self, at: Array, colour: Colour, *, faint: bool = False) -> None:
        radius = 11.0 if not faint else 7.0
        self._circle(at, radius, colour, 3.0)
        for step in (np.array([radius + 6.0, 0.0]), np.array([0.0, radius + 6.0])):
            for sign in (1.0, -1.0):
                self._stroke(np.array([at + sign * step, at + sign * step * 0.35]), colour, 3.0)

    def needle(self, needle: ShownNeedle, *, faint: bool = False) -> None:
        """The axis up to the tip, the tip as a diamond around the point, its uncertainty as a dotted circle."""
        if needle.tip is None:
            return
        back = needle.tip - _BEYOND_MM * needle.axis
        tip, hub = self._plane.pixels(np.array([needle.tip, back]))[:, :2]
        along = hub - tip
        length = float(np.linalg.norm(along))
        colour = _faded(NEEDLE) if faint else NEEDLE
        if length > 1.0:
            self._stroke(np.array([tip + along / length * 13.0, hub]), colour, 2.6)
        self.diamond(tip, colour, faint=faint)
        if needle.uncertainty_mm and not faint:
            self.dotted(tip, needle.uncertainty_mm / self._mm, colour)

    def diamond(self, at: Array, colour: Colour, *, faint: bool = False) -> None:
        size = 13.0 if not faint else 8.0
        corners = at + size * np.array([[0, -1], [1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float64)
        self._stroke(corners, colour, 3.4)

    def box(self, low: Array, high: Array) -> None:
        corners = np.array(
            [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]], [low[0], low[1]]]
        )
        self._stroke(corners, LIGHT, 1.4)

    def _stroke(self, points: Array, colour: Colour, width: float) -> None:
        places = [tuple(float(v) for v in (p + 0.5) * _FINE - 0.5) for p in points]
        edge, line = round((width + 2.2) * _FINE), round(width * _FINE)
        self._draw.line(places, fill=(*DARK, 170), width=edge, joint="curve")
        self._draw.line(places, fill=(*colour, 255), width=line, joint="curve")

    def _dashed(self, start: Array, end: Array, colour: Colour, width: float) -> None:
        length = float(np.linalg.norm(end - start))
        for at in np.arange(0.0, length, 19.0):
            a, b = at / length, min(at + 12.0, length) / length
            self._stroke(np.array([start + a * (end - start), start + b * (end - start)]), colour, width)

    def _circle(self, at: Array, radius: float, colour: Colour, width: float) -> None:
        turn = np.linspace(0.0, 2 * np.pi, 49)
        self._stroke(at + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1), colour, width)

    def dotted(self, at: Array, radius: float, colour: Colour) -> None:
        count = max(12, int(2 * np.pi * radius / 9.0))
        turn = np.arange(count) * 2 * np.pi / count
        for place in at + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1):
            x, y = (place + 0.5) * _FINE - 0.5
            for size, fill in ((4.6, (*DARK, 170)), (3.2, (*colour, 255))):
                self._draw.ellipse([x - size, y - size, x + size, y + size], fill=fill)


def write_frame(picture: Image.Image, plane: PicturePlane, frame: VertebraFrame, *, bar_mm: int = 10) -> None:
    """Letters of the directions at the edges, and a scale bar."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    directions = {"L": np.array(frame.left), "A": np.array(frame.anterior), "S": np.array(frame.superior)}
    for vector, place in (
        (plane.right, (width - 20, height // 2)),
        (-plane.right, (20, height // 2)),
        (-plane.down, (width // 2, 20)),
        (plane.down, (width // 2, height - 20)),
    ):
        letter = _letter(vector, directions)
        draw.text(place, letter, fill=LIGHT, font=font(26), anchor="mm", stroke_width=3, stroke_fill=DARK)
    length = bar_mm / plane.mm_per_pixel
    x, y = 22, height - 24
    for colour, thick in ((DARK, 8), (LIGHT, 4)):
        draw.line([(x, y), (x + length, y)], fill=colour, width=thick)
    draw.text(
        (x + length / 2, y - 18),
        f"{bar_mm} mm",
        fill=LIGHT,
        font=font(20),
        anchor="mm",
        stroke_width=3,
        stroke_fill=DARK,
    )


def _letter(vector: Array, directions: dict[str, Array]) -> str:
    """The direction a picture's edge lies towards; two letters when it lies between two (the nearer one first)."""
    opposite = {"L": "R", "A": "P", "S": "I"}
    shares = sorted(
        ((abs(float(vector @ along)), letter, float(vector @ along)) for letter, along in directions.items()),
        reverse=True,
    )
    return "".join(
        letter if signed > 0 else opposite[letter] for share, letter, signed in shares if share > 0.38
    )


def _faded(colour: Colour) -> Colour:
    return tuple(round(0.6 * c + 0.4 * d) for c, d in zip(colour, (90, 96, 104), strict=True))  # type: ignore[return-value]
