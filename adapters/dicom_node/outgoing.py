"""Associations that we open: time limits, TLS, and why one was not established."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, _config, evt

from adapters.dicom_node.tls import TlsFiles, client_context
from service.errors import ConfigError
from service.ports import Destination

_WAKES_WITHIN_S = 5.0
LOST = (RuntimeError, ValueError, AttributeError, OSError)
"""What the library raises when the association is gone between two calls, or when it cannot encode a request."""


@dataclass(frozen=True)
class Caller:
    """Who calls, and how long it waits. `dimse_timeout_s` is for one response."""

    ae_title: str
    tls: TlsFiles | None = None
    connect_timeout_s: float = 10.0
    acse_timeout_s: float = 30.0
    dimse_timeout_s: float = 60.0
    max_pdu_bytes: int = 131072

    def entity(self) -> AE:
        _config.LOG_HANDLER_LEVEL = "none"
        # without it the library decodes each file and encodes it again, which changes damaged or odd data sets
        _config.STORE_SEND_CHUNKED_DATASET = True
        entity = AE(ae_title=self.ae_title)
        entity.connection_timeout = self.connect_timeout_s
        entity.acse_timeout = self.acse_timeout_s
        entity.dimse_timeout = self.dimse_timeout_s
        entity.network_timeout = self.dimse_timeout_s
        entity.maximum_pdu_size = self.max_pdu_bytes
        return entity

    def associate(
        self, entity: AE, destination: Destination, *, handlers: Sequence[Any] = (), **options: Any
    ) -> Any:
        """`handlers` are event handlers of the library, `options` its other options, such as `ext_neg`.

        Raises ConfigError when the peer is to be called over TLS and our certificate cannot be used.
        """
        return entity.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            max_pdu=self.max_pdu_bytes,
            # the host name is not checked (see `client_context`); an empty one would be refused by `ssl`
            tls_args=(self._context(), None) if destination.tls else None,
            evt_handlers=[*handlers, (evt.EVT_ABORTED, _wake), (evt.EVT_RELEASED, _wake)],
            **options,
        )

    def _context(self) -> Any:
        if self.tls is None:
            raise ConfigError(
                "A peer is to be called over TLS, but this node has no certificate.",
                next_step="Set [dicom] tls_certificate, tls_key and tls_ca.",
                code="config.tls",
            )
        return client_context(self.tls)


def _wake(event: Any) -> None:
    """A peer that goes away while a request is encoded would leave the library waiting.

    Its `send_*` methods wait first for a thread that has ended, without a limit, then for an answer that cannot come.
    """
    event.assoc._is_paused = True
    event.assoc.dimse.msg_queue.put((None, None))


def settle(association: Any) -> None:
    """To be called before a further request, or the release, on the same association.

    Each request holds up the library's own reading thread. That thread may still be about to wake from the hold of
    the request before; it would then take the answer to the next one off the queue and throw it away as unexpected,
    and the request would wait for its whole time limit.

    A request that failed half-way leaves the thread held, and the peer with half a message: then the association is
    aborted, as when the thread does not wake in time.
    """
    end = time.monotonic() + _WAKES_WITHIN_S
    while association._is_paused and association.is_alive():
        if was_cut_off(association) or time.monotonic() > end:
            association.abort()
            return
        time.sleep(0.0005)


def was_cut_off(association: Any) -> bool:
    """Whether the last request failed half-way. The library lets its thread go on when a request has ended."""
    return not association._reactor_checkpoint.is_set()


def why_not_established(association: Any, destination: Destination) -> str:
    """Empty when it is established."""
    if association.is_established:
        return ""
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "") if answer is not None else ""
        return f"the destination rejected the association: {reason or 'no reason given'}"
    # the library sets the same flag when the port is closed and when the peer aborts the negotiation
    over_tls = ", or the TLS certificates do not fit" if destination.tls else ""
    return f"no connection, or the destination aborted the negotiation{over_tls}"


def nothing_accepted(association: Any) -> bool:
    """Whether the peer took the association and none of what we proposed in it; the library then aborts it."""
    return bool(association.rejected_contexts) and not association.accepted_contexts


def close(association: Any) -> None:
    if association.is_established:
        settle(association)
    if association.is_established:
        association.release()
