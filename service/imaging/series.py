"""Read one DICOM series as a volume: chosen, gated, sorted, decoded, in modality values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from service.domain.series import PatientIdentity, SeriesInfo
from service.errors import ImagingError, NotFoundError
from service.geometry.progress import Progress, silent
from service.geometry.series_gate import (
    DEFAULT_POLICY,
    Finding,
    GatePolicy,
    GateResult,
    SlicePlace,
)
from service.geometry.volume import Volume
from service.imaging import headers
from service.imaging.ahead import ReadAhead
from service.imaging.dataset import READ_FAILURES, read_file
from service.imaging.frames import Image, images_of, one_stack
from service.imaging.pixels import check_encoding, modality_values
from service.imaging.proposal import Proposal, propose_planning_series
from service.imaging.scan import DirectoryScan, SeriesSummary, scan_directory, scan_files

__all__ = [
    "DirectoryScan",
    "LoadedSeries",
    "Proposal",
    "SeriesSummary",
    "load_series",
    "propose_planning_series",
    "scan_directory",
]


@dataclass(frozen=True, eq=False)
class LoadedSeries:
    """A series read as one volume: HU (int16, or float32 when the rescale is not whole), sorted, LPS mm.

    The grid is always orthogonal: slices of a tilted gantry are moved within their planes (`Volume.straightened`);
    `gate.lps_from_ijk` is the grid they were stored on.
    `findings` are the gate's warnings and notes of the reader; nothing refused gets this far.
    `files` are those read, in slice order (one entry for a multi-frame object).
    """

    volume: Volume
    info: SeriesInfo
    identity: PatientIdentity
    gate: GateResult
    findings: tuple[Finding, ...]
    files: tuple[Path, ...]


def load_series(
    source: Path | Iterable[Path],
    series_uid: str | None = None,
    *,
    progress: Progress = silent,
    policy: GatePolicy = DEFAULT_POLICY,
    ahead: ReadAhead | None = None,
    each: Callable[[Path], object] = lambda file: None,
) -> LoadedSeries:
    """Read one series as a volume.

    Parameters
    ----------
    source : a folder, a file, or the files themselves.
    series_uid : which series; without it the only one, or the best planning CT when there are several
        (`propose_planning_series`), which is then said in the findings.
    ahead : what was read of the files before; the result is the same without it.
    each : told every file of the volume, once, when its pixels have been read.

    Raises
    ------
    NotFoundError : no such path or series.
    ImagingError : no usable series, several patients in one series, geometry refused by the gate
        (`details["findings"]` lists all reasons), pixels damaged.
    """
    scan = scan_directory(source) if isinstance(source, Path) else scan_files(list(source), ahead)
    summary, notes = _choose(scan, series_uid, policy)
    _require_one_patient(summary)
    _require_one_frame(summary, scan)
    progress("Reading the slices' positions", 0.0)
    images, gate = one_stack(images_of(summary, notes, scan.headers), policy, notes)
    del scan  # the headers of a large study take as much memory as its pixels
    _require_accepted(gate)
    volume = _assemble(images, gate, summary.info.frame_of_reference_uid or "", progress, ahead, each)
    if abs(gate.tilt_deg) > policy.tilt_notice_deg:
        # distances and blurs further on are taken along the axes of the grid, which shear would falsify
        volume = volume.straightened()
    ordered_files = tuple(dict.fromkeys(images[i].file for i in gate.ordered))
    return LoadedSeries(volume, summary.info, summary.identity, gate, (*gate.findings, *notes), ordered_files)


# --- choosing ---------------------------------------------------------------------------------------------


def _choose(
    scan: DirectoryScan, series_uid: str | None, policy: GatePolicy
) -> tuple[SeriesSummary, list[Finding]]:
    notes = []
    if scan.skipped:
        notes.append(
            Finding("series.skipped_files", "warn", f"{len(scan.skipped)} file(s) are not DICOM instances.")
        )
    _require_files(scan)
    if series_uid is not None:
        for summary in scan.series:
            if summary.info.series_uid == series_uid:
                return _require_volume_class(summary), notes
        raise NotFoundError(
            "The series asked for is not among these files.",
            next_step="Check the series UID.",
            code="imaging.series_not_found",
        )
    volumes = [summary for summary in scan.series if summary.is_volume_class] or list(scan.series)
    if len(volumes) == 1:
        return _require_volume_class(volumes[0]), notes
    proposal = propose_planning_series(volumes, policy)
    if proposal.best is None:
        raise ImagingError(
            f"None of the {len(scan)} series can be used as a planning CT. {' '.join(proposal.reasons[1:4])}",
            next_step="Send the original axial CT series.",
            code="imaging.no_ct",
            details={"reasons": list(proposal.reasons)},
        )
    notes.append(Finding("series.chosen", "warn", f"{len(scan)} series found. {proposal.reasons[0]}"))
    return proposal.best, notes


def _require_files(scan: DirectoryScan) -> None:
    if scan.unsafe:
        raise scan.unsafe[0]
    if scan.damaged:
        raise ImagingError(
            f"{len(scan.damaged)} DICOM file(s) are cut off or damaged, so slices may be missing "
            f"(first: {scan.damaged[0].name}).",
            next_step="Send the series again.",
            code="imaging.unreadable",
        )
    if not scan.series:
        raise ImagingError(
            f"None of the {len(scan.skipped)} file(s) is a DICOM image.",
            next_step="Check the folder or send the study again.",
            code="imaging.no_dicom",
        )


def _require_volume_class(summary: SeriesSummary) -> SeriesSummary:
    if not summary.is_volume_class:
        kind = pydicom.uid.UID(summary.info.sop_class_uid or "").name
        raise ImagingError(
            f"This series is not CT (modality {summary.info.modality or 'unknown'}, {kind}).",
            next_step="Send a CT, enhanced CT or X-ray 3D series.",
            code="imaging.not_ct",
        )
    return summary


def _require_one_patient(summary: SeriesSummary) -> None:
    for other in summary.identities[1:]:
        if different := summary.identity.contradicts(other):
            raise ImagingError(
                f"The series mixes patients: its files differ in {', '.join(different)}.",
                next_step="Correct the study in the PACS and send it again.",
                code="imaging.mixed_patients",
            )


def _require_one_frame(summary: SeriesSummary, scan: DirectoryScan) -> None:
    """Positions in different frames of reference are no positions beside each other (PS3.3 C.7.4.1)."""
    known = (headers.text(scan.headers[f], "FrameOfReferenceUID") for f in summary.files if f in scan.headers)
    frames = {uid for uid in known if uid}
    if len(frames) > 1:
        raise ImagingError(
            f"The slices of this series lie in {len(frames)} frames of reference, so their places cannot be compared.",
            next_step="Send each reconstruction as a series of its own, or choose another series.",
            code="imaging.mixed_frames",
        )


def _require_accepted(gate: GateResult) -> None:
    if not gate.accepted:
        first, *others = gate.refusals
        more = f" ({len(others)} more reason(s) are listed.)" if others else ""
        raise ImagingError(
            first.sentence + more,
            next_step="Send the complete original axial series again, or choose another series.",
            code=first.code.replace("series.", "imaging.", 1),
            details={"findings": [{"code": f.code, "sentence": f.sentence} for f in gate.findings]},
        )


# --- reading ----------------------------------------------------------------------------------------------


def _assemble(
    images: Sequence[Image],
    gate: GateResult,
    frame_of_reference: str,
    progress: Progress,
    ahead: ReadAhead | None,
    each: Callable[[Path], object],
) -> Volume:
    first = images[gate.ordered[0]].place
    values: NDArray[Any] = np.empty((len(gate.ordered), first.rows, first.cols), np.int16)
    targets: dict[Path, dict[int, int]] = {}
    for k, index in enumerate(gate.ordered):
        targets.setdefault(images[index].file, {})[images[index].frame] = k
    done = 0
    for file, wanted in targets.items():
        place = images[gate.ordered[next(iter(wanted.values()))]].place
        for frame, data in enumerate(_frames(file, place, ahead)):
            if frame not in wanted:
                continue
            if data.shape != values.shape[1:]:
                raise ImagingError(
                    f"The pixels of {_who(place)} do not have the size of the series.",
                    next_step="Send the series again.",
                    code="imaging.pixels",
                )
            if values.dtype == np.int16 and not _fits_int16(data):
                values = values.astype(np.float32)
            values[wanted[frame]] = data
            done += 1
        each(file)
        progress(f"Reading slice {done} of {len(gate.ordered)}", done / len(gate.ordered))
    if gate.lps_from_ijk is None:
        raise AssertionError("an accepted series has an affine")
    return Volume(values, gate.lps_from_ijk, frame_of_reference)


def _fits_int16(data: NDArray[Any]) -> bool:
    return bool(data.dtype.kind == "i" and data.max() <= 32767 and data.min() >= -32768)


def _frames(file: Path, place: SlicePlace, ahead: ReadAhead | None) -> Iterator[NDArray[Any]]:
    if ahead is not None and file in ahead:
        yield from ahead.frames(file)
        return
    try:
        yield from modality_values(read_file(file, pixels=True), _who(place))
    except READ_FAILURES as error:
        raise ImagingError(
            f"{_who(place)} cannot be read to its end: the file is cut off or damaged.",
            next_step="Send the series again.",
            code="imaging.unreadable",
        ) from error


def is_whole(file: Path) -> bool:
    """Whether the file holds all its frames; False when it is cut off, damaged or has no pixels.

    Nothing is decoded: this runs where images are received, and decoders are native code.
    """
    try:
        check_encoding(read_file(file, pixels=True), "the image")
    except (*READ_FAILURES, ImagingError):
        return False
    return True


def _who(place: SlicePlace) -> str:
    number = place.instance_number
    return f"slice {number}" if number is not None else f"the slice in {place.hint}"
