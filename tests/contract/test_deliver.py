"""Results to real DICOM peers that are silent, full, choosy, or hang up: nothing lost, nobody else kept waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.dicom_node import DicomSender
from adapters.dicom_web import StowSender, StowTarget
from service.config import Config
from service.errors import NotFoundError
from service.ops.loops import Loop
from service.ports import Destination
from service.store import deliveries
from service.store.database import reading, transaction
from service.workflow import deliver
from simulators.pacs.sink import Faults, PacsSink
from tests.support_app import TECHNICIAN
from tests.support_delivery import OrderedScp, all_of, queue_objects, rig_for, states
from tests.support_dicom import free_port, wait_until
from tests.support_pacs import orthanc


def _address(sink: PacsSink) -> Destination:
    return Destination(sink.ae_title, sink.host, sink.port)


def test_a_silent_pacs_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    silent = PacsSink(tmp_path / "a", ae_title="SILENT", faults=Faults(silent=True))
    with silent, PacsSink(tmp_path / "b", ae_title="AWAKE") as awake:
        rig = rig_for(tmp_path, _address(silent), _address(awake))
        rig.app = replace(rig.app, sender=DicomSender(dimse_timeout_s=20))
        queue_objects(rig, 3, "SILENT", "AWAKE")
        loops = [Loop(n, 0.1, lambda n=n: deliver.take_turn(rig.app, n)) for n in ("SILENT", "AWAKE")]
        started = time.monotonic()
        for loop in loops:
            loop.start()
        wait_until(lambda: states(rig, "AWAKE") == ["DELIVERED"] * 3, 10, "the awake PACS got nothing")
        assert time.monotonic() - started < 10  # the silent one is waited for for 20 s
        assert states(rig, "SILENT") == ["WAITING"] * 3
        silent.stop()
        for loop in loops:
            loop.stop(30)
        assert loops[0].failures == loops[1].failures == 0


def test_a_full_pacs_is_tried_again_with_the_same_objects(tmp_path: Path) -> None:
    with PacsSink(tmp_path / "pacs", faults=Faults(refuse_first=2)) as sink:
        rig = rig_for(tmp_path, _address(sink))
        uids = queue_objects(rig, 1, "PACS")
        assert deliver.deliver_to(rig.app, "PACS") == 1
        assert deliver.deliver_to(rig.app, "PACS") == 0  # it waits first
        for wait_s in (2, 4):
            rig.clock.advance(seconds=wait_s)
            assert deliver.deliver_to(rig.app, "PACS") == 1
        (done,) = all_of(rig)
        assert (done.state, done.tries, done.delivered_at) == ("DELIVERED", 3, rig.clock.now())
        assert [a["answer"].split()[0] for a in done.history] == ["A700", "A700", "0000"]
        assert [e["sop_instance_uid"] for e in sink.received] == uids
        assert rig.notes.told == []


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0122])
def test_a_refusal_for_good_is_told_at_once_and_a_person_revives_it(tmp_path: Path, status: int) -> None:
    scp = OrderedScp(lambda _uid, nth: status if nth == 1 else 0)
    with scp.running() as pacs:
        rig = rig_for(tmp_path, pacs)
        (uid,) = queue_objects(rig, 1, "PACS")
        deliver.deliver_to(rig.app, "PACS")
        (held,) = all_of(rig)
        assert (held.state, held.last_status[:4]) == ("REFUSED", f"{status:04X}")
        assert rig.notes.topics() == ["pacs"]
        rig.clock.advance(hours=100)
        assert deliver.deliver_to(rig.app, "PACS") == 0
        deliver.retry_delivery(rig.app, held.id, TECHNICIAN)
        assert deliver.deliver_to(rig.app, "PACS") == 1
    assert states(rig) == ["DELIVERED"]
    assert scp.came == [uid, uid]


def test_a_class_the_destination_does_not_accept_is_refused_for_good(tmp_path: Path) -> None:
    with OrderedScp(lambda _uid, _nth: 0).running() as pacs:
        rig = rig_for(tmp_path, pacs)
        queue_objects(rig, 1, "PACS")
        path = all_of(rig)[0].path
        path.write_bytes(
            path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.4\0")
        )
        deliver.deliver_to(rig.app, "PACS")
    (held,) = all_of(rig)
    assert (held.state, held.last_status[:4]) == ("REFUSED", "0122")


def test_what_cannot_be_delivered_for_long_becomes_a_dead_letter(tmp_path: Path) -> None:
    pacs = Destination("PACS", "127.0.0.1", free_port())
    rig = rig_for(tmp_path, pacs, delivery={"give_up_h": 1, "give_up_tries": 12})
    uids = queue_objects(rig, 2, "PACS")
    waits = []
    while states(rig) == ["WAITING", "WAITING"]:
        assert deliver.deliver_to(rig.app, "PACS") == 2
        now = rig.clock.now()
        waits.append((all_of(rig)[0].next_try_at - now).total_seconds())
        rig.clock.advance(seconds=max(waits[-1], 0))
    assert waits[:10] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900]
    assert states(rig) == ["DEAD", "DEAD"]
    dead = all_of(rig)[0]
    # 2 + 4 + ... + 512 + 3 x 900 s: the hour is over with the 13th try, and twelve tries are.
    assert dead.tries == 13
    assert len(dead.history) == 12
    assert "no connection" in dead.last_status
    # One word when it lasts, one when it is given up; not one per try.
    assert rig.notes.topics() == ["pacs", "pacs"]
    with reading(rig.app.engine) as connection:
        assert deliveries.alarms(connection) == {"refused": 0, "dead": 2, "not_committed": 0}
    rig.clock.advance(hours=100)
    assert deliver.deliver_to(rig.app, "PACS") == 0
    # The PACS is mended; a person sends again, and the count begins anew.
    sink = PacsSink(tmp_path / "pacs", port=pacs.port)
    deliver.retry_delivery(rig.app, dead.id, TECHNICIAN)
    assert deliver.deliver_to(rig.app, "PACS") == 1
    revived = next(d for d in all_of(rig) if d.id == dead.id)
    assert (revived.state, revived.tries, revived.first_failed_at) == ("WAITING", 1, rig.clock.now())
    rig.clock.advance(seconds=2)
    with sink:
        deliver.deliver_to(rig.app, "PACS")
        assert [e["sop_instance_uid"] for e in sink.received] == [uids[0]]
    assert states(rig) == ["DELIVERED", "DEAD"]


def test_a_clock_that_jumps_does_not_use_up_the_tries(tmp_path: Path) -> None:
    rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", free_port()), delivery={"give_up_tries": 3})
    queue_objects(rig, 1, "PACS")
    for tries, state in ((1, "WAITING"), (2, "WAITING"), (3, "DEAD")):
        deliver.deliver_to(rig.app, "PACS")
        assert (all_of(rig)[0].tries, all_of(rig)[0].state) == (tries, state)
        rig.clock.advance(hours=1000)


def test_only_what_was_not_answered_is_sent_again(tmp_path: Path) -> None:
    with PacsSink(tmp_path / "pacs", faults=Faults(drop_associations=1, drop_at=3)) as sink:
        rig = rig_for(tmp_path, _address(sink))
        uids = queue_objects(rig, 5, "PACS")
        assert deliver.deliver_to(rig.app, "PACS") == 3  # two stored, one lost; two never had their turn
        assert states(rig) == ["DELIVERED", "DELIVERED", "WAITING", "WAITING", "WAITING"]
        assert [d.tries for d in all_of(rig)] == [1, 1, 1, 0, 0]
        assert deliver.deliver_to(rig.app, "PACS") == 2  # at once: it was no fault of theirs
        rig.clock.advance(seconds=2)
        assert deliver.deliver_to(rig.app, "PACS") == 1
        assert sorted(e["sop_instance_uid"] for e in sink.received) == uids  # each once
    assert states(rig) == ["DELIVERED"] * 5


def test_an_object_that_breaks_every_association_keeps_no_other_back(tmp_path: Path) -> None:
    poison = "1.2.826.0.1.3680043.10.9999.8.1"
    scp = OrderedScp(lambda uid, _nth: None if uid == poison else 0)
    with scp.running() as pacs:
        rig = rig_for(tmp_path, pacs)
        uids = queue_objects(rig, 4, "PACS")
        for _ in range(3):
            deliver.deliver_to(rig.app, "PACS")
    assert states(rig) == ["WAITING", "DELIVERED", "DELIVERED", "DELIVERED"]
    assert scp.stored == uids[1:]


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    with PacsSink(tmp_path / "pacs") as sink:
        rig = rig_for(tmp_path, _address(sink))
        queue_objects(rig, 20, "PACS")
        assert [deliver.deliver_to(rig.app, "PACS") for _ in range(3)] == [16, 4, 0]
        assert len(sink.received) == 20


def test_a_destination_taken_out_of_the_configuration(tmp_path: Path) -> None:
    rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", 1))
    queue_objects(rig, 2, "PACS", "OLD")
    assert deliver.settle_unknown(rig.app) == 1
    assert states(rig, "OLD") == ["REFUSED"] * 2
    assert states(rig, "PACS") == ["WAITING"] * 2
    assert rig.notes.topics() == ["pacs"]
    assert deliver.settle_unknown(rig.app) == 0


def test_a_peer_over_tls_without_a_certificate_of_ours_waits_and_says_why(tmp_path: Path) -> None:
    rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", free_port()))
    peer = rig.app.config.dicom.peers[0].model_copy(update={"tls": True})
    dicom = rig.app.config.dicom.model_copy(update={"peers": (peer,)})
    rig.app = replace(rig.app, config=rig.app.config.model_copy(update={"dicom": dicom}))
    queue_objects(rig, 1, "PACS")
    deliver.deliver_to(rig.app, "PACS")
    (held,) = all_of(rig)
    assert (held.state, held.tries) == ("WAITING", 1)
    assert "no certificate" in held.last_status


def test_what_has_arrived_is_not_sent_again_by_a_click(tmp_path: Path) -> None:
    with PacsSink(tmp_path / "pacs") as sink:
        rig = rig_for(tmp_path, _address(sink))
        queue_objects(rig, 1, "PACS")
        deliver.deliver_to(rig.app, "PACS")
        with pytest.raises(NotFoundError):
            deliver.retry_delivery(rig.app, all_of(rig)[0].id, TECHNICIAN)
        with pytest.raises(NotFoundError):
            deliver.retry_delivery(rig.app, "nothing", TECHNICIAN)


def test_two_workers_do_not_send_the_same(tmp_path: Path) -> None:
    gate = threading.Event()

    def answer(_uid: str, _nth: int) -> int:
        gate.wait(10)
        return 0

    scp = OrderedScp(answer)
    with scp.running() as pacs:
        rig = rig_for(tmp_path, pacs)
        rig.app = replace(rig.app, sender=DicomSender(dimse_timeout_s=20))
        uids = queue_objects(rig, 2, "PACS")
        other = rig.app.config.model_copy(
            update={"worker": rig.app.config.worker.model_copy(update={"executor_id": "worker-2"})}
        )
        first = threading.Thread(target=deliver.deliver_to, args=(rig.app, "PACS"))
        first.start()
        wait_until(lambda: bool(scp.came))
        assert deliver.deliver_to(replace(rig.app, config=other), "PACS") == 0
        gate.set()
        first.join(20)
    assert scp.came == uids
    assert states(rig) == ["DELIVERED"] * 2


_SENDING = """
import sys
from pathlib import Path
from adapters.dicom_node.sender import DicomSender
from service.config import load_config
from service.ops.clock import SystemClock
from service.ops.logs import LogNotifier
from service.store.database import open_engine
from service.workflow import deliver
from service.workflow.app import App

