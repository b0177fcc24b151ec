"""The case's table of rules: every (state, event) pair, every guard, every role."""

from __future__ import annotations

import itertools

import pytest

from service.domain.case import (
    ACTIVE,
    GUARD_TEXT,
    RULES,
    TERMINAL,
    CaseEvent,
    CaseState,
    next_state,
)
from service.domain.people import Role
from service.domain.print_job import NEXT, OVER, RUNNING, PrintState, check_step, observed
from service.errors import ConflictError, NotAllowedError

S, E, R = CaseState, CaseEvent, Role

#: Written out by hand from the design (section 3), not derived from the table under test.
#: event -> {state: state after}; a pair that is missing here must be refused.
EXPECTED: dict[CaseEvent, dict[CaseState, CaseState]] = {
    E.STUDY_COMPLETE: {S.RECEIVING: S.RECEIVED},
    E.IMAGES_COMPLETED: {S.NEEDS_ATTENTION: S.RECEIVING},
    E.INSPECT_AGAIN: dict.fromkeys((S.RECEIVED, S.PLAN_READY, S.APPROVED, S.SLICED), S.RECEIVING),
    E.KEEP_IMAGES: {s: s for s in S if s not in (S.CLOSED, S.CANCELLED, S.RECEIVING)},
    E.GIVE_INPUTS: {S.RECEIVED: S.BUILDING, S.PLAN_READY: S.BUILDING},
    E.MODEL_BUILT: {S.BUILDING: S.PLAN_READY},
    E.APPROVE: {S.PLAN_READY: S.APPROVED},
    E.REJECT: {S.PLAN_READY: S.RECEIVED},
    E.GCODE_READY: {S.APPROVED: S.SLICED},
    E.START_PRINT: {S.SLICED: S.PRINTING},
    E.PRINT_FOUND: {S.SLICED: S.PRINTING, S.NEEDS_ATTENTION: S.PRINTING},
    E.PRINT_CLEARED: {S.PRINTING: S.PRINTED},
    E.PASS_QA: {S.PRINTED: S.QA_PASSED},
    E.ISSUE: {S.QA_PASSED: S.ISSUED},
    E.RETURN_UNOPENED: {S.ISSUED: S.QA_PASSED},
    E.USE: {S.ISSUED: S.USED},
    E.SCAN_ARRIVED: {S.ISSUED: S.VERIFYING, S.USED: S.VERIFYING, S.VERIFIED: S.VERIFYING},
    E.SCAN_MEASURED: {S.VERIFYING: S.VERIFIED},
    E.SCAN_NOT_MEASURABLE: {S.VERIFYING: S.USED},
    E.NEEDLE_SET_BY_HAND: {S.USED: S.VERIFIED},
    E.NEEDLE_TAKEN_BACK: {S.VERIFIED: S.USED},
    E.CLOSE: {S.USED: S.CLOSED, S.VERIFIED: S.CLOSED},
    E.RESUME: {S.NEEDS_ATTENTION: S.SLICED},
    E.CANCEL: {s: S.CANCELLED for s in S if s not in (S.CLOSED, S.CANCELLED)},
    E.RAISE_ATTENTION: {
        s: S.NEEDS_ATTENTION for s in S if s not in (S.CLOSED, S.CANCELLED, S.NEEDS_ATTENTION)
    },
    E.LATE_IMAGES: {s: s for s in S if s not in (S.CLOSED, S.CANCELLED, S.RECEIVING)},
}  # fmt: skip

