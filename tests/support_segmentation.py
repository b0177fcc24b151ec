"""Stand-in segmentation models: small, real ONNX files with the description that the converter would write.

They decide bone by its grey value with a convolution. Which vertebra it is they cannot see: it is told to them, for all
of the image, or voxel by voxel by an atlas in the file (for one patch that covers the whole region looked at).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from adapters.segmentation.description import Description, read_description
from adapters.segmentation.segmenter import laid_out
from service.geometry.volume import Volume

LEVELS = ("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9", "T8")
CLASSES = ("background", "sacrum", *(f"vertebrae_{level}" for level in LEVELS))
BONE_HU = 250.0
_FAR = 1000.0


def description(**changes: Any) -> dict[str, Any]:
    """As the converter writes it; `network` is filled in by `write_model`."""
    return {
        "schema": "spineprint.segmentation-model/1",
        "name": "stand-in",
        "source": "made by a test",
        "licence": "Apache-2.0",
        "axes": ["S", "A", "R"],
        "spacing_mm": [1.5, 1.5, 1.5],
        "patch": [32, 32, 32],
        "normalisation": {
            "scheme": "CTNormalization", "low_hu": -900.0, "high_hu": 1100.0, "mean_hu": 90.0, "sd_hu": 260.0,
        },
        "classes": list(CLASSES),
    } | changes  # fmt: skip


def write_model(
    folder: Path,
    about: dict[str, Any] | None = None,
    *,
    level: str = "L1",
    atlas: NDArray[np.uint8] | None = None,
    core: NDArray[np.bool_] | None = None,
    inputs: int = 1,
    outputs: int = 1,
) -> Path:
    """`model.onnx` and `model.json` in `folder`. `atlas` (patch) channel numbers; `core` (patch) is bone for sure."""
    about = about or description()
    folder.mkdir(parents=True, exist_ok=True)
    content = _model(about, level, atlas, core, inputs, outputs).SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    network = {"file": "model.onnx", "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "model.json").write_text(json.dumps({"network": network} | about), "utf-8")
    return folder


def atlas_model(folder: Path, ct: Volume, truth: Volume, numbers: dict[str, int], near: Any) -> Path:
    """A model for exactly this CT and point: which vertebra is nearest comes from `truth` (labels `numbers`), the
    border of the bone from the CT."""
    from scipy import ndimage

    write_model(folder, description(patch=[128, 96, 104]))
    about = read_description(folder)
    labels, steps = _on_the_patch(ct, truth, about, np.asarray(near, dtype=np.float64))
    known = np.isin(labels, list(numbers.values()))
    distance, nearest = ndimage.distance_transform_edt(~known, sampling=steps, return_indices=True)
    channel = {number: CLASSES.index(f"vertebrae_{level}") for level, number in numbers.items()}
    table = np.array([channel.get(n, 0) for n in range(256)], np.uint8)
    atlas = np.where(distance <= 4.0, table[labels[tuple(nearest)]], 0).astype(np.uint8)
    core = ndimage.distance_transform_edt(known, sampling=steps) > 2.5
    return write_model(folder, description(patch=[128, 96, 104]), atlas=atlas, core=core)


def _on_the_patch(
    ct: Volume, truth: Volume, about: Description, near: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Nearest label of `truth` at every voxel of the one patch."""
    image, keep, box = laid_out(ct, about, near)
    lack = [p - n for p, n in zip(about.patch, image.shape, strict=True)]
    assert min(lack) >= 0, f"the patch {about.patch} does not cover {image.shape}"
    first = np.array([k.start + n // 2 for k, n in zip(keep, lack, strict=True)])
    index = np.stack(np.indices(about.patch), axis=-1).reshape(-1, 3) - first
    places = np.rint(truth.to_ijk(index @ box[:3, :3].T + box[:3, 3])).astype(int)
    inside = np.all((places >= 0) & (places < truth.values.shape[::-1]), axis=1)
    found = np.zeros(len(places), np.uint8)
    i, j, k = places[inside].T
    found[inside] = truth.values[k, j, i]
    return found.reshape(about.patch), np.array(about.spacing_mm)


def _model(
    about: dict[str, Any],
    level: str,
    atlas: NDArray[np.uint8] | None,
    core: NDArray[np.bool_] | None,
    inputs: int,
    outputs: int,
) -> onnx.ModelProto:
    grey, patch, count = about["normalisation"], list(about["patch"]), len(about["classes"])
    threshold = (BONE_HU - grey["mean_hu"]) / grey["sd_hu"]
    kernel = np.zeros((3, 3, 3), np.float32)
    kernel[1, 1] = kernel[1, :, 1] = kernel[:, 1, 1] = 0.1
    kernel[1, 1, 1] = 0.4
    values = {
        "kernel": kernel[None, None],
        "shift": np.array([-threshold], np.float32),
        "bone": np.ones((1, count, 1, 1, 1), np.float32),
        "certain": np.zeros((1, 1, *patch), np.float32) if core is None else 50.0 * core[None, None],
    }
    values["bone"][0, 0] = 0.0  # the background scores 0 everywhere
    nodes = [
        helper.make_node("Conv", ["ct", "kernel", "shift"], ["edge"], pads=[1] * 6),
        helper.make_node("Add", ["edge", "certain"], ["grey"]),
    ]
    if atlas is None:
        wanted = about["classes"].index(f"vertebrae_{level}")
        prior = np.full((1, count, 1, 1, 1), -_FAR, np.float32)
        prior[0, wanted] = 0.0
        values["prior"] = prior
    else:
        values |= {
            "atlas": atlas[None],
            "depth": np.array([count]),
            "ends": np.array([-_FAR, 0.0], np.float32),
        }
        nodes += [
            helper.make_node("Cast", ["atlas"], ["number"], to=TensorProto.INT64),
            helper.make_node("OneHot", ["number", "depth", "ends"], ["prior"], axis=1),
        ]
    nodes += [
        helper.make_node("Add", ["grey", "prior"], ["both"]),
        helper.make_node("Mul", ["both", "bone"], ["scores"]),
        *(helper.make_node("Identity", ["scores"], [f"scores{n}"]) for n in range(1, outputs)),
    ]
    names = ["ct", *(f"more{n}" for n in range(1, inputs))]
    answers = ["scores", *(f"scores{n}" for n in range(1, outputs))]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, *patch]) for n in names],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, count, *patch]) for n in answers],
        [
            numpy_helper.from_array(np.asarray(v, np.float32) if v.dtype.kind == "f" else np.asarray(v), name)
            for name, v in values.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
