"""A plan given by hand has to be of this vertebra and this CT, and readable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.domain.plan import Plan, VertebraFrame, plan_to_document
from service.errors import InputRefusedError
from service.workflow.tasks.given_plan import read_given_plan

FRAME = VertebraFrame((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def on_file(path: Path) -> Path:
    path.write_text(json.dumps(plan_to_document(Plan("L1", "1.2.3", FRAME, (0.0, 0.0, 0.0), ()))), "utf-8")
    return path


def test_the_plan_of_this_case_is_read(tmp_path: Path) -> None:
    assert read_given_plan(on_file(tmp_path / "plan.json"), "L1", "1.2.3").level == "L1"


@pytest.mark.parametrize(
    ("level", "frame", "code"),
    [
        ("L2", "1.2.3", "plan.other_level"),
        ("L1", "1.2.4", "plan.other_frame"),
        ("L1", "", "plan.other_frame"),
    ],
)
def test_the_plan_of_another_case_is_refused(tmp_path: Path, level: str, frame: str, code: str) -> None:
    with pytest.raises(InputRefusedError) as refused:
        read_given_plan(on_file(tmp_path / "plan.json"), level, frame)
    assert refused.value.code == code
    assert refused.value.next_step


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[]", b'{"schema": 1}'])
def test_what_is_no_plan_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(InputRefusedError) as refused:
        read_given_plan(tmp_path / "plan.json", "L1", "1.2.3")
    assert refused.value.code == "plan.invalid"
