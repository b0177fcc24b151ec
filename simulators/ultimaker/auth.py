"""Pairing at the touch screen and digest (RFC 2617, realm Jedi-API), reference sheet section 3."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

from simulators.ultimaker.options import Options

REALM = "Jedi-API"


@dataclass
class Client:
    id: str
    key: str
    application: str
    user: str
    exclusion_key: str = ""
    answer: str = ""
    """`` = nobody has answered, `allow`, `deny`."""
    asked_at: float = 0.0
    answered_at: float = 0.0


class DeniedError(Exception):
    """Not let in. `status` is the HTTP code; `stale` asks the client to repeat with a fresh nonce."""

    def __init__(self, status: int, *, stale: bool = False) -> None:
        super().__init__("Authorization required.")
        self.status, self.stale = status, stale


@dataclass
class Gatekeeper:
    options: Options
    now: Callable[[], float] = time.monotonic
    clients: dict[str, Client] = field(default_factory=dict)
    challenges: int = 0
    _nonces: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    # --- pairing -----------------------------------------------------------------------------------------

    def request(self, application: str, user: str, exclusion_key: str = "") -> Client:
        """Id and key at once; the prompt now waits on the screen."""
        client = Client(
            secrets.token_hex(self.options.id_length)[: self.options.id_length],
            secrets.token_hex(self.options.key_length)[: self.options.key_length],
            application,
            user,
            exclusion_key,
            asked_at=self.now(),
        )
        self.clients[client.id] = client
        if self.options.auto_allow:
            self.press(allow=True, client_id=client.id)
        return client

    def prompts(self) -> list[Client]:
        limit = self.now() - self.options.prompt_timeout_wall_s
        return [c for c in self.clients.values() if not c.answer and c.asked_at >= limit]

    def press(self, *, allow: bool, client_id: str = "") -> Client | None:
        """The person presses allow or deny on the (oldest, or named) prompt; None when there is no prompt."""
        client = next((c for c in self.prompts() if client_id in ("", c.id)), None)
        if client is None:
            return None
        client.answer, client.answered_at = "allow" if allow else "deny", self.now()
        if allow and client.exclusion_key:
            for other in list(self.clients.values()):
                if other.exclusion_key == client.exclusion_key and other is not client:
                    del self.clients[other.id]
        return client

    def check(self, client_id: str) -> str:
        client = self.clients.get(client_id)
        if client is None:
            return "unauthorized"
        if not client.answer:
            return "unknown" if client in self.prompts() else self.options.check_after_lapse
        fresh = self.now() - client.answered_at <= self.options.check_window_wall_s
        return "authorized" if client.answer == "allow" and fresh else "unauthorized"

    # --- digest ------------------------------------------------------------------------------------------

    def challenge(self, *, stale: bool = False) -> str:
        nonce = secrets.token_hex(16)
        self._nonces[nonce] = self.now()
        self._counts[nonce] = 0
        self.challenges += 1
        text = f'Digest realm="{REALM}", nonce="{nonce}", qop="auth"'
        return f"{text}, stale=true" if stale and self.options.stale_flag else text

    def expire_nonces(self) -> None:
        self._nonces.clear()

    def admit(self, header: str, method: str, uri: str) -> Client:
        """The client behind an Authorization header. Raises DeniedError."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "digest":
            raise DeniedError(401)
        try:
            given = parse_keqv_list(parse_http_list(rest))
        except (ValueError, IndexError) as exc:
            raise DeniedError(401) from exc
        client = self.clients.get(given.get("username", ""))
        if client is None or client.answer != "allow":
            raise DeniedError(self.options.denied_status)
        if given.get("uri") != uri or given.get("realm") != REALM:
            raise DeniedError(401)
        expected = _response(client, given, method)
        if not hmac.compare_digest(expected, given.get("response", "")):
            raise DeniedError(self.options.denied_status)
        self._check_nonce(given)
        return client

    def _check_nonce(self, given: dict[str, str]) -> None:
        nonce = given.get("nonce", "")
        born = self._nonces.get(nonce)
        if born is None or self.now() - born > self.options.nonce_lifetime_wall_s:
            self._nonces.pop(nonce, None)
            raise DeniedError(401, stale=True)
        if self.options.check_nc:
            count = int(given.get("nc", "0"), 16)
            if count <= self._counts[nonce]:
                raise DeniedError(401, stale=True)
            self._counts[nonce] = count

    # --- persistence -------------------------------------------------------------------------------------

    def document(self) -> list[dict[str, Any]]:
        """Clients that were let in; prompts do not survive the power."""
        return [asdict(c) for c in self.clients.values() if c.answer == "allow"]

    def load(self, document: list[dict[str, Any]]) -> None:
        for item in document:
            client = Client(**item)
            # the press was in an earlier life: `check` no longer answers for it
            client.answered_at = self.now() - self.options.check_window_wall_s - 1.0
            self.clients[client.id] = client


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _response(client: Client, given: dict[str, str], method: str) -> str:
    ha1 = _md5(f"{client.id}:{REALM}:{client.key}")
    ha2 = _md5(f"{method}:{given.get('uri', '')}")
    nonce = given.get("nonce", "")
    if given.get("qop"):
        return _md5(f"{ha1}:{nonce}:{given.get('nc', '')}:{given.get('cnonce', '')}:{given['qop']}:{ha2}")
    return _md5(f"{ha1}:{nonce}:{ha2}")
