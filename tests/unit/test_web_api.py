"""The HTTP service from outside: nothing open to strangers, problems in one shape, polling, roles, odd requests."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, UploadFile
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from service.domain.case import CaseState
from service.domain.people import Scope
from service.ops.loops import Loop
from service.store import blobs, prints
from service.store.database import reading, transaction
from service.web.access import COOKIE
from service.web.limits import LARGEST_BODY
from service.web.routers import cases as cases_router
from service.workflow import build, identity
from tests.support_api import web_over
from tests.support_app import PASSWORD, PLANNER, STUDY, Rig, add_people, bring, park, receive

#: Open on purpose: liveness, a bare yes or no of readiness, logging in and out, and the shells of pages that hold
#: no data of their own (the board's and the operating room's content needs the screen's token at the API).
OPEN = {
    ("GET", "/health/live"), ("GET", "/health/ready"), ("POST", "/api/v1/login"), ("POST", "/api/v1/logout"),
    ("GET", "/login"), ("GET", "/board"), ("GET", "/or/{case_id}"),
}  # fmt: skip
PATIENT = ("TEST-1", "TEST^PATIENT", "19500101", '"A1"')


@pytest.fixture
def web(rig: Rig) -> FastAPI:
    return web_over(rig.app)


@pytest.fixture
def anonymous(web: FastAPI) -> Iterator[TestClient]:
    with TestClient(web, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def people(rig: Rig, web: FastAPI) -> Any:
    """people("surgeon") -> a client with that person's session (bearer)."""

    def client(username: str) -> TestClient:
        add_people(rig.app, username)
        secret, _, _ = identity.log_in(rig.app, username, PASSWORD)
        return TestClient(web, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)

    return client


@pytest.fixture
def screen(rig: Rig, web: FastAPI) -> Any:
    def client(*scopes: str) -> TestClient:
        secret = identity.add_token(rig.app, "-".join(scopes), scopes, "ada")
        return TestClient(web, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)

    return client


def _routes(web: FastAPI) -> list[tuple[str, str]]:
    found = []
    for route in _flat(web.routes):
        for method in getattr(route, "methods", None) or ():
            if method not in ("HEAD", "OPTIONS"):
                found.append((method, route.path))
    return sorted(set(found))


def _flat(routes: Any) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "effective_candidates", None)
        if inner is not None:
            yield from _flat(inner())
        else:
            yield route


def _problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "code", "next_step", "retryable", "details"} == set(body)
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["next_step"]
    return body


# --- strangers -----------------------------------------------------------------------------------------------


def test_every_route_but_the_open_ones_asks_who_is_there(web: FastAPI, anonymous: TestClient):
    routes = _routes(web)
    assert len(routes) > 40
    assert set(routes) >= OPEN
    for method, path in routes:
        if (method, path) in OPEN:
            continue
        url = re.sub(r"\{[^}]+\}", "axial" if "slices" in path else "x", path)
        for headers in ({}, {"Authorization": "Bearer guessed"}, {"Cookie": f"{COOKIE}=guessed"}):
            answer = anonymous.request(method, url, headers=headers)
            # A form that is not right may be told before the login is asked for; nothing is done or shown.
            assert answer.status_code in (401, 422), (method, path, answer.status_code)
            if method == "GET":
                _problem(answer, 401, "auth.required")
                assert answer.headers["www-authenticate"] == "Bearer"


def test_the_description_of_the_api_is_for_people_who_are_logged_in(anonymous: TestClient, people: Any):
    assert anonymous.get("/docs").status_code == 401
    assert anonymous.get("/openapi.json").status_code == 401
    client = people("admin")
    assert "swagger" in client.get("/docs").text.lower()
    assert "/api/v1/cases" in client.get("/openapi.json").json()["paths"]


def test_health_tells_strangers_nothing_but_yes_or_no(anonymous: TestClient, people: Any, screen: Any):
    assert set(anonymous.get("/health/live").json()) <= {"status", "version"}
    answer = anonymous.get("/health/ready")
    assert set(answer.json()) == {"status"}
    assert set(screen("board").get("/health/ready").json()) == {"status"}
    for client in (people("admin"), screen("metrics")):
        assert {"database", "disk", "deliveries"} <= set(client.get("/health/ready").json()["checks"])


