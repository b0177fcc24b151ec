"""What `spineprint model` left in a folder, for the commands that go on from there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from service.errors import InputRefusedError

_REPORT = "report.json"


def case_files(case: Path) -> dict[str, Any]:
    """Paths for the slicing task and the audit. Raises InputRefusedError (`case.incomplete`)."""
    names = {"print_mesh": "print.stl", "mesh": "model.stl", "layout": "print.json", "plan": "plan.json"}
    _require(case, list(names.values()))
    files: dict[str, Any] = {k: str(case / n) for k, n in names.items()}
    for key in ("blocker", "filler"):
        path = case / f"{key}.stl"
        files[key] = str(path) if path.is_file() else None
    for key, name in (("outer", "outer.nii.gz"), ("model_report", _REPORT)):
        files[key] = str(case / name) if (case / name).is_file() else None
    return files


def require_passed(case: Path) -> None:
    """Refuse a model that failed its own checks, or whose report is not about the plan beside it.

    Raises
    ------
    InputRefusedError : `case.incomplete`, `case.not_passed`.
    """
    _require(case, [_REPORT, "plan.json"])
    try:
        report = json.loads((case / _REPORT).read_text("utf-8"))
        passed, plan_sha256 = report["passed"] is True, report["plan_sha256"]
        failures = [str(f.get("message", f)) if isinstance(f, dict) else str(f) for f in report["failures"]]
    except (ValueError, LookupError, TypeError) as error:
        raise _not_passed("Its report.json cannot be read.") from error
    if not passed:
        raise _not_passed(" ".join(["It failed its own checks.", *failures[:5]]))
    if plan_sha256 != hashlib.sha256((case / "plan.json").read_bytes()).hexdigest():
        raise _not_passed("Its report.json is about another plan than plan.json.")


def _not_passed(why: str) -> InputRefusedError:
    return InputRefusedError(
        f"The model in this folder must not be printed. {why}",
        next_step="Make it again with `spineprint model --out`, and look at its report.json.",
        code="case.not_passed",
    )


def _require(case: Path, names: list[str]) -> None:
    missing = [n for n in names if not (case / n).is_file()]
    if missing:
        raise InputRefusedError(
            f"The case folder lacks {', '.join(missing)}.",
            next_step="Make it with `spineprint model --out`.",
            code="case.incomplete",
        )
