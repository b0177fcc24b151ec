"""A thin HTTP client of the service, for people and screens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx


class ServiceError(Exception):
    """The service refused; `code` and `next_step` as it said them."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('title')} Next: {problem.get('next_step')}")
        self.status = status
        self.code = str(problem.get("code", ""))


class Service:
    """One address, several logged-in people. Calls wait out a restart of the service."""

    def __init__(self, url: str, passwords: Mapping[str, str], *, patience_s: float = 180.0) -> None:
        self.url = url
        self.passwords = dict(passwords)
        self._patience_s = patience_s
        self._http = httpx.Client(base_url=url, timeout=30.0)
        self._tokens: dict[str, str] = {}

    def get(self, path: str, *, who: str) -> Any:
        return self._call("GET", path, who, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, who: str) -> Any:
        return self._call("POST", path, who, body or {})

    def upload(self, path: str, file: Path, form: Mapping[str, str], *, who: str) -> Any:
        """One multipart request with a file."""
        return self._send(
            "POST", path, who, data=dict(form), files={"file": (file.name, file.read_bytes())}
        ).json()

    def send_bytes(self, path: str, content: bytes, media_type: str, *, who: str) -> Any:
        """A file as it is."""
        return self._send("POST", path, who, content=content, extra={"Content-Type": media_type}).json()

    def fetch(self, path: str, *, who: str) -> bytes:
        return self._send("GET", path, who).content

    def close(self) -> None:
        self._http.close()

    def alive(self) -> bool:
        try:
            return self._http.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def _call(self, method: str, path: str, who: str, body: Mapping[str, Any] | None) -> Any:
        response = self._send(method, path, who, json=body)
        return response.json() if response.content else None

    def _send(
        self, method: str, path: str, who: str, *, extra: Mapping[str, str] | None = None, **content: Any
    ) -> httpx.Response:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                headers = {"Authorization": f"Bearer {self._token(who)}", **(extra or {})}
                response = self._http.request(method, path, headers=headers, **content)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
                continue
            if response.status_code == 401 and who in self._tokens:
                del self._tokens[who]
                continue
            if response.status_code >= 400:
                raise ServiceError(response.status_code, _problem(response))
            return response

    def _token(self, who: str) -> str:
        if who not in self._tokens:
            answer = self._http.post("/api/v1/login", json={"username": who, "password": self.passwords[who]})
            if answer.status_code != 200:
                raise ServiceError(answer.status_code, _problem(answer))
            self._tokens[who] = str(answer.json()["token"])
        return self._tokens[who]


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        found: dict[str, Any] = response.json()
    except ValueError:
        found = {"title": response.text[:200], "code": "?", "next_step": ""}
    return found
