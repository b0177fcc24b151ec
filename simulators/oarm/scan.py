"""Make a cone-beam-like intra-operative scan with needles from a planning CT, and write it as a CT series."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from simulators.oarm.image import cement_volumes, make_image
from simulators.oarm.needle import Cement, Needle
from simulators.oarm.physics.image import make_physics_image
from simulators.oarm.physics.rtk import require
from simulators.oarm.physics.settings import PhysicsSettings
from simulators.oarm.settings import ScanSettings, pose, scan_grid
from simulators.oarm.source import Source, find_truth, phantom_source, read_series
from simulators.phantom.ct_series import Patient, SeriesHeader, stable_uid, write_ct_series

Array = NDArray[np.float64]
Single = NDArray[np.float32]
SCHEMA = "spineprint.oarm-simulation/1"


@dataclass(frozen=True, eq=False)
class Scan:
    """`grey` int16 (k,j,i) stored values plus their intercept 0, `scan_from_ijk` and `preop_from_scan` (4,4) mm."""

    grey: NDArray[np.int16]
    scan_from_ijk: Array
    preop_from_scan: Array
    truth: dict[str, Any]
    planning_header: Dataset


def make_scan(
    preop: Path | str,
    *,
    needles: Sequence[Needle] = (),
    cement: Sequence[Cement] = (),
    settings: ScanSettings | None = None,
    focus: tuple[float, float, float] | None = None,
    physics: PhysicsSettings | None = None,
) -> Scan:
    """Scan the patient of the planning CT in folder `preop`.

    A phantom study (truth.json in or beside the folder) is rendered anew with its neighbours moved, unless both
    neighbour settings are 0; any other series is resampled as one rigid body. `focus` (LPS mm of the planning CT)
    is the spot aimed at; without it the mean of the needle tips, or the middle of the volume. With `physics` the
    image is measured by projections and reconstructed (minutes, needs itk-rtk) instead of drawn.
    Raises ValueError when the folder holds no CT series, PhysicsMissingError without itk-rtk.
    """
    if physics is not None:
        require()
    chosen = settings or ScanSettings()
    source = _source(Path(preop), chosen)
    aim = _focus(source, needles, focus)
    preop_from_scan = pose(chosen, aim)
    centre = _apply(np.linalg.inv(preop_from_scan), aim) + np.asarray(chosen.centre_offset_mm)
    scan_from_ijk = scan_grid(chosen, centre)
    preop_from_ijk = preop_from_scan @ scan_from_ijk
    if physics is None:
        grey, volumes = make_image(source, needles, cement, chosen, preop_from_ijk)
    else:
        grey = make_physics_image(source, needles, cement, chosen, physics, preop_from_scan, scan_from_ijk)
        volumes = [cement_volumes(blob, needles, chosen, preop_from_ijk) for blob in cement]
    truth = _truth(chosen, needles, cement, preop_from_scan, scan_from_ijk, volumes, source)
    if physics is not None:
        truth["physics"] = asdict(physics)
    return Scan(grey, scan_from_ijk, preop_from_scan, truth, source.header)


def _source(folder: Path, settings: ScanSettings) -> Source:
    truth = find_truth(folder)
    moves = settings.neighbour_mm or settings.neighbour_deg or settings.wedge_after is not None
    if truth is None or not moves:
        if settings.wedge_after is not None:
            raise ValueError("only the phantom's vertebra can be scanned in another shape")
        return read_series(folder)
    pixel = max(0.6, 0.9 * settings.pixel_mm)
    seed = settings.seed if settings.neighbour_seed is None else settings.neighbour_seed
    motion = (settings.neighbour_mm, settings.neighbour_deg)
    return _rendered(json.dumps(truth), folder, motion, pixel, seed, settings.wedge_after)


@lru_cache(maxsize=3)
def _rendered(
    truth: str,
    folder: Path,
    motion: tuple[float, float],
    pixel_mm: float,
    seed: int,
    wedge_after: float | None,
) -> Source:
    """Rendering takes most of the time of a small scan, so the last ones are kept for the next scan."""
    return phantom_source(json.loads(truth), folder, *motion, pixel_mm, seed, wedge_after)


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


def _truth(
    settings: ScanSettings,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    preop_from_scan: Array,
    scan_from_ijk: Array,
    volumes: list[tuple[float, float]],
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
                "bore_mm": needle.bore,
            }
        )
    return {
        "schema": SCHEMA,
        "coordinates": "LPS mm",
        "preop_from_scan": [_numbers(row) for row in preop_from_scan],
        "scan_from_ijk": [_numbers(row) for row in scan_from_ijk],
        "needles": rows,
        "cement": [
            {**asdict(c), "volume_mm3": whole, "volume_outside_needles_mm3": seen}
            for c, (whole, seen) in zip(cement, volumes, strict=True)
        ],
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