config = load_config(Path(sys.argv[1]), environ={})
engine = open_engine(config.resolved_database_url)
app = App(config, engine, SystemClock(), LogNotifier(), None, None, sender=DicomSender())
deliver.release_claims(app)
while deliver.deliver_to(app, "PACS"):
    pass
"""


def test_a_worker_killed_while_sending_sends_again_with_the_same_uids(tmp_path: Path) -> None:
    """kill -9 between the PACS's answers: every object arrives, under its own UID, in the end."""

    def answer(_uid: str, _nth: int) -> int:
        time.sleep(0.2)
        return 0

    scp = OrderedScp(answer)
    with scp.running() as pacs:
        rig = rig_for(tmp_path, pacs)
        uids = queue_objects(rig, 6, "PACS")
        settings = tmp_path / "spineprint.toml"
        settings.write_text(
            f'data_dir = "{rig.app.config.data_dir}"\n[[dicom.peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\n'
            f'port = {pacs.port}\nroles = ["pacs"]\n'
        )
        command = [sys.executable, "-c", _SENDING, str(settings)]
        process = subprocess.Popen(command)
        wait_until(lambda: len(scp.stored) >= 2, 60, "nothing was sent")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        assert states(rig) == ["WAITING"] * 6  # their answers are lost with the process
        subprocess.run(command, check=True, timeout=100)
    assert states(rig) == ["DELIVERED"] * 6
    assert set(scp.stored) == set(uids)  # sent more than once, and still the same six instances


