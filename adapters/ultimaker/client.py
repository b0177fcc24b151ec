"""The wire: HTTP with digest to one printer, bounded in time and size, errors by type.

Every operation uses a connection of its own: long-lived connections to the printer go silent
(reference sheet section 5, known troubles). The digest object is kept, so that its nonce is used again.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import requests
import urllib3
from requests.auth import HTTPDigestAuth
from urllib3.filepost import encode_multipart_formdata

from adapters.ultimaker.credentials import Credentials
from adapters.ultimaker.faults import (
    PrinterAnswerError,
    PrinterAuthError,
    PrinterOddAnswerError,
    PrinterSilentError,
)
from adapters.ultimaker.interfaces import API, CLUSTER_API, Call
from service.errors import ConfigError

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Timeouts:
    """Seconds. Clients of the printer wait up to 10 s before they call it lost (reference sheet section 5)."""

    connect_s: float = 4.0
    read_s: float = 10.0
    upload_s: float = 120.0
    """For the answer to an upload: the printer reads the whole file first."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> object:
        """Raises PrinterOddAnswerError."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise PrinterOddAnswerError(
                "The printer answered with something that is not JSON.",
                next_step="Check that the configured address is the printer's, not that of another device.",
            ) from exc

    @property
    def message(self) -> str:
        """The printer's own words, shortened; empty when there are none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        text = document.get("message", "") if isinstance(document, dict) else ""
        return str(text)[:200]


