"""Find the series in a folder. Any file names; files that are not DICOM images are counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from service.domain.series import PatientIdentity, SeriesInfo
from service.errors import ImagingError, NotFoundError
from service.imaging import headers
from service.imaging.dataset import READ_FAILURES, read_file

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


class KnownHeaders(Protocol):
    """Headers read already (`service.imaging.ahead`)."""

    def __contains__(self, file: Path) -> bool: ...

    def header(self, file: Path) -> Any: ...


@dataclass(frozen=True)
class SeriesSummary:
    """One series found on disk. `identities` has one entry when all agree.

    `files` in no particular order; damaged ones that name this series are among them, so that whoever loads
    them is told.
    """

    info: SeriesInfo
    identities: tuple[PatientIdentity, ...]
    files: tuple[Path, ...]

    @property
    def identity(self) -> PatientIdentity:
        return self.identities[0]

    @property
    def is_volume_class(self) -> bool:
        return self.info.sop_class_uid in headers.VOLUME_CLASSES


@dataclass(frozen=True)
class DirectoryScan:
    """What a folder holds. Iterating gives the series.

    `skipped` are files that are not DICOM instances; `damaged` are DICOM files that cannot be parsed. `unsafe` says
    why some of the damaged ones were not even tried. `headers` are those of the series' files, for who reads on.
    """

    series: tuple[SeriesSummary, ...]
    skipped: tuple[Path, ...]
    damaged: tuple[Path, ...] = ()
    unsafe: tuple[ImagingError, ...] = ()
    headers: Mapping[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    def __iter__(self) -> Iterator[SeriesSummary]:
        return iter(self.series)

    def __len__(self) -> int:
        return len(self.series)


def scan_directory(path: Path) -> DirectoryScan:
    """Headers of all files below `path` (or of the one file), grouped by series."""
    if not path.exists():
        raise NotFoundError(
            f"There is no folder or file '{path.name}'.",
            next_step="Check the path.",
            code="imaging.not_found",
        )
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return scan_files(files)


def scan_files(files: Sequence[Path], known: KnownHeaders | None = None) -> DirectoryScan:
    """The series of these files; `known` gives the headers of those that were read ahead."""
    groups: dict[str, list[tuple[Path, Any]]] = {}
    skipped, damaged = [], []
    unsafe: list[ImagingError] = []
    cut_off: dict[str, list[Path]] = {}
    for file in files:
        try:
            ds = known.header(file) if known is not None and file in known else read_header(file)
        except ImagingError as refusal:
            unsafe.append(refusal)
            damaged.append(file)
            continue
        if ds is not None:
            groups.setdefault(headers.text(ds, "SeriesInstanceUID") or "", []).append((file, ds))
        elif _claims_to_be_an_instance(file):
            damaged.append(file)
            cut_off.setdefault(_series_of_damaged(file), []).append(file)
        else:
            skipped.append(file)
    return DirectoryScan(
        tuple(_summary(members, cut_off.get(uid, [])) for uid, members in groups.items()),
        tuple(skipped),
        tuple(damaged),
        tuple(unsafe),
        {file: ds for members in groups.values() for file, ds in members},
    )


def _claims_to_be_an_instance(file: Path) -> bool:
    """Part 10 magic and not a directory file (PS3.10 section 7.1)."""
    try:
        with file.open("rb") as stream:
            head = stream.read(1024)
    except OSError:
        return False
    return head[128:132] == b"DICM" and MEDIA_DIRECTORY.encode() not in head


def read_header(file: Path) -> Any | None:
    """Header without pixels; None when the file is not DICOM (or a directory file) or cannot be parsed.

    Raises ImagingError (`imaging.unsafe`) when the file asks for more than an image can need.
    """
    try:
        return checked_header(read_file(file, pixels=False))
    except READ_FAILURES:
        return None


def checked_header(ds: Any) -> Any | None:
    """The same for a file that is read already. Raises one of `READ_FAILURES` when a value of it is damaged."""
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        # anonymisers empty these in the data set and leave them in the file meta
        if not ds.get(keyword):
            setattr(ds, keyword, ds.file_meta.get(f"MediaStorage{keyword}"))
    if not ds.SOPClassUID or not ds.SOPInstanceUID or "DirectoryRecordSequence" in ds:
        return None
    if ds.SOPClassUID in headers.VOLUME_CLASSES and "Rows" not in ds:
        # a file cut off in its header still parses up to there
        return None
    # values are decoded lazily: a damaged one must show here, not later
    headers.series_info(ds, [], 1)
    headers.identity(ds)
    headers.slice_place(ds, 0, "")
    headers.is_lossy(ds, None)
    headers.frame_count(ds)
    return ds


def _series_of_damaged(file: Path) -> str:
    """Series UID of a file cut off behind it; '' when it is not known."""
    try:
        return headers.text(read_file(file, pixels=False), "SeriesInstanceUID") or ""
    except (*READ_FAILURES, ImagingError):
        return ""


def _summary(members: Sequence[tuple[Path, Any]], damaged: Sequence[Path]) -> SeriesSummary:
    # a localiser filed with the slices must not give the series its face
    first = next((ds for _, ds in members if not is_localiser(ds)), members[0][1])
    syntaxes = [str(ds.file_meta.get("TransferSyntaxUID", "")) for _, ds in members]
    images = sum(headers.frame_count(ds) for _, ds in members)
    info = headers.series_info(first, syntaxes, images)
    flags = [headers.is_lossy(ds, syntax) for (_, ds), syntax in zip(members, syntaxes, strict=True)]
    identities = list(dict.fromkeys(headers.identity(ds) for _, ds in members))
    return SeriesSummary(
        replace(info, lossy=headers.any_lossy(flags)),
        tuple(identities),
        (*(file for file, _ in members), *damaged),
    )


def is_localiser(ds: Any) -> bool:
    return headers.says_localiser(headers.texts(ds, "ImageType"))
