"""What an administrator sees of the DICOM node: kept over restarts, shown by every process, told in words."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from adapters.dicom_node import DicomNode, DicomSender, NodeConfig
from service.ports import NodeEvent
from service.store import node_events, studies
from service.store.database import reading, transaction
from service.web import node_views
from service.workflow import identity, intake, node_watch
from tests.support_api import web_over
from tests.support_app import (
    PASSWORD,
    STUDY,
    HandNode,
    Rig,
    add_people,
    hand_over,
    make_rig,
    new_case,
    receive,
    watch,
)

DICOM = {
    "peers": [
        {"ae_title": "CT1", "host": "10.1.2.3", "port": 104, "roles": ["planning_ct"], "quiet_s": 45},
        {"ae_title": "OARM", "host": "10.1.9.0/24", "port": 0, "roles": ["oarm"]},
    ]
}


@pytest.fixture
def rig(tmp_path: Path):
    made = make_rig(tmp_path, dicom=DICOM)
    yield made
    made.app.engine.dispose()


@pytest.fixture
def ask(rig: Rig) -> Iterator[Any]:
    """ask(path, who, method): the answer of the service to that person."""
    sessions: dict[str, str] = {}

    def asked(path: str, who: str = "technician", method: str = "GET", **headers: str) -> Any:
        if who not in sessions:
            add_people(rig.app, who)
            sessions[who] = identity.log_in(rig.app, who, PASSWORD)[0]
        client = TestClient(web_over(rig.app), raise_server_exceptions=False)
        return client.request(method, path, headers={"Authorization": f"Bearer {sessions[who]}", **headers})

    yield asked


def _silence(rig: Rig) -> None:
    """Longer than CT1's own quiet time."""
    rig.clock.advance(seconds=46)
    intake.tick(rig.app, {})


def _event(rig: Rig, kind: str = "rejected_calling_ae", **values: Any) -> NodeEvent:
    known: dict[str, Any] = {
        "at": rig.clock.now(), "calling_ae": "NEW", "called_ae": "SPINEPRINT", "address": "10.1.4.7",
        "what": "calling AE title is not configured",
    }  # fmt: skip
    return NodeEvent(kind=kind, **(known | values))


def _kept(rig: Rig) -> list[node_events.StoredEvent]:
    with reading(rig.app.engine) as connection:
        return node_events.newest(connection, 5000)


def _shown(rig: Rig, *events: NodeEvent) -> dict[str, Any]:
    """How the operations page shows the newest of these events."""
    watch(rig, HandNode(events=list(events))).look()
    with reading(rig.app.engine) as connection:
        shown: dict[str, Any] = node_views.dicom_operations(rig.app, connection)["events"][0]
    return shown


# --- events --------------------------------------------------------------------------------------------------


def test_the_same_again_is_counted_not_listed_again(rig: Rig):
    watching = watch(rig, node := HandNode())
    for _ in range(50):
        node.events = [_event(rig), _event(rig, address="10.1.4.8")]
        watching.look()
        rig.clock.advance(seconds=10)
    kept = _kept(rig)
    assert [(e.address, e.times) for e in kept] == [("10.1.4.8", 50), ("10.1.4.7", 50)]
    assert kept[0].last_at - kept[0].first_at == timedelta(seconds=490)
    rig.clock.advance(hours=2)
    node.events = [_event(rig)]
    watching.look()
    assert [e.times for e in _kept(rig)] == [1, 50, 50]


def test_only_the_newest_thousand_are_kept(rig: Rig):
    events = []
    for number in range(1100):
        rig.clock.advance(seconds=1)
        events.append(_event(rig, address=f"10.1.{number // 200}.{number % 200}"))
    with transaction(rig.app.engine) as connection:
        node_events.record(connection, events)
    kept = _kept(rig)
    assert len(kept) == node_events.MOST_EVENTS == 1000
    assert kept[0].address == "10.1.5.99"
    assert kept[-1].address == "10.1.0.100"