def test_a_loop_that_hangs_makes_the_service_not_ready(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    loop = Loop("intake", 1.0, lambda: None)
    client = TestClient(web_over(rig.app, [loop]))
    monkeypatch.setattr("service.web.routers.operations.shutil.disk_usage", lambda _: _Disk(10**12))
    assert client.get("/health/ready").status_code == 200
    monkeypatch.setattr(Loop, "seconds_since_ok", property(lambda _: 121.0))
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})


class _Disk:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_full_disk_is_not_ready(rig: Rig, anonymous: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("service.web.routers.operations.shutil.disk_usage", lambda _: _Disk(1 << 20))
    assert anonymous.get("/health/ready").status_code == 503
    assert anonymous.get("/health/live").status_code == 200


def test_a_dead_database_is_said_so_not_a_crash(rig: Rig, web: FastAPI, monkeypatch: pytest.MonkeyPatch):
    def dead(*_: object, **__: object) -> None:
        raise OperationalError("SELECT patient_name", {"x": "TEST^PATIENT"}, Exception("disk I/O error"))

    monkeypatch.setattr(rig.app.engine, "connect", dead)
    client = TestClient(web, headers={"Authorization": "Bearer x"}, raise_server_exceptions=False)
    assert (client.get("/health/ready").status_code, client.get("/health/live").status_code) == (503, 200)
    body = _problem(client.get("/api/v1/cases"), 503, "storage.database")
    assert body["retryable"] is True
    assert "PATIENT" not in str(body)


# --- logging in ----------------------------------------------------------------------------------------------


def test_logging_in_sets_a_cookie_that_scripts_cannot_read(rig: Rig, anonymous: TestClient):
    add_people(rig.app, "surgeon")
    answer = anonymous.post("/api/v1/login", json={"username": "surgeon", "password": PASSWORD})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert anonymous.get("/api/v1/me").json()["roles"] == ["surgeon"]
    anonymous.post("/api/v1/logout")
    assert anonymous.get("/api/v1/me").status_code == 401


def test_a_wrong_password_is_a_problem(rig: Rig, anonymous: TestClient):
    add_people(rig.app, "surgeon")
    answer = anonymous.post("/api/v1/login", json={"username": "surgeon", "password": "wrong-password"})
    assert "wrong-password" not in str(_problem(answer, 401, "auth.failed"))


def test_a_page_sends_strangers_to_the_login(anonymous: TestClient):
    answer = anonymous.get("/cases/a&b", headers={"Accept": "text/html"}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/cases/a%26b"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Origin": "http://testserver"}, 404),
        ({}, 404),
    ],
)
def test_a_cookie_does_not_let_another_site_act(
    rig: Rig, anonymous: TestClient, headers: dict[str, str], status: int
):
    add_people(rig.app, "planner")
    anonymous.post("/api/v1/login", json={"username": "planner", "password": PASSWORD})
    answer = anonymous.post("/api/v1/cases/nobody/cancel", json={"reason": "x"}, headers=headers)
    assert answer.status_code == status
    if status == 403:
        _problem(answer, 403, "auth.cross_site")


# --- roles and screens ---------------------------------------------------------------------------------------


@pytest.fixture
def plan_ready(rig: Rig) -> str:
    return bring(rig, CaseState.PLAN_READY).id


def _current(rig: Rig, case_id: str) -> dict[str, str]:
    with reading(rig.app.engine) as connection:
        current = blobs.current(connection, case_id)
    return {"plan_sha256": current["plan"].sha256, "mesh_sha256": current["mesh"].sha256}


def test_approving_through_the_api(rig: Rig, plan_ready: str, people: Any):
    url = f"/api/v1/cases/{plan_ready}/approve"
    body = _current(rig, plan_ready) | {"acknowledged": ["planning.1"], "password": PASSWORD}
    _problem(people("technician").post(url, json=body), 403, "case.role")
    surgeon = people("surgeon")
    refused = _problem(surgeon.post(url, json=body | {"password": "wrong-password"}), 409, "case.guard")
    assert refused["details"] == {"guards": ["signed"]}
    answer = surgeon.post(url, json=body)
    assert (answer.status_code, answer.json()["state"]) == (200, "APPROVED")
    _problem(surgeon.post(url, json=body), 409, "case.state")


