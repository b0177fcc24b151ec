"""What a person or a machine brings: files and zips, good and bad, and what is kept of them."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from adapters.dicom_node.web_door import WebDoor
from service.domain.people import Actor, Role
from service.errors import ConfigError, StorageError
from service.store import audit, cases, studies
from service.store.database import reading
from service.workflow import unpack
from service.workflow.upload import Taken, Upload, Verdict, bringer
from tests.support_app import STUDY, Rig, actor, receive
from tests.support_dicom import ROOT, need, wait_until, wire_bytes
from tests.support_web import ct_file, make_door, zipped


@pytest.fixture
def door(rig: Rig) -> Iterator[WebDoor]:
    made = make_door(rig)
    made.start()
    rig.app = replace(rig.app, door=made)
    yield made
    made.stop()


@pytest.fixture
def upload(rig: Rig, door: WebDoor) -> Upload:
    return Upload(rig.app, bringer(actor(Role.PLANNER), way="page", address="10.0.0.9", upload_id="a" * 32))


def settle(door: WebDoor) -> None:
    wait_until(lambda: door.counters()["intake_waiting"] == 0, what="the intake did not finish")


def take_zip(rig: Rig, upload: Upload, content: bytes) -> list[Taken]:
    path = rig.app.config.data_dir / "sent.zip"
    path.write_bytes(content)
    scratch = rig.app.door.scratch if rig.app.door else Path()
    taken = list(upload.take_zip(path, "sent.zip", scratch))
    assert list(scratch.iterdir()) == [], "something unpacked was left"
    return taken


def verdicts(taken: list[Taken]) -> Counter[str]:
    return Counter(t.verdict.value for t in taken)


def codes(taken: list[Taken]) -> list[str]:
    return [t.error.code for t in taken if t.error]


# --- one file -------------------------------------------------------------------------------------------------


def test_an_uploaded_image_is_a_study_like_any_other(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    file = ct_file(tmp_path, 3)
    taken = upload.take(file, "IM3")
    settle(door)
    assert (taken.verdict, taken.study_uid, taken.error) == (Verdict.STORED, STUDY, None)
    with reading(rig.app.engine) as connection:
        study, case = studies.need(connection, STUDY), cases.by_study(connection, STUDY)
        kept = studies.instances_of(connection, STUDY)
        rows = audit.history(connection, f"study:{STUDY}")
    assert (study.kind, study.calling_ae, study.instance_count) == ("planning_ct", "WEB:planner", 1)
    assert case is not None
    assert wire_bytes(Path(kept[0].path)) == wire_bytes(file)
    assert dcmread(kept[0].path).file_meta.TransferSyntaxUID == dcmread(file).file_meta.TransferSyntaxUID
    uploaded = [r for r in rows if r.event == "images_uploaded"]
    assert [(r.actor, r.data["name"], r.data["way"], r.data["address"]) for r in uploaded] == [
        ("planner", "Planner", "page", "10.0.0.9")
    ]


def test_one_upload_is_one_row_of_the_history(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    for index in range(3):
        upload.take(ct_file(tmp_path, index), "x")
    again = Upload(rig.app, bringer(actor(Role.PLANNER), way="page", address="", upload_id="a" * 32))
    again.take(ct_file(tmp_path, 4), "x")
    other = Upload(rig.app, bringer(actor(Role.PLANNER), way="page", address="", upload_id="b" * 32))
    other.take(ct_file(tmp_path, 5), "x")
    with reading(rig.app.engine) as connection:
        rows = audit.history(connection, f"study:{STUDY}")
    assert sum(r.event == "images_uploaded" for r in rows) == 2


def test_the_same_image_twice_is_already_here(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    file = ct_file(tmp_path)
    assert upload.take(file, "x").verdict is Verdict.STORED
    assert upload.take(file, "x").verdict is Verdict.ALREADY_HERE  # the door's own knowledge
    settle(door)
    assert upload.take(file, "x").verdict is Verdict.ALREADY_HERE  # the database's
    with reading(rig.app.engine) as connection:
        assert studies.need(connection, STUDY).instance_count == 1


def test_other_content_under_a_known_identity_is_kept_aside(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path
):
    first, second = ct_file(tmp_path / "a"), ct_file(tmp_path / "b", seed=5)
    assert upload.take(first, "x").verdict is Verdict.STORED
    assert upload.take(second, "x").verdict is Verdict.KEPT_ASIDE
    settle(door)
    with reading(rig.app.engine) as connection:
        kept = studies.copies_of(connection, f"{ROOT}.2.1")
    assert sorted(k.quarantined for k in kept) == [False, True]
    assert {wire_bytes(Path(k.path)) for k in kept} == {wire_bytes(first), wire_bytes(second)}


def test_what_the_dicom_node_stored_before_is_recognised(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path
):
    """The two doors have roots of their own; what is a duplicate is decided by the database for both."""
    node = make_door(rig)  # stands for the node's store: the same code over another root
    node = WebDoor(rig.app.config.data_dir / "dicom", node._handover._sink, scratch=tmp_path / "s",
                   disk_reserve_bytes=0, now=rig.clock.now)  # fmt: skip
    node.start()
    same, other = ct_file(tmp_path / "a", 0), ct_file(tmp_path / "a", 1)
    who = bringer(Actor("PACS"), way="page", address="", upload_id="c" * 32)
    for file in (same, other):
        node.keep(file, node.look(file), who.origin)
    settle(node)
    node.stop()
    assert upload.take(same, "x").verdict is Verdict.ALREADY_HERE
    assert upload.take(ct_file(tmp_path / "b", 1, seed=4), "x").verdict is Verdict.KEPT_ASIDE
    settle(door)
    with reading(rig.app.engine) as connection:
        assert studies.need(connection, STUDY).instance_count == 2
        assert [c.quarantined for c in studies.copies_of(connection, f"{ROOT}.2.2")].count(True) == 1
    assert len(list((rig.app.config.data_dir / "dicom-web" / "instances").glob("*/*.dcm"))) == 1


def test_the_data_set_counts_when_the_file_header_names_another_object(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path
):
    file = ct_file(tmp_path)
    uid = f"{ROOT}.2.1".encode()
    file.write_bytes(file.read_bytes().replace(uid, b"9" + uid[1:], 1))  # the first is the file header's
    taken = upload.take(file, "x")
    assert taken.differs
    assert (taken.verdict, taken.sop_instance_uid) == (Verdict.STORED, f"{ROOT}.2.1")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"StudyInstanceUID": ""}, "imaging.no_identity"),
        ({"SOPClassUID": "1.2.3"}, "dicom.class"),
        ({"SOPClassUID": "1.2.840.10008.1.1"}, "dicom.class"),
        ({"SOPInstanceUID": "../../etc/passwd"}, "dicom.uid"),
        ({"SOPInstanceUID": "1.2." + "9" * 70}, "imaging.bad_identity"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_usable_identity_is_refused_and_not_kept(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path, options: dict[str, Any], code: str
):
    taken = upload.take(ct_file(tmp_path, **options), "x")
    assert (taken.verdict, codes([taken])) == (Verdict.REFUSED, [code])
    assert taken.error and taken.error.next_step
    assert not list((rig.app.config.data_dir / "dicom-web" / "instances").glob("*/*.dcm"))


@pytest.mark.parametrize("keep", [0, 1, 131, 132, 140, 150, 200, 331, 400])
def test_cut_off_files_are_refused_or_left_out_never_a_crash(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path, keep: int
):
    file = ct_file(tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    assert upload.take(file, "x").verdict in (Verdict.REFUSED, Verdict.NOT_DICOM)


def test_an_unknown_transfer_syntax_and_an_empty_file_are_refused(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path
):
    file = ct_file(tmp_path)
    plain = b"1.2.840.10008.1.2.1\0"
    file.write_bytes(file.read_bytes().replace(plain, b"1.2.840.10008.1.2.9\0", 1))
    assert codes([upload.take(file, "x")]) == ["dicom.syntax"]
    offset = len(file.read_bytes()) - len(wire_bytes(ct_file(tmp_path / "b")))
    file.write_bytes(ct_file(tmp_path / "b").read_bytes()[:offset])
    assert upload.take(file, "x").verdict is Verdict.REFUSED


def test_another_study_than_the_named_one_is_refused(rig: Rig, door: WebDoor, tmp_path: Path):
    who = bringer(Actor("token:pacs"), way="stow", address="", upload_id="d" * 32)
    work = Upload(rig.app, who, only_study=f"{ROOT}.77")
    assert codes([work.take(ct_file(tmp_path), "")]) == ["upload.other_study"]
    assert work.take(ct_file(tmp_path, 1, study=f"{ROOT}.77"), "").verdict is Verdict.STORED


@pytest.mark.parametrize(
    ("name", "calling"),
    [
        ("ada", "WEB:ada"),
        ("a-name-of-more-than-16", "WEB:a-name-of-mo"),
        ("token:Röntgen 1", "WEB:R_ntgen_1"),
    ],
)
def test_who_brought_it_fits_an_ae_title(name: str, calling: str):
    made = bringer(Actor(name), way="page", address="", upload_id="a" * 32)
    assert made.origin.calling_ae == calling
    assert len(made.origin.association) <= 64
    assert made.origin.calling_ae.isascii() and len(made.origin.calling_ae) <= 16


def test_below_the_reserve_nothing_is_taken(rig: Rig, tmp_path: Path):
    door = make_door(rig, disk_reserve_bytes=1 << 60)
    door.start()
    rig.app = replace(rig.app, door=door)
    work = Upload(rig.app, bringer(actor(Role.PLANNER), way="page", address="", upload_id="a" * 32))
    taken = work.take(ct_file(tmp_path), "x")
    assert (taken.verdict, codes([taken])) == (Verdict.REFUSED, ["storage.full"])
    assert codes(take_zip(rig, work, zipped({"a": ct_file(tmp_path).read_bytes()}))) == ["storage.full"]
    with pytest.raises(StorageError):
        door.require_room(1)
    door.stop()


def test_one_process_owns_the_root(rig: Rig, door: WebDoor):
    with pytest.raises(ConfigError) as refused:
        make_door(rig).start()
    assert refused.value.code == "config.web_owner"


def test_a_running_upload_is_an_open_association(rig: Rig, door: WebDoor):
    origin = bringer(actor(Role.PLANNER), way="page", address="", upload_id="a" * 32).origin
    with door.carrying(origin), door.carrying(origin):
        assert door.open_associations() == {origin.association: "WEB:planner"}
    assert door.open_associations() == {}


# --- zips -----------------------------------------------------------------------------------------------------


def test_a_zip_of_a_disc(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    images = {f"DICOM/ST1/IM{n}": ct_file(tmp_path, n).read_bytes() for n in range(5)}
    rest = {"README.TXT": b"hello", "VIEWER/view.exe": b"MZ" * 300, "DICOM/": b"", "EMPTY": b""}
    taken = take_zip(rig, upload, zipped(images | rest))
    assert verdicts(taken) == {"stored": 5, "not_dicom": 3}
    settle(door)
    with reading(rig.app.engine) as connection:
        assert studies.need(connection, STUDY).instance_count == 5


def test_a_real_dicomdir_is_left_out_quietly(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    program = need("dcmmkdir")
    ct_file(tmp_path, 0, name="IM1", InstanceNumber=1)
    done = subprocess.run([program, "+D", "DICOMDIR", "IM1", "-Pgp", "-W"], cwd=tmp_path, capture_output=True,
                          text=True, check=False)  # fmt: skip
    if not (tmp_path / "DICOMDIR").is_file():
        pytest.skip(f"dcmmkdir made none: {done.stderr[-200:]}")
    content = {name: (tmp_path / name).read_bytes() for name in ("DICOMDIR", "IM1")}
    taken = take_zip(rig, upload, zipped(content))
    assert [(t.name, t.verdict.value) for t in taken] == [("DICOMDIR", "not_dicom"), ("IM1", "stored")]


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "C:\\evil", "a/../../b", "x" * 400, "\u202eevil\n"]
)
def test_names_in_a_zip_are_never_paths(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path, name: str):
    before = sorted(p for p in tmp_path.rglob("*") if "dicom-web" not in p.parts)
    taken = take_zip(rig, upload, zipped({name: ct_file(tmp_path / "made").read_bytes()}))
    assert verdicts(taken) == {"stored": 1}
    assert len(taken[0].name) <= 120 and taken[0].name.isprintable()
    after = {p for p in tmp_path.rglob("*") if "dicom-web" not in p.parts} - set(before)
    assert not [p for p in after if "evil" in p.name]
    assert not Path("/etc/evil").exists()


def test_a_zip_bomb_is_refused_with_words(rig: Rig, door: WebDoor, upload: Upload):
    bomb = b"\0" * 128 + b"DICM" + b"\0" * (80 << 20)
    taken = take_zip(rig, upload, zipped({"bomb": bomb}))
    assert codes(taken) == ["upload.zip_bomb"]
    assert "zip bomb" in (taken[0].error.message if taken[0].error else "")


def test_a_zip_that_says_it_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    rig: Rig, door: WebDoor, upload: Upload
):
    content = bytearray(zipped({"a": b"x" * 100}))
    at = content.rfind(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 0xF0000000)
    web = rig.app.config.web.model_copy(update={"max_upload_mb": 1024})
    rig.app = replace(rig.app, config=rig.app.config.model_copy(update={"web": web}))
    work = Upload(rig.app, bringer(actor(Role.PLANNER), way="page", address="", upload_id="a" * 32))
    assert codes(take_zip(rig, work, bytes(content))) == ["upload.zip_too_large"]


def test_too_many_entries_are_refused(
    rig: Rig, door: WebDoor, upload: Upload, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unpack, "MOST_ENTRIES", 3)
    assert codes(take_zip(rig, upload, zipped({str(n): b"" for n in range(4)}))) == ["upload.zip_entries"]


def test_a_giant_table_of_contents_is_not_taken_into_memory(rig: Rig, door: WebDoor, upload: Upload):
    # 300,000 empty entries: a table of contents of 15 MB, for which the library would make as many objects
    entry = (
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0) + b"name"
    )
    table = entry * 300_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, len(table), 0, 0)
    assert codes(take_zip(rig, upload, table + end)) == ["upload.zip_damaged"]


def test_an_encrypted_zip_is_refused_with_words(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    content = bytearray(zipped({"a": ct_file(tmp_path).read_bytes()}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        content[at + place] |= 1
    assert codes(take_zip(rig, upload, bytes(content))) == ["upload.zip_encrypted"]


def test_a_zip_in_a_zip_is_not_opened(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    inner = zipped({"a": ct_file(tmp_path).read_bytes()})
    taken = take_zip(rig, upload, zipped({"inner.zip": inner}, method=zipfile.ZIP_STORED))
    assert codes(taken) == ["upload.zip_nested"]


def test_another_method_than_deflate_is_said_so(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    image = ct_file(tmp_path).read_bytes()
    assert codes(take_zip(rig, upload, zipped({"a": image}, method=zipfile.ZIP_LZMA))) == [
        "upload.zip_method"
    ]


def test_of_a_damaged_zip_the_good_entries_are_kept_and_the_rest_is_said(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path
):
    files = {f"IM{n}": ct_file(tmp_path, n).read_bytes() for n in range(4)}
    content = bytearray(zipped(files, method=zipfile.ZIP_STORED))
    place = content.find(files["IM2"])
    content[place + 600] ^= 0xFF
    taken = take_zip(rig, upload, bytes(content))
    assert verdicts(taken) == {"stored": 3, "refused": 1}
    assert codes(taken) == ["upload.zip_entry_damaged"]
    assert [t.name for t in taken if t.error] == ["IM2"]


@pytest.mark.parametrize("keep", [4, 30, 500, -1, -22, -60])
def test_a_cut_off_zip_is_refused_with_words(
    rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path, keep: int
):
    content = zipped({f"IM{n}": ct_file(tmp_path, n).read_bytes() for n in range(3)})
    assert codes(take_zip(rig, upload, content[:keep])) == ["upload.zip_damaged"]


def test_zip64_is_fine(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("IM", "w", force_zip64=True) as entry:
        entry.write(ct_file(tmp_path).read_bytes())
    assert verdicts(take_zip(rig, upload, out.getvalue())) == {"stored": 1}


def test_a_study_from_elsewhere_gets_its_late_images(rig: Rig, door: WebDoor, upload: Upload, tmp_path: Path):
    """A study that came by C-STORE and is completed by an upload stays one study."""
    receive(rig, 0)
    upload.take(ct_file(tmp_path, 1), "x")
    settle(door)
    with reading(rig.app.engine) as connection:
        study = studies.need(connection, STUDY)
    assert (study.instance_count, study.calling_ae) == (2, "CT1")
