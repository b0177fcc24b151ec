"""The whole daemon beside a real Orthanc: results out by C-STORE and STOW-RS, committed to, and a study fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support_app import PASSWORD, add_people
from tests.support_delivery import all_of, queue_objects, rig_for, states
from tests.support_dicom import ROOT, free_port, run, wait_until, write_series
from tests.support_pacs import orthanc

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_daemon_sends_is_answered_for_and_fetches(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc", plugins=True, DicomAet="PACS") as pacs:
        web, dicom = free_port(), free_port()
        pacs.put("/modalities/spine", {"AET": "SPINEPRINT", "Host": "127.0.0.1", "Port": dicom})
        write_series(tmp_path / "ct", 4, AccessionNumber="A77", study=f"{ROOT}.71", series=f"{ROOT}.72")
        run("storescu", "-aec", "PACS", "127.0.0.1", pacs.dicom.port, "+sd", tmp_path / "ct")
        rig = rig_for(tmp_path, pacs.dicom)
        add_people(rig.app, "planner")
        uids = queue_objects(rig, 3, "PACS", "VNA")
        rig.app.engine.dispose()
        settings = tmp_path / "spineprint.toml"
        settings.write_text(
            f"""
data_dir = "{rig.app.config.data_dir}"
[web]
port = {web}
[dicom]
port = {dicom}
disk_reserve_mb = 1
require_known_peers = true
[[dicom.peers]]
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs.dicom.port}
roles = ["pacs", "planning_ct"]
commitment = true
[[dicom.web_destinations]]
name = "VNA"
url = "{pacs.web_url}"
"""
        )
        log = tmp_path / "log"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SPINEPRINT_")}
        with log.open("w") as output:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve", "--config", settings],
                cwd=REPOSITORY, env=environ, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                client = _client(web, daemon, log)
                _fetch(client)
                wait_until(lambda: states(rig) == ["DELIVERED"] * 6, 60, "not all was delivered")
                wait_until(
                    lambda: {d.commit_state for d in all_of(rig, "PACS")} == {"COMMITTED"},
                    60,
                    "no commitment",
                )
                assert {d.commit_state for d in all_of(rig, "VNA")} == {""}
                ready = client.get("/health/ready").json()
                assert ready["checks"]["deliveries"]["ok"], ready
                assert {"loop.deliver-PACS", "loop.deliver-VNA"} <= set(ready["checks"])
            finally:
                daemon.terminate()
                daemon.wait(30)
        assert set(uids) <= set(pacs.instances())
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


def _client(port: int, daemon: subprocess.Popen[bytes], log: Path) -> httpx.Client:
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    def alive() -> bool:
        assert daemon.poll() is None, log.read_text()[-3000:]
        try:
            return client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(alive, 90, "the daemon did not come up")
    assert client.post("/api/v1/login", json={"username": "planner", "password": PASSWORD}).status_code == 200
    return client


def _fetch(client: httpx.Client) -> None:
    asked = client.post("/api/v1/studies/pull", json={"accession_number": "A77", "peer": "PACS"}).json()
    seen: dict[str, Any] = {}

    def ended() -> bool:
        seen.update(client.get(f"/api/v1/studies/pull/{asked['id']}").json())
        return seen["state"] in ("DONE", "FAILED", "AMBIGUOUS") and seen["arrived"] == 4

    wait_until(ended, 60, f"the study did not come: {seen}")
    assert (seen["state"], seen["line"]) == ("DONE", "4 of 4")
    study = next(s for s in client.get("/api/v1/studies").json() if s["study_uid"] == f"{ROOT}.71")
    assert "4 of 4" in str(study), study
