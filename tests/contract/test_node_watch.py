"""A process without the node shows what the node in another process does: the real daemon, real senders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pynetdicom import AE

from service.bootstrap import open_app
from service.config import Config
from service.workflow import identity
from service.workflow.app import App
from tests.support_api import web_over
from tests.support_app import PASSWORD, STUDY, add_people
from tests.support_dicom import CT_IMAGE, ct_slice, free_port, need, save, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Apart:
    """`serve --role dicom` as a process of its own, and the web service here, on one database."""

    app: App
    port: int
    web: TestClient
    log: Path
    daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SPINEPRINT_")} | {
            "SPINEPRINT_DATA_DIR": str(self.app.config.data_dir),
            "SPINEPRINT_DICOM__PORT": str(self.port),
            "SPINEPRINT_DICOM__QUIET_S": "4",
            "SPINEPRINT_DICOM__DISK_RESERVE_MB": "0",
        }
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--role", "dicom"],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("ab"),
        )

        def is_heard() -> bool:
            assert self.daemon is not None and self.daemon.poll() is None, self.log.read_text()[-2000:]
            return self.nodes(running=True) != []

        wait_until(is_heard, 120, "no node was heard of")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.daemon:
            self.daemon.send_signal(how)
            self.daemon.wait(60)
            self.daemon = None

    def operations(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.web.get("/api/v1/operations/dicom").json()
        return shown

    def nodes(self, *, running: bool) -> list[dict[str, Any]]:
        return [n for n in self.operations()["nodes"] if n["running"] is running]

    def study(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.web.get(f"/api/v1/studies/{STUDY}").json()
        return shown


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    port = free_port()
    config = Config.model_validate({"data_dir": tmp_path / "data", "dicom": {"quiet_s": 4, "port": port}})
    app = open_app(config)
    add_people(app, "technician")
    secret, _, _ = identity.log_in(app, "technician", PASSWORD)
    web = TestClient(web_over(app), headers={"Authorization": f"Bearer {secret}"})
    made = Apart(app, port, web, tmp_path / "log")
    try:
        made.start()
        yield made
    finally:
        made.stop(signal.SIGKILL)
        app.engine.dispose()


def test_open_associations_and_rejections_are_seen_from_another_process(apart: Apart, tmp_path: Path):
    need("echoscu")
    sender = AE("CT9")
    sender.add_requested_context(CT_IMAGE, "1.2.840.10008.1.2.1")
    association = sender.associate("127.0.0.1", apart.port, ae_title="SPINEPRINT")
    assert association.is_established
    try:
        image = save(ct_slice(0, size=8), tmp_path / "0.dcm")
        assert association.send_c_store(image).Status == 0
        wait_until(
            lambda: apart.study().get("live", {}).get("held_by") == ["CT9"], 20, "nobody holds the study open"
        )
        (node,) = apart.nodes(running=True)
        assert (node["port"], node["ae_title"]) == (apart.port, "SPINEPRINT")
        assert [(a["calling_ae"], a["images"]) for a in node["associations"]] == [("CT9", 1)]
        # Longer than the quiet time: the open association holds it.
        time.sleep(5)
        assert apart.study()["state"] == "RECEIVING"
        assert apart.study()["live"]["text"].endswith("held open by CT9")
    finally:
        association.release()
    wait_until(lambda: apart.study()["state"] == "COMPLETE", 20, "the study was not completed")

    command = ["echoscu", "-aet", "CT7", "-aec", "WRONG", "127.0.0.1", str(apart.port)]
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode != 0
    wait_until(lambda: apart.operations()["events"] != [], 20, "the rejection was not shown")
    (event,) = apart.operations()["events"]
    assert (event["kind"], event["calling_ae"], event["called_ae"]) == ("rejected_called_ae", "CT7", "WRONG")
    assert "SPINEPRINT" in event["next_step"]

    apart.stop()
    (stopped,) = apart.nodes(running=False)
    assert stopped["stopped"]
    assert [e["kind"] for e in apart.operations()["events"]] == ["rejected_called_ae"]
    apart.start()
    (again,) = apart.nodes(running=True)
    assert again["listening_since"] > node["listening_since"]
    assert [e["kind"] for e in apart.operations()["events"]] == ["rejected_called_ae"]
