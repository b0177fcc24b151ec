"""Deliveries and pulls from outside: over HTTP, in health and metrics, and from the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from service.cli import main_app
from service.domain.people import Scope
from service.ops.loops import Loop
from service.ports import Destination, FoundStudy, MoveProgress, MoveResult, MoveWatcher
from service.store import audit, deliveries
from service.store.database import reading, transaction
from service.workflow import identity
from tests.support_api import web_over
from tests.support_app import PASSWORD, Rig, add_people
from tests.support_delivery import all_of, queue_objects, rig_for
from tests.support_dicom import free_port

LEASE = timedelta(minutes=1)
Client = Callable[[str], TestClient]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Rig]:
    made = rig_for(tmp_path, Destination("PACS", "127.0.0.1", free_port()))
    yield made
    made.app.engine.dispose()


@pytest.fixture
def people(world: Rig) -> Client:
    web = web_over(world.app)

    def client(username: str) -> TestClient:
        add_people(world.app, username)
        secret, _, _ = identity.log_in(world.app, username, PASSWORD)
        return TestClient(web, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)

    return client


def _settle(rig: Rig, *states: str) -> list[str]:
    """One object per state, as the loops would leave them; returns their ids."""
    queue_objects(rig, len(states), "PACS")
    now = rig.clock.now()
    ids = []
    with transaction(rig.app.engine) as connection:
        for state, item in zip(
            states, deliveries.claim(connection, "PACS", by="w", now=now, lease=LEASE, most=99), strict=True
        ):
            ids.append(item.id)
            if state == "REFUSED":
                deliveries.refused(connection, item, now, "A900 no")
            elif state == "DEAD":
                deliveries.given_up(connection, item, now, "no connection")
            elif state == "DELIVERED":
                deliveries.delivered(connection, item, now, "0000", commit=True)
            else:
                deliveries.postponed(connection, item, now, "A700 full")
    return ids


def test_the_list_shows_state_answers_and_next_try(world: Rig, people: Client) -> None:
    ids = _settle(world, "WAITING", "DEAD", "DELIVERED")
    client = people("planner")
    found = {d["id"]: d for d in client.get("/api/v1/deliveries").json()}
    assert set(found) == set(ids)
    waiting, dead, done = (found[i] for i in ids)
    assert (waiting["tries"], waiting["last_status"]) == (1, "A700 full")
    assert waiting["next_try_at"] > waiting["history"][0]["at"]
    assert waiting["failing_since"]
    assert (dead["state"], dead["next_try_at"], dead["can_retry"]) == ("DEAD", None, True)
    assert (done["commitment"], done["proven"], done["can_retry"]) == ("WANTED", False, False)
    assert all(d["case_code"] and d["destination"] == "PACS" for d in found.values())
    assert [d["id"] for d in client.get("/api/v1/deliveries?state=DEAD").json()] == [ids[1]]
    assert client.get("/api/v1/deliveries?state=SOMETHING").status_code == 422
    case = client.get(f"/api/v1/cases/{waiting['case_id']}").json()
    assert {d["id"] for d in case["deliveries"]} == set(ids)


def test_who_may_read_and_who_may_send_again(world: Rig, people: Client) -> None:
    (dead,) = _settle(world, "DEAD")
    anonymous = TestClient(web_over(world.app))
    assert anonymous.get("/api/v1/deliveries").status_code == 401
    board = identity.add_token(world.app, "board", [Scope.BOARD.value], "ada")
    screen = {"Authorization": f"Bearer {board}"}
    assert anonymous.get("/api/v1/deliveries", headers=screen).status_code == 403
    assert people("planner").post(f"/api/v1/deliveries/{dead}/retry").status_code == 403
    technician = people("technician")
    assert technician.post(f"/api/v1/deliveries/{dead}/retry").json() == {"id": dead}
    assert all_of(world)[0].state == "WAITING"
    problem = technician.post("/api/v1/deliveries/none/retry")
    assert (problem.status_code, problem.json()["code"]) == (404, "delivery.not_found")


def test_all_that_did_not_get_through_is_listed_and_sent_again_at_once(world: Rig, people: Client) -> None:
    ids = _settle(world, "WAITING", "DEAD", "REFUSED", "DELIVERED")
    queue_objects(world, 1, "OTHER")
    technician = people("technician")
    stuck = technician.get("/api/v1/operations/dicom").json()["stuck"]
    assert stuck["total"] == 3 and {d["id"] for d in stuck["deliveries"]} == set(ids[:3])
    assert all(d["case_code"] and d["last_status"] for d in stuck["deliveries"])
    assert people("planner").post("/api/v1/deliveries/retry?destination=PACS").status_code == 403
    answer = technician.post("/api/v1/deliveries/retry?destination=PACS")
    assert answer.json() == {"destination": "PACS", "sent_again": 3}
    after = {d.id: d for d in all_of(world, "PACS")}
    assert [(after[i].state, after[i].tries) for i in ids] == [("WAITING", 0)] * 3 + [("DELIVERED", 1)]
    assert all(after[i].next_try_at == world.clock.now() for i in ids[:3])
    assert technician.get("/api/v1/operations/dicom").json()["stuck"] == {"total": 0, "deliveries": []}
    assert technician.post("/api/v1/deliveries/retry?destination=NONE").json()["sent_again"] == 0
    with reading(world.app.engine) as connection:
        (told,) = audit.history(connection, "destination:PACS")
        assert (told.event, audit.history(connection, "destination:NONE")) == ("retried", [])


def test_dead_letters_show_in_health_and_metrics_and_do_not_stop_the_service(
    world: Rig, people: Client
) -> None:
    admin = people("admin")
    assert admin.get("/health/ready").json()["checks"]["deliveries"]["ok"]
    _settle(world, "DEAD", "REFUSED", "WAITING", "DELIVERED")
    world.clock.advance(minutes=5)
    ready = admin.get("/health/ready")
    assert ready.status_code == 200
    check = ready.json()["checks"]["deliveries"]
    assert check == {"ok": False, "refused": 1, "dead": 1, "not_committed": 0}
    text = admin.get("/metrics").text
    assert 'spineprint_deliveries{state="DEAD"} 1.0' in text
    assert 'spineprint_deliveries_commitment{state="WANTED"} 1.0' in text
    assert 'spineprint_delivery_oldest_waiting_seconds{destination="PACS"} 300.0' in text


def test_a_destination_that_takes_minutes_does_not_make_the_service_unready(world: Rig) -> None:
    slow, other = (Loop(name, 1, lambda: None) for name in ("deliver-PACS", "relay"))
    slow._last_ok -= 500
    assert TestClient(web_over(world.app, [slow, other])).get("/health/ready").status_code == 200
    other._last_ok -= 500
    assert TestClient(web_over(world.app, [slow, other])).get("/health/ready").status_code == 503


# --- pulls --------------------------------------------------------------------------------------------------


class Shelf:
    """A finder with a given content (real ones: tests/contract/test_pull.py)."""

    def __init__(self, *studies: FoundStudy, failed: int = 0) -> None:
        self.studies, self.failed = studies, failed

    def find(self, accession_number: str, destination: Destination) -> Sequence[FoundStudy]:
        return self.studies

    def move(self, study_uid: str, destination: Destination, to_ae: str, watch: MoveWatcher) -> MoveResult:
        done = MoveProgress(completed=180 - self.failed, failed=self.failed)
        return MoveResult(0xB000 if self.failed else 0, done)


ONE = FoundStudy("1.2.3", "20260101", "CT SPINE", ("CT",), 180, "P1")
TWO = FoundStudy("1.2.4", "20260102", "CT [old]", ("CT",), None, "P1")


def test_a_pull_over_http(world: Rig, people: Client) -> None:
    body = {"accession_number": "A1", "peer": "PACS"}
    assert people("surgeon").post("/api/v1/studies/pull", json=body).status_code == 403
    planner = people("planner")
    for wrong in ({"accession_number": "A*", "peer": "PACS"}, {"accession_number": "A1", "peer": "X"}):
        problem = planner.post("/api/v1/studies/pull", json=wrong)
        assert problem.status_code == 422 and problem.json()["next_step"], problem.text
    asked = planner.post("/api/v1/studies/pull", json=body)
    assert (asked.status_code, asked.json()["state"]) == (202, "QUEUED")
    assert planner.post("/api/v1/studies/pull", json=body).json()["id"] == asked.json()["id"]
    world.app = replace(world.app, finder=Shelf(ONE, failed=38))
    world.run_jobs("pull")
    found = planner.get(f"/api/v1/studies/pull/{asked.json()['id']}").json()
    assert found["state"] == "FAILED"
    assert found["error"]["code"] == "pull.incomplete"
    assert (
        found["error"]["message"]
        == "PACS could not send all images: 142 images came, 38 failed (status B000)."
    )
    assert found["sub_operations"] == {"completed": 142, "failed": 38, "warned": 0, "remaining": None}
    assert found["line"] == "0 of 180"
    again = planner.post("/api/v1/studies/pull", json=body).json()
    assert again["id"] != asked.json()["id"]
    world.app = replace(world.app, finder=Shelf(ONE, TWO))
    world.run_jobs("pull")
    newest = planner.get(f"/api/v1/studies/pull/{again['id']}").json()
    assert (newest["state"], len(newest["candidates"])) == ("AMBIGUOUS", 2)
    assert {p["id"] for p in planner.get("/api/v1/studies/pull").json()} == {asked.json()["id"], again["id"]}
    assert planner.get("/api/v1/studies/pull/none").json()["code"] == "pull.not_found"


def _command(rig: Rig, folder: Path, *arguments: str) -> list[str]:
    settings = folder / "c.toml"
    settings.write_text(
        f'data_dir = "{rig.app.config.data_dir}"\n[[dicom.peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\n'
        'port = 1\nroles = ["pacs"]\n'
    )
    return ["case", "pull", *arguments, "--user", "planner", "--password-stdin", "--config", str(settings)]


def test_a_pull_from_the_terminal(world: Rig, tmp_path: Path) -> None:
    add_people(world.app, "planner")
    command = _command(world, tmp_path, "--accession", "A1", "--from", "PACS", "--wait-s", "0")
    done = CliRunner().invoke(main_app, command, input=PASSWORD + "\n")
    assert done.exit_code == 0, done.output
    assert "QUEUED" in done.output and "serve" in done.output
    world.app = replace(world.app, finder=Shelf(ONE, TWO))
    world.run_jobs("pull")
    # Asked again: the studies to choose from are shown, with exit code 2 and the next step.
    asked = subprocess.Popen(
        [sys.executable, "-m", "service.cli", *_command(world, tmp_path, "--accession", "A1", "--from", "PACS")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip
    assert asked.stdin
    asked.stdin.write(PASSWORD + "\n")
    asked.stdin.close()
    for _ in range(600):
        world.run_jobs("pull")
        if asked.poll() is not None:
            break
        time.sleep(0.1)
    assert asked.stdout
    text = asked.stdout.read()
    asked.stdout.close()
    assert asked.returncode == 2, text
    assert "1.2.4" in text and "CT [old]" in text and "--study-uid" in text


def test_an_odd_comment_of_a_pacs_is_cut_to_what_fits(tmp_path: Path) -> None:
    rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", 1))
    queue_objects(rig, 1, "PACS")
    with transaction(rig.app.engine) as connection:
        (item,) = deliveries.claim(connection, "PACS", by="w", now=rig.clock.now(), lease=LEASE, most=1)
        deliveries.postponed(connection, item, rig.clock.now(), "x" * 5000)
    assert len(all_of(rig)[0].last_status) == 255
