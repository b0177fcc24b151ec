"""STOW-RS as a client (PS3.18 section 10.5): results to a PACS over HTTPS, with a status for each instance."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from adapters.dicom_web.answers import Outcome, blames_the_content, read_outcome, statuses
from adapters.dicom_web.multipart import related
from service.errors import ConfigError
from service.ports import Destination, ImageSender, StoreStatus

_log = logging.getLogger("spineprint.dicomweb")

_MOST_FILES = 16
_MOST_BYTES = 128 << 20
"""Of one request; a single larger file goes alone."""
_MOST_ANSWER_BYTES = 8 << 20
_CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class StowTarget:
    """`url` is the base of the service; the password is read anew for every call, so that it can be changed."""

    name: str
    url: str
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class _Item:
    index: int
    path: Path
    uid: str
    size: int


class StowSender(ImageSender):
    """One web destination. The `destination` of the calls is not used: the address is in the target."""

    def __init__(
        self, target: StowTarget, *, connect_timeout_s: float = 10.0, answer_timeout_s: float = 300.0
    ) -> None:
        self._target = target
        # Long for the answer: a server may take minutes over a large request, and a repeat would take as long.
        self._timeout = httpx.Timeout(60.0, connect=connect_timeout_s, read=answer_timeout_s)

    def send(self, files: Sequence[Path], destination: Destination) -> Sequence[StoreStatus]:
        """Store the files; one status per file, in order. Raises ConfigError for password or CA file."""
        answers: dict[int, StoreStatus] = {}
        items = []
        for index, path in enumerate(files):
            try:
                uid = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
                items.append(_Item(index, path, uid, path.stat().st_size))
            except (FileNotFoundError, InvalidDicomError, ValueError, AttributeError, KeyError) as error:
                detail = f"not sent: not a readable DICOM file ({type(error).__name__})"
                answers[index] = StoreStatus("", _CANNOT_UNDERSTAND, detail)
            except OSError as error:
                answers[index] = StoreStatus("", None, f"not sent: the disk fails ({type(error).__name__})")
        if items:
            with self._client() as client:
                self._send_groups(client, items, answers)
        return [answers[index] for index in range(len(files))]

    def echo(self, destination: Destination) -> bool:
        """Whether the service answers at all and lets us in (a query for no study at all)."""
        try:
            with self._client() as client:
                answer = client.get("studies", params={"limit": "1", "StudyInstanceUID": "2.25.0"})
        except httpx.HTTPError:
            return False
        # 501 and the like: no search, which says nothing about storing
        return answer.status_code == 501 or (
            answer.status_code < 500 and answer.status_code not in (401, 403)
        )

    def _client(self) -> httpx.Client:
        target = self._target
        auth = None
        if target.user and target.password_file:
            try:
                secret = target.password_file.read_text("utf-8").strip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"The password file of {target.name} cannot be read ({type(error).__name__}).",
                    next_step="Check password_file under [[dicom.web_destinations]].",
                    code="config.web_destination",
                ) from error
            auth = httpx.BasicAuth(target.user, secret)
        return httpx.Client(
            base_url=target.url.rstrip("/") + "/",
            auth=auth,
            verify=self._trust(),
            timeout=self._timeout,
            # a proxy or a redirect of the environment's would take patients' data elsewhere
            trust_env=False,
            follow_redirects=False,
        )

    def _trust(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(
                cafile=str(self._target.ca_file) if self._target.ca_file else None
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"The CA file of {self._target.name} cannot be used ({type(error).__name__}).",
                next_step="Check ca_file under [[dicom.web_destinations]]: a PEM file with certificates.",
                code="config.web_destination",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _send_groups(
        self, client: httpx.Client, items: Sequence[_Item], answers: dict[int, StoreStatus]
    ) -> None:
        lost = ""
        for group in _groups(items):
            if lost:
                for item in group:
                    answers[item.index] = StoreStatus(item.uid, None, lost, attempted=False)
                continue
            http_status, outcome, fault = self._post(client, group)
            if http_status is None:
                lost = "not sent: the connection was lost before"
                found = [StoreStatus(i.uid, None, fault) for i in group]
            else:
                found = statuses([i.uid for i in group], http_status, outcome)
            answers.update({item.index: status for item, status in zip(group, found, strict=True)})
            if http_status is not None and blames_the_content(http_status):
                unnamed = [i for i in group if i.uid not in outcome.failed and i.uid not in outcome.stored]
                self._blame(client, unnamed, http_status, answers, alone=len(group) == 1)

    def _blame(
        self,
        client: httpx.Client,
        items: Sequence[_Item],
        http_status: int,
        answers: dict[int, StoreStatus],
        *,
        alone: bool,
    ) -> None:
        """The request was refused for its content, and not by name: each of them for itself, to know which."""
        for item in items:
            if alone:
                detail = f"HTTP {http_status}: the server refuses the object and gives no reason"
                answers[item.index] = StoreStatus(item.uid, _CANNOT_UNDERSTAND, detail)
            else:
                self._send_groups(client, [item], answers)

    def _post(self, client: httpx.Client, group: Sequence[_Item]) -> tuple[int | None, Outcome, str]:
        """HTTP status, what it says, and a fault in words; no status when there was no whole answer."""
        try:
            body = related([i.path for i in group])
            headers = {
                "Content-Type": body.content_type,
                "Content-Length": str(body.length),
                "Accept": "application/dicom+json",
            }
            with client.stream("POST", "studies", content=iter(body), headers=headers) as answer:
                content = _bounded(answer)
                return answer.status_code, read_outcome(content), ""
        except (httpx.HTTPError, OSError) as error:
            _log.warning("no answer from %s: %s", self._target.name, type(error).__name__)
            return None, Outcome(), _in_words(error)


def _bounded(answer: httpx.Response) -> bytes:
    content = b""
    for block in answer.iter_bytes():
        content += block
        if len(content) > _MOST_ANSWER_BYTES:
            return b""
    return content


def _groups(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    group: list[_Item] = []
    for item in items:
        if group and (len(group) == _MOST_FILES or sum(i.size for i in group) + item.size > _MOST_BYTES):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _in_words(error: Exception) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        cause = error.__cause__ or error
        if "certificate" in str(error).lower():
            return f"the server's certificate is not accepted ({error})"
        return f"no connection ({type(cause).__name__})"
    return f"no answer: the connection was lost ({type(error).__name__})"
