"""All scans of one case side by side: where each needle was, what it was called, and what the next scan changed.

Tips are compared in the planning CT's frame, where every scan was registered to the same vertebra.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from service.store import blobs, cases, corrections, scans
from service.store.scans import Scan
from service.workflow import scan_pictures
from service.workflow.correct import can_be_set, history_document
from service.workflow.terminal import STATUS

_FIGURES = ("tip_to_target_mm", "depth_mm", "lateral_mm", "angle_deg", "entry_deviation_mm")


def document(connection: Connection, case_id: str) -> dict[str, Any]:
    """`scans` oldest first, each with its needles and `change` against the last scan that measured the needle.

    `frame` are the axes in which a person moves a point (planning LPS); None before a plan exists. `by_hand` says
    whether points of the newest scan can be set, `planned` holds the paths from which one starts where no needle was
    found.
    """
    case = cases.get(connection, case_id)
    rows: list[dict[str, Any]] = []
    last: dict[str, Mapping[str, Any]] = {}
    newest_first = scans.of_case(connection, case_id)
    plan = _plan(connection, case_id)
    for number, scan in enumerate(reversed(newest_first), 1):
        rows.append({"number": number, **_row(connection, scan, last)})
    return {
        "case_code": case.code,
        "level": case.level or None,
        "frame": _frame(plan),
        "by_hand": can_be_set(case, next(iter(newest_first), None)),
        "planned": _planned(plan),
        "scans": rows,
    }


def _row(connection: Connection, scan: Scan, last: dict[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`last` holds each pedicle's needle as seen last; it is brought up to date."""
    report, version = corrections.effective(connection, scan)
    history = corrections.of_scan(connection, scan.id)
    row: dict[str, Any] = {
        "scan_id": scan.id,
        "status": STATUS[scan.state],
        "last_image_at": scan.last_image_at,
        "answered_at": scan.updated_at,
        "acknowledged": {"by": scan.acknowledged_by, "at": scan.acknowledged_at}
        if scan.acknowledged_by
        else None,
        "report_version": version,
        "verdict": None,
        "automatic_verdict": None,
        "reason": (scan.error or {}).get("message"),
        "cement_ml": None,
        "needles": [],
        "pictures": None,
        "corrections": history_document(history),
    }
    if report is None:
        return row
    row["pictures"] = scan_pictures.document(connection, scan, version)
    if scan.state == "READY":
        row["verdict"] = report.get("verdict")
        automatic = scan.report or {}
        row["automatic_verdict"] = automatic.get("verdict") if automatic.get("status") == "measured" else None
    row["reason"] = report.get("reason") or report.get("needles_reason")
    row["cement_ml"] = (report.get("cement") or {}).get("volume_ml")
    for needle in report.get("needles") or ():
        side = str(needle["pedicle"])
        row["needles"].append(_needle(needle, last.get(side)))
        last[side] = needle
    return row


def _needle(needle: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    breach = needle.get("breach") or {}
    return {
        "pedicle": needle["pedicle"],
        "tip": needle["tip"],
        "entry": needle.get("entry"),
        "axis": needle.get("axis"),
        **{key: needle.get(key) for key in _FIGURES},
        "breach_grade": breach.get("grade"),
        "breach_mm": breach.get("mm"),
        "uncertainty_mm": needle.get("uncertainty_mm"),
        "hand_set": needle.get("hand_set"),
        "change": None if before is None else _change(before, needle),
    }


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """How far the tip moved and by how much each figure changed (now minus before).

    `uncertainty_mm` is that of the move (k = 2): both scans' own, root sum of squares. A move inside it may be none.
    """
    moved = math.dist(before["tip"], now["tip"])
    spread = math.hypot(float(before.get("uncertainty_mm") or 0.0), float(now.get("uncertainty_mm") or 0.0))
    return {
        "tip_moved_mm": round(moved, 3),
        "uncertainty_mm": round(spread, 3),
        "beyond_uncertainty": moved > spread,
        **{key: _difference(before.get(key), now.get(key)) for key in _FIGURES},
    }


def _difference(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else round(now - before, 3)


def _plan(connection: Connection, case_id: str) -> dict[str, Any] | None:
    kept = blobs.current(connection, case_id).get("plan")
    if kept is None or not kept.path.is_file():
        return None
    plan: dict[str, Any] = json.loads(kept.path.read_text("utf-8"))
    return plan


def _frame(plan: Mapping[str, Any] | None) -> dict[str, list[float]] | None:
    if plan is None:
        return None
    frame = plan["vertebra_frame"]
    return {name: [float(v) for v in frame[name]] for name in ("left", "anterior", "superior")}


def _planned(plan: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Each planned path as a needle that lies in it: `tip`, `entry` and `axis` (unit, entry to tip), planning LPS."""
    paths = []
    for path in (plan or {}).get("trajectories", ()):
        tip, entry = ([float(v) for v in path[name]] for name in ("target", "entry"))
        length = math.dist(tip, entry)
        axis = [(t - e) / length for t, e in zip(tip, entry, strict=True)]
        paths.append({"pedicle": path["pedicle"], "tip": tip, "entry": entry, "axis": axis})
    return paths
