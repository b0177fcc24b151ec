"""Which presentation contexts the node accepts as an acceptor."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from pynetdicom import AllStoragePresentationContexts
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES, DEFAULT_TRANSFER_SYNTAXES

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model (PS3.4 annex J)."""
_PIXELS_ELSEWHERE = {
    "1.2.840.10008.1.2.4.94",
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
}
"""JPIP referenced: the pixels would not be in the file."""
_NOT_FILES = {f"1.2.840.10008.1.2.7.{n}" for n in (1, 2, 3)}
"""DICOM real-time video (PS3.22): streams, never stored objects."""

STORAGE_SYNTAXES = tuple(s for s in ALL_TRANSFER_SYNTAXES if s not in _PIXELS_ELSEWHERE | _NOT_FILES)
STORAGE_CLASSES = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
_STORAGE_SYNTAX_SET = frozenset(STORAGE_SYNTAXES)
_DEFAULT_SYNTAX_SET = frozenset(str(s) for s in DEFAULT_TRANSFER_SYNTAXES)


def syntaxes_for(abstract_syntax: str) -> AbstractSet[str]:
    """Transfer syntaxes in which the node takes this class; empty when it does not take the class.

    Which of them is used is the requestor's choice: with a fixed order of ours an Explicit VR sender would be forced
    to Implicit VR, which loses the value types of private elements.
    """
    if abstract_syntax in STORAGE_CLASSES:
        return _STORAGE_SYNTAX_SET
    if abstract_syntax in (VERIFICATION, COMMITMENT):
        return _DEFAULT_SYNTAX_SET
    return frozenset()