def test_only_a_technician_starts_a_print(rig: Rig, people: Any):
    case = bring(rig.with_printers({"um3": None}), CaseState.SLICED)  # type: ignore[dict-item]
    client = TestClient(web_over(rig.app))
    with reading(rig.app.engine) as connection:
        seen = blobs.current(connection, case.id)["gcode"].sha256
    body = {"printer": "um3", "bed_clear": True, "gcode_sha256": seen}
    for username, status in (("planner", 403), ("technician", 202)):
        add_people(rig.app, username)
        secret, _, _ = identity.log_in(rig.app, username, PASSWORD)
        answer = client.post(
            f"/api/v1/cases/{case.id}/print", json=body, headers={"Authorization": f"Bearer {secret}"}
        )
        assert answer.status_code == status, answer.text
    with reading(rig.app.engine) as connection:
        assert len(prints.listed(connection, case_id=case.id)) == 1


@pytest.mark.parametrize("left_out", ["gcode_sha256", "bed_clear"])
def test_no_print_is_started_without_what_the_page_asks_for(rig: Rig, left_out: str):
    case = bring(rig.with_printers({"um3": None}), CaseState.SLICED)  # type: ignore[dict-item]
    add_people(rig.app, "technician")
    secret, _, _ = identity.log_in(rig.app, "technician", PASSWORD)
    technician = TestClient(web_over(rig.app), headers={"Authorization": f"Bearer {secret}"})
    row = technician.get("/api/v1/print-queue").json()[0]
    with reading(rig.app.engine) as connection:
        assert row["gcode_sha256"] == blobs.current(connection, case.id)["gcode"].sha256
    by_name = {"printer": "um3", "bed_clear": True, "gcode_sha256": row["gcode_sha256"]}
    as_next = {"case_id": case.id, "bed_clear": True, "gcode_sha256": row["gcode_sha256"]}
    for url, body in ((f"/api/v1/cases/{case.id}/print", by_name), ("/api/v1/printers/um3/next", as_next)):
        assert technician.post(url, json={k: v for k, v in body.items() if k != left_out}).status_code == 422
        wrong = {"gcode_sha256": "0" * 64, "bed_clear": False}[left_out]
        _problem(technician.post(url, json=body | {left_out: wrong}), 409, "case.guard")
    with reading(rig.app.engine) as connection:
        assert prints.listed(connection, case_id=case.id) == []
    assert technician.post("/api/v1/printers/um3/next", json=as_next).status_code == 202


def test_users_and_tokens_are_the_administrators(people: Any):
    planner, admin = people("planner"), people("admin")
    new = {"username": "newbie", "roles": ["planner"], "password": "another-password"}
    _problem(planner.post("/api/v1/users", json=new), 403, "auth.role")
    _problem(planner.get("/api/v1/users"), 403, "auth.role")
    assert admin.post("/api/v1/users", json=new).status_code == 201
    _problem(admin.post("/api/v1/users", json=new), 409, "user.exists")
    _problem(admin.post("/api/v1/tokens", json={"name": "t", "scopes": ["write"]}), 422, "token.invalid")
    assert admin.post("/api/v1/tokens", json={"name": "t", "scopes": ["board"]}).json()["token"]
    assert "argon2" not in admin.get("/api/v1/users").text


def test_the_boards_token_reads_and_never_writes(web: FastAPI, plan_ready: str, screen: Any):
    board = screen("board")
    for method, path in _routes(web):
        if method == "GET" or (method, path) in OPEN:
            continue
        url = path.replace("{case_id}", plan_ready)
        answer = board.request(method, re.sub(r"\{[^}]+\}", "x", url), json={})
        assert answer.status_code in (403, 422), (method, path, answer.status_code)
    _problem(board.post(f"/api/v1/cases/{plan_ready}/resume"), 403, "auth.read_only")
    _problem(board.post(f"/api/v1/cases/{plan_ready}/cancel", json={"reason": "x"}), 403, "auth.read_only")


def test_no_screen_sees_who_the_patient_is(web: FastAPI, rig: Rig, plan_ready: str, screen: Any, people: Any):
    park(rig, plan_ready, identity.InputRefusedError("Look.", next_step="Do."), CaseState.PLAN_READY)
    # the steriliser's scope stands alone; what it reads is nothing (tests/contract/test_cycle_files.py)
    client = screen(*(s.value for s in Scope if s is not Scope.STERILISER))
    seen = 0
    for method, path in _routes(web):
        if method != "GET":
            continue
        url = path.replace("{case_id}", plan_ready)
        answer = client.get(re.sub(r"\{[^}]+\}", "x", url))
        seen += answer.status_code == 200
        for word in PATIENT:
            assert word not in answer.text, (path, word)
    assert seen >= 6
    assert "TEST^PATIENT" in people("planner").get(f"/api/v1/cases/{plan_ready}").text


