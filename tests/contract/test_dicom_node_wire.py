"""The node's own receive path against messages that ordinary senders do not send."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context

from adapters.dicom_node.durable_store import dataset_bytes
from tests.contract.test_dicom_node import World, node
from tests.support_dicom import CT_IMAGE, ct_slice, run, save, wait_until, wire_bytes

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, JPEG_LS = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with node(tmp_path) as started:
        yield started


def associated(world: World, contexts: list[tuple[str, list[str]]], **options: Any) -> Any:
    scu = AE("CTSCANNER")
    scu.requested_contexts = [build_context(name, syntaxes) for name, syntaxes in contexts]
    association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT", **options)
    assert association.is_established
    return association


def status_of(association: Any, message: Any, context: int) -> int:
    """The answer to a message that pynetdicom's own methods would not send; its reactor is held meanwhile."""
    association._reactor_checkpoint.clear()
    wait_until(lambda: association._is_paused)
    association.dimse.send_msg(message, context)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


def store_request(uid: str, sop_class: str = CT_IMAGE, data: bytes | None = None) -> C_STORE:
    request = C_STORE()
    request.MessageID = 7
    request.Priority = 0
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = uid
    request.DataSet = BytesIO(data if data is not None else encode(ct_slice(0), False, True))
    return request


def test_each_context_gets_the_syntax_its_requestor_prefers(world: World) -> None:
    association = associated(
        world, [(CT_IMAGE, [IMPLICIT]), (CT_IMAGE, [JPEG_LS, IMPLICIT]), (CT_IMAGE, ["1.2.3.4"])]
    )
    accepted = {c.context_id: c.transfer_syntax[0] for c in association.accepted_contexts}
    assert accepted == {1: IMPLICIT, 3: JPEG_LS}
    assert [(c.context_id, c.result) for c in association.rejected_contexts] == [(5, 4)]
    association.release()


def test_class_that_is_not_that_of_its_context_is_a900(world: World) -> None:
    association = associated(world, [(CT_IMAGE, [EXPLICIT])])
    mr = "1.2.840.10008.5.1.4.1.1.4"
    assert status_of(association, store_request("1.2.3", mr), 1) == 0xA900
    assert status_of(association, store_request("1.2.3"), 1) == 0
    association.release()
    world.settled()
    assert [i.sop_instance_uid for i in world.sink.got] == ["1.2.3"]
    assert "its class is not that of its context" in world.node.take_events()[0].what


def test_storing_over_a_context_for_something_else_is_0122(world: World) -> None:
    association = associated(world, [(VERIFICATION, [IMPLICIT])])
    assert status_of(association, store_request("1.2.3", VERIFICATION), 1) == 0x0122
    assert association.send_c_echo().Status == 0
    association.release()


def test_an_empty_data_set_is_c000(world: World) -> None:
    association = associated(world, [(CT_IMAGE, [EXPLICIT])])
    request = store_request("1.2.3")
    request.DataSet = None
    assert status_of(association, request, 1) == 0xC000
    association.release()
    assert world.node.counters()["refused_empty"] == 1


def test_an_operation_that_is_not_offered_is_answered_0211(world: World) -> None:
    association = associated(world, [(CT_IMAGE, [EXPLICIT])])
    request = C_FIND()
    request.MessageID, request.Priority, request.AffectedSOPClassUID = 3, 0, CT_IMAGE
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    request.Identifier = BytesIO(encode(query, False, True))
    assert status_of(association, request, 1) == 0x0211
    assert status_of(association, store_request("1.2.3"), 1) == 0
    association.release()


def test_an_object_beyond_what_is_held_in_memory_arrives_byte_for_byte(world: World, tmp_path: Path) -> None:
    large = ct_slice(0)
    large.Rows = large.Columns = 3000
    large.PixelData = os.urandom(3000 * 3000 * 2)
    file = save(large, tmp_path / "large")
    world.storescu("-R", file)
    world.storescu("-R", file)
    world.settled()
    first, again = world.sink.got
    assert first.size > 17 << 20
    assert dataset_bytes(first.path) == wire_bytes(file)
    assert first.path == again.path
    wait_until(lambda: not list((world.store / "segments").glob("*.big")), 10, "the log was not freed")


