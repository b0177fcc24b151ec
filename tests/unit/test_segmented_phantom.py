"""A stand-in model on the phantom, the whole way: its bone against the phantom's own labels, and every way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.segmentation import InstalledSegmenter
from service.bootstrap_tasks import make_segmenter
from service.cli_common import segmentation_folder
from service.config import Config, IsolationConfig
from service.errors import GeometryError, SpineprintError
from service.geometry import progress as listening
from service.geometry.anatomy import Isolation
from service.geometry.isolation import isolation_from_mask
from service.geometry.progress import Progress
from service.geometry.spine_fit import FitStart
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti
from service.imaging.series import LoadedSeries, load_series
from service.ports import SegmentedVertebrae, Segmenter, SegmenterFacts
from service.workflow.tasks import isolate as isolate_module
from service.workflow.tasks.isolate import isolate
from service.workflow.tasks.model_report import _isolation, _model_warnings
from service.workflow.tasks.points_used import points_unused, points_used
from simulators.phantom.anatomy import small_parameters
from simulators.phantom.study import generate, write_study
from tests.support_segmentation import atlas_model, description, write_model


def isolated(
    argument: Mapping[str, Any],
    ct: LoadedSeries,
    sha256: str,
    progress: Progress,
    model: Segmenter | None = None,
) -> Isolation:
    """And kept, as at the end of a run."""
    with ThreadPoolExecutor(1) as beside:
        return isolate(argument, ct, sha256, progress, beside, model)


@dataclass(frozen=True)
class Scene:
    """The phantom's CT as it is read, its labels, and a model that knows them."""

    folder: Path
    ct: LoadedSeries
    labels: Volume
    numbers: dict[str, int]
    seeds: dict[str, list[float]]
    model: Path

    def argument(self, **changes: Any) -> dict[str, Any]:
        return {"level": "L1", "target": self.seeds["target"], "settings": {}} | changes

    def dice(self, mask: Volume, level: str = "L1") -> float:
        """Of a mask on the CT's voxels with the phantom's own label."""
        truth = self.labels.values == self.numbers[level]
        k, j, i = np.nonzero(mask.values)
        index = self.labels.to_ijk(mask.to_lps(np.column_stack([i, j, k])))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        i, j, k = np.rint(index).astype(int).T
        return float(2 * truth[k, j, i].sum() / (len(i) + truth.sum()))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("phantom")
    phantom = generate(small_parameters(level="L1", wedge=0.2))
    ct = load_series(write_study(phantom, folder), None)
    numbers = {k: v for k, v in phantom.truth["labels"].items() if k != "ribs"}
    labels = Volume(phantom.labels, phantom.lps_from_ijk)
    seeds = phantom.truth["seeds"]
    model = atlas_model(folder / "model", ct.volume, labels, numbers, seeds["target"])
    return Scene(folder, ct, labels, numbers, seeds, model)


@pytest.fixture(scope="module")
def bone(scene: Scene) -> Isolation:
    """The phantom's own L1, in place of what half a minute of fitting finds."""
    mask = Volume((scene.labels.values == scene.numbers["L1"]).astype(np.uint8), scene.labels.lps_from_ijk)
    return replace(isolation_from_mask(scene.ct.volume, mask, "L1"), source="fitted")


