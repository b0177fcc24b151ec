"""The converter as far as it needs no PyTorch: what it reads of a trained folder, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from adapters.segmentation.description import SCHEMA, read_description
from tests.support_segmentation import write_model

SCRIPT = Path(__file__).parents[2] / "deploy" / "convert_segmentation_model.py"
LEVELS = [
    "L5",
    "L4",
    "L3",
    "L2",
    "L1",
    *(f"T{n}" for n in range(12, 0, -1)),
    *(f"C{n}" for n in range(7, 0, -1)),
]
#: As TotalSegmentator's part for vertebrae has them.
LABELS = {
    "background": 0,
    "sacrum": 1,
    "vertebrae_S1": 2,
    **{f"vertebrae_{v}": n + 3 for n, v in enumerate(LEVELS)},
}


@pytest.fixture(scope="module")
def convert() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_segmentation_model", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None) -> Path:
    """plans.json and dataset.json in the form of nnU-Net 2."""
    plans: dict[str, Any] = {
        "dataset_name": "Dataset292_TotalSegmentator_part2_vertebrae_1532subj",
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "spacing": [1.5, 1.25, 1.0],
                "patch_size": [32, 48, 40],
                "normalization_schemes": ["CTNormalization"],
            },
            "3d_high": {"inherits_from": "3d_fullres", "spacing": [0.75, 0.75, 0.75]},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 190.5, "std": 220.0, "percentile_00_5": -150.0, "percentile_99_5": 1200.0,
                  "median": 150.0, "min": -1024.0, "max": 3071.0}
        },
    }  # fmt: skip
    dataset: dict[str, Any] = {"channel_names": {"0": "CT"}, "labels": dict(LABELS)}
    if change:
        change(plans, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def test_what_is_read_of_the_plans_is_what_the_service_takes(convert: ModuleType, tmp_path: Path) -> None:
    about = convert.describe(trained(tmp_path / "trained"), "3d_fullres", "Apache-2.0")
    found = read_description(write_model(tmp_path / "out", about))
    assert about["schema"] == SCHEMA and about["name"].startswith("Dataset292_TotalSegmentator")
    assert (
        found.axes == ("S", "A", "R") and found.spacing_mm == (1.5, 1.25, 1.0) and found.patch == (32, 48, 40)
    )
    assert (found.low_hu, found.high_hu, found.mean_hu, found.sd_hu) == (-150.0, 1200.0, 190.5, 220.0)
    assert found.levels[:4] == ("", "", "S1", "L5") and len(found.classes) == 27 and found.levels[7] == "L1"
    assert found.licence == "Apache-2.0" and "trained, 3d_fullres" in found.source


def test_other_orders_of_axes_and_inherited_configurations(convert: ModuleType, tmp_path: Path) -> None:
    folder = trained(tmp_path, lambda plans, _: plans.update(transpose_forward=[2, 0, 1]))
    about = convert.describe(folder, "3d_high", "x", "own name")
    # spacing and patch of the plans are those after the axes were exchanged
    assert about["axes"] == ["R", "S", "A"] and about["spacing_mm"] == [0.75] * 3
    assert about["patch"] == [32, 48, 40] and about["name"] == "own name"


def _mr(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    dataset["channel_names"] = {"0": "MRI"}
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["ZScoreNormalization"]


def _two_channels(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    dataset["channel_names"] = {"0": "CT", "1": "CT"}


def _regions(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    dataset["labels"]["spine"] = [1, 2, 3]
    dataset["regions_class_order"] = [1, 2]


def _gap(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    dataset["labels"]["vertebrae_T1"] = 99


def _flat(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    plans["configurations"]["3d_fullres"] |= {"spacing": [1.5, 1.5], "patch_size": [256, 256]}


def _no_numbers(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    plans["foreground_intensity_properties_per_channel"]["0"]["std"] = float("nan")


def _lacks(plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    del plans["foreground_intensity_properties_per_channel"]


@pytest.mark.parametrize(
    ("change", "said"),
    [(_mr, "only CT"), (_two_channels, "only CT"), (_regions, "regions"), (_gap, "not 0, 1, 2"),
     (_flat, "three dimensions"), (_no_numbers, "no numbers"), (_lacks, "lacks something")],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_refused(
    convert: ModuleType, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], said: str
) -> None:
    with pytest.raises(convert.RefusedError, match=said):
        convert.describe(trained(tmp_path, change), "3d_fullres", "Apache-2.0")


def test_a_cascade_and_an_unknown_configuration_are_refused(convert: ModuleType, tmp_path: Path) -> None:
    folder = trained(tmp_path)
    with pytest.raises(convert.RefusedError, match="cascade"):
        convert.describe(folder, "3d_cascade_fullres", "x")
    with pytest.raises(convert.RefusedError, match="2d"):
        convert.describe(folder, "2d", "x")


def test_a_refusal_leaves_no_description_behind(
    convert: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert.main([str(tmp_path / "none"), str(tmp_path / "out"), "--licence", "x"]) == 2
    assert "plans.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_differing_answers_are_refused(convert: ModuleType, tmp_path: Path) -> None:
    """The comparison of the export, with the stand-in in place of PyTorch's network."""
    import numpy as np
    import onnxruntime

    content = (write_model(tmp_path) / "model.onnx").read_bytes()
    example = np.random.default_rng(1).normal(size=(1, 1, 32, 32, 32)).astype(np.float32)
    same = onnxruntime.InferenceSession(content).run(None, {"ct": example})[0]
    facts = convert._compared(content, example, same)
    assert facts["largest_difference"] == 0.0 and facts["voxels_of_another_class"] == 0.0
    with pytest.raises(convert.RefusedError, match="otherwise than PyTorch"):
        convert._compared(content, example, same + np.float32(0.01) * same.std())