def test_an_object_beyond_the_limit_is_a700_and_the_association_goes_on(tmp_path: Path) -> None:
    large = ct_slice(0, seed=1)
    large.Rows = large.Columns = 1000
    large.PixelData = bytes(2_000_000)
    files = [save(large, tmp_path / "large"), save(ct_slice(1), tmp_path / "small")]
    with node(tmp_path, max_instance_bytes=1 << 20) as world:
        answer = world.storescu("-v", "-R", "--no-halt", *files, check=False)
        assert "OutOfResources" in answer.stderr
        world.settled()
        assert [i.sop_instance_uid for i in world.sink.got] == [str(ct_slice(1).SOPInstanceUID)]
        assert world.node.counters()["refused_size"] == 1


def test_a_caller_that_takes_roles_gets_only_those_that_exist(world: World) -> None:
    association = associated(
        world, [(CT_IMAGE, [EXPLICIT])], ext_neg=[build_role(CT_IMAGE, scu_role=True, scp_role=True)]
    )
    assert association.send_c_store(ct_slice(0)).Status == 0
    association.release()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not DICOM"),
        (struct.pack(">BxI", 4, 12) + bytes(12), "before it asked for an association"),
        (struct.pack(">BxI", 1, 30) + bytes(30), "too short"),
        (struct.pack(">BxI", 1, 80) + bytes(68) + struct.pack(">BxH", 0x20, 500) + bytes(8), "longer than its parent"),
        (struct.pack(">BxI", 1, 68 + 4 * 600) + bytes(68) + struct.pack(">BxH", 0x77, 0) * 600, "more than 512 items"),
        (struct.pack(">BxI", 5, 400) + bytes(400), "limit is 4"),
    ],
)  # fmt: skip
def test_what_is_no_association_request_is_aborted_with_words(world: World, sent: bytes, said: str) -> None:
    with socket.create_connection(("127.0.0.1", world.node.port)) as client:
        client.settimeout(5)
        client.sendall(sent)
        answer = client.recv(100)
        assert answer[:1] == b"\x07", "an A-ABORT"
        assert client.recv(100) == b""
    wait_until(lambda: world.node.counters().get("faults", 0) == 1)
    (event,) = world.node.take_events()
    assert said in event.what
    assert event.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("fragment", "said"),
    [
        (struct.pack(">IBB", 2, 9, 3), "context 9, which was not accepted"),
        (struct.pack(">IBB", 2, 1, 2), "parts do not follow each other"),
        (struct.pack(">IBB", 500, 1, 3), "does not fit into its PDU"),
        (struct.pack(">IBB", 6, 1, 3) + b"junk", "command that makes no sense"),
        (b"\0\0\0", "ends inside a fragment's header"),
    ],
)
def test_broken_fragments_end_the_association_and_nothing_else(
    world: World, fragment: bytes, said: str
) -> None:
    broken, healthy = (associated(world, [(CT_IMAGE, [EXPLICIT])]) for _ in range(2))
    broken.dul.socket.send(struct.pack(">BxI", 4, len(fragment)) + fragment)
    wait_until(lambda: world.node.counters().get("faults", 0) == 1)
    assert said in world.node.take_events()[0].what
    assert healthy.send_c_store(ct_slice(0)).Status == 0
    healthy.release()
    wait_until(lambda: broken.is_aborted or not broken.is_established)


def test_stop_ends_open_associations_and_keeps_what_came(tmp_path: Path) -> None:
    with node(tmp_path) as world:
        association = associated(world, [(CT_IMAGE, [EXPLICIT])])
        assert association.send_c_store(ct_slice(0)).Status == 0
        start = time.monotonic()
        world.node.stop()
        assert time.monotonic() - start < 8
        assert len(world.sink.got) == 1
        assert run("echoscu", "127.0.0.1", world.node.port, check=False).returncode != 0
        association.abort()