def test_a_web_destination_has_a_turn_of_its_own(tmp_path: Path) -> None:
    """The same object by C-STORE and by STOW-RS into two real peers."""
    with orthanc(tmp_path / "orthanc", plugins=True) as vna, PacsSink(tmp_path / "pacs") as sink:
        rig = rig_for(tmp_path, _address(sink))
        web = [{"name": "VNA", "url": vna.web_url}]
        config = Config.model_validate(
            rig.app.config.model_dump()
            | {"dicom": rig.app.config.dicom.model_dump() | {"web_destinations": web}}
        )
        rig.app = replace(
            rig.app, config=config, web_senders={"VNA": StowSender(StowTarget("VNA", vna.web_url))}
        )
        assert deliver.destination_names(config) == ("PACS", "VNA")
        uids = queue_objects(rig, 2, *deliver.destination_names(config))
        assert [deliver.take_turn(rig.app, n) for n in ("VNA", "PACS", "VNA", "PACS")] == [2, 2, 0, 0]
        assert states(rig) == ["DELIVERED"] * 4
        assert sorted(vna.instances()) == uids
        assert sorted(e["sop_instance_uid"] for e in sink.received) == uids
        # Whatever makes us send once more, the archive holds each of them once.
        with transaction(rig.app.engine) as connection:
            connection.exec_driver_sql("UPDATE deliveries SET state = 'WAITING'")
        assert deliver.take_turn(rig.app, "VNA") == 2
        assert sorted(vna.instances()) == uids


def test_a_disk_that_cannot_be_read_for_a_moment_costs_no_object(tmp_path: Path) -> None:
    with PacsSink(tmp_path / "pacs") as sink:
        rig = rig_for(tmp_path, _address(sink))
        queue_objects(rig, 1, "PACS")
        path = all_of(rig)[0].path
        kept = path.rename(path.with_suffix(".kept"))
        path.mkdir()  # reading it is an OSError that is not "file not found"
        deliver.deliver_to(rig.app, "PACS")
        assert states(rig) == ["WAITING"]
        path.rmdir()
        kept.rename(path)
        rig.clock.advance(seconds=2)
        deliver.deliver_to(rig.app, "PACS")
    assert states(rig) == ["DELIVERED"]
