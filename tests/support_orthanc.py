"""A real Orthanc as the PACS beside our node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support_dicom import free_port, listens, need, running, wait_until


@dataclass
class Orthanc:
    url: str
    dicom: int

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: object) -> Any:
        answer = requests.post(self.url + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def outcome(self, transaction: str) -> dict[str, Any]:
        """Its report on a storage commitment request it made."""
        found: dict[str, Any] = {}

        def reported() -> bool:
            found.update(self.get(f"/storage-commitment/{transaction}"))
            return found["Status"] != "Pending"

        wait_until(reported, 20, "no storage commitment report arrived at Orthanc")
        return found


@contextmanager
def orthanc(folder: Path, spine_port: int, dicom: int, *, lua: str = "") -> Iterator[Orthanc]:
    program = need("Orthanc")
    http = free_port()
    script = folder / "routing.lua"
    script.write_text(lua)
    modality = {"Host": "127.0.0.1", "AllowEcho": True, "AllowStore": True, "AllowStorageCommitment": True}
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "PACS",
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": False,
        "DicomScuTimeout": 30,
        "StableAge": 1,
        "SaveJobs": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        "LuaScripts": [str(script)],
        "DicomModalities": {
            "spine": {**modality, "AET": "SPINEPRINT", "Port": spine_port},
            "ct": {**modality, "AET": "CTSCANNER", "Port": 1},
        },
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running([program, folder / "orthanc.json"], lambda: listens(http) and listens(dicom)):
        yield Orthanc(f"http://127.0.0.1:{http}", dicom)
