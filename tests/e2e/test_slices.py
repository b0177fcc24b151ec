"""CT slices for the pages: a pixel is the LPS point it is said to be, the outline is the mask's, memory is bounded."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import InputRefusedError
from service.web import slices
from service.web.slices import Area, ViewCache
from tests.e2e import pages_world
from tests.e2e.pages_world import CENTRE, World

HALF_WAY = ((500 + 40) / 2 - 300) / 1500 * 255 + 127.5
"""Grey between the made bone and its surroundings in the bone window."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return pages_world.open_world(tmp_path_factory.mktemp("slices"))


@pytest.mark.parametrize("area", [slices.WHOLE, Area((8.0, 14.0, -203.0), 20.0)], ids=["whole", "box"])
def test_a_pixel_of_each_plane_is_the_lps_point_the_document_says(world: World, area: Area) -> None:
    view = ViewCache().get(world.app, world.received("PIXEL^P").id)
    for name, plane in slices.document(view, area)["planes"].items():  # type: ignore[attr-defined]
        normal = np.array(plane["normal"])
        png = slices.picture(view, name, float(np.array(CENTRE) @ normal), area=area, outline=False)
        image = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)
        assert image.shape == (plane["rows"], plane["columns"])
        v, u = np.meshgrid(np.arange(plane["rows"]), np.arange(plane["columns"]), indexing="ij")
        steps = u[..., None] * np.array(plane["right"]) + v[..., None] * np.array(plane["down"])
        points = (
            np.array(plane["origin"]) + steps * plane["mm_per_pixel"] + normal * (np.array(CENTRE) @ normal)
        )
        # What the scanner saw there: the made bone at the nearest voxel centre.
        voxels = (
            pages_world.LOW + np.rint((points - pages_world.LOW) / pages_world.STEP_MM) * pages_world.STEP_MM
        )
        expected = pages_world.bone(*np.moveaxis(voxels, -1, 0))
        bright = image > HALF_WAY
        assert (bright & expected).sum() / (bright | expected).sum() > 0.94, name
        assert points[bright].mean(axis=0) == pytest.approx(points[expected].mean(axis=0), abs=0.3), name


def test_the_outline_is_drawn_where_the_mask_ends(world: World) -> None:
    view = ViewCache().get(world.app, world.plan_ready("OUTLINE^P").id)
    with_line, without = (
        np.asarray(Image.open(io.BytesIO(slices.picture(view, "axial", CENTRE[2], outline=o))).convert("RGB"))
        for o in (True, False)
    )
    changed = (with_line != without).any(axis=2)
    grey = without[..., 0] > HALF_WAY
    border = grey ^ np.roll(grey, 3, 0) | grey ^ np.roll(grey, -3, 0) | grey ^ np.roll(grey, 3, 1)
    assert changed.sum() > 100
    assert (changed & border).sum() / changed.sum() > 0.6


def test_the_cache_forgets_the_case_looked_at_longest_ago(world: World) -> None:
    ids = [world.received(f"CACHE^{n}").id for n in ("A", "B", "C")]
    one = slices._load(slices._source(world.app, ids[0]), None).size_bytes
    cache = ViewCache(limit_bytes=int(2.5 * one))
    views = [cache.get(world.app, i) for i in ids]
    assert cache.held_bytes == 2 * one
    assert cache.get(world.app, ids[2]) is views[2]
    assert cache.get(world.app, ids[0]) is not views[0]


def test_an_area_outside_the_scan_is_refused(world: World) -> None:
    view = ViewCache().get(world.app, world.received("OUTSIDE^O").id)
    with pytest.raises(InputRefusedError, match="outside the scan"):
        slices.document(view, Area((900.0, 0.0, 0.0), 30.0))
