#!/usr/bin/env python3
"""Turn a trained nnU-Net folder, such as TotalSegmentator's for vertebrae, into the two files that spineprint runs.

Run it once, in an environment of its own with PyTorch and nnunetv2 (the service needs neither, and never this script):

    python -m venv convert && convert/bin/pip install nnunetv2 onnx onnxscript onnxruntime
    convert/bin/python deploy/convert_segmentation_model.py FOLDER OUT --licence Apache-2.0

FOLDER is the trained model: it holds plans.json, dataset.json and fold_0/checkpoint_final.pth. OUT gets model.onnx and
model.json. What cannot be carried over is refused: other images than CT, several input channels, regions or cascades
instead of plain classes. With onnxruntime installed the result is run beside PyTorch, and refused where they differ.
The checkpoint is opened with Python's pickle, which can run code: convert only what comes from whom you trust.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = "spineprint.segmentation-model/1"
#: nnU-Net's readers hand over (z, y, x); TotalSegmentator turns every image to the right, front and head before.
READ_AXES = ("S", "A", "R")
OPSET = 18
#: Largest difference of the scores accepted between PyTorch and onnxruntime, of their standard deviation.
TOLERANCE = 1e-3


class RefusedError(Exception):
    """The folder cannot be converted; the message says why."""


def describe(folder: Path, configuration: str, licence: str, name: str = "") -> dict[str, Any]:
    """model.json without what only the export knows, from plans.json and dataset.json. Needs no PyTorch.

    Raises
    ------
    RefusedError : the model is not one that spineprint can run.
    """
    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    try:
        return {
            "schema": SCHEMA,
            "name": name or str(plans["dataset_name"]),
            "source": _source(folder, configuration),
            "licence": licence,
            **_geometry(plans, _configuration(plans, configuration)),
            "normalisation": _normalisation(plans, dataset, _configuration(plans, configuration)),
            "classes": _classes(dataset),
        }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RefusedError(
            f"plans.json or dataset.json lacks something or has it otherwise: {error!r}"
        ) from error


def _source(folder: Path, configuration: str) -> str:
    programs = []
    for program in ("TotalSegmentator", "nnunetv2"):
        try:
            programs.append(f"{program} {metadata.version(program)}")
        except metadata.PackageNotFoundError:
            continue
    with_what = ", ".join(programs) or "no nnunetv2"
    return f"nnU-Net folder {folder.resolve().name}, {configuration}; converted with {with_what}"[:300]


def _configuration(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """With what it inherits from another configuration."""
    found: dict[str, Any] = plans["configurations"][name]
    parent = found.get("inherits_from")
    whole = {**_configuration(plans, parent), **found} if parent else dict(found)
    if whole.get("previous_stage"):
        raise RefusedError(f"'{name}' is the second stage of a cascade; convert a single network.")
    return whole


def _geometry(plans: dict[str, Any], use: dict[str, Any]) -> dict[str, Any]:
    forward = [int(n) for n in plans["transpose_forward"]]
    if sorted(forward) != [0, 1, 2] or len(use["spacing"]) != 3 or len(use["patch_size"]) != 3:
        raise RefusedError("The network is not one of three dimensions.")
    return {
        # the plans' spacing and patch are those of the axes after `transpose_forward`
        "axes": [READ_AXES[n] for n in forward],
        "spacing_mm": [float(v) for v in use["spacing"]],
        "patch": [int(v) for v in use["patch_size"]],
    }


def _normalisation(plans: dict[str, Any], dataset: dict[str, Any], use: dict[str, Any]) -> dict[str, Any]:
    channels = dataset.get("channel_names") or dataset["modality"]
    schemes = list(use["normalization_schemes"])
    if len(channels) != 1 or str(channels["0"]).upper() != "CT" or schemes != ["CTNormalization"]:
        raise RefusedError(
            f"The model was trained on {sorted(map(str, channels.values()))} with {schemes}; only CT with "
            "CTNormalization can be used (TotalSegmentator's `vertebrae_mr` is for MR)."
        )
    grey = plans["foreground_intensity_properties_per_channel"]["0"]
    values = {
        "low_hu": float(grey["percentile_00_5"]),
        "high_hu": float(grey["percentile_99_5"]),
        "mean_hu": float(grey["mean"]),
        "sd_hu": max(float(grey["std"]), 1e-8),
    }
    if not all(math.isfinite(v) for v in values.values()):
        raise RefusedError("The grey values of the training data are no numbers.")
    return {"scheme": "CTNormalization", **values}


def _classes(dataset: dict[str, Any]) -> list[str]:
    """Names by output channel."""
    labels = dataset["labels"]
    if dataset.get("regions_class_order") or not all(isinstance(v, int) for v in labels.values()):
        raise RefusedError("The model answers overlapping regions instead of one class for each voxel.")
    names = {v: k for k, v in labels.items() if k != "ignore"}
    if sorted(names) != list(range(len(names))) or names[0] != "background":
        raise RefusedError("The labels of dataset.json are not 0, 1, 2 ... with the background first.")
    return [names[n] for n in range(len(names))]


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path.name} cannot be read in {path.parent}: {error}") from error
    return found


def export(folder: Path, out: Path, about: dict[str, Any], fold: str, checkpoint: str) -> dict[str, Any]:
    """Write OUT/model.onnx; the part `network` of model.json. Needs PyTorch, nnunetv2 and onnx."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(fold,), checkpoint_name=checkpoint)
    if list(predictor.configuration_manager.patch_size) != about["patch"]:
        raise RefusedError(
            "The checkpoint is of another configuration than the one described (--configuration)."
        )
    network = predictor.network.eval().float()
    torch.manual_seed(1)
    example = torch.randn(1, 1, *about["patch"])
    with torch.inference_mode():
        expected = network(example)
        if not isinstance(expected, torch.Tensor) or expected.shape[1] != len(about["classes"]):
            raise RefusedError("The network does not answer one score for each class of dataset.json.")
        torch.onnx.export(
            network, (example,), str(out), input_names=["ct"], output_names=["scores"], opset_version=OPSET,
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    content = out.read_bytes()
    return {
        "file": out.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "checkpoint_sha256": _sha256(folder / f"fold_{fold}" / checkpoint),
        "exported_with": f"torch {torch.__version__}, opset {OPSET}",
        "compared": _compared(content, example.numpy(), expected.numpy()),
    }


def _compared(content: bytes, example: Any, expected: Any) -> dict[str, Any] | None:
    """Largest difference of the scores between PyTorch and onnxruntime; None when that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"ct": example})[0]
    worst, spread = float(abs(found - expected).max()), float(expected.std())
    differ = float((found.argmax(axis=1) != expected.argmax(axis=1)).mean())
    if not worst <= TOLERANCE * spread:
        raise RefusedError(
            f"onnxruntime answers otherwise than PyTorch: up to {worst:.3g} where scores vary by {spread:.3g}."
        )
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "largest_difference": worst,
        "score_sd": spread,
        "voxels_of_another_class": differ,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 written, 2 refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="trained nnU-Net folder: plans.json, dataset.json, fold_0/")
    parser.add_argument("out", type=Path, help="folder for model.onnx and model.json")
    parser.add_argument(
        "--licence", required=True, help="of these weights, as you read it; shown in every report"
    )
    parser.add_argument("--name", default="", help="of the model in reports (default: the dataset's)")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    given = parser.parse_args(arguments)
    try:
        about = describe(given.folder, given.configuration, given.licence, given.name)
        given.out.mkdir(parents=True, exist_ok=True)
        made, model = given.out / "model.json", given.out / "model.onnx"
        made.unlink(missing_ok=True)  # never beside a network that it does not describe
        about["network"] = export(given.folder, model, about, given.fold, given.checkpoint)
        made.write_text(json.dumps(about, indent=2), "utf-8")
    except RefusedError as error:
        sys.stderr.write(f"not converted: {error}\n")
        return 2
    sys.stdout.write(
        f"{made}\n{model}: {about['network']['bytes'] / 1e6:.1f} MB, {about['network']['compared']}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