@pytest.mark.parametrize(
    ("scope", "path", "status"),
    [
        ("board", "/api/v1/cases", 200),
        ("board", "/api/v1/printers", 200),
        ("board", "/api/v1/print-jobs", 200),
        ("board", "/metrics", 403),
        ("board", "/api/v1/cases/{id}/verification", 403),
        ("board", "/api/v1/cases/{id}/events", 403),
        ("board", "/api/v1/cases/{id}/artifacts/mesh", 403),
        ("board", "/api/v1/studies", 403),
        ("or_terminal", "/api/v1/cases/{id}/verification", 200),
        ("or_terminal", "/api/v1/printers", 403),
        ("metrics", "/metrics", 200),
        ("metrics", "/api/v1/cases", 403),
    ],
)
def test_a_token_reads_only_its_scope(plan_ready: str, screen: Any, scope: str, path: str, status: int):
    assert screen(scope).get(path.replace("{id}", plan_ready)).status_code == status


# --- polling -------------------------------------------------------------------------------------------------


def test_a_long_poll_answers_at_the_news_or_after_its_time(rig: Rig, plan_ready: str, screen: Any):
    client, url = screen("or_terminal"), f"/api/v1/cases/{plan_ready}/verification"
    first = client.get(url, params={"wait_s": 20})  # without a validator there is nothing to wait for
    known = {"If-None-Match": first.headers["etag"]}
    started = time.monotonic()
    assert client.get(url, params={"wait_s": 0.5}, headers=known).status_code == 304
    assert 0.5 <= time.monotonic() - started < 5
    threading.Timer(0.3, lambda: _put_scan(rig)).start()
    started = time.monotonic()
    news = client.get(url, params={"wait_s": 15}, headers=known)
    assert (news.status_code, news.json()["status"]) == (200, "receiving")
    assert time.monotonic() - started < 10
    assert client.get(url, params={"wait_s": 21}, headers=known).status_code == 422


def _put_scan(rig: Rig) -> None:
    receive(rig, study=f"{STUDY}.7", series=f"{STUDY}.7.1", Manufacturer="Medtronic",
            ManufacturerModelName="O-arm O2", XRayTubeCurrent="25", ConvolutionKernel="")  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/cases",
        "/api/v1/cases/{id}",
        "/api/v1/cases/{id}/events",
        "/api/v1/cases/{id}/verification",
        "/api/v1/printers",
        "/api/v1/print-jobs",
        "/api/v1/studies",
        "/api/v1/sterilisation/items",
        "/api/v1/sterilisation/loads",
    ],
)
def test_what_is_polled_answers_304_until_it_changes(rig: Rig, people: Any, path: str):
    rig.with_printers({"um3": None})  # type: ignore[dict-item]
    case_id = bring(rig, CaseState.PLAN_READY).id
    with transaction(rig.app.engine) as connection:
        prints.save_reading(connection, "um3", {"state": "idle"}, rig.clock.now())
    add_people(rig.app, "planner")
    secret, _, _ = identity.log_in(rig.app, "planner", PASSWORD)
    client = TestClient(web_over(rig.app), headers={"Authorization": f"Bearer {secret}"})
    url = path.replace("{id}", case_id)
    first = client.get(url)
    assert first.status_code == 200
    assert int(first.headers["retry-after"]) >= 1
    assert "private" in first.headers["cache-control"]
    rig.clock.advance(seconds=5)
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}'):
        again = client.get(url, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_change_gives_a_new_tag(rig: Rig, plan_ready: str, people: Any):
    client = people("planner")
    before = client.get(f"/api/v1/cases/{plan_ready}").headers["etag"]
    client.post(f"/api/v1/cases/{plan_ready}/cancel", json={"reason": "wrong patient"})
    answer = client.get(f"/api/v1/cases/{plan_ready}", headers={"If-None-Match": before})
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")


# --- odd requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["%2e%2e", "..%2f..%2fspineprint.sqlite3", "mesh%2f..%2fplan", "\x00", "nothing"]
)
def test_an_artifact_is_found_by_its_kind_never_by_a_path(plan_ready: str, people: Any, kind: str):
    answer = people("planner").get(f"/api/v1/cases/{plan_ready}/artifacts/{kind.replace(chr(0), '%00')}")
    assert answer.status_code in (404, 405), answer.text
    assert b"SQLite" not in answer.content


