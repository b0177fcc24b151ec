"""The two secrets of a pairing, in a JSON file that only its owner can read."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from adapters.ultimaker.faults import CredentialsError

SCHEMA = "spineprint.printer-credentials/1"


@dataclass(frozen=True)
class Credentials:
    """`id` is the digest user, `key` its password; the key is left out of every text form."""

    id: str
    key: str = field(repr=False)
    application: str = ""
    user: str = ""
    url: str = ""
    """The printer they were given by; a hint for people, not used to find it."""


def store_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file with mode 0600, whole or not at all. Raises CredentialsError when it cannot be written."""
    document = {
        "schema": SCHEMA,
        "id": credentials.id,
        "key": credentials.key,
        "application": credentials.application,
        "user": credentials.user,
        "url": credentials.url,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the mode is set at creation: there is no instant in which others could read the key
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as out:
            json.dump(document, out, indent=2)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as exc:
        raise CredentialsError(
            f"The printer's credentials cannot be written to {path.name}: {exc.strerror}.",
            next_step="Check the folder and its permissions, then pair again.",
        ) from exc


def load_credentials(path: Path) -> Credentials:
    """Read a file written by `store_credentials`.

    Raises CredentialsError: missing, damaged, or readable by others than the owner.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        document = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise CredentialsError(
            f"The printer's credentials file {path.name} cannot be read.",
            next_step="Pair with the printer: spineprint printer pair.",
        ) from exc
    if mode & 0o077:
        raise CredentialsError(
            f"The printer's credentials file {path.name} can be read by others (mode {mode:04o}).",
            next_step="chmod 600 the file.",
        )
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise _damaged(path)
    texts = {k: document.get(k, "") for k in ("id", "key", "application", "user", "url")}
    if not all(isinstance(v, str) for v in texts.values()) or not texts["id"] or not texts["key"]:
        raise _damaged(path)
    return Credentials(**texts)


def _damaged(path: Path) -> CredentialsError:
    return CredentialsError(
        f"The printer's credentials file {path.name} is not one of ours, or is damaged.",
        next_step="Pair with the printer again: spineprint printer pair.",
    )
