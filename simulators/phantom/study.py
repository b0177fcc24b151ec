"""Generate the phantom and write it as a CT study with its truth beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from simulators.phantom.anatomy import Array, PhantomParameters
from simulators.phantom.ct_series import Patient, SeriesHeader, stable_uid, write_ct_series
from simulators.phantom.render import planning_grid, render
from simulators.phantom.shape import Skeleton
from simulators.phantom.truth import phantom_truth

#: YYYYMMDD, fixed so that equal parameters give equal files; a demonstration names the present day.
STUDY_DATE = "20260302"


@dataclass(frozen=True, eq=False)
class Phantom:
    """`hu` int16 and `labels` uint8, both (k,j,i); `lps_from_ijk` (4,4) mm; `truth` is JSON-ready."""

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    lps_from_ijk: Array
    truth: dict[str, Any]
    parameters: PhantomParameters


def generate(parameters: PhantomParameters | None = None) -> Phantom:
    """Build the phantom; equal parameters give equal voxels."""
    chosen = parameters or PhantomParameters()
    skeleton = Skeleton.of(chosen)
    grid = planning_grid(skeleton.poses, chosen)
    hu, bones = render(skeleton, grid, chosen)
    truth = phantom_truth(chosen, skeleton.poses, grid, bones.volume_mm3)
    return Phantom(hu, bones.labels, grid.lps_from_ijk, truth, chosen)


def planning_header(
    parameters: PhantomParameters, patient: Patient, study_date: str = STUDY_DATE
) -> SeriesHeader:
    """Header of the planning CT; identifiers depend on the parameters and the patient only."""
    key = (json.dumps(asdict(parameters), sort_keys=True), patient.patient_id)
    return SeriesHeader(
        patient=patient,
        study_uid=stable_uid("study", *key),
        series_uid=stable_uid("series", *key),
        frame_of_reference_uid=stable_uid("frame", *key),
        accession=f"PH{parameters.seed:08d}",
        study_id=f"{parameters.seed}",
        study_date=study_date,
        study_time="101500",
        study_description="CT thoracolumbar spine",
        series_description="Spine thin bone",
        series_number=2,
        manufacturer="Simulated CT",
        model_name="Parametric spine phantom",
        station_name="SIMCT1",
        protocol="SPINE THIN",
        body_part="TLSPINE",
        kernel="B60s",
        kvp=120.0,
        tube_current_ma=250,
        exposure_time_ms=750,
        thickness_mm=parameters.thickness_mm,
    )


def write_study(
    phantom: Phantom,
    out_dir: Path | str,
    *,
    patient_id: str = "PH-0001",
    patient_name: str = "PHANTOM^ONE",
    birth_date: str = "19480317",
    sex: str = "F",
    truth_name: str = "truth.json",
    study_date: str = STUDY_DATE,
) -> Path:
    """Write `dicom/IM*.dcm`, `truth.json` and `truth_labels.nii.gz` under `out_dir`; returns the DICOM folder."""
    out = Path(out_dir)
    folder = out / "dicom"
    patient = Patient(patient_id=patient_id, name=patient_name, birth_date=birth_date, sex=sex)
    header = planning_header(phantom.parameters, patient, study_date)
    write_ct_series(phantom.hu, phantom.lps_from_ijk, header, folder)
    truth = {
        **phantom.truth,
        "patient_id": patient.patient_id,
        "patient_name": patient.name,
        "study_instance_uid": header.study_uid,
        "series_instance_uid": header.series_uid,
        "frame_of_reference_uid": header.frame_of_reference_uid,
        "accession_number": header.accession,
        "files": {"dicom": "dicom", "labels": "truth_labels.nii.gz"},
    }
    (out / truth_name).write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    write_labels(phantom.labels, phantom.lps_from_ijk, out / "truth_labels.nii.gz")
    return folder


def write_labels(labels: NDArray[np.uint8], lps_from_ijk: Array, path: Path) -> None:
    """Write a label mask (k,j,i) as NIfTI on the CT's own grid."""
    image = SimpleITK.GetImageFromArray(labels)
    spacing = np.linalg.norm(lps_from_ijk[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(v) for v in lps_from_ijk[:3, 3]])
    image.SetDirection([float(v) for v in (lps_from_ijk[:3, :3] / spacing).ravel()])
    SimpleITK.WriteImage(image, str(path), useCompression=True)
