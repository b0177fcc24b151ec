"""The life of a case: states, events, who may cause them. Rules as data; nothing here touches the outside.

`RULES` is the whole truth: a (state, event) pair that is not in it is refused. Guards are names; the workflow
supplies their answers (a guard it does not answer counts as failed).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.domain.people import PEOPLE, Role
from service.errors import ConflictError, NotAllowedError


class CaseState(enum.StrEnum):
    RECEIVING = "RECEIVING"
    RECEIVED = "RECEIVED"
    BUILDING = "BUILDING"
    PLAN_READY = "PLAN_READY"
    APPROVED = "APPROVED"
    SLICED = "SLICED"
    PRINTING = "PRINTING"
    PRINTED = "PRINTED"
    QA_PASSED = "QA_PASSED"
    ISSUED = "ISSUED"
    USED = "USED"
    VERIFYING = "VERIFYING"
    VERIFIED = "VERIFIED"
    CLOSED = "CLOSED"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"
    CANCELLED = "CANCELLED"


class CaseEvent(enum.StrEnum):
    STUDY_COMPLETE = "study_complete"
    LATE_IMAGES = "late_images"
    IMAGES_COMPLETED = "images_completed"
    INSPECT_AGAIN = "inspect_again"
    KEEP_IMAGES = "keep_images"
    GIVE_INPUTS = "give_inputs"
    MODEL_BUILT = "model_built"
    APPROVE = "approve"
    REJECT = "reject"
    GCODE_READY = "gcode_ready"
    START_PRINT = "start_print"
    PRINT_FOUND = "print_found"
    PRINT_CLEARED = "print_cleared"
    PASS_QA = "pass_qa"
    ISSUE = "issue"
    RETURN_UNOPENED = "return_unopened"
    USE = "use"
    SCAN_ARRIVED = "scan_arrived"
    SCAN_MEASURED = "scan_measured"
    SCAN_NOT_MEASURABLE = "scan_not_measurable"
    NEEDLE_SET_BY_HAND = "needle_set_by_hand"
    NEEDLE_TAKEN_BACK = "needle_taken_back"
    RAISE_ATTENTION = "raise_attention"
    RESUME = "resume"
    CANCEL = "cancel"
    CLOSE = "close"


TERMINAL = frozenset({CaseState.CLOSED, CaseState.CANCELLED})
ACTIVE = tuple(s for s in CaseState if s not in TERMINAL)

#: The system itself, as opposed to a person's role.
SYSTEM = frozenset[Role]()


@dataclass(frozen=True)
class Rule:
    """`target` None: the state is kept (`KEEPS_STATE`) or taken from the case (RESUME).

    `roles` empty: only the system. `guards` must all be answered True.
    """

    sources: tuple[CaseState, ...]
    target: CaseState | None
    roles: frozenset[Role] = SYSTEM
    guards: tuple[str, ...] = ()


_S = CaseState
_NOT_FINISHED = tuple(s for s in ACTIVE if s is not _S.NEEDS_ATTENTION)
#: States of a case whose images are settled: what comes now comes late.
_WITH_IMAGES = tuple(s for s in ACTIVE if s is not _S.RECEIVING)
#: Events that say something about a case without moving it.
KEEPS_STATE = frozenset({CaseEvent.LATE_IMAGES, CaseEvent.KEEP_IMAGES})

RULES: Mapping[CaseEvent, Rule] = {
    CaseEvent.STUDY_COMPLETE: Rule((_S.RECEIVING,), _S.RECEIVED),
    CaseEvent.LATE_IMAGES: Rule(_WITH_IMAGES, None),
    CaseEvent.IMAGES_COMPLETED: Rule(
        (_S.NEEDS_ATTENTION,), _S.RECEIVING, SYSTEM, ("attention_is_about_images",)
    ),
    # From the printer on there is a part made of the earlier images: it can be kept or cancelled, not made anew.
    CaseEvent.INSPECT_AGAIN: Rule(
        (_S.RECEIVED, _S.PLAN_READY, _S.APPROVED, _S.SLICED),
        _S.RECEIVING,
        frozenset({Role.PLANNER, Role.SURGEON}),
        ("newer_images", "may_end_the_approval", "nothing_on_the_printer"),
    ),
    CaseEvent.KEEP_IMAGES: Rule(
        _WITH_IMAGES, None, frozenset({Role.PLANNER, Role.SURGEON}), ("newer_images",)
    ),
    CaseEvent.GIVE_INPUTS: Rule(
        (_S.RECEIVED, _S.PLAN_READY),
        _S.BUILDING,
        frozenset({Role.PLANNER, Role.SURGEON}),
        ("level_supported",),
    ),
    CaseEvent.MODEL_BUILT: Rule((_S.BUILDING,), _S.PLAN_READY),
    CaseEvent.APPROVE: Rule(
        (_S.PLAN_READY,),
        _S.APPROVED,
        frozenset({Role.SURGEON}),
        (
            "hashes_are_current",
            "checks_passed",
            "warnings_acknowledged",
            "late_images_decided",
            "approver_is_not_planner",
            "signed",
        ),
    ),
    CaseEvent.REJECT: Rule((_S.PLAN_READY,), _S.RECEIVED, frozenset({Role.SURGEON}), ("reason_given",)),
    CaseEvent.GCODE_READY: Rule((_S.APPROVED,), _S.SLICED, SYSTEM, ("audit_passed", "approval_is_current")),
    CaseEvent.START_PRINT: Rule(
        (_S.SLICED,),
        _S.PRINTING,
        frozenset({Role.TECHNICIAN}),
        (
            "bed_confirmed_clear",
            "printer_free",
            "approval_is_current",
            "gcode_shown_is_current",
            "late_images_decided",
        ),
    ),
    # Given up as not started, and running after all.
    CaseEvent.PRINT_FOUND: Rule(
        (_S.SLICED, _S.NEEDS_ATTENTION), _S.PRINTING, SYSTEM, ("case_waits_for_a_print",)
    ),
    CaseEvent.PRINT_CLEARED: Rule((_S.PRINTING,), _S.PRINTED, SYSTEM, ("printer_says_finished",)),
    CaseEvent.PASS_QA: Rule(
        (_S.PRINTED,), _S.QA_PASSED, frozenset({Role.TECHNICIAN, Role.PLANNER}), ("item_passed_qa",)
    ),
    CaseEvent.ISSUE: Rule((_S.QA_PASSED,), _S.ISSUED, frozenset({Role.THEATRE_NURSE}), ("item_issued",)),
    CaseEvent.RETURN_UNOPENED: Rule(
        (_S.ISSUED,), _S.QA_PASSED, frozenset({Role.THEATRE_NURSE}), ("item_returned",)
    ),
    CaseEvent.USE: Rule((_S.ISSUED,), _S.USED, frozenset({Role.THEATRE_NURSE}), ("item_used",)),
    CaseEvent.SCAN_ARRIVED: Rule((_S.ISSUED, _S.USED, _S.VERIFIED), _S.VERIFYING),
    CaseEvent.SCAN_MEASURED: Rule((_S.VERIFYING,), _S.VERIFIED),
    CaseEvent.SCAN_NOT_MEASURABLE: Rule((_S.VERIFYING,), _S.USED),
    # A scan in which the vertebra was found and no needle: a surgeon points at it.
    CaseEvent.NEEDLE_SET_BY_HAND: Rule(
        (_S.USED,), _S.VERIFIED, frozenset({Role.SURGEON}), ("registration_is_trusted", "signed")
    ),
    CaseEvent.NEEDLE_TAKEN_BACK: Rule(
        (_S.VERIFIED,), _S.USED, frozenset({Role.SURGEON}), ("no_needle_stands", "signed")
    ),
    CaseEvent.RAISE_ATTENTION: Rule(_NOT_FINISHED, _S.NEEDS_ATTENTION),
    CaseEvent.RESUME: Rule((_S.NEEDS_ATTENTION,), None, PEOPLE),
    CaseEvent.CANCEL: Rule(
        (*_NOT_FINISHED, _S.NEEDS_ATTENTION),
        _S.CANCELLED,
        frozenset({Role.PLANNER, Role.SURGEON, Role.ADMIN}),
        ("reason_given", "nothing_on_the_printer"),
    ),
    CaseEvent.CLOSE: Rule(
        (_S.USED, _S.VERIFIED), _S.CLOSED, frozenset({Role.THEATRE_NURSE, Role.SURGEON}), ("item_discarded",)
    ),
}

#: What a failed guard means, for people.
GUARD_TEXT: Mapping[str, str] = {
    "level_supported": "the level is not one this service models",
    "hashes_are_current": "the plan or model shown is not the current one; load the page again",
    "attention_is_about_images": "the case waits for something else than images",
    "newer_images": "no images arrived after the study was complete, or somebody has decided about them already",
    "may_end_the_approval": "the plan is approved, and only a surgeon can take that back",
    "late_images_decided": "images arrived after the study was complete, and nobody has decided yet whether to look "
    "at them or to keep the model",
    "warnings_acknowledged": "not every warning of the model was acknowledged",
    "checks_passed": "the model failed its own checks",
    "approver_is_not_planner": "the person who gave the inputs cannot also approve",
    "signed": "the signature (password) is missing or wrong",
    "reason_given": "a reason is needed",
    "audit_passed": "the G-code did not pass the audit",
    "approval_is_current": "there is no approval of exactly these bytes",
    "gcode_shown_is_current": "the G-code whose audit and prediction were shown is not the current one; load the page "
    "again",
    "bed_confirmed_clear": "nobody has confirmed that the build plate is clear",
    "printer_free": "the printer is reserved for another case or unknown",
    "case_waits_for_a_print": "the case waits for something else than its print",
    "printer_says_finished": "the printer does not say that the print finished",
    "item_passed_qa": "the part did not pass its inspection",
    "item_issued": "the pack was not issued",
    "item_returned": "the pack was not returned unopened",
    "item_used": "the pack was not recorded as used",
    "item_discarded": "the model has not been recorded as discarded",
    "registration_is_trusted": "the vertebra was not found in the scan with certainty, so no point can be set in it",
    "no_needle_stands": "the scan has a needle that was measured or is still set by hand",
    "nothing_on_the_printer": "a print of this case may still be running; stop it or settle its outcome first",
}


def next_state(
    state: CaseState,
    event: CaseEvent,
    *,
    roles: Iterable[Role] | None,
    guards: Mapping[str, bool],
    resume_state: CaseState | None = None,
) -> CaseState:
    """The state after `event`, or a refusal in words.

    Parameters
    ----------
    roles : the actor's roles; None means the system itself.
    guards : answers by guard name; a missing answer counts as False.
    resume_state : where RESUME leads.

    Raises
    ------
    ConflictError : the event does not fit the state, or a guard failed.
    NotAllowedError : none of the actor's roles may do this.
    """
    rule = RULES[event]
    if state not in rule.sources:
        raise ConflictError(
            f"'{event}' is not possible while the case is {state}.",
            next_step="Look at the case again; somebody or something may have moved it on.",
            code="case.state",
            details={"state": state.value, "event": event.value},
        )
    if rule.roles and (roles is not None) and not rule.roles & set(roles):
        needed = ", ".join(sorted(r.value for r in rule.roles))
        raise NotAllowedError(
            f"'{event}' needs one of these roles: {needed}.",
            code="case.role",
            next_step="Ask a person with that role.",
        )
    if (roles is None) == bool(rule.roles):
        raise NotAllowedError(
            f"'{event}' belongs to {'a person' if rule.roles else 'the system'}.",
            code="case.role",
            next_step="Log in as a person with the right role.",
        )
    failed = [g for g in rule.guards if guards.get(g) is not True]
    if failed:
        raise ConflictError(
            f"'{event}' was refused: " + "; ".join(GUARD_TEXT[g] for g in failed) + ".",
            next_step="Settle the points named, then try again.",
            code="case.guard",
            details={"guards": failed},
        )
    if event in KEEPS_STATE:
        return state
    if event is CaseEvent.RESUME:
        if resume_state is None:
            raise ConflictError(
                "The case does not say where to resume.",
                code="case.resume",
                next_step="Cancel the case and send the study again.",
            )
        return resume_state
    assert rule.target is not None
    return rule.target
