"""the shapes that ship for L2 to L5 against mean shapes of other people, which only measure and do not ship

Size, turn and place are fitted (three scales, as the search for a pose has), the rest of the distance is form.
"""

from __future__ import annotations

import argparse
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import igl
import numpy as np
import trimesh
from scipy.optimize import least_squares
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from bench.model.report import Line, table
from bench.model.studies import DATA, Array
from service.geometry.templates import shipped_templates

NAME = "shapes"
LEVELS = ("L2", "L3", "L4", "L5")
BEFORE = "L2"
"""The nearest shape that levels below it started from before they had their own."""
SAMPLES = 4000
#: Standard deviations of turn (rad) and log scale, and the turns about the left-right axis to start from.
TURN_SD, SCALE_SD, STARTS = 0.15, 0.10, (0.0, 0.25)


@dataclass(frozen=True, eq=False)
class Surface:
    """Mesh in a template frame (mm; x left, y back, z up) with points sampled on it and their normals (N, 3)."""

    mesh: trimesh.Trimesh
    points: Array
    normals: Array


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.description = "takes no options; needs morphable-lumbar-mesh in $SPINEPRINT_DATA"


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    folder = DATA / "morphable-lumbar-mesh"
    if not folder.is_dir():
        return {"rows": []}
    with tarfile.open(folder / "mean_L2-L5_stl.tar.xz") as archive:
        archive.extractall(work / "means", filter="data")
    ours = {
        t.name: surface(t.vertices, t.faces.astype(np.int64)) for t in shipped_templates() if t.name in LEVELS
    }
    rows = []
    for level in LEVELS:
        other = mean_surface(work / "means" / f"mean_{level}.stl")
        for name in dict.fromkeys((BEFORE, level)):
            mean, high = distance(ours[name], other)
            rows.append({"level": level, "shape": name, "mean_mm": round(mean, 2), "p95_mm": round(high, 1)})
            print(f"  {rows[-1]}", flush=True)
    return {"rows": rows}


def surface(vertices: Array, faces: Array) -> Surface:
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, index = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)
    return Surface(mesh, np.asarray(points), np.asarray(mesh.face_normals[index]))


def mean_surface(path: Path) -> Surface:
    """The files have x to the front, y to the left, z to the head."""
    mesh = trimesh.load(path)
    mesh.merge_vertices()
    vertices = np.column_stack([mesh.vertices[:, 1], -mesh.vertices[:, 0], mesh.vertices[:, 2]])
    return surface(vertices - body_centre(vertices, mesh.faces), mesh.faces)


def body_centre(vertices: Array, faces: Array) -> Array:
    """As in `make_templates`: centroid of what lies deeper than 0.6 of the greatest depth."""
    axes = [np.arange(low, high, 2.0) for low, high in zip(vertices.min(0), vertices.max(0), strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    depth = igl.signed_distance(
        points, vertices, faces.astype(np.int64), sign_type=igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    )[0]
    return np.asarray(points[depth < 0.6 * depth.min()].mean(axis=0))


def distance(one: Surface, other: Surface) -> tuple[float, float]:
    """Mean symmetric distance and the larger one-way 95th percentile, mm, best of the starts."""
    size = np.ptp(other.points[:, 2]) / np.ptp(one.points[:, 2])
    found = []
    for pitch in STARTS:
        start = size * Rotation.from_rotvec([pitch, 0, 0]).as_matrix()
        placed = one.mesh.copy()
        placed.vertices = moved(fitted(one.points @ start.T, other), one.mesh.vertices @ start.T)
        samples = trimesh.sample.sample_surface(placed, SAMPLES, seed=0)[0]
        gaps = [to_mesh(other.points, placed), to_mesh(np.asarray(samples), other.mesh)]
        found.append(
            (float(np.mean([g.mean() for g in gaps])), max(float(np.percentile(g, 95)) for g in gaps))
        )
    return min(found)


def to_mesh(points: Array, mesh: trimesh.Trimesh) -> Array:
    faces = np.ascontiguousarray(mesh.faces.astype(np.int64))
    square = igl.point_mesh_squared_distance(points, np.ascontiguousarray(mesh.vertices), faces)[0]
    return np.asarray(np.sqrt(square))


def moved(pose: Array, points: Array) -> Array:
    """Three shifts, a rotation vector, three log scales."""
    return np.asarray(Rotation.from_rotvec(pose[3:6]).apply(points * np.exp(pose[6:9])) + pose[:3])


def fitted(points: Array, other: Surface) -> Array:
    """Pose that brings the points to the other surface: closest points both ways, a tenth of them let go."""
    tree, pose = cKDTree(other.points), np.zeros(9)
    prior = np.concatenate([np.full(3, TURN_SD * 2.0), np.full(3, SCALE_SD / 2.0)])
    for _ in range(25):
        now = moved(pose, points)
        gap, near = tree.query(now)
        gap_back, near_back = cKDTree(now).query(other.points)
        keep, keep_back = (g < max(3.0, float(np.percentile(g, 90))) for g in (gap, gap_back))

        def cost(trial: Array, pairs: Any = (keep, near, keep_back, near_back)) -> Array:
            kept, at, kept_back, at_back = pairs
            there = moved(trial, points)
            to = np.sum((there[kept] - other.points[at[kept]]) * other.normals[at[kept]], axis=1)
            back = np.sum(
                (there[at_back[kept_back]] - other.points[kept_back]) * other.normals[kept_back], axis=1
            )
            return np.concatenate([to, back, trial[3:] / prior])

        pose = least_squares(cost, pose, max_nfev=6).x
    return np.asarray(pose)


def lines(result: dict[str, Any]) -> list[Line]:
    own = {r["level"]: r["mean_mm"] for r in result["rows"] if r["shape"] == r["level"]}
    before = {r["level"]: r["mean_mm"] for r in result["rows"] if r["shape"] == BEFORE}
    lower = [level for level in LEVELS if level != BEFORE and level in own]
    measured = ", ".join(f"{level} {own[level]:.2f} beside {before[level]:.2f} mm" for level in lower)
    return [
        Line(
            f"the made shape is nearer to the level's mean shape than that of {BEFORE}",
            measured or "no such data",
            bool(lower) and all(own[level] < before[level] for level in lower),
        )
    ]


def page(result: dict[str, Any]) -> str:
    rows = [[r["level"], r["shape"], f"{r['mean_mm']:.2f}", f"{r['p95_mm']:.1f}"] for r in result["rows"]]
    return table(["mean shape of", "shape that ships", "mean distance mm", "95 % mm"], rows)
