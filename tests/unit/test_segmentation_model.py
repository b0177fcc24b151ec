"""The installed network: what is refused before it is used, how the CT is laid before it, and its bounds."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.segmentation import InstalledSegmenter
from adapters.segmentation.description import level_of, read_description
from adapters.segmentation.network import THREADS, OnnxNetwork
from adapters.segmentation.segmenter import BOX_HIGH_MM, BOX_LOW_MM, laid_out
from adapters.segmentation.windows import scores, starts, weights
from service.errors import SpineprintError, ToolMissingError
from service.geometry.volume import Volume
from tests.support_segmentation import CLASSES, description, write_model


def ball_ct(shape: tuple[int, int, int] = (120, 110, 100), step: float = 1.0) -> tuple[Volume, Any]:
    """A ball of bone of 20 mm radius in muscle, off the middle; LPS steps of opposite senses as in a real CT."""
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = [-40.0, -210.0, 700.0]
    centre = np.array([8.0, -150.0, 762.0])
    k, j, i = np.indices(shape)
    at = np.column_stack([i.ravel(), j.ravel(), k.ravel()]) * step + affine[:3, 3]
    values = np.where(np.linalg.norm(at - centre, axis=1) < 20.0, 400, 40).reshape(shape)
    return Volume(values.astype(np.int16), affine, "1.2.3"), centre


def refused(folder: Path) -> ToolMissingError:
    with pytest.raises(ToolMissingError) as error:
        InstalledSegmenter(folder).facts()
    assert error.value.code == "tool.segmentation_model"
    assert error.value.next_step
    return error.value


def test_a_good_model_says_what_it_is(tmp_path: Path) -> None:
    facts = InstalledSegmenter(write_model(tmp_path)).facts()
    assert (facts.name, facts.source, facts.licence) == ("stand-in", "made by a test", "Apache-2.0")
    assert len(facts.sha256) == len(facts.description_sha256) == 64
    assert facts.runtime.startswith("onnxruntime ")


def test_the_ball_is_labelled_where_it_is(tmp_path: Path) -> None:
    ct, centre = ball_ct()
    answer = InstalledSegmenter(write_model(tmp_path)).segment(ct.values, ct.lps_from_ijk, "L1", centre)
    grid = Volume(answer.labels, answer.lps_from_ijk)
    k, j, i = np.indices(answer.labels.shape)
    at = grid.to_lps(np.column_stack([i.ravel(), j.ravel(), k.ravel()]))
    truth = (np.linalg.norm(at - centre, axis=1) < 20.0).reshape(answer.labels.shape)
    found = answer.labels == answer.levels.index("L1") + 1
    assert set(np.unique(answer.labels)) == {0, answer.levels.index("L1") + 1}
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.96
    assert np.array_equal(answer.preference > 0, found)
    # to a tenth of a voxel: an axis that is turned or half a voxel off would move it
    np.testing.assert_allclose(at[found.ravel()].mean(axis=0), centre, atol=0.15)


@pytest.mark.parametrize("axes", [["S", "A", "R"], ["A", "I", "L"], ["L", "P", "S"]])
def test_each_axis_grows_as_described(tmp_path: Path, axes: list[str]) -> None:
    """A CT whose values are a position tells where each voxel before the network came from."""
    affine = np.array([[0.7, 0, 0, -60.0], [0, 0.8, 0.1, -250.0], [0, 0, 1.1, 690.0], [0, 0, 0, 1]])
    k, j, i = np.indices((150, 240, 200))
    at = np.column_stack([i.ravel(), j.ravel(), k.ravel()]) @ affine[:3, :3].T + affine[:3, 3]
    write_model(tmp_path, description(axes=axes, spacing_mm=[2.0, 1.5, 1.75], patch=[48, 64, 56]))
    about = read_description(tmp_path)
    for along in np.eye(3):
        ct = Volume((at @ along).reshape(k.shape).astype(np.float32), affine)
        image, keep, box = laid_out(ct, about, np.array([5.0, -150.0, 770.0]))
        hu = image[keep] * about.sd_hu + about.mean_hu
        index = np.stack(np.indices(hu.shape), axis=-1)
        expected = (index @ box[:3, :3].T + box[:3, 3]) @ along
        inner = (slice(4, -4),) * 3
        np.testing.assert_allclose(hu[inner], expected[inner], atol=0.02)
        assert all(n >= p for n, p in zip(image.shape, about.patch, strict=True))


def test_grey_values_are_clipped_and_scaled_as_in_training(tmp_path: Path) -> None:
    write_model(tmp_path)
    about = read_description(tmp_path)
    values = np.full((60, 60, 60), 350, np.int16)
    values[:20] = 3000
    values[40:] = -2000
    ct = Volume(values, np.diag([3.0, 3.0, 3.0, 1.0]))
    image, _, _ = laid_out(ct, about, np.array([90.0, 90.0, 90.0]))
    assert image.min() == pytest.approx((-900 - 90) / 260) and image.max() == pytest.approx((1100 - 90) / 260)
    assert np.median(image[image.shape[0] // 2]) == pytest.approx((350 - 90) / 260, abs=1e-4)


@pytest.mark.parametrize("step", [1.5, 0.7, 1.1, 3.0])
def test_no_air_is_put_at_the_ends_of_a_short_scan(tmp_path: Path, step: float) -> None:
    """A plane beyond the last voxel, by a rounding error too, would be a body's end that is not there."""
    write_model(tmp_path)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = [-30.1, -200.3, 500.7]
    ct = Volume(np.full((40, 40, 40), 350, np.int16), affine)
    middle = affine[:3, 3] + 19.5 * step
    image, keep, _ = laid_out(ct, read_description(tmp_path), middle)
    np.testing.assert_allclose(image, 1.0, atol=1e-5)
    assert all(k.stop - k.start >= 39 * step / 1.5 or 39 * step > 100 for k in keep)


