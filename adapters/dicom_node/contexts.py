"""Which presentation contexts the node accepts, and in whose order."""

from __future__ import annotations

from collections.abc import Sequence

from pynetdicom import AllStoragePresentationContexts
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES, DEFAULT_TRANSFER_SYNTAXES
from pynetdicom.presentation import PresentationContext, build_context

VERIFICATION = "1.2.840.10008.1.1"
_PIXELS_ELSEWHERE = {"1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95"}
"""JPIP referenced: the pixels would not be in the file."""

STORAGE_SYNTAXES = tuple(s for s in ALL_TRANSFER_SYNTAXES if s not in _PIXELS_ELSEWHERE)
STORAGE_CLASSES = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)


def supported_for(proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
    """Contexts to support for one association: only classes that were proposed, in the requestor's order.

    pynetdicom takes the first syntax in the acceptor's list. With a fixed list an Explicit VR sender would be
    forced to Implicit VR, which loses the value types of private elements.
    """
    wanted: dict[str, list[str]] = {}
    for context in proposed:
        name = str(context.abstract_syntax)
        if name == VERIFICATION:
            allowed: Sequence[str] = DEFAULT_TRANSFER_SYNTAXES
        elif name in STORAGE_CLASSES:
            allowed = STORAGE_SYNTAXES
        else:
            continue
        syntaxes = wanted.setdefault(name, [])
        offered = (str(s) for s in context.transfer_syntax)
        syntaxes.extend(s for s in offered if s in allowed and s not in syntaxes)
    return [build_context(name, syntaxes) for name, syntaxes in wanted.items() if syntaxes]


def asks_only_for_echo(proposed: Sequence[PresentationContext]) -> bool:
    return all(str(context.abstract_syntax) == VERIFICATION for context in proposed)