#: event -> who may cause it; None is the system.
ACTORS: dict[CaseEvent, set[Role] | None] = {
    E.STUDY_COMPLETE: None,
    E.LATE_IMAGES: None,
    E.IMAGES_COMPLETED: None,
    E.INSPECT_AGAIN: {R.PLANNER, R.SURGEON},
    E.KEEP_IMAGES: {R.PLANNER, R.SURGEON},
    E.GIVE_INPUTS: {R.PLANNER, R.SURGEON},
    E.MODEL_BUILT: None,
    E.APPROVE: {R.SURGEON},
    E.REJECT: {R.SURGEON},
    E.GCODE_READY: None,
    E.START_PRINT: {R.TECHNICIAN},
    E.PRINT_FOUND: None,
    E.PRINT_CLEARED: None,
    E.PASS_QA: {R.TECHNICIAN, R.PLANNER},
    E.ISSUE: {R.THEATRE_NURSE},
    E.RETURN_UNOPENED: {R.THEATRE_NURSE},
    E.USE: {R.THEATRE_NURSE},
    E.SCAN_ARRIVED: None,
    E.SCAN_MEASURED: None,
    E.SCAN_NOT_MEASURABLE: None,
    E.NEEDLE_SET_BY_HAND: {R.SURGEON},
    E.NEEDLE_TAKEN_BACK: {R.SURGEON},
    E.RAISE_ATTENTION: None,
    E.RESUME: set(R),
    E.CANCEL: {R.PLANNER, R.SURGEON, R.ADMIN},
    E.CLOSE: {R.THEATRE_NURSE, R.SURGEON},
}


def _roles(event: CaseEvent) -> set[Role] | None:
    return ACTORS[event]


def _all_true(event: CaseEvent) -> dict[str, bool]:
    return dict.fromkeys(RULES[event].guards, True)


def _apply(state: CaseState, event: CaseEvent, **changes: object) -> CaseState:
    arguments: dict[str, object] = {
        "roles": _roles(event), "guards": _all_true(event), "resume_state": S.SLICED
    } | changes  # fmt: skip
    return next_state(state, event, **arguments)  # type: ignore[arg-type]


def test_the_expectations_cover_every_event():
    assert set(EXPECTED) == set(E) == set(ACTORS) == set(RULES)
    assert {S.CLOSED, S.CANCELLED} == TERMINAL
    assert set(ACTIVE) == set(S) - TERMINAL


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, E)))
def test_every_state_and_event(state: CaseState, event: CaseEvent):
    if state in EXPECTED[event]:
        assert _apply(state, event) is EXPECTED[event][state]
        return
    with pytest.raises(ConflictError) as caught:
        _apply(state, event)
    assert caught.value.code == "case.state"
    assert caught.value.details == {"state": state.value, "event": event.value}
    assert caught.value.next_step


def test_nothing_leaves_a_terminal_state():
    for state, event in itertools.product(TERMINAL, E):
        with pytest.raises(ConflictError):
            _apply(state, event)


def test_every_state_is_reached_and_left():
    reached = {target for targets in EXPECTED.values() for target in targets.values()}
    assert reached | {S.RECEIVING} == set(S)
    left = {state for targets in EXPECTED.values() for state in targets}
    assert left == set(ACTIVE)


@pytest.mark.parametrize(
    ("event", "guard"), [(event, guard) for event, rule in RULES.items() for guard in rule.guards]
)
def test_every_guard_alone_refuses(event: CaseEvent, guard: str):
    state = next(iter(EXPECTED[event]))
    missing = {g: True for g in RULES[event].guards if g != guard}
    for answers in (missing, missing | {guard: False}, missing | {guard: "yes"}, missing | {guard: 1}):
        with pytest.raises(ConflictError) as caught:
            _apply(state, event, guards=answers)
        assert caught.value.code == "case.guard"
        assert caught.value.details == {"guards": [guard]}
        assert GUARD_TEXT[guard] in caught.value.message


def test_all_failed_guards_are_named_at_once():
    with pytest.raises(ConflictError) as caught:
        _apply(S.PLAN_READY, E.APPROVE, guards={})
    assert caught.value.details["guards"] == list(RULES[E.APPROVE].guards)


def test_the_guards_that_protect_a_patient_stand_in_the_table():
    assert {"hashes_are_current", "approver_is_not_planner", "signed", "checks_passed"} <= set(
        RULES[E.APPROVE].guards
    )
    assert {"approval_is_current", "bed_confirmed_clear", "printer_free"} <= set(RULES[E.START_PRINT].guards)
    for event in (E.APPROVE, E.START_PRINT):
        assert "late_images_decided" in RULES[event].guards
    assert {"may_end_the_approval", "nothing_on_the_printer"} <= set(RULES[E.INSPECT_AGAIN].guards)
    assert {"audit_passed", "approval_is_current"} <= set(RULES[E.GCODE_READY].guards)


