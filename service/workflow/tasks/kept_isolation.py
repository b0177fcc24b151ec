"""The last isolation of a case, kept beside its outputs, so that a correction by hand does not fit the shapes again.

Cut, erase and paint act on the isolated bone and a plan edited by hand on its solid: neither changes the bone that was
found. What is kept is used only for exactly the same CT, level, points, settings and program; it may be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import service
from service.domain.plan import VertebraFrame
from service.geometry.anatomy import (
    BodyField,
    Endplate,
    Isolation,
    Landmarks,
    Pedicle,
    Quality,
    SegmentationModel,
    SurfaceTaken,
)
from service.geometry.volume import Volume

log = logging.getLogger("spineprint.tasks")

SCHEMA = "spineprint.kept-isolation/4"
FILE = "isolation.npz"
#: What decides about the bone found: a change in any of these makes what is kept worthless.
PROGRAM = ("geometry", "imaging", "workflow/tasks")
LIBRARIES = ("numpy", "scipy", "scikit-image", "libigl", "edt", "connected-components-3d")


def isolation_key(inputs: Mapping[str, Any]) -> str:
    """SHA-256 over the program, its libraries and JSON-able `inputs` (hash of the CT, level, points, settings)."""
    digest = hashlib.sha256(json.dumps([SCHEMA, service.__version__, inputs], sort_keys=True).encode())
    digest.update(json.dumps({name: metadata.version(name) for name in LIBRARIES}).encode())
    root = Path(service.__file__).parent
    for folder in PROGRAM:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".py", ".npz"):
                digest.update(
                    f"{file.relative_to(root)}\n".encode() + hashlib.sha256(file.read_bytes()).digest()
                )
    return digest.hexdigest()


def kept_or_made(
    folder: Path | None,
    key: str,
    make: Callable[[], Isolation],
    beside: Executor,
    worth: Callable[[Isolation], bool] = lambda made: True,
) -> Isolation:
    """The isolation kept in `folder` under this key, else the one made now, kept in its place if `worth` it.

    beside : where it is written, while the caller goes on with it.
    """
    if folder is None:
        return make()
    found = _read(folder / FILE, key)
    if found is None:
        found = make()
        if worth(found):
            beside.submit(_write, found, folder, key).add_done_callback(_report)
    return found


def _report(written: Future[None]) -> None:
    """Nobody asks how the writing went: what went wrong is told here, and the next correction fits anew."""
    error = written.exception()
    if error is not None:
        log.error("the isolation could not be kept", exc_info=error)


def _write(isolation: Isolation, folder: Path, key: str) -> None:
    volumes = {"mask": isolation.mask, "outer": isolation.outer}
    volumes |= {n.name: n.field for n in isolation.neighbours}
    arrays: dict[str, NDArray[Any]] = {}
    for name, volume in volumes.items():
        arrays |= {name: volume.values, f"{name}_lps": volume.lps_from_ijk}
    words = {
        "key": key,
        "level": isolation.level,
        "source": isolation.source,
        "frames": {name: volume.frame_of_reference_uid for name, volume in volumes.items()},
        "neighbours": [
            {"name": n.name, "centre": n.centre, "axes": n.axes, "exact": n.exact}
            for n in isolation.neighbours
        ],
        "landmarks": asdict(isolation.landmarks),
        "quality": asdict(isolation.quality),
        "surface": asdict(isolation.surface),
        "model": asdict(isolation.model) if isolation.model else None,
    }
    write_kept(folder / FILE, words, arrays)


def write_kept(path: Path, words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """JSON-able `words`, among them the key, and arrays, with a digest of all; whole or not at all.

    A disk that cannot take it costs the next correction its speed and nothing else.
    """
    text = json.dumps(words, default=_listed)
    folder = path.parent
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, about=np.array([text, _digest(arrays, text)]), **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as exc:
        log.warning("the isolation could not be kept (%s): the next correction fits it again", exc.strerror)
        if folder.is_dir():
            temporary.unlink(missing_ok=True)


def read_kept(path: Path, key: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Words and arrays; None when there is nothing, or something of another key, or damaged."""
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            text, digest = (str(part) for part in data["about"])
            words = json.loads(text)
            if words["key"] != key:
                return None
            arrays = {name: data[name] for name in data.files if name != "about"}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        log.warning("what was kept of the isolation is damaged (%s) and not used", type(exc).__name__)
        return None
    if _digest(arrays, text) != digest:
        log.warning("what was kept of the isolation is damaged and not used")
        return None
    return words, arrays


def _read(path: Path, key: str) -> Isolation | None:
    found = read_kept(path, key)
    if found is None:
        return None
    words, arrays = found
    volumes = {
        name: Volume(arrays[name], arrays[f"{name}_lps"], frame) for name, frame in words["frames"].items()
    }
    return Isolation(
        level=words["level"],
        mask=volumes["mask"],
        outer=volumes["outer"],
        landmarks=_landmarks(words["landmarks"]),
        quality=Quality(
            words["quality"]["confidence"], tuple(words["quality"]["reasons"]), words["quality"]["measures"]
        ),
        source=words["source"],
        surface=SurfaceTaken(**words["surface"]),
        neighbours=tuple(
            BodyField(
                n["name"], volumes[n["name"]], np.asarray(n["centre"]), np.asarray(n["axes"]), n["exact"]
            )
            for n in words["neighbours"]
        ),
        model=SegmentationModel(**words["model"]) if words["model"] else None,
    )


def _digest(arrays: Mapping[str, NDArray[Any]], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _landmarks(words: Mapping[str, Any]) -> Landmarks:
    def array(values: Any) -> NDArray[np.float64]:
        return np.asarray(values, dtype=np.float64)

    def plate(part: Mapping[str, Any]) -> Endplate:
        return Endplate(array(part["centre"]), array(part["normal"]), bool(part["fitted"]))

    frame = {name: tuple(values) for name, values in words["frame"].items()}
    return Landmarks(
        frame=VertebraFrame(**frame),
        body_centre=array(words["body_centre"]),
        upper_endplate=plate(words["upper_endplate"]),
        lower_endplate=plate(words["lower_endplate"]),
        pedicles=tuple(
            Pedicle(p["side"], array(p["centre"]), array(p["axis"]), p["width_mm"], p["height_mm"])
            for p in words["pedicles"]
        ),
        canal_centre=array(words["canal_centre"]),
        height_mm=dict(words["height_mm"]),
    )
