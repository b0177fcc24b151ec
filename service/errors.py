"""One tree of errors. Each says what happened, where, and what a person can do next.

Everything that reaches a person (terminal, page, problem+json, case event) is one of these; anything else
is a defect. `code` is stable and part of the outside contract; texts may be improved at any time.
"""

from __future__ import annotations

from collections.abc import Mapping


class SpineprintError(Exception):
    """Base of all expected failures.

    Parameters
    ----------
    message : what happened and where, in words a hospital user understands; never patient data.
    next_step : what to do now.
    code : stable machine-readable code; the class default is used when omitted.
    retryable : whether the same request may succeed later without a change.
    details : small JSON-able facts (slice numbers, measured values); never patient data.
    """

    default_code = "internal"
    default_retryable = False
    http_status = 500
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        next_step: str = "",
        code: str | None = None,
        retryable: bool | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.code = code or self.default_code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} Next: {self.next_step}" if self.next_step else self.message

    def to_document(self) -> dict[str, object]:
        """JSON form used on the wire between processes and in case events."""
        return {
            "code": self.code,
            "message": self.message,
            "next_step": self.next_step,
            "retryable": self.retryable,
            "details": self.details,
        }


class InputRefusedError(SpineprintError):
    """The input is wrong or not good enough; nothing was changed."""

    default_code = "input.refused"
    http_status = 422
    exit_code = 2


class ConfigError(InputRefusedError):
    """The configuration has faults; all of them are listed."""

    default_code = "config.invalid"


class ImagingError(InputRefusedError):
    """A DICOM series, mask or scan cannot be used."""

    default_code = "imaging.refused"


class GeometryError(InputRefusedError):
    """Isolation, planning or modelling cannot give a result that may be trusted."""

    default_code = "geometry.refused"


class NotFoundError(SpineprintError):
    default_code = "not_found"
    http_status = 404
    exit_code = 2


class ConflictError(SpineprintError):
    """The thing changed meanwhile, or is not in a state that allows the request."""

    default_code = "conflict"
    http_status = 409
    exit_code = 2


class NotAuthenticatedError(SpineprintError):
    default_code = "auth.required"
    http_status = 401
    exit_code = 2


class NotAllowedError(SpineprintError):
    """The person is known, but role or rule forbids the step (e.g. maker is not checker)."""

    default_code = "auth.forbidden"
    http_status = 403
    exit_code = 2


class DeviceError(SpineprintError):
    """A printer, PACS or other device failed or did not answer."""

    default_code = "device.failed"
    default_retryable = True
    http_status = 502


class DeviceUnsureError(DeviceError):
    """The device may or may not have done it: a person must look. Never retried automatically."""

    default_code = "device.unsure"
    default_retryable = False


class StorageError(SpineprintError):
    """Disk full, below the reserve, or not writable."""

    default_code = "storage.failed"
    default_retryable = True
    http_status = 507


class ToolMissingError(SpineprintError):
    """A program we rely on (slicer, definitions) is not installed."""

    default_code = "tool.missing"
    http_status = 503


#: Where several classes share the first word of their codes: the one a narrower code belongs to.
_FAMILIES: Mapping[str, type[SpineprintError]] = {"auth": NotAllowedError, "device": DeviceError}


def from_document(document: Mapping[str, object]) -> SpineprintError:
    """Rebuild an error that crossed a process boundary (see `to_document`).

    Only the classes of this module are used: those of adapters are not loaded everywhere and are made differently.
    """
    code = str(document.get("code", "internal"))
    details = document.get("details")
    own = [c for c in _all_subclasses(SpineprintError) if c.__module__ == __name__]
    family = code.split(".", maxsplit=1)[0]
    cls = next(
        (c for c in own if c.default_code == code),
        _FAMILIES.get(family)
        or next((c for c in own if c.default_code.split(".", maxsplit=1)[0] == family), SpineprintError),
    )
    return cls(
        str(document.get("message", "unknown failure")),
        next_step=str(document.get("next_step", "")),
        code=code,
        retryable=bool(document.get("retryable", False)),
        details=details if isinstance(details, Mapping) else None,
    )


def _all_subclasses(cls: type[SpineprintError]) -> list[type[SpineprintError]]:
    found: list[type[SpineprintError]] = []
    for sub in cls.__subclasses__():
        found.append(sub)
        found.extend(_all_subclasses(sub))
    return found
