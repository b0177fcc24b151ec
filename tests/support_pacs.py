"""A real Orthanc for one test: DICOM, REST and, when installed, DICOMweb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.ports import Destination
from tests.support_dicom import free_port, listens, need, running

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    dicom: Destination
    url: str
    auth: tuple[str, str] | None = None

    @property
    def web_url(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> Any:
        return self._request("GET", path).json()

    def put(self, path: str, body: Any) -> None:
        self._request("PUT", path, json=body)

    def instances(self) -> dict[str, bytes]:
        """SOP instance UID -> the file as Orthanc gives it out."""
        found = {}
        for key in self.get("/instances"):
            tags = self.get(f"/instances/{key}/simplified-tags")
            found[tags["SOPInstanceUID"]] = self._request("GET", f"/instances/{key}/file").content
        return found

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = httpx.request(
            method, f"{self.url}{path}", auth=self.auth, trust_env=False, timeout=30, **options
        )
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer


@contextmanager
def orthanc(
    folder: Path,
    *,
    plugins: bool = False,
    auth: tuple[str, str] | None = None,
    **settings: Any,
) -> Iterator[Orthanc]:
    """`settings` are Orthanc's own keys; `plugins` loads DICOMweb (skips the test when it is not installed)."""
    program = need("Orthanc")
    if plugins and not DICOMWEB.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port, http = free_port(), free_port()
    configuration = {
        "Name": "PACS", "DicomAet": "ORTHANC", "DicomPort": port, "HttpPort": http, "StorageDirectory": str(folder),
        "IndexDirectory": str(folder), "RemoteAccessAllowed": False, "AuthenticationEnabled": auth is not None,
        "RegisteredUsers": dict([auth]) if auth else {}, "DicomServerEnabled": True, "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True, "DicomCheckCalledAet": False,
        "Plugins": [str(DICOMWEB)] if plugins else [],
    } | settings  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration), "utf-8")
    with running([program, folder / "orthanc.json"], lambda: listens(http) and listens(port), timeout=40):
        yield Orthanc(Destination("ORTHANC", "127.0.0.1", port), f"http://127.0.0.1:{http}", auth)