def test_windows_are_those_of_nnunet() -> None:
    """The example of its source: 110 voxels and a patch of 64 make three steps."""
    assert starts(110, 64) == [0, 23, 46]
    assert starts(64, 64) == [0]
    assert starts(65, 64) == [0, 1]
    found = weights((16, 8, 12))
    assert found.shape == (16, 8, 12) and found.max() == 1.0 == found[8, 4, 6] and found.min() > 0


@pytest.mark.parametrize("size", [(70, 40, 33), (20, 45, 50)], ids=["larger", "smaller"])
def test_many_windows_give_what_the_whole_image_gives(size: tuple[int, int, int]) -> None:
    """A network that looks at nothing around a voxel has to answer the same in each window."""
    image = np.random.default_rng(5).normal(size=size).astype(np.float32)
    calls: list[tuple[int, int]] = []

    def network(patch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert patch.shape == (32, 24, 16)
        return np.stack([patch, -2 * patch])

    keep = (slice(3, 18), slice(20, 39), slice(0, 30))
    found = scores(network, image, (32, 24, 16), 2, keep, lambda done, of: calls.append((done, of)))
    np.testing.assert_allclose(found, np.stack([image[keep], -2 * image[keep]]), atol=1e-5)
    assert calls[0][0] == 0 and calls[-1][0] == calls[-1][1] == len(calls) - 1


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "no model.json" in refused(tmp_path).message
    write_model(tmp_path)
    (tmp_path / "model.onnx").unlink()
    assert "no model.onnx" in refused(tmp_path).message


def test_another_file_than_was_described_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "SHA-256 differs" in refused(tmp_path).message


def rehash(folder: Path) -> None:
    import hashlib

    words = json.loads((folder / "model.json").read_text())
    words["network"]["sha256"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(words))


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, content: bytes | None) -> None:
    path = write_model(tmp_path) / "model.onnx"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    rehash(tmp_path)
    assert "damaged" in refused(tmp_path).message


def test_weights_in_another_file_are_not_followed(tmp_path: Path) -> None:
    import onnx

    path = write_model(tmp_path) / "model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").is_file()
    rehash(tmp_path)
    assert "several files" in refused(tmp_path).message


