"""The images of one series as single frames with their place, whether they come as many files or as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import ImagingError
from service.geometry.series_gate import Finding, GatePolicy, GateResult, SlicePlace, check_series
from service.imaging import headers
from service.imaging.dataset import MOST_PIXELS, READ_FAILURES, check_announced
from service.imaging.headers import Dataset
from service.imaging.scan import SeriesSummary, is_localiser, read_header


@dataclass(frozen=True)
class Image:
    """One frame. `stack` is what tells stacks of one multi-frame object apart (PS3.3 C.7.6.16.2.2.2)."""

    file: Path
    frame: int
    place: SlicePlace
    stack: str = ""


def images_of(
    summary: SeriesSummary, notes: list[Finding], known: Mapping[Path, Dataset] | None = None
) -> list[Image]:
    """All frames that show slices; localisers are set aside, which is then said in `notes`.

    `known` are headers read already (`DirectoryScan.headers`).

    Raises
    ------
    ImagingError : a file vanished, images without a place, or more of them than can be read.
    """
    found: list[Image] = []
    without_place = localisers = pixels = 0
    for position, file in enumerate(summary.files):
        ds = known[file] if known and file in known else read_header(file)
        if ds is None or not file.is_file():
            raise ImagingError(
                f"File {position + 1} of {len(summary.files)} can no longer be read.",
                next_step="Check the disk and send the series again.",
                code="imaging.unreadable",
            )
        pixels += check_announced(ds, file.stat().st_size)
        if pixels > MOST_PIXELS:
            raise ImagingError(
                f"The series would have more than {MOST_PIXELS:.2e} voxels, the most that is read.",
                next_step="Send a reconstruction of the region of interest only.",
                code="imaging.too_large",
            )
        try:
            of_file, unplaced, scouts = _frames_of(ds, file, f"file {position + 1} of {len(summary.files)}")
        except READ_FAILURES as error:
            raise ImagingError(
                f"The places of the frames in file {position + 1} of {len(summary.files)} cannot be understood: "
                "it is damaged.",
                next_step="Send the series again.",
                code="imaging.unreadable",
            ) from error
        found += of_file
        without_place += unplaced
        localisers += scouts
    if without_place:
        raise ImagingError(
            f"{without_place} of {without_place + len(found)} image(s) have no position, orientation or pixel size, "
            "so they cannot be placed in the patient.",
            next_step="Send the original axial series instead of a derived or secondary one.",
            code="imaging.no_position",
        )
    if localisers:
        notes.append(Finding("series.localisers", "warn", f"{localisers} localiser image(s) were set aside."))
    return found


def _frames_of(ds: Dataset, file: Path, hint: str) -> tuple[list[Image], int, int]:
    """Frames with their place, how many have none, and how many are localisers."""
    count = headers.frame_count(ds)
    if is_localiser(ds):
        return [], 0, count
    found: list[Image] = []
    scouts = 0
    for frame in range(count):
        view = headers.FrameView(ds, frame)
        if headers.says_localiser(headers.texts(view, "FrameType")):
            scouts += 1
        elif (place := headers.slice_place(ds, frame, hint, view)) is not None:
            found.append(Image(file, frame, place, headers.text(view, "StackID") or ""))
    return found, count - len(found) - scouts, scouts


def one_stack(
    images: Sequence[Image], policy: GatePolicy, notes: list[Finding]
) -> tuple[list[Image], GateResult]:
    """All images when they make one volume; else the largest stack that does, which is then said in `notes`."""
    gate = check_series([image.place for image in images], policy)
    names = sorted({image.stack for image in images})
    if gate.accepted or len(names) < 2:
        return list(images), gate
    stacks = {name: [image for image in images if image.stack == name] for name in names}
    judged = {name: check_series([image.place for image in stack], policy) for name, stack in stacks.items()}
    usable = [name for name in names if judged[name].accepted]
    if not usable:
        return list(images), gate
    best = max(usable, key=lambda name: len(stacks[name]))
    notes.append(
        Finding(
            "series.stacks",
            "warn",
            f"The object holds {len(names)} stacks that do not make one volume; the largest usable one "
            f"({len(stacks[best])} of {len(images)} slices) is read.",
        )
    )
    return stacks[best], judged[best]
