"""`service.ports.Camera` of an Ultimaker 3: one JPEG by the address the printer redirects to (sheet, section 2.7)."""

from __future__ import annotations

import time
from urllib.parse import urljoin, urlsplit

import requests

from service.errors import DeviceError

_MOST_BYTES = 5 << 20
_MOST_HOPS = 3
_JPEG = b"\xff\xd8\xff"


class UltimakerCamera:
    """The first camera of the printer at `url`. Nothing is asked for but the picture, without credentials."""

    def __init__(self, url: str, *, connect_s: float = 3.0, read_s: float = 5.0) -> None:
        self._url = url.rstrip("/") + "/api/v1/camera/0/snapshot"
        self._host = urlsplit(url).hostname
        self._times = (connect_s, read_s)

    def snapshot(self) -> bytes:
        """A JPEG, at most 5 MB. Raises DeviceError when there is none, or the printer sends us to another machine."""
        address = self._url
        try:
            with requests.Session() as session:
                session.trust_env = (
                    False  # no proxy, no netrc between us and a device on the hospital's network
                )
                for _ in range(_MOST_HOPS):
                    with session.get(
                        address, timeout=self._times, allow_redirects=False, stream=True
                    ) as answer:
                        if answer.status_code not in (301, 302, 303, 307, 308):
                            return self._picture(answer)
                        address = urljoin(address, answer.headers.get("Location", ""))
                    if urlsplit(address).hostname != self._host or urlsplit(address).scheme != "http":
                        raise _no_picture("it points to another machine")
        except requests.exceptions.RequestException as error:
            raise _no_picture("no answer") from error
        raise _no_picture("it redirects again and again")

    def _picture(self, answer: requests.Response) -> bytes:
        if answer.status_code != 200:
            raise _no_picture(f"answer {answer.status_code}")
        ends = time.monotonic() + self._times[1]
        body = bytearray()
        for block in answer.iter_content(65536):
            body += block
            if len(body) > _MOST_BYTES or time.monotonic() > ends:
                raise _no_picture("too large or too slow")
        if not body.startswith(_JPEG):
            raise _no_picture("what came is no JPEG")
        return bytes(body)


def _no_picture(why: str) -> DeviceError:
    return DeviceError(
        f"The printer's camera gives no picture: {why}.",
        next_step="Nothing has to be done for the print; see the camera setting at the printer.",
        code="printer.camera",
    )
