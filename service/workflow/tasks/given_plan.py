"""A plan edited by hand: of this level and this CT, or refused; its paths are measured anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from service.domain.plan import ModelSettings, Plan, plan_from_document
from service.errors import InputRefusedError
from service.geometry.anatomy import Isolation
from service.geometry.given_paths import check_trajectory
from service.geometry.trajectories import PlanningLimits, PlanningResult
from service.workflow.tasks.markups import UNKNOWN_CT, GivenPath, is_markups, paths_of, read_markups


def read_given_plan(path: Path, level: str, frame_of_reference_uid: str) -> Plan:
    """The plan on file, which has to be of this level and frame of reference.

    Raises
    ------
    InputRefusedError
        `plan.invalid`, `plan.other_level`, `plan.other_frame`.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputRefusedError(
            f"The plan {path.name} is no JSON file that can be read.",
            next_step="Correct the file (a comma or bracket may be missing), or plan again with `spineprint model`.",
            code="plan.invalid",
        ) from error
    given = plan_from_document(document)
    if given.level != level:
        raise InputRefusedError(
            f"The plan was made for {given.level}, but {level} is asked for.",
            next_step=f"Give the plan of {level}, or ask for {given.level}.",
            code="plan.other_level",
        )
    if given.frame_of_reference_uid != frame_of_reference_uid:
        raise InputRefusedError(
            "The plan was made on another CT: its frame of reference is not the one of this series, so its "
            "points lie elsewhere.",
            next_step="Give the plan made on this very series, or plan again.",
            code="plan.other_frame",
        )
    return given


def given_paths(
    path: Path,
    isolation: Isolation,
    frame_of_reference_uid: str,
    planned: ModelSettings,
    limits: PlanningLimits,
) -> tuple[PlanningResult, ModelSettings]:
    """The paths of a plan.json or a 3D Slicer markups file, checked; the model that belongs to them.

    planned : what holds where the file says nothing of the model.
    Raises as `read_given_plan`, `read_markups` and `check_trajectory`.
    """
    if is_markups(path):
        drawn = paths_of(read_markups(path), isolation.landmarks.frame)
        return _checked(drawn, isolation, limits, (UNKNOWN_CT,)), planned
    given = read_given_plan(path, isolation.level, frame_of_reference_uid)
    paths = [GivenPath(t.pedicle, t.entry, t.target) for t in given.trajectories]
    return _checked(paths, isolation, limits), given.model


def _checked(
    paths: Sequence[GivenPath], isolation: Isolation, limits: PlanningLimits, said: tuple[str, ...] = ()
) -> PlanningResult:
    checked = [
        check_trajectory(isolation.outer, isolation.landmarks, p.pedicle, p.entry, p.target, limits=limits)
        for p in paths
    ]
    reasons = tuple(r for _, found in checked for r in found)
    return PlanningResult(tuple(t for t, _ in checked), {}, said + reasons)
