"""What can go wrong on the way to the printer, each with its own type."""

from __future__ import annotations

from service.errors import ConfigError, DeviceError, DeviceUnsureError


class PrinterSilentError(DeviceError):
    """No usable answer within the time allowed. `reached` = the request may have arrived."""

    default_code = "device.printer_silent"

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(
            message,
            next_step="Check that the printer is on, on the network, and that its address is right; then try again "
            "(a parked case: resume it and start the print again).",
        )
        self.reached = reached


class PrinterAnswerError(DeviceError):
    """An answer with a status that is not success. `status` is the HTTP status."""

    default_code = "device.printer_answer"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(
            message,
            next_step="Look at the printer's display; try again when it is idle.",
            details={"status": status},
        )
        self.status = status


class PrinterAuthError(PrinterAnswerError):
    """The printer does not know our credentials (401 or 403, reference sheet section 3)."""

    default_code = "device.printer_not_paired"
    default_retryable = False

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, status=status)
        self.next_step = "Pair again: spineprint printer pair, then press allow on the printer's screen."


class PrinterOddAnswerError(DeviceError):
    """Success by its status, but not what the API promises (not JSON, another shape, a redirect)."""

    default_code = "device.printer_odd_answer"


class PairingRefusedError(DeviceError):
    """Somebody pressed deny, or nobody pressed anything in time."""

    default_code = "device.pairing_refused"
    default_retryable = False


class CommandUnsureError(DeviceUnsureError):
    """The printer took the command, but its state does not show it."""

    default_code = "device.command_unsure"


class CredentialsError(ConfigError):
    """The credentials file is missing, damaged, or open to others."""

    default_code = "config.printer_credentials"
