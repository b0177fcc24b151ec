"""Make a cone-beam-like intra-operative scan with needles from a planning CT, and write it as a CT series."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from scipy import ndimage
from scipy.spatial.transform import Rotation

from simulators.oarm.needle import Cement, Needle, voxel_share
from simulators.oarm.source import Source, find_truth, phantom_source, read_series, surrounded
from simulators.oarm.streaks import streak_slices
from simulators.phantom.ct_series import Patient, SeriesHeader, stable_uid, write_ct_series

Array = NDArray[np.float64]
Single = NDArray[np.float32]
SCHEMA = "spineprint.oarm-simulation/1"


@dataclass(frozen=True)
class ScanSettings:
    """The scanner and how the patient lies. Frame, voxel and blur as in reference/geometry.md section 7.

    The default pose is prone, turned by `turn_deg` about an axis drawn from `seed` and shifted by `shift_mm`
    relative to the planning CT. Grey values are `grey_scale * HU + grey_offset`, which is not HU, cut at
    `grey_maximum` when given (some exports stop at 3071).
    """

    columns: int = 512
    slices: int = 192
    pixel_mm: float = 0.415
    increment_mm: float = 0.833
    field_mm: float = 200.0
    blur_fwhm_mm: float = 0.7
    noise_sd: float = 55.0
    grey_scale: float = 0.82
    grey_offset: float = 70.0
    grey_maximum: float | None = None
    cupping: float = 60.0
    metal_hu: float = 7000.0
    blooming: float = 0.05
    streaks: float = 1.0
    turn_deg: float = 11.0
    shift_mm: tuple[float, float, float] = (31.0, -22.0, 44.0)
    centre_offset_mm: tuple[float, float, float] = (4.0, -9.0, 6.0)
    """Where the middle of the field lies relative to the scanned spot: nobody centres exactly."""
    neighbour_mm: float = 1.5
    neighbour_deg: float = 1.5
    """Own motion per level of distance from the target; only a phantom can be scanned this way."""
    cement_hu: float = 2300.0
    seed: int = 1


def small_settings(**changes: Any) -> ScanSettings:
    """A smaller field with coarser pixels for tests; slices as in the full scan."""
    return replace(ScanSettings(columns=256, slices=120, pixel_mm=0.6, field_mm=148.0), **changes)


@dataclass(frozen=True, eq=False)
class Scan:
    """`grey` int16 (k,j,i) stored values plus their intercept 0, `scan_from_ijk` and `preop_from_scan` (4,4) mm."""

    grey: NDArray[np.int16]
    scan_from_ijk: Array
    preop_from_scan: Array
    truth: dict[str, Any]
    planning_header: Dataset


def pose(settings: ScanSettings, focus: Array) -> Array:
    """`preop_from_scan` (4,4): turned about `focus` (LPS mm of the planning CT) and shifted."""
    rng = np.random.default_rng([settings.seed, 17])
    way = rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.deg2rad(settings.turn_deg) * way / np.linalg.norm(way)).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = focus - turn @ (focus + np.asarray(settings.shift_mm))
    return matrix


def scan_grid(settings: ScanSettings, centre: Array) -> Array:
    """`scan_from_ijk` (4,4) of a prone patient: rows run to the right, columns to the front, slices to the head."""
    steps = np.array([-settings.pixel_mm, -settings.pixel_mm, settings.increment_mm])
    matrix = np.diag([*steps, 1.0])
    middle = 0.5 * (np.array([settings.columns, settings.columns, settings.slices]) - 1.0)
    matrix[:3, 3] = np.round(centre - steps * middle, 4)
    return matrix


def make_scan(
    preop: Path | str,
    *,
    needles: Sequence[Needle] = (),
    cement: Sequence[Cement] = (),
    settings: ScanSettings | None = None,
    focus: tuple[float, float, float] | None = None,
) -> Scan:
    """Scan the patient of the planning CT in folder `preop`.

    A phantom study (truth.json in or beside the folder) is rendered anew with its neighbours moved, unless both
    neighbour settings are 0; any other series is resampled as one rigid body. `focus` (LPS mm of the planning CT)
    is the spot aimed at; without it the mean of the needle tips, or the middle of the volume.
    Raises ValueError when the folder holds no CT series.
    """
    chosen = settings or ScanSettings()
    source = _source(Path(preop), chosen)
    aim = _focus(source, needles, focus)
    preop_from_scan = pose(chosen, aim)
    centre = _apply(np.linalg.inv(preop_from_scan), aim) + np.asarray(chosen.centre_offset_mm)
    scan_from_ijk = scan_grid(chosen, centre)
    preop_from_ijk = preop_from_scan @ scan_from_ijk
    grey, volumes = _image(source, needles, cement, chosen, preop_from_ijk)
    truth = _truth(chosen, needles, cement, preop_from_scan, scan_from_ijk, volumes, source)
    return Scan(grey, scan_from_ijk, preop_from_scan, truth, source.header)


def _source(folder: Path, settings: ScanSettings) -> Source:
    truth = find_truth(folder)
    if truth is not None and (settings.neighbour_mm or settings.neighbour_deg):
        pixel = max(0.6, 0.9 * settings.pixel_mm)
        return phantom_source(
            truth, folder, settings.neighbour_mm, settings.neighbour_deg, pixel, settings.seed
        )
    return read_series(folder)


def _focus(source: Source, needles: Sequence[Needle], focus: tuple[float, float, float] | None) -> Array:
    if focus is not None:
        return np.asarray(focus, dtype=np.float64)
    if needles:
        return np.asarray(np.mean([needle.tip for needle in needles], axis=0), dtype=np.float64)
    middle = 0.5 * (np.array(source.hu.shape[::-1]) - 1.0)
    return _apply(source.preop_from_ijk, middle)


def _apply(matrix: NDArray[Any], point: Any) -> Array:
    moved = matrix[:3, :3] @ np.asarray(point, dtype=np.float64) + matrix[:3, 3]
    return np.asarray(moved, dtype=np.float64)


def _image(
    source: Source,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    settings: ScanSettings,
    preop_from_ijk: Array,
) -> tuple[NDArray[np.int16], list[float]]:
    """Stored grey values (k,j,i) and the volume of each cement blob in mm3."""
    shape = (settings.slices, settings.columns, settings.columns)
    rng = np.random.default_rng([settings.seed, 29])
    hu = _resampled(source, shape, preop_from_ijk)
    voxel_mm3 = settings.pixel_mm**2 * settings.increment_mm
    volumes = []
    for blob in cement:
        box, share = voxel_share(blob, shape, preop_from_ijk)
        hu[box] += share * (settings.cement_hu - hu[box])
        volumes.append(round(float(share.sum()) * voxel_mm3, 2))
    streaks = _streaks(hu, needles, settings, preop_from_ijk, rng)
    halo = _insert_metal(hu, needles, settings, preop_from_ijk)
    sigma = settings.blur_fwhm_mm / 2.3548
    spacing = (settings.increment_mm, settings.pixel_mm, settings.pixel_mm)
    ndimage.gaussian_filter(hu, [sigma / s for s in spacing], output=hu, truncate=3.0)
    for box, values in (*halo, *streaks):
        hu[box] += values
    return _to_grey(hu, settings, rng), volumes


def _resampled(source: Source, shape: tuple[int, int, int], preop_from_ijk: Array) -> Single:
    padded, matrix = surrounded(source)
    index = np.linalg.inv(matrix) @ preop_from_ijk
    swap = np.eye(4)[[2, 1, 0, 3]]
    index = swap @ index @ swap
    hu: Single = ndimage.affine_transform(
        padded, index[:3, :3], index[:3, 3], output_shape=shape, order=1, mode="nearest", output=np.float32
    )
    return hu


_Patch = tuple[tuple[slice, slice, slice], Single]


def _insert_metal(
    hu: Single, needles: Sequence[Needle], settings: ScanSettings, preop_from_ijk: Array
) -> list[_Patch]:
    """Put the needles in with partial volume; returns their blooming, to be added after the blur."""
    shape = (hu.shape[0], hu.shape[1], hu.shape[2])
    halo: list[_Patch] = []
    for needle in needles:
        box, share = voxel_share(needle, shape, preop_from_ijk)
        if not share.size:
            continue
        hu[box] += share * (settings.metal_hu - hu[box])
        glow = ndimage.gaussian_filter(share, [0.9 / settings.increment_mm, *[0.9 / settings.pixel_mm] * 2])
        halo.append((box, glow * np.float32(settings.blooming * settings.metal_hu)))
    return halo


def _streaks(
    hu: Single,
    needles: Sequence[Needle],
    settings: ScanSettings,
    preop_from_ijk: Array,
    rng: np.random.Generator,
) -> list[_Patch]:
    """Streak image of the slices that hold metal, as one patch."""
    if not needles or settings.streaks == 0:
        return []
    clouds = _metal_clouds(needles, settings, preop_from_ijk, hu.shape[0])
    used = [k for k, cloud in enumerate(clouds) if len(cloud)]
    if not used:
        return []
    first, last = used[0], used[-1] + 1
    width = settings.columns * settings.pixel_mm
    image = streak_slices(hu[first:last, ::2, ::2], clouds[first:last], width, rng)
    full = ndimage.zoom(image, (1, 2, 2), order=1, grid_mode=True, mode="nearest")
    np.clip(full, -900.0, 1200.0, out=full)
    return [((slice(first, last), slice(None), slice(None)), full * np.float32(settings.streaks))]


def _metal_clouds(
    needles: Sequence[Needle], settings: ScanSettings, preop_from_ijk: Array, slices: int
) -> list[Array]:
    """Points of metal per slice: x and y in mm from the middle of the field, area in mm2 each stands for."""
    step = 0.25
    parts = []
    for needle in needles:
        axis = needle.axis
        side = np.linalg.svd(axis[None])[2][1:]
        reach = np.arange(-0.5 * needle.diameter_mm, 0.5 * needle.diameter_mm + step, step)
        u, v, t = np.meshgrid(reach, reach, np.arange(0.0, needle.length_mm, step), indexing="ij")
        local = np.stack([u.ravel(), v.ravel(), -t.ravel()], axis=1)
        points = np.asarray(needle.tip) + local @ np.vstack([side, axis])
        parts.append(points[needle.distance(points) < 0])
    points = np.vstack(parts)
    inverse = np.linalg.inv(preop_from_ijk)
    ijk = points @ inverse[:3, :3].T + inverse[:3, 3]
    middle = 0.5 * (settings.columns - 1)
    flat = (ijk[:, :2] - middle) * settings.pixel_mm
    seen = np.hypot(flat[:, 0], flat[:, 1]) < 0.5 * settings.columns * settings.pixel_mm
    level = np.rint(ijk[:, 2]).astype(int)
    area = np.full((len(points), 1), step**3 / settings.increment_mm)
    rows = np.hstack([flat, area])
    return [rows[seen & (level == k)] for k in range(slices)]


def _to_grey(hu: Single, settings: ScanSettings, rng: np.random.Generator) -> NDArray[np.int16]:
    """Scale, cupping, noise and the round field of view; the memory of `hu` is used up."""
    half = 0.5 * (settings.columns - 1)
    axis = (np.arange(settings.columns) - half) * settings.pixel_mm
    radius = np.hypot(axis[None, :], axis[:, None]) / (0.5 * settings.field_mm)
    # scatter makes the middle darker; truncation makes the rim brighter
    cup = settings.cupping * (radius**2 - 0.5) + 3.0 * settings.cupping * np.exp((radius - 1.0) / 0.04)
    outside = radius > 1.0
    top = settings.grey_maximum if settings.grey_maximum is not None else 32767.0
    stored = np.empty(hu.shape, dtype=np.int16)
    grain = (0.5, 0.9, 0.9)
    for start in range(0, len(hu), 32):
        slab = hu[start : start + 32]
        noise = ndimage.gaussian_filter(rng.standard_normal(slab.shape, dtype=np.float32), grain, mode="wrap")
        noise *= np.float32(settings.noise_sd) / max(float(noise.std()), 1e-6)
        grey = np.float32(settings.grey_scale) * slab + np.float32(settings.grey_offset)
        grey += cup.astype(np.float32) + noise
        grey[:, outside] = -1000.0
        stored[start : start + 32] = np.clip(np.rint(grey), -1000.0, top)
    return stored


def _truth(
    settings: ScanSettings,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    preop_from_scan: Array,
    scan_from_ijk: Array,
    volumes: list[float],
    source: Source,
) -> dict[str, Any]:
    scan_from_preop = np.linalg.inv(preop_from_scan)
    turn = scan_from_preop[:3, :3]
    rows = []
    for needle in needles:
        tip, entry = np.asarray(needle.tip), np.asarray(needle.entry)
        rows.append(
            {
                "preop": {"tip": _numbers(tip), "entry": _numbers(entry), "axis": _numbers(needle.axis)},
                "scan": {
                    "tip": _numbers(_apply(scan_from_preop, tip)),
                    "entry": _numbers(_apply(scan_from_preop, entry)),
                    "axis": _numbers(turn @ needle.axis),
                },
                "diameter_mm": needle.diameter_mm,
                "tip_shape": needle.tip_shape,
                "tip_length_mm": needle.tip_length_mm,
                "length_mm": needle.length_mm,
            }
        )
    return {
        "schema": SCHEMA,
        "coordinates": "LPS mm",
        "preop_from_scan": [_numbers(row) for row in preop_from_scan],
        "scan_from_ijk": [_numbers(row) for row in scan_from_ijk],
        "needles": rows,
        "cement": [{**asdict(c), "volume_mm3": v} for c, v in zip(cement, volumes, strict=True)],
        "neighbour_motion_preop": source.moved,
        "settings": asdict(settings),
    }


def _numbers(values: Array) -> list[float]:
    return [round(float(v), 9) for v in values]


def write_scan(
    scan: Scan,
    out_dir: Path | str,
    *,
    patient_id: str | None = None,
    patient_name: str | None = None,
    series_description: str = "O-arm 3D spine",
    station_name: str = "OARM1",
) -> Path:
    """Write `dicom/IM*.dcm` and `truth.json` under `out_dir`; returns the DICOM folder.

    The patient is that of the planning CT unless `patient_id` or `patient_name` say otherwise; study, series and
    frame of reference are new and follow from the pixels' seed and settings.
    """
    out = Path(out_dir)
    planning = scan.planning_header
    patient = Patient(
        patient_id=patient_id if patient_id is not None else str(planning.get("PatientID", "")),
        name=patient_name if patient_name is not None else str(planning.get("PatientName", "")),
        birth_date=str(planning.get("PatientBirthDate", "")),
        sex=str(planning.get("PatientSex", "")),
        age=str(planning.get("PatientAge", "")),
    )
    header = _header(scan, patient, series_description, station_name)
    folder = out / "dicom"
    write_ct_series(scan.grey, scan.scan_from_ijk, header, folder)
    truth = {
        **scan.truth,
        "patient_id": patient.patient_id,
        "study_instance_uid": header.study_uid,
        "series_instance_uid": header.series_uid,
        "frame_of_reference_uid": header.frame_of_reference_uid,
        "planning_study_instance_uid": str(planning.StudyInstanceUID),
    }
    (out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return folder


def _header(scan: Scan, patient: Patient, description: str, station: str) -> SeriesHeader:
    key = (
        json.dumps(scan.truth, sort_keys=True),
        patient.patient_id,
        str(scan.planning_header.StudyInstanceUID),
    )
    return SeriesHeader(
        patient=patient,
        study_uid=stable_uid("oarm-study", *key),
        series_uid=stable_uid("oarm-series", *key),
        frame_of_reference_uid=stable_uid("oarm-frame", *key),
        accession="",
        study_id="1",
        study_date="20260305",
        study_time="093000",
        study_description="Intraoperative 3D",
        series_description=description,
        series_number=1,
        manufacturer="Simulated Medtronic",
        model_name="O-arm simulator",
        station_name=station,
        protocol="SPINE 3D STANDARD",
        body_part="TLSPINE",
        kernel="STANDARD",
        kvp=120.0,
        tube_current_ma=25,
        exposure_time_ms=13000,
        thickness_mm=scan.truth["settings"]["increment_mm"],
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        rescale_type="",
        patient_position="HFP",
    )
