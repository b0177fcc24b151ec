"""The web door over a test's service, served by uvicorn on a free port, and bodies as clients send them."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from adapters.dicom_node.web_door import WebDoor
from service.store import studies
from service.store.database import reading
from service.store.studies import StoredInstance
from service.workflow import identity, intake
from tests.support_api import web_over
from tests.support_app import PASSWORD, Rig, add_people
from tests.support_dicom import ct_slice, save, wait_until

BOUNDARY = "border-7"
STOW_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


@dataclass
class DoorRig:
    """`rig.app` has the door; `url` is the address of the pages."""

    rig: Rig
    door: WebDoor
    url: str = ""
    clients: list[httpx.Client] = field(default_factory=list)

    def person(self, username: str = "planner") -> httpx.Client:
        add_people(self.rig.app, username)
        secret, _, _ = identity.log_in(self.rig.app, username, PASSWORD)
        return self.client(secret)

    def machine(self, *scopes: str) -> httpx.Client:
        return self.client(identity.add_token(self.rig.app, "-".join(scopes), scopes, "ada"))

    def client(self, secret: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        made = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        self.clients.append(made)
        return made

    def settle(self) -> None:
        """Wait until everything kept has been sorted into its study."""
        wait_until(lambda: self.door.counters()["intake_waiting"] == 0, what="the intake did not finish")

    def instances(self, study_uid: str) -> list[StoredInstance]:
        self.settle()
        with reading(self.rig.app.engine) as connection:
            return studies.instances_of(connection, study_uid)


def make_door(rig: Rig, *, disk_reserve_bytes: int = 0) -> WebDoor:
    data = rig.app.config.data_dir
    return WebDoor(
        data / "dicom-web",
        partial(intake.accept_instance, rig.app),
        scratch=data / "uploads" / "arriving",
        disk_reserve_bytes=disk_reserve_bytes,
        now=rig.app.clock.now,
    )


@contextmanager
def served_door(rig: Rig, *, disk_reserve_bytes: int = 0) -> Iterator[DoorRig]:
    door = make_door(rig, disk_reserve_bytes=disk_reserve_bytes)
    door.start()
    rig.app = replace(rig.app, door=door)
    made = DoorRig(rig, door)
    server = uvicorn.Server(
        uvicorn.Config(web_over(rig.app), host="127.0.0.1", port=0, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield made
    finally:
        for client in made.clients:
            client.close()
        server.should_exit = True
        thread.join(timeout=10)
        door.stop()


def ct_file(folder: Path, index: int = 0, *, name: str = "", **options: Any) -> Path:
    """One CT slice as a whole Part-10 file; options as of `ct_slice`."""
    folder.mkdir(parents=True, exist_ok=True)
    return save(ct_slice(index, **({"size": 8} | options)), folder / (name or f"IM{index:05d}"))


def related(
    *parts: bytes, end: bool = True, headers: Mapping[str, str] | None = None, boundary: str = BOUNDARY
) -> bytes:
    """A multipart/related body."""
    lines = "".join(f"{k}: {v}\r\n" for k, v in (headers or {"Content-Type": "application/dicom"}).items())
    body = b"".join(f"--{boundary}\r\n{lines}\r\n".encode() + part + b"\r\n" for part in parts)
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


def stow(client: httpx.Client, body: Any, *, path: str = "/dicom-web/studies") -> httpx.Response:
    return client.post(path, content=body, headers={"Content-Type": STOW_TYPE})


def zipped(files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def upload(client: httpx.Client, *files: tuple[str, bytes], **query: str) -> httpx.Response:
    return client.post(
        "/api/v1/uploads", files=[("file", (name, data)) for name, data in files], params=query
    )