def test_a_model_of_other_organs_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, description(classes=["background", "liver", "vertebrae_L1", "vertebrae_L2"]))
    error = refused(tmp_path)
    assert "not one of vertebrae" in error.message and "T8" in error.message and "L1" not in error.message


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [(2, 1, "2 inputs"), (1, 3, "3 outputs")],
    ids=["two in", "deep supervision"],
)
def test_other_ends_than_one_in_and_one_out_are_refused(
    tmp_path: Path, inputs: int, outputs: int, said: str
) -> None:
    write_model(tmp_path, inputs=inputs, outputs=outputs)
    assert said in refused(tmp_path).message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch": [32, 32, 40]}, "describes"),
        ({"classes": [*CLASSES, "vertebrae_T7"]}, "describes"),
        ({"schema": "other/9"}, "schema"),
        ({"axes": ["S", "A", "P"]}, "three directions"),
        ({"axes": ["S", "A"]}, "three directions"),
        ({"spacing_mm": [1.5, 1.5, 0.0]}, "spacing_mm"),
        ({"spacing_mm": [1.5, 1.5, "x"]}, "three numbers"),
        ({"classes": None}, "model.json cannot be used"),
        ({"classes": ["vertebrae_T7", *CLASSES[1:]]}, "not clear"),
        ({"classes": [CLASSES[0], "L1", *CLASSES[2:]]}, "not clear"),
        ({"licence": ""}, "licence"),
        ({"normalisation": {"scheme": "ZScoreNormalization"}}, "not for CT"),
        ({"normalisation": description()["normalisation"] | {"sd_hu": 0}}, "sd_hu"),
        ({"normalisation": description()["normalisation"] | {"sd_hu": float("nan")}}, "sd_hu"),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_model(tmp_path)
    words = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(words | changes))
    assert said in refused(tmp_path).message


def test_a_description_that_lacks_something_or_is_damaged_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "model.json"
    words = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in words.items() if k != "patch"}))
    assert "patch is missing" in refused(tmp_path).message
    path.write_text("{")
    assert "no JSON" in refused(tmp_path).message
    path.write_text("[]")
    refused(tmp_path)
    path.write_text(json.dumps(words | {"more": "x" * 2_000_000}))
    assert "too long" in refused(tmp_path).message


def test_without_onnxruntime_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ToolMissingError) as error:
        InstalledSegmenter(write_model(tmp_path)).facts()
    assert error.value.code == "tool.segmentation_runtime"
    assert "requirements/segmentation.txt" in error.value.next_step


@pytest.mark.parametrize(
    ("name", "level"),
    [("vertebrae_L1", "L1"), ("vertebra T12", "T12"), ("t9", "T9"), ("rib_left_1", ""), ("sacrum", ""),
     ("vertebrae_L12", ""), ("tumour_T1", "")],
)  # fmt: skip
def test_names_of_classes(name: str, level: str) -> None:
    assert level_of(name) == level


# --- while it runs ------------------------------------------------------------------------------------------


def test_an_answer_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    write_model(tmp_path)
    about = read_description(tmp_path)
    network = OnnxNetwork(tmp_path, about)
    with pytest.raises(SpineprintError) as error:
        network(np.full(about.patch, np.nan, np.float32))
    assert error.value.code == "segmentation.failed" and error.value.retryable
    with pytest.raises(SpineprintError) as error:
        network(np.zeros((32, 32, 31), np.float32))
    assert error.value.code == "segmentation.failed"


def test_it_takes_two_threads_and_the_processor_only(tmp_path: Path) -> None:
    write_model(tmp_path)
    session = OnnxNetwork(tmp_path, read_description(tmp_path)).session
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (THREADS, 1) == (2, 1)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert not options.enable_cpu_mem_arena


def test_memory_does_not_grow_with_the_length_of_the_ct(tmp_path: Path) -> None:
    """Of 1,000 slices only the surroundings of the point are touched: 524 MB of CT, far less for the rest."""
    values = np.zeros((1000, 512, 512), np.int16)  # pages that nobody writes to take no memory
    affine = np.diag([0.7, 0.7, 0.7, 1.0])
    segmenter = InstalledSegmenter(write_model(tmp_path, description(patch=[64, 64, 64])))
    segmenter.facts()
    seen: list[float] = []
    tracemalloc.start()
    answer = segmenter.segment(
        values, affine, "L1", np.array([180.0, 180.0, 350.0]), lambda stage, f: seen.append(f)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = np.array(answer.labels.shape) * 1.5
    assert np.all(size <= (BOX_HIGH_MM - BOX_LOW_MM)[[2, 1, 0]] + 4.5)
    assert peak < 300e6
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 10