@pytest.mark.parametrize(("event", "role"), list(itertools.product(E, R)))
def test_every_role(event: CaseEvent, role: Role):
    state = next(iter(EXPECTED[event]))
    allowed = ACTORS[event]
    if allowed is not None and role in allowed:
        assert _apply(state, event, roles={role}) is EXPECTED[event][state]
    else:
        with pytest.raises(NotAllowedError) as caught:
            _apply(state, event, roles={role})
        assert caught.value.code == "case.role"


@pytest.mark.parametrize("event", list(E))
def test_the_system_does_only_what_is_the_systems(event: CaseEvent):
    state = next(iter(EXPECTED[event]))
    if ACTORS[event] is None:
        assert _apply(state, event, roles=None) is EXPECTED[event][state]
    else:
        with pytest.raises(NotAllowedError):
            _apply(state, event, roles=None)
    with pytest.raises(NotAllowedError):
        _apply(state, event, roles=set())


def test_a_person_with_several_roles_may_use_any_of_them():
    assert _apply(S.SLICED, E.START_PRINT, roles={R.ADMIN, R.TECHNICIAN}) is S.PRINTING


@pytest.mark.parametrize("state", [s for s in S if s not in TERMINAL])
def test_resume_leads_where_the_case_says(state: CaseState):
    assert _apply(S.NEEDS_ATTENTION, E.RESUME, resume_state=state) is state


def test_resume_without_a_place_is_refused():
    with pytest.raises(ConflictError) as caught:
        _apply(S.NEEDS_ATTENTION, E.RESUME, resume_state=None)
    assert caught.value.code == "case.resume"


# --- one print attempt ---------------------------------------------------------------------------------------

P = PrintState


@pytest.mark.parametrize(("current", "target"), list(itertools.product(P, P)))
def test_every_step_of_a_print(current: PrintState, target: PrintState):
    """What is over stays over; before the one send nothing can have been printed; nothing is sent twice."""
    if target in NEXT[current]:
        check_step(current, target)
        # only what "certainly" was not started may turn out to have been, and then a look is needed
        assert current not in OVER or (current, target) == (P.NOT_STARTED, P.UNKNOWN)
        assert target is not P.INTENT
        assert (target is P.SENDING) == (current is P.INTENT and target is P.SENDING)
    else:
        with pytest.raises(ConflictError) as caught:
            check_step(current, target)
        assert caught.value.code == "print.state"


def test_a_print_is_either_not_begun_or_running_or_over():
    assert set(P) == {P.INTENT} | RUNNING | OVER
    assert not RUNNING & OVER
    assert set(NEXT) == set(P)


@pytest.mark.parametrize(
    ("state", "result", "cleared", "meaning"),
    [
        ("printing", "", False, P.PRINTING),
        ("pre_print", "", False, P.PRINTING),
        ("none", "", False, P.PRINTING),
        ("wait_user_action", "", False, P.PRINTING),
        ("pausing", "", False, P.PAUSED),
        ("paused", "", False, P.PAUSED),
        ("post_print", "", False, P.AWAITING_REMOVAL),
        ("wait_cleanup", "Finished", False, P.AWAITING_REMOVAL),
        ("wait_cleanup", "Aborted", False, P.AWAITING_REMOVAL),
        ("wait_cleanup", "Finished", True, P.FINISHED),
        ("wait_cleanup", "Aborted", True, P.ABORTED),
        ("none", "Failed", True, P.FAILED),
        ("printing", "", True, P.UNKNOWN),
        ("wait_cleanup", "", True, P.UNKNOWN),
        ("none", "finished", True, P.UNKNOWN),
        ("some new word", "", False, P.UNKNOWN),
    ],
)
def test_what_the_printer_shows_means(state: str, result: str, cleared: bool, meaning: PrintState):
    assert observed(state, result, cleared=cleared) is meaning