def test_an_artifact_comes_with_its_hash(rig: Rig, plan_ready: str, people: Any):
    answer = people("planner").get(f"/api/v1/cases/{plan_ready}/artifacts/mesh")
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{_current(rig, plan_ready)["mesh_sha256"]}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "patient" not in answer.headers["content-disposition"].lower()


def test_a_mask_for_a_case_that_is_no_case_writes_nothing(rig: Rig, people: Any):
    client = people("planner")
    files = {"file": ("m.nii.gz", b"mask")}
    answer = client.post("/api/v1/cases/%2e%2e/mask", files=files, data={"level": "L1"})
    assert answer.status_code == 404
    left = [p.name for p in rig.app.config.data_dir.rglob("*") if p.is_file() and "sqlite3" not in p.name]
    assert left == []


def test_a_mask_that_the_disk_has_no_room_for_leaves_nothing(rig: Rig):
    class Full(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(28, "No space left on device")
            return super().read(4)

    folder = rig.app.config.data_dir / "uploads"
    with pytest.raises(OSError, match="No space"):
        cases_router._upload(rig.app, UploadFile(Full(b"x" * 8), filename="m.nii.gz"))
    assert list(folder.iterdir()) == []


def test_where_a_mask_lies_on_the_server_is_not_shown(rig: Rig, people: Any):
    case = bring(rig, CaseState.RECEIVED)
    client = people("planner")
    files = {"file": ("../../m.nii.gz", b"mask")}
    answer = client.post(f"/api/v1/cases/{case.id}/mask", files=files, data={"level": "L1"})
    assert answer.status_code == 202, answer.text
    shown = client.get(f"/api/v1/cases/{case.id}")
    assert shown.json()["inputs"]["mask"].startswith("input-mask-")
    assert str(rig.app.config.data_dir) not in shown.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"username": 1, "password": []}',
        b'{"username": "a", "password": "\\ud800"}',
        b'{"username": "a\\u0000", "password": "b"}',
        b'{"username": "' + b"a" * 5000 + b'", "password": "b"}',
        b'{"username": "a", "password": "' + b"b" * 5000 + b'"}',
        b"[" * 5000,
    ],
)
def test_odd_bodies_are_problems_not_crashes(anonymous: TestClient, body: bytes):
    answer = anonymous.post("/api/v1/login", content=body, headers={"Content-Type": "application/json"})
    body_ = answer.json()
    assert (answer.status_code, body_["code"]) in ((422, "request.invalid"), (400, "request.refused"))
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_huge_body_is_refused_before_it_is_read(anonymous: TestClient):
    _problem(anonymous.post("/api/v1/login", content=b"x" * (LARGEST_BODY + 1)), 413, "request.too_large")

    def drip() -> Iterator[bytes]:  # without a length announced
        for _ in range(LARGEST_BODY // 65536 + 2):
            yield b" " * 65536

    answer = anonymous.post("/api/v1/login", content=drip(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_only_people_may_send_a_large_mask(people: Any, anonymous: TestClient, screen: Any):
    path, file = "/api/v1/cases/none/mask", {"file": ("a.nii.gz", b"x" * (LARGEST_BODY + 1))}
    for stranger in (anonymous, screen("board")):
        _problem(stranger.post(path, files=file, data={"level": "L1"}), 413, "request.too_large")
    _problem(people("planner").post(path, files=file, data={"level": "L1"}), 404, "case.not_found")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"x"', "null"])
def test_points_are_finite_numbers(rig: Rig, people: Any, number: str):
    case = bring(rig, CaseState.RECEIVED)
    answer = people("planner").post(
        f"/api/v1/cases/{case.id}/inputs",
        content=f'{{"level": "L1", "target": [1, 2, {number}]}}',
        headers={"Content-Type": "application/json"},
    )
    _problem(answer, 422, "request.invalid")
    assert rig.case(case.id).state is CaseState.RECEIVED


def test_unknown_fields_and_levels_are_refused(rig: Rig, people: Any):
    case = bring(rig, CaseState.RECEIVED)
    client, url = people("planner"), f"/api/v1/cases/{case.id}/inputs"
    good = {"level": "L1", "target": [1.0, 2.0, 3.0]}
    for bad in (good | {"levle": "L1"}, good | {"level": "L9"}, good | {"target": [1.0]}):
        _problem(client.post(url, json=bad), 422, "request.invalid")
    _problem(client.post(url, json={"level": "L1"}), 422, "inputs.missing")
    _problem(client.post(url, json=good | {"series_uid": "1.2"}), 422, "inputs.series")
    erase = {"kind": "erase", "centre": [1.0, 2.0, 3.0], "radius_mm": 3.0}
    for bad_edit in (erase | {"kind": "melt"}, erase | {"radius_mm": 99}, erase | {"centre": [1.0]}):
        _problem(client.post(url, json=good | {"edits": [bad_edit]}), 422, "request.invalid")
    _problem(client.post(url, json=good | {"edits": [erase | {"kind": "cut"}]}), 422, "edits.invalid")
    assert client.post(url, json=good | {"edits": [erase]}).status_code == 202
    assert rig.case(case.id).inputs["edits"] == [erase]
    argument = build.build_argument(rig.app, rig.case(case.id), rig.app.work_folder("x"))
    assert argument["edits"] == [erase]


def test_surface_points_are_kept_with_the_case_and_reach_the_build(rig: Rig, people: Any):
    case = bring(rig, CaseState.RECEIVED)
    client, url = people("planner"), f"/api/v1/cases/{case.id}/inputs"
    good = {"level": "L1", "target": [1.0, 2.0, 3.0]}
    point = [1.0, 2.5, -3.0]
    for bad in ([point] * 31, [[1.0, 2.0]], [[*point, 1.0]], "1,2,3"):
        _problem(client.post(url, json=good | {"surface_points": bad}), 422, "request.invalid")
    assert client.post(url, json=good | {"surface_points": [point, point]}).status_code == 202
    assert client.get(f"/api/v1/cases/{case.id}").json()["inputs"]["surface_points"] == [point, point]
    argument = build.build_argument(rig.app, rig.case(case.id), rig.app.work_folder("x"))
    assert argument["surface_points"] == [point, point]


@pytest.mark.parametrize("event", ["", "nope", "release", "x" * 5000])
def test_odd_sterilisation_events_are_problems(people: Any, event: str):
    client = people("cssd-supervisor")
    for kind in ("items", "loads", "indicators"):
        answer = client.post(
            f"/api/v1/sterilisation/{kind}/x/events", json={"event": event, "data": {"a": [1]}}
        )
        assert answer.status_code in (403, 404, 409, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_what_does_not_exist_is_a_problem_too(anonymous: TestClient, people: Any):
    _problem(anonymous.get("/api/v1/nothing"), 404, "not_found")
    answer = anonymous.delete("/api/v1/login")
    _problem(answer, 405, "request.refused")
    assert "POST" in answer.headers["allow"]
    _problem(people("planner").get("/api/v1/cases/nobody"), 404, "case.not_found")


def test_the_pages_are_held_to_a_policy(anonymous: TestClient):
    headers = anonymous.get("/login").headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"


def test_the_audit_can_be_checked_and_shows_a_forgery(rig: Rig, plan_ready: str, people: Any):
    admin = people("admin")
    assert admin.get("/api/v1/audit/check").json() == {"whole": True, "first_break": None}
    from service.store.tables import audit

    with transaction(rig.app.engine) as connection:
        connection.execute(audit.update().where(audit.c.seq == 2).values(actor="somebody"))
    assert admin.get("/api/v1/audit/check").json() == {"whole": False, "first_break": 2}


def test_time_is_real_unless_it_is_a_simulation(people: Any):
    _problem(people("admin").post("/api/v1/simulation/advance", json={"hours": 1}), 409, "simulation.off")


def test_a_person_sees_what_they_may_do(plan_ready: str, people: Any):
    assert "approve" in people("surgeon").get(f"/api/v1/cases/{plan_ready}").json()["possible_events"]
    assert "approve" not in people("planner").get(f"/api/v1/cases/{plan_ready}").json()["possible_events"]
    assert PLANNER.name == "planner"