def test_odd_titles_are_cut_to_fit(rig: Rig):
    watch(rig, HandNode(events=[_event(rig, calling_ae="X" * 40, address="y" * 100)])).look()
    (kept,) = _kept(rig)
    assert (len(kept.calling_ae), len(kept.address)) == (16, 64)


def test_events_that_could_not_be_written_are_written_later(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    watching = watch(rig, HandNode(events=[_event(rig)]))

    def locked(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as broken:
        broken.setattr(node_events, "record", locked)
        with pytest.raises(OperationalError):
            watching.look()
    assert _kept(rig) == []
    watching.look()
    assert len(_kept(rig)) == 1


# --- state of the node ---------------------------------------------------------------------------------------


def test_the_state_is_written_when_it_changes_else_now_and_then(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    written = []
    monkeypatch.setattr(
        node_events, "save_status", lambda _c, _n, document, _now: written.append(document["associations"])
    )
    watching = watch(rig, node := HandNode())
    for _ in range(10):
        watching.look()
        rig.clock.advance(seconds=0.4)
        node.counts["received"] = node.counts.get("received", 0) + 1
    assert len(written) == 1
    node.open = {"a1": "CT1"}
    watching.look()
    assert [a["calling_ae"] for a in written[-1]] == ["CT1"]
    rig.clock.advance(seconds=5)
    watching.look()
    assert len(written) == 3


def test_an_association_keeps_the_time_it_was_first_seen(rig: Rig):
    watching = watch(rig, HandNode(open={"a1": "CT1"}))
    opened = rig.clock.now()
    watching.look()
    rig.clock.advance(minutes=3)
    (association,) = watching.look().running[0].associations
    assert association.since == opened


def test_a_node_that_falls_silent_holds_nothing_open(rig: Rig):
    watch(rig, HandNode(open={"a1": "CT1"})).look()
    rig.clock.advance(seconds=21)
    with reading(rig.app.engine) as connection:
        nodes = node_watch.seen(connection, rig.clock.now())
    assert (nodes.running, len(nodes.silent), nodes.open_associations) == ((), 1, {})
    rig.clock.advance(days=8)
    watch(rig, HandNode(), machine="other").look()
    with reading(rig.app.engine) as connection:
        nodes = node_watch.seen(connection, rig.clock.now())
    assert [n.name for n in (*nodes.running, *nodes.silent)] == ["other:104"]


def test_a_node_that_was_stopped_is_told_from_one_that_was_lost(rig: Rig):
    watching = watch(rig, node := HandNode(open={"a1": "CT1"}))
    watching.look()
    node.events = [_event(rig, "aborted")]
    watching.leave()
    with reading(rig.app.engine) as connection:
        (stopped,) = node_watch.seen(connection, rig.clock.now()).silent
    assert (stopped.stopped, stopped.associations) == (True, ())
    assert [e.kind for e in _kept(rig)] == ["aborted"]


def test_a_node_that_starts_again_is_the_same_node(rig: Rig):
    for _ in range(2):
        rig.clock.advance(minutes=1)
        started = rig.clock.now()
        nodes = watch(rig, HandNode()).look()
    assert [n.listening_since for n in nodes.running] == [started]


# --- what to do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["NEW", 'A"B', "BACK/SLASH", "A'B"])
def test_an_unknown_sender_comes_with_the_lines_to_add(rig: Rig, title: str):
    shown = _shown(rig, _event(rig, calling_ae=title))
    assert shown["group"] == "rejection"
    (peer,) = tomllib.loads(shown["snippet"])["dicom"]["peers"]
    assert peer == {"ae_title": title, "host": "10.1.4.7", "port": 104, "roles": ["planning_ct"]}


@pytest.mark.parametrize(
    ("calling_ae", "address", "step", "snippet"),
    [
        ("CT1", "10.1.2.99", "configured with the address 10.1.2.3, but called from 10.1.2.99", True),
        ("CT1", "10.1.2.3", "configured now", False),
        ("OARM", "10.1.9.77", "configured now", False),
        ("OARM", "10.1.8.77", "configured with the address 10.1.9.0/24", True),
    ],
)
def test_a_known_title_from_another_address_is_told_apart(
    rig: Rig, calling_ae: str, address: str, step: str, snippet: bool
):
    shown = _shown(rig, _event(rig, calling_ae=calling_ae, address=address))
    assert step in shown["next_step"]
    assert (shown["snippet"] == f'host = "{address}"') is snippet


def test_every_kind_says_what_to_do_also_one_that_is_not_known_here(rig: Rig):
    for kind in (*node_views.REASONS, "commitment_faults", "something_new"):
        rig.clock.advance(seconds=1)
        shown = _shown(
            rig, _event(rig, kind, next_step="" if kind in node_views.REASONS else "Ask the vendor.")
        )
        assert shown["title"]
        assert shown["next_step"], kind


def test_a_call_to_another_title_names_both(rig: Rig):
    shown = _shown(rig, _event(rig, "rejected_called_ae", called_ae="SPINE"))
    assert "SPINEPRINT" in shown["next_step"]
    assert "SPINE." in shown["next_step"]


# --- API -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("who", "status"), [("technician", 200), ("admin", 200), ("surgeon", 403)])
def test_the_operations_are_for_technicians_and_administrators(ask: Any, who: str, status: int):
    assert ask("/api/v1/operations/dicom", who).status_code == status
    page = ask("/operations", who)
    assert page.status_code == status
    assert ("/static/operations.js" in page.text) is (status == 200)
    assert ask("/api/v1/operations/peers/NONE/echo", who, "POST").status_code == (
        404 if status == 200 else 403
    )


def test_the_page_shows_who_is_connected_and_what_they_brought(rig: Rig, ask: Any):
    path = receive(rig, 0, association="a1")
    rig.clock.advance(seconds=1)
    hand_over(rig, path, association="a1")
    watch(rig, HandNode(open={"a1": "CT1", "a2": "OTHER"}, counts={"received": 2})).look()
    (node,) = ask("/api/v1/operations/dicom").json()["nodes"]
    assert (node["running"], node["port"], node["counters"]) == (True, 104, {"received": 2})
    assert [(a["calling_ae"], a["images"]) for a in node["associations"]] == [("CT1", 2), ("OTHER", 0)]


def test_peers_and_others_are_told_apart(rig: Rig, ask: Any):
    receive(rig, 0, calling_ae="CT1")
    receive(rig, 1, calling_ae="STRANGER", association="a2")
    body = ask("/api/v1/operations/dicom").json()
    ct, oarm = body["peers"]
    assert (ct["address_rule"], ct["quiet_s"], ct["can_echo"]) == ("only 10.1.2.3", 45, True)
    assert ct["last_heard_at"] is not None
    assert (oarm["address_rule"], oarm["can_echo"], oarm["last_heard_at"]) == (
        "only 10.1.9.0/24",
        False,
        None,
    )
    assert [o["calling_ae"] for o in body["other_senders"]] == ["STRANGER"]


def test_quarantine_shows_both_copies_and_their_senders(rig: Rig, ask: Any):
    new_case(rig, images=2)
    receive(rig, 0, seed=5, calling_ae="OTHER")
    bad = rig.app.config.data_dir / "dicom" / "bad.dcm"
    bad.write_bytes(b"\0" * 128 + b"DICM\x02\x00")
    hand_over(rig, bad)
    body = ask("/api/v1/operations/dicom").json()
    (copy,) = body["quarantine"]["copies"]
    assert body["quarantine"]["total"] == 1
    assert (copy["used"]["calling_ae"], copy["aside"]["calling_ae"]) == ("CT1", "OTHER")
    assert copy["used"]["sha256"] != copy["aside"]["sha256"]
    assert copy["why"] == "other content under the same UID"
    (file,) = body["unreadable"]["files"]
    assert (file["file"], file["calling_ae"]) == ("bad.dcm", "CT1")
    assert str(rig.app.config.data_dir) not in str(body)


@pytest.mark.parametrize("path", ["/api/v1/studies", f"/api/v1/studies/{STUDY}", "/api/v1/cases"])
def test_the_passing_of_time_alone_is_no_change_for_a_poll(rig: Rig, ask: Any, path: str):
    watching = watch(rig, HandNode())
    new_case(rig)
    watching.look()
    first = ask(path)
    rig.clock.advance(seconds=7)
    watching.look()
    assert ask(path, **{"If-None-Match": first.headers["etag"]}).status_code == 304
    receive(rig, 9)
    later = ask(path, **{"If-None-Match": first.headers["etag"]})
    assert later.status_code == 200


def test_the_operations_poll_changes_only_with_the_facts(rig: Rig, ask: Any):
    watching = watch(rig, node := HandNode())
    watching.look()
    first = ask("/api/v1/operations/dicom")
    rig.clock.advance(seconds=7)
    watching.look()
    tag = {"If-None-Match": first.headers["etag"]}
    assert ask("/api/v1/operations/dicom", **tag).status_code == 304
    node.events = [_event(rig)]
    watching.look()
    assert ask("/api/v1/operations/dicom", **tag).status_code == 200


def test_a_study_in_detail(rig: Rig, ask: Any):
    new_case(rig, images=3)
    receive(rig, 5, series="1.2.3.4", Modality="SR")
    receive(rig, 0, seed=5)
    _silence(rig)
    receive(rig, 6, calling_ae="OTHER", association="a7")
    watch(rig, HandNode(open={"a7": "OTHER"})).look()
    body = ask(f"/api/v1/studies/{STUDY}", "surgeon").json()
    counts = {(s["modality"], s["images"], s["aside"]) for s in body["series"]}
    assert counts == {("CT", 4, 1), ("SR", 1, 0)}
    assert [(r["revision"], r["images"]) for r in body["revisions"]] == [(1, 4), (2, 1)]
    assert {(s["calling_ae"], s["quiet_s"]) for s in body["senders"]} == {("CT1", 45.0), ("OTHER", 30.0)}
    assert body["live"]["held_by"] == ["OTHER"]
    assert body["live"]["closes_in_s"] is None
    assert body["live"]["text"].startswith("5 slices, revision 2: 1 image arrived after completion")
    assert ask("/api/v1/studies/1.2.3", "surgeon").status_code == 404


def test_deciding_about_late_images_over_http(rig: Rig, ask: Any):
    case = new_case(rig)
    _silence(rig)
    rig.run_jobs("inspect")
    receive(rig, 9)
    _silence(rig)
    shown = ask(f"/api/v1/cases/{case.id}", "planner").json()
    assert {"inspect_again", "keep_images"} <= set(shown["possible_events"])
    assert shown["late_images"]["decided"] is False
    assert "inspect_again" not in ask(f"/api/v1/cases/{case.id}", "technician").json()["possible_events"]
    client = TestClient(web_over(rig.app), raise_server_exceptions=False)
    secret, _, _ = identity.log_in(rig.app, "planner", PASSWORD)
    headers = {"Authorization": f"Bearer {secret}"}
    stale = client.post(f"/api/v1/cases/{case.id}/keep-images", json={"revision": 1}, headers=headers)
    assert (stale.status_code, stale.json()["code"]) == (409, "case.stale")
    assert client.post(
        f"/api/v1/cases/{case.id}/keep-images", json={"revision": 2}, headers=headers
    ).is_success
    assert ask(f"/api/v1/cases/{case.id}", "planner").json()["late_images"]["kept"]["by"] == "planner"
    again = client.post(f"/api/v1/cases/{case.id}/inspect-again", headers=headers)
    assert (again.status_code, again.json()["state"]) == (202, "RECEIVING")


def test_an_echo_reaches_a_real_node(rig: Rig, tmp_path: Path, ask: Any):
    node = DicomNode(NodeConfig("127.0.0.1", 0, tmp_path / "store", "CT1"), lambda _: None)
    node.start()
    try:
        peer = rig.app.config.dicom.peers[0].model_copy(update={"host": "127.0.0.1", "port": node.port})
        dicom = rig.app.config.dicom.model_copy(update={"peers": (peer, rig.app.config.dicom.peers[1])})
        config = rig.app.config.model_copy(update={"dicom": dicom})
        rig.app = replace(rig.app, config=config, sender=DicomSender("SPINEPRINT", connect_timeout_s=2.0))
        answer = ask("/api/v1/operations/peers/CT1/echo", method="POST").json()
        assert (answer["ae_title"], answer["answers"]) == ("CT1", True)
        refused = ask("/api/v1/operations/peers/OARM/echo", method="POST")
        assert (refused.status_code, refused.json()["code"]) == (409, "peer.no_address")
    finally:
        node.stop()
    assert ask("/api/v1/operations/peers/CT1/echo", method="POST").json()["answers"] is False


# --- monitoring ----------------------------------------------------------------------------------------------


def _metrics(rig: Rig) -> str:
    secret = identity.add_token(rig.app, "monitoring", ["metrics"], "ada")
    client = TestClient(web_over(rig.app), headers={"Authorization": f"Bearer {secret}"})
    return client.get("/metrics").text


def test_monitoring_sees_the_node_from_a_process_without_one(rig: Rig):
    assert rig.app.node is None
    new_case(rig)
    receive(rig, 0, seed=5)
    rig.clock.advance(seconds=12)
    counts = {"received": 4, "rejected_calling_ae": 341, "rejected_limit": 2}
    watch(rig, HandNode(open={"a1": "CT1"}, counts=counts)).look()
    text = _metrics(rig)
    for line in (
        'spineprint_dicom_total{event="received"} 4.0',
        'spineprint_dicom_rejections{reason="calling_ae"} 341.0',
        'spineprint_dicom_rejections{reason="limit"} 2.0',
        'spineprint_studies{kind="planning_ct",state="RECEIVING"} 1.0',
        "spineprint_dicom_nodes_running 1.0",
        "spineprint_open_associations 1.0",
        "spineprint_quarantined_instances 1.0",
        "spineprint_seconds_since_last_instance 12.0",
    ):
        assert line in text, line
    for private in ("TEST-1", "TEST^PATIENT", STUDY, "CT1"):
        assert private not in text


def test_monitoring_sees_that_no_node_runs(rig: Rig):
    watch(rig, HandNode(open={"a1": "CT1"})).look()
    rig.clock.advance(minutes=5)
    text = _metrics(rig)
    assert "spineprint_dicom_nodes_running 0.0" in text
    assert "spineprint_open_associations 0.0" in text


def test_the_intake_loop_holds_what_the_real_node_carries(rig: Rig, tmp_path: Path):
    """The very loop of the daemon, over a real node."""
    from service.bootstrap import _intake_tick

    node = DicomNode(NodeConfig("127.0.0.1", 0, tmp_path / "store"), lambda _: None)
    node.start()
    try:
        rig.app = replace(rig.app, node=node)
        new_case(rig)
        watching = node_watch.NodeWatch(rig.app, node, "ward", node.port, rig.clock.now())
        _intake_tick(watching)
        with reading(rig.app.engine) as connection:
            (seen,) = node_watch.seen(connection, rig.clock.now()).running
            assert seen.port == node.port
            assert studies.need(connection, STUDY).state == "RECEIVING"
        rig.clock.advance(seconds=46)
        _intake_tick(watching)
        with reading(rig.app.engine) as connection:
            assert studies.need(connection, STUDY).state == "COMPLETE"
    finally:
        node.stop()
