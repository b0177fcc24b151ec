"""Stable UIDs: the same case, revision and kind always give the same UID, so that a retry sends the same object.

UUID-derived UIDs as DICOM PS3.5 B.2: `2.25.` and the UUID as a decimal number (at most 44 characters).
"""

from __future__ import annotations

import uuid

_NAMESPACE = uuid.UUID("5d9b3c1e-8a77-5c0f-9d52-5b1f2f0c7a41")


def stable_uid(case_id: str, revision: str, kind: str, part: str = "instance") -> str:
    """UID for one part (`instance`, `series`, `device` ...) of one result of one revision of one case."""
    # JSON-like quoting is not needed: the unit separator cannot appear in any of the four names.
    name = "\x1f".join((case_id, revision, kind, part))
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"
