"""What the commands share: configuration, points, addresses, who is acting."""

from __future__ import annotations

import json
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.config import Config, load_config
from service.domain.edits import Edit, edits_from_document
from service.domain.plan import MOST_SURFACE_POINTS
from service.errors import InputRefusedError
from service.ports import Destination

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; else $SPINEPRINT_CONFIG, else defaults")
]


def config_of(path: Path | None) -> Config:
    return load_config(path)


class Surface(StrEnum):
    """As `[model] surface`."""

    CORRECTED = "corrected"
    THRESHOLD = "threshold"


SURFACE_HELP = (
    "the bone's edge where the CT shows it, or the 226 HU surface as it is (default: [model] surface)"
)
SEGMENTATION_HELP = (
    'folder of an installed segmentation model, or "none" (default: [isolation] segmentation_model)'
)
KEEP_HELP = "keep the isolated bone in OUT/kept, so that cuts, paint or a plan by hand do not fit it again"
HANDED_OUT_HELP = (
    "mask that --mask was edited from: what was erased or painted then counts whatever the CT shows there "
    "(default: OUT/mask_handed_out.nii.gz of an earlier run)"
)
ENDPLATES_HELP = (
    "for a fractured body: X,Y,Z;X,Y,Z;X,Y,Z;X,Y,Z upper front, upper back, lower front, lower back"
)
SURFACE_POINTS_HELP = (
    f"where the outline left the bone: X,Y,Z;X,Y,Z;... up to {MOST_SURFACE_POINTS} points on its outside"
)


def parse_point(name: str, text: str | None) -> tuple[float, float, float] | None:
    """'X,Y,Z' in LPS mm. Raises InputRefusedError."""
    if text is None:
        return None
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(math.isfinite(v) for v in values):
        raise InputRefusedError(
            f"{name}: expected X,Y,Z in mm, found {text!r}.",
            next_step="Write three numbers with commas, e.g. -22,24,-234.",
            code="input.point",
        )
    return values[0], values[1], values[2]


def parse_endplates(text: str | None) -> tuple[tuple[float, float, float], ...] | None:
    """'X,Y,Z;X,Y,Z;X,Y,Z;X,Y,Z': upper front, upper back, lower front, lower back. Raises InputRefusedError."""
    if text is None:
        return None
    points = [parse_point("--endplates", part) for part in text.split(";")]
    if len(points) != 4:
        raise InputRefusedError(
            f"--endplates: expected four points, found {len(points)}.",
            next_step="Give upper front, upper back, lower front and lower back as X,Y,Z with semicolons between.",
            code="input.point",
        )
    return tuple(p for p in points if p is not None)


def parse_surface_points(text: str | None) -> tuple[tuple[float, float, float], ...]:
    """'X,Y,Z;X,Y,Z;...': points on the outer surface of the target bone. Raises InputRefusedError."""
    if text is None:
        return ()
    points = [parse_point("--surface-points", part) for part in text.split(";")]
    if len(points) > MOST_SURFACE_POINTS:
        raise InputRefusedError(
            f"--surface-points: at most {MOST_SURFACE_POINTS} points are taken, found {len(points)}.",
            next_step="Leave out those where the outline is right; with many wrong places correct the mask instead.",
            code="input.point",
        )
    return tuple(p for p in points if p is not None)


EDITS_HELP = "JSON file of corrections by hand: a list of cut, erase and paint (see the operator guide)"


def read_edits(path: Path | None) -> tuple[Edit, ...]:
    """Raises InputRefusedError."""
    if path is None:
        return ()
    try:
        return edits_from_document(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise InputRefusedError(
            f"--edits: {path.name} is no JSON file that can be read.",
            next_step='Write a list such as [{"kind": "erase", "centre": [X, Y, Z], "radius_mm": 3}].',
            code="edits.invalid",
        ) from error


def segmentation_folder(given: str | None, config: Config) -> Path | None:
    """The folder named on the command line, "none" for none, else the configured one."""
    if given is None:
        return config.isolation.segmentation_model
    return None if given == "none" else Path(given)


def parse_destination(text: str) -> Destination:
    """'AE@host:port'. Raises InputRefusedError."""
    title, _, address = text.partition("@")
    host, _, port = address.rpartition(":")
    if not title or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputRefusedError(
            f"Expected AE@host:port, found {text!r}.",
            next_step="E.g. PACS@10.0.0.5:104.",
            code="input.destination",
        )
    return Destination(title, host, int(port))


def read_password(from_stdin: bool) -> str:
    """From standard input for scripts, else asked for without echo."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("Password", hide_input=True))