@pytest.fixture
def quick_fit(bone: Isolation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Here it is enough that fitting is asked for."""
    asked: list[str] = []

    def fit(*_: Any, progress: listening.Progress, start: Any, **__: Any) -> tuple[Isolation, FitStart]:
        asked.append("fit")
        progress("fitting", 1.0)
        return bone, start

    monkeypatch.setattr(isolate_module, "isolate_resumable", fit)
    return asked


@pytest.fixture(scope="module")
def by_model(scene: Scene) -> tuple[Isolation, list[tuple[str, float]]]:
    """What the model finds, kept in the scene's folder, and what was told meanwhile."""
    seen: list[tuple[str, float]] = []
    argument = scene.argument(keep_isolation=str(scene.folder / "kept"))
    model = InstalledSegmenter(scene.model)
    return isolated(argument, scene.ct, "ab", lambda s, f: seen.append((s, f)), model), seen


def test_the_bone_is_the_phantoms_own(
    scene: Scene, by_model: tuple[Isolation, list[tuple[str, float]]]
) -> None:
    found, seen = by_model
    assert found.source == "segmented" and scene.dice(found.mask) > 0.95
    truth_ml = (scene.labels.values == scene.numbers["L1"]).sum() * scene.labels.voxel_ml
    assert found.quality.measures["volume_ml"] == pytest.approx(truth_ml, rel=0.06)
    assert found.quality.confidence > 0.6
    off = found.landmarks.body_centre - scene.seeds["target"]
    assert np.linalg.norm(off) < 3.0
    # both neighbours, for heights after the cement
    assert [n.name for n in found.neighbours] == ["above", "below"]
    for n in found.neighbours:
        assert np.linalg.norm(n.centre - scene.seeds[n.name]) < 3.0
    shares = [f for _, f in seen]
    assert shares == sorted(shares) and any(s.startswith("segmenting") for s, _ in seen)
    assert found.model and found.model.outcome == "used"
    words = _isolation(found)
    assert words["method"] == "segmentation_model"
    assert words["model"]["name"] == "stand-in" and len(words["model"]["sha256"]) == 64
    warned = _model_warnings(found)
    assert [w["code"] for w in warned] == ["isolation.model"]
    assert words["model"]["sha256"][:12] in warned[0]["message"]
    given = scene.argument(above=[0, 0, 1], below=[0, 0, -1])
    assert points_used(given, found) == {"target": scene.seeds["target"]}
    assert "above, below" in points_unused(given, found)[0]


def test_a_mask_from_outside_comes_first(scene: Scene) -> None:
    mask = str(scene.folder / "truth_labels.nii.gz")
    argument = scene.argument(mask=mask, mask_label=scene.numbers["L1"], out=str(scene.folder / "out"))
    found = isolated(argument, scene.ct, "ab", listening.silent, Never())
    assert found.source == "mask" and found.model is None and _isolation(found)["method"] == "mask"


class Never:
    """A model that nobody may ask."""

    def facts(self) -> SegmenterFacts:
        raise AssertionError("nobody asked for the model")

    def segment(self, *_: Any) -> SegmentedVertebrae:
        raise AssertionError("nobody asked for the model")


@pytest.mark.parametrize("marks", ["endplates", "surface_points"])
def test_marks_of_a_person_ask_for_the_fit_that_follows_them(
    scene: Scene, quick_fit: list[str], marks: str
) -> None:
    argument = scene.argument(**{marks: [scene.seeds["target"]] * 4})
    found = isolated(argument, scene.ct, "ab", listening.silent, Never())
    assert quick_fit == ["fit"] and found.model and found.model.outcome == "passed_over"
    assert "are marked" in _model_warnings(found)[0]["message"]
    assert isolated(argument, scene.ct, "ab", listening.silent).model is None


def broken(folder: Path) -> InstalledSegmenter:
    write_model(folder)
    (folder / "model.onnx").write_bytes(b"damaged")
    return InstalledSegmenter(folder)


def test_a_model_that_cannot_be_loaded_is_told_and_shapes_are_fitted(
    scene: Scene, quick_fit: list[str], tmp_path: Path
) -> None:
    found = isolated(scene.argument(), scene.ct, "ab", listening.silent, broken(tmp_path))
    assert found.source == "fitted" and quick_fit == ["fit"]
    assert found.model and (found.model.outcome, found.model.name) == ("failed", "")
    message = _model_warnings(found)[0]["message"]
    assert "was not used, shapes were fitted instead" in message and "SHA-256 differs" in message
    assert _isolation(found)["method"] == "fitted_shapes"


def test_without_onnxruntime_shapes_are_fitted(
    scene: Scene, quick_fit: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = isolated(scene.argument(), scene.ct, "ab", listening.silent, InstalledSegmenter(scene.model))
    assert quick_fit == ["fit"]
    assert (
        "onnxruntime, which runs the segmentation model, is not installed"
        in _model_warnings(found)[0]["message"]
    )


def test_another_level_than_the_models_is_told_and_shapes_are_fitted(
    scene: Scene, quick_fit: list[str]
) -> None:
    """The person's level stands; that the model counts otherwise is told."""
    found = isolated(
        scene.argument(level="L2"), scene.ct, "ab", listening.silent, InstalledSegmenter(scene.model)
    )
    assert quick_fit == ["fit"] and found.model and found.model.outcome == "refused"
    assert "for L1, not L2" in _model_warnings(found)[0]["message"]


def test_an_answer_that_every_mask_would_be_refused_for_is_refused(
    scene: Scene, quick_fit: list[str], tmp_path: Path
) -> None:
    """All bone of the scan as L1: it hangs together and is far too large for a vertebra, or reaches the border."""
    everything = InstalledSegmenter(write_model(tmp_path, description(patch=[64, 64, 64]), level="L1"))
    found = isolated(scene.argument(), scene.ct, "ab", listening.silent, everything)
    assert quick_fit == ["fit"] and found.model and found.model.outcome == "refused"
    assert found.model.name == "stand-in" and found.model.reason


@dataclass
class Answers:
    """A model whose answer is made up here."""

    made: Callable[[], SegmentedVertebrae]

    def facts(self) -> SegmenterFacts:
        return SegmenterFacts("made up", "here", "0" * 64, "1" * 64, "none", "test 1")

    def segment(self, *_: Any) -> SegmentedVertebrae:
        return self.made()


def test_soft_tissue_is_refused_as_in_a_mask_from_outside(scene: Scene, quick_fit: list[str]) -> None:
    """A ball in front of the spine: in one piece, whole, at the point. The grey values give it away."""
    near = np.array(scene.seeds["target"]) + np.array([0.0, -24.0, 0.0])
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = near - 37.5
    index = np.stack(np.indices((51, 51, 51)), axis=-1) * 1.5 - 37.5
    depth = (19.0 - np.linalg.norm(index, axis=-1)).astype(np.float32)
    answer = SegmentedVertebrae((depth > 0).astype(np.uint8), ("L1",), depth, affine)
    argument = scene.argument(target=(near + np.array([0, 8, 0])).tolist())
    found = isolated(argument, scene.ct, "ab", listening.silent, Answers(lambda: answer))
    assert quick_fit == ["fit"] and found.model and found.model.outcome == "refused"
    assert found.model.reason


@pytest.mark.parametrize(
    "error",
    [SpineprintError("It stopped in the middle.", code="segmentation.failed", retryable=True), MemoryError()],
    ids=["stopped", "memory"],
)
def test_a_model_that_stops_is_asked_again_the_next_time(
    scene: Scene, quick_fit: list[str], tmp_path: Path, error: Exception
) -> None:
    asked: list[int] = []

    def stops() -> SegmentedVertebrae:
        asked.append(1)
        raise error

    for count in (1, 2):
        found = isolated(
            scene.argument(keep_isolation=str(tmp_path)), scene.ct, "ab", listening.silent, Answers(stops)
        )
        assert found.model and found.model.outcome == "failed" and found.model.reason
        assert len(asked) == len(quick_fit) == count


def test_what_was_found_is_kept_with_the_model_and_not_for_another(
    scene: Scene, by_model: tuple[Isolation, list[tuple[str, float]]], tmp_path: Path
) -> None:
    first, _ = by_model
    argument = scene.argument(keep_isolation=str(scene.folder / "kept"))

    class Silent(InstalledSegmenter):
        def segment(self, *_: Any, **__: Any) -> SegmentedVertebrae:
            raise AssertionError("what was kept should have been used")

    again = isolated(argument, scene.ct, "ab", listening.silent, Silent(scene.model))
    assert again.model == first.model and again.source == "segmented"
    assert np.array_equal(again.mask.values, first.mask.values) and len(again.neighbours) == 2
    with pytest.raises(AssertionError):
        words = json.loads((scene.model / "model.json").read_text()) | {"name": "another"}
        other = tmp_path / "other"
        other.mkdir()
        (other / "model.json").write_text(json.dumps(words))
        (other / "model.onnx").write_bytes((scene.model / "model.onnx").read_bytes())
        isolated(argument, scene.ct, "ab", listening.silent, Silent(other))


def test_where_nothing_can_be_fitted_either_the_models_word_is_not_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: Any, **__: Any) -> Any:
        raise GeometryError(
            "No vertebra like L2 was found.", next_step="Check it.", code="geometry.no_vertebra"
        )

    monkeypatch.setattr(isolate_module, "isolate_resumable", fit)
    with pytest.raises(GeometryError) as error:
        isolated(
            scene.argument(level="L2"), scene.ct, "ab", listening.silent, InstalledSegmenter(scene.model)
        )
    assert error.value.code == "geometry.no_vertebra" and error.value.next_step == "Check it."
    assert "for L1, not L2" in error.value.message


def test_a_point_outside_the_scan_is_refused_before_the_model_is_asked(scene: Scene) -> None:
    with pytest.raises(GeometryError) as error:
        isolated(
            scene.argument(target=[0, 0, 999.0]), scene.ct, "ab", listening.silent, Answers(lambda: None)
        )  # type: ignore[arg-type,return-value]
    assert error.value.code == "geometry.seed_outside"


def test_the_command_makes_a_whole_model_with_the_configured_one(scene: Scene, tmp_path: Path) -> None:
    """`spineprint model`, by the key of the configuration: checked, printable, and the report says by what."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "model", "--ct", str(scene.folder / "dicom"), "--level", "L1",
         "--target=" + ",".join(map(str, scene.seeds["target"])), "--no-keep-isolation", "--out", str(tmp_path)],
        env=os.environ | {"SPINEPRINT_ISOLATION__SEGMENTATION_MODEL": str(scene.model), "COLUMNS": "500"},
        text=True, capture_output=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "outlined by the installed segmentation model 'stand-in'" in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] and report["source"] == "segmented"
    assert report["isolation"]["method"] == "segmentation_model"
    assert report["isolation"]["model"]["licence"] == "Apache-2.0"
    assert report["inputs"]["seeds"] == {"target": pytest.approx(scene.seeds["target"])}
    assert scene.dice(read_nifti(tmp_path / "mask.nii.gz")) > 0.95


def test_the_command_line_goes_before_the_configuration() -> None:
    config = Config(isolation=IsolationConfig(segmentation_model=Path("of the site")))
    assert segmentation_folder(None, config) == Path("of the site")
    assert segmentation_folder("other", config) == Path("other")
    assert segmentation_folder("none", config) is None and segmentation_folder(None, Config()) is None
    assert make_segmenter(None) is None
