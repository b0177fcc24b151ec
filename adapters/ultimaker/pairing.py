"""Pairing: ask, a person presses allow on the printer's screen, check, keep (reference sheet section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from adapters.ultimaker.client import PrinterClient, Timeouts, refusal
from adapters.ultimaker.credentials import Credentials, store_credentials
from adapters.ultimaker.faults import (
    PairingRefusedError,
    PrinterAuthError,
    PrinterOddAnswerError,
    PrinterSilentError,
)


def pair(
    url: str,
    credentials_file: Path,
    *,
    application: str = "spineprint",
    user: str = "spineprint",
    wait_s: float = 300.0,
    poll_s: float = 1.0,
    exclusion_key: str = "",
    on_prompt: Callable[[str], None] = lambda _text: None,
    timeouts: Timeouts | None = None,
) -> Credentials:
    """Pair with the printer at `url` and keep the credentials in `credentials_file` (mode 0600).

    `application` and `user` are shown on the printer's screen and in its history, readable by all on the network:
    never a patient's or person's name. `on_prompt` gets one line for the person who must press allow.
    `exclusion_key` makes the printer forget an earlier pairing with the same key.

    Raises PairingRefusedError (denied, or nobody pressed within `wait_s`), DeviceError, CredentialsError.
    """
    given = _request(PrinterClient(url, timeouts=timeouts), application, user, exclusion_key, url)
    on_prompt(
        f"The printer shows '{application}' and '{user}'. Press allow on its screen "
        f"(request {given.id[:8]}, waiting up to {wait_s:.0f} s)."
    )
    client = PrinterClient(url, given, timeouts)
    _wait_for_press(client, given, wait_s, poll_s)
    client.verify()
    store_credentials(credentials_file, given)
    return given


def _request(client: PrinterClient, application: str, user: str, exclusion_key: str, url: str) -> Credentials:
    body = {"application": application, "user": user}
    if exclusion_key:
        body["exclusion_key"] = exclusion_key
    answer = client.post_open("/auth/request", body)
    if answer.status != 200:
        raise refusal("pair", answer)
    document = answer.json()
    given = document if isinstance(document, dict) else {}
    client_id, key = given.get("id"), given.get("key")
    if not isinstance(client_id, str) or not isinstance(key, str) or not client_id or not key:
        raise PrinterOddAnswerError(
            "The printer's answer to the pairing request has no id and key.",
            next_step="Check that the address is that of an Ultimaker 3.",
        )
    return Credentials(client_id, key, application, user, url)


def _wait_for_press(client: PrinterClient, given: Credentials, wait_s: float, poll_s: float) -> None:
    ends = time.monotonic() + wait_s
    while time.monotonic() < ends:
        word = _check(client, given.id)
        if word == "authorized":
            return
        if word == "unauthorized":
            # some time after the press even a good id reads so: only a digest request tells the truth
            try:
                client.verify()
            except PrinterAuthError as exc:
                raise PairingRefusedError(
                    "The pairing was denied at the printer, or its prompt lapsed.",
                    next_step="Start the pairing again and press allow on the printer's screen.",
                ) from exc
            return
        time.sleep(poll_s)
    raise PairingRefusedError(
        f"Nobody pressed allow on the printer within {wait_s:.0f} s.",
        next_step="Start the pairing again while somebody stands at the printer.",
    )


def _check(client: PrinterClient, client_id: str) -> str:
    """The word of `auth/check`; a printer that misses one poll is asked again."""
    try:
        document = client.get_json(f"/auth/check/{client_id}")
    except PrinterSilentError:
        return "unknown"
    return str(document.get("message", "")) if isinstance(document, dict) else ""
