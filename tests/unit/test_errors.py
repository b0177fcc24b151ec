"""The tree of errors: stable codes, words for people, and the way across a process boundary."""

from __future__ import annotations

import json

import pytest

import adapters.ultimaker.faults
from service import errors
from service.errors import SpineprintError, from_document


def _own_classes() -> list[type[SpineprintError]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SpineprintError)]


@pytest.mark.parametrize("cls", _own_classes())
def test_every_error_crosses_a_process_boundary(cls: type[SpineprintError]):
    sent = cls("It did not work.", next_step="Try again.", details={"slices": [3, 4]})
    back = from_document(json.loads(json.dumps(sent.to_document())))
    assert type(back) is cls
    assert (back.message, back.next_step, back.code, back.retryable, back.details) == (
        "It did not work.", "Try again.", cls.default_code, cls.default_retryable, {"slices": [3, 4]},
    )  # fmt: skip


def test_codes_are_unique_and_exit_codes_are_those_of_the_command_line():
    classes = _own_classes()
    assert len({c.default_code for c in classes}) == len(classes)
    assert {c.exit_code for c in classes} == {1, 2}
    assert all(400 <= c.http_status < 600 for c in classes)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        ("storage.full", errors.StorageError),
        ("device.printer_silent", errors.DeviceError),
        ("imaging.gap", errors.ImagingError),
        ("geometry.no_path", errors.GeometryError),
        ("tool.cura", errors.ToolMissingError),
        ("auth.role", errors.NotAllowedError),
        ("auth.failed", errors.NotAllowedError),
        ("auth.required", errors.NotAuthenticatedError),
        ("task.crashed", SpineprintError),
        ("nobody.knows", SpineprintError),
    ],
)
def test_a_narrower_code_keeps_its_family(code: str, cls: type[SpineprintError]):
    back = from_document({"code": code, "message": "m", "next_step": "n", "retryable": True})
    assert type(back) is cls
    assert back.code == code
    assert back.retryable is True


def test_errors_of_an_adapter_are_rebuilt_as_their_family():
    """Their constructors differ, and which adapters are loaded differs between processes."""
    sent = adapters.ultimaker.faults.PrinterSilentError("No answer.", reached=True)
    back = from_document(sent.to_document())
    assert type(back) is errors.DeviceError
    assert back.code == "device.printer_silent"


def test_a_document_with_nothing_in_it_is_still_an_error():
    back = from_document({})
    assert back.code == "internal"
    assert back.message
    assert from_document({"details": "no mapping"}).details == {}


def test_the_text_says_what_to_do_next():
    assert str(SpineprintError("It broke.", next_step="Mend it.")) == "It broke. Next: Mend it."
    assert str(SpineprintError("It broke.")) == "It broke."


def test_unsure_is_never_retried_by_itself():
    assert errors.DeviceError("x").retryable is True
    assert errors.DeviceUnsureError("x").retryable is False
    assert errors.DeviceError("x", retryable=False).retryable is False