class PrinterClient:
    """One printer by its base address, e.g. `http://192.0.2.7`. Safe to use from several threads.

    A path is one below the direct interface (`/printer`), or a whole one of either interface.

    Raises ConfigError for an address that is none.
    """

    def __init__(
        self, url: str, credentials: Credentials | None = None, timeouts: Timeouts | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"The printer's address {url!r} is not a web address.",
                next_step="Write it as http://<name or IP address> in the configuration.",
            )
        self._root = f"{parts.scheme}://{parts.netloc}"
        self.timeouts = timeouts or Timeouts()
        self._auth = None if credentials is None else HTTPDigestAuth(credentials.id, credentials.key)

    @property
    def paired(self) -> bool:
        return self._auth is not None

    def get(self, path: str) -> Answer:
        """Any status is an Answer. Raises PrinterSilentError, PrinterOddAnswerError."""
        with self._session() as session:
            return self._ask(session, "GET", path, self.timeouts.read_s)

    def get_json(self, path: str, what: str = "") -> object:
        """Raises also PrinterAnswerError for a status that is not 200, in which `what` says what was asked for."""
        answer = self.get(path)
        if answer.status != 200:
            raise refusal(f"tell {what}" if what else f"read {path}", answer)
        return answer.json()

    def post_open(self, path: str, body: Mapping[str, str]) -> Answer:
        """A POST without credentials: only `auth/request`."""
        with self._session() as session:
            return self._ask(session, "POST", path, self.timeouts.read_s, data=dict(body))

    def verify(self) -> None:
        """Are our credentials known? Raises PrinterAuthError, PrinterAnswerError, PrinterSilentError."""
        with self._session() as session:
            self._verify(session)

    def call(self, call: Call, uuid: str = "", *, authenticated: bool) -> Answer:
        """One request about a job, as an interface has it. Raises what `get` raises, and PrinterAuthError."""
        body = None if call.body is None else json.dumps(dict(call.body)).encode()
        with self._session() as session:
            return self._ask(
                session,
                call.method,
                call.path.replace("{uuid}", quote(uuid, safe="")),
                self.timeouts.read_s,
                auth=self._need_auth() if authenticated else None,
                data=body,
                headers={} if body is None else {"Content-Type": "application/json"},
            )

    @contextmanager
    def uploading(self, *, authenticated: bool = True) -> Iterator[Uploader]:
        """One connection for an upload; with credentials, these are checked and a nonce at hand: it goes once.

        Raises what `verify` raises; then nothing has been sent.
        """
        with self._session() as session:
            if authenticated:
                self._verify(session)
            yield Uploader(self, session, authenticated)

    # --- inside ------------------------------------------------------------------------------------------

    def _verify(self, session: requests.Session) -> None:
        answer = self._ask(session, "GET", "/auth/verify", self.timeouts.read_s, auth=self._need_auth())
        if answer.status != 200:
            raise refusal("check the pairing", answer)

    def upload(
        self,
        session: requests.Session,
        path: str,
        fields: Mapping[str, str | tuple[str, bytes, str]],
        *,
        authenticated: bool,
    ) -> Answer:
        body, content_type = encode_multipart_formdata(fields)
        return self._ask(
            session,
            "POST",
            path,
            self.timeouts.upload_s,
            auth=self._need_auth() if authenticated else None,
            # a stream goes out in small blocks: the time limit is then per block, not for the whole file
            data=io.BytesIO(body),
            headers={"Content-Type": content_type},
        )

    def _address(self, path: str) -> str:
        whole = path.startswith((f"{API}/", f"{CLUSTER_API}/"))
        return f"{self._root}{path}" if whole else f"{self._root}{API}{path}"

    def _need_auth(self) -> HTTPDigestAuth:
        if self._auth is None:
            raise PrinterAuthError("This printer has not been paired.", status=401)
        return self._auth

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        with requests.Session() as session:
            session.trust_env = False  # no proxy, no netrc between us and a device on the hospital's network
            session.headers["User-Agent"] = "spineprint"
            yield session

    def _ask(
        self,
        session: requests.Session,
        method: str,
        path: str,
        read_s: float,
        *,
        auth: HTTPDigestAuth | None = None,
        data: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            response = session.request(
                method,
                self._address(path),
                auth=auth,
                data=data,  # type: ignore[arg-type]
                headers=dict(headers or {}),
                timeout=(self.timeouts.connect_s, read_s),
                # a printer redirects strangers to its start page (captive portal); that is never an answer
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = _read_within(response, read_s)
        except requests.exceptions.ConnectTimeout as exc:
            raise PrinterSilentError("The printer does not answer (no connection).", reached=False) from exc
        except requests.exceptions.RequestException as exc:
            reached = not _never_connected(exc)
            log.debug("%s %s: %s", method, path, type(exc).__name__)
            raise PrinterSilentError(
                f"The printer does not answer ({_kind(exc)}).",
                reached=reached,
            ) from exc
        log.debug("%s %s -> %d", method, path, response.status_code)
        if 300 <= response.status_code < 400:
            raise PrinterOddAnswerError(
                "The address redirects elsewhere; a printer's API does not.",
                next_step="Check the printer's address and firmware.",
            )
        return Answer(response.status_code, body)


@dataclass(frozen=True)
class Uploader:
    """Uploads on a connection whose credentials, where it wants any, were checked a moment ago."""

    _client: PrinterClient
    _session: requests.Session
    _authenticated: bool

    def post(self, path: str, fields: Mapping[str, str | tuple[str, bytes, str]]) -> Answer:
        """One multipart POST. A 401 in between (nonce expired: nothing was done) is answered once by digest.

        Raises PrinterSilentError, PrinterOddAnswerError.
        """
        return self._client.upload(self._session, path, fields, authenticated=self._authenticated)


def refusal(what: str, answer: Answer) -> PrinterAnswerError:
    """The error for a status that is not success, with the printer's own words."""
    words = f": {answer.message}" if answer.message else ""
    if answer.status in (401, 403):
        return PrinterAuthError(
            f"The printer does not accept our credentials ({answer.status}{words}).", status=answer.status
        )
    return PrinterAnswerError(
        f"The printer answered {answer.status} to the request to {what}{words}.",
        status=answer.status,
    )


def _read_within(response: requests.Response, limit_s: float) -> bytes:
    """The body, at most MAX_ANSWER_BYTES and at most `limit_s`, however slowly it trickles."""
    ends = time.monotonic() + limit_s
    body = bytearray()
    try:
        # read1 returns what has come; a plain read waits for a full block, drop by drop
        while block := response.raw.read1(65536, decode_content=True):
            body += block
            if len(body) > MAX_ANSWER_BYTES or time.monotonic() > ends:
                raise requests.exceptions.ReadTimeout("answer too long or too slow")
    except urllib3.exceptions.ReadTimeoutError as exc:
        raise requests.exceptions.ReadTimeout("answer cut short by time") from exc
    except urllib3.exceptions.HTTPError as exc:
        raise requests.exceptions.ConnectionError("answer cut short") from exc
    declared = response.headers.get("Content-Length", "")
    plain = "Content-Encoding" not in response.headers
    if plain and declared.isdigit() and len(body) < int(declared):
        raise requests.exceptions.ConnectionError("answer cut short")
    return bytes(body)


def _never_connected(exc: requests.exceptions.RequestException) -> bool:
    """True when no connection came about at all (refused, no route, unknown name): nothing was sent."""
    seen: BaseException | None = exc
    for _ in range(6):
        if seen is None:
            return False
        if type(seen).__name__ in ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError"):
            return True
        reason = getattr(seen, "reason", None)
        inner = seen.args[0] if seen.args else None
        seen = next((e for e in (reason, inner) if isinstance(e, BaseException)), None)
    return False


def _kind(exc: requests.exceptions.RequestException) -> str:
    if isinstance(exc, requests.exceptions.Timeout):
        return "time ran out"
    if _never_connected(exc):
        return "no connection"
    return "connection lost"
