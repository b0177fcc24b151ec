"""The kept isolation: the same bone as without it, and never that of other inputs or of a damaged file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from service.domain.edits import Edit
from service.domain.people import Role
from service.geometry.anatomy import BodyField, BodyName, Isolation
from service.geometry.edits import apply_edits
from service.geometry.isolation import isolation_from_mask
from service.geometry.volume import Volume
from service.workflow.build import kept_isolation_folder
from service.workflow.person_steps import cancel
from service.workflow.tasks import kept_isolation
from service.workflow.tasks.kept_isolation import FILE, isolation_key, kept_or_made
from tests.support_app import actor, make_rig, new_case
from tests.unit.vertebra_model import ModelVertebra

MODEL = ModelVertebra()
INPUTS = {"ct_sha256": "ab", "level": "L1", "points": {"target": [1.0, 2.0, 3.0]}, "settings": "s"}


@pytest.fixture(scope="module")
def bone() -> Isolation:
    ct = MODEL.ct((1.0, 1.0, 1.5))
    k, j, i = np.indices(ct.values.shape)
    inside = MODEL.distance(ct.to_lps(np.column_stack([i.ravel(), j.ravel(), k.ravel()]))) < 0
    mask = Volume(inside.reshape(ct.values.shape).astype(np.uint8), ct.lps_from_ijk, "1.2.3")
    alone = isolation_from_mask(Volume(ct.values, ct.lps_from_ijk, "1.2.3"), mask, "L1")
    # as a fit leaves them: the levels above and below, which heights after the cement are compared with
    names: tuple[BodyName, ...] = ("above", "below")
    beside = tuple(
        BodyField(
            name,
            Volume(alone.outer.values + np.float32(n), alone.outer.lps_from_ijk, "1.2.3"),
            alone.landmarks.body_centre + n,
            np.eye(3)[::-1],
            exact=False,
        )
        for n, name in enumerate(names)
    )
    return replace(alone, neighbours=beside)


def never() -> Isolation:
    raise AssertionError("what was kept should have been used")


def same(one: Isolation, other: Isolation) -> bool:
    volumes = ((one.mask, other.mask), (one.outer, other.outer))
    volumes += tuple((a.field, b.field) for a, b in zip(one.neighbours, other.neighbours, strict=True))
    return (
        all(
            a.values.dtype == b.values.dtype
            and a.values.tobytes() == b.values.tobytes()
            and np.array_equal(a.lps_from_ijk, b.lps_from_ijk)
            and a.frame_of_reference_uid == b.frame_of_reference_uid
            for a, b in volumes
        )
        and repr(asdict(one.landmarks)) == repr(asdict(other.landmarks))
        and [(n.name, n.exact, n.centre.tolist(), n.axes.tolist()) for n in one.neighbours]
        == [(n.name, n.exact, n.centre.tolist(), n.axes.tolist()) for n in other.neighbours]
        and (one.level, one.source, one.quality) == (other.level, other.source, other.quality)
    )


def kept(folder: Path | None, key: str, make: Callable[[], Isolation]) -> Isolation:
    """And written, as at the end of a run."""
    with ThreadPoolExecutor(1) as beside:
        return kept_or_made(folder, key, make, beside)


def test_edits_of_what_was_kept_give_the_same_bytes(bone: Isolation, tmp_path: Path) -> None:
    kept(tmp_path, "key", lambda: bone)
    again = kept(tmp_path, "key", never)
    assert again is not bone and same(again, bone)
    tip = bone.landmarks.body_centre + np.array([0.0, 0.0, 10.0])
    edits = [Edit("erase", (float(tip[0]), float(tip[1]), float(tip[2])), 3.0)]
    assert same(apply_edits(again, edits), apply_edits(bone, edits))
    assert not same(apply_edits(again, edits), bone)


def test_another_key_is_made_anew_and_takes_its_place(bone: Isolation, tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> Isolation:
        made.append(name)
        return bone

    kept(tmp_path, "one", lambda: make("one"))
    kept(tmp_path, "two", lambda: make("two"))
    kept(tmp_path, "two", never)
    kept(tmp_path, "one", lambda: make("one again"))
    assert made == ["one", "two", "one again"]
    assert [f.name for f in tmp_path.iterdir()] == [FILE], "one isolation is kept, and nothing half-written"


@pytest.mark.parametrize("where", [0, 0.001, 0.3, 0.9, "cut", "empty"])
def test_a_damaged_file_is_not_used(bone: Isolation, tmp_path: Path, where: float | str) -> None:
    kept(tmp_path, "key", lambda: bone)
    content = bytearray((tmp_path / FILE).read_bytes())
    if isinstance(where, str):
        content = content[: len(content) // 2] if where == "cut" else bytearray()
    else:
        content[int(where * len(content))] ^= 0x55
    (tmp_path / FILE).write_bytes(content)
    asked = []
    assert same(kept(tmp_path, "key", lambda: asked.append(1) or bone), bone)  # type: ignore[func-returns-value]
    assert asked
    assert same(kept(tmp_path, "key", never), bone), "and it is replaced"


def test_what_cannot_be_kept_costs_nothing_else(bone: Isolation, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert kept(tmp_path / "kept", "key", lambda: bone) is bone
    assert kept(None, "key", lambda: bone) is bone


def test_every_input_and_the_program_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = isolation_key(INPUTS)
    assert isolation_key(dict(reversed(INPUTS.items()))) == plain
    assert len({plain, *(isolation_key(INPUTS | {name: "other"}) for name in INPUTS)}) == 1 + len(INPUTS)
    for name, value in (("SCHEMA", "other"), ("PROGRAM", ("geometry",)), ("LIBRARIES", ("numpy",))):
        with monkeypatch.context() as patch:
            patch.setattr(kept_isolation, name, value)
            assert isolation_key(INPUTS) != plain


def test_a_cancelled_case_leaves_nothing_behind(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    case = new_case(rig)
    folder = kept_isolation_folder(rig.app, case.id)
    folder.mkdir(parents=True)
    (folder / "bone.npz").write_bytes(b"x")
    cancel(rig.app, case.id, actor(Role.PLANNER), "another date")
    assert not folder.exists()


def test_an_error_of_ours_in_the_writing_is_told(
    bone: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such array")

    monkeypatch.setattr(kept_isolation, "write_kept", broken)
    assert kept(tmp_path, "key", lambda: bone) is bone
    assert "could not be kept" in caplog.text
    assert "no such array" in caplog.text
