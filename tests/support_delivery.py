"""Results on their way out: a service with destinations, objects that wait for them, and a storage SCP to order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt

from adapters.dicom_node import DicomSender
from service.ports import Destination
from service.store import deliveries
from service.store.database import reading, transaction
from service.store.deliveries import Delivery
from tests.support_app import Rig, make_rig, new_case
from tests.support_dicom import CT_IMAGE, ct_slice, save


def rig_for(
    folder: Path, *destinations: Destination, delivery: dict[str, Any] | None = None, **peer: Any
) -> Rig:
    """A service whose results go to `destinations`; `peer` are further keys of every one of them."""
    peers = [
        {"ae_title": d.ae_title, "host": d.host, "port": d.port, "roles": ["pacs"], **peer}
        for d in destinations
    ]
    rig = make_rig(folder, dicom={"peers": peers}, delivery=delivery or {})
    rig.app = replace(rig.app, sender=DicomSender(connect_timeout_s=2, dimse_timeout_s=3))
    return rig


def queue_objects(rig: Rig, count: int, *destinations: str, first: int = 0) -> list[str]:
    """CT images that stand for results; returns their SOP instance UIDs in the order of sending."""
    case = new_case(
        rig, images=1, study="1.2.826.0.1.3680043.10.9999.77", series="1.2.826.0.1.3680043.10.9999.78"
    )
    folder = rig.app.config.data_dir / "results"
    folder.mkdir(exist_ok=True)
    uids = []
    with transaction(rig.app.engine) as connection:
        for n in range(first, first + count):
            path = save(ct_slice(n, study="1.2.826.0.1.3680043.10.9999.7", series="1.2.826.0.1.3680043.10.9999.8"),
                        folder / f"{n}.dcm")  # fmt: skip
            uids.append(f"1.2.826.0.1.3680043.10.9999.8.{n + 1}")
            for name in destinations:
                deliveries.add(connection, case_id=case.id, destination=name, sop_uid=uids[-1], kind="sr", path=path,
                               now=rig.clock.now())  # fmt: skip
        # in the order of creation: the test clock stands still
    return uids


def all_of(rig: Rig, destination: str = "") -> list[Delivery]:
    with reading(rig.app.engine) as connection:
        found = deliveries.listed(connection)
    return sorted(
        (d for d in found if destination in ("", d.destination)), key=lambda d: (d.sop_uid, d.destination)
    )


def states(rig: Rig, destination: str = "") -> list[str]:
    return [d.state for d in all_of(rig, destination)]


class OrderedScp:
    """A storage SCP whose `answer(uid, nth time this uid came)` is the test's: a status, or None to abort."""

    def __init__(self, answer: Callable[[str, int], int | None]) -> None:
        self.came: list[str] = []
        self.stored: list[str] = []
        self._answer = answer
        self._lock = threading.Lock()

    def _store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self.came.append(uid)
            nth = self.came.count(uid)
        status = self._answer(uid, nth)
        if status is None:
            event.assoc.abort()
            return 0xA700
        if status == 0:
            with self._lock:
                self.stored.append(uid)
        return status

    @contextmanager
    def running(self, title: str = "PACS") -> Iterator[Destination]:
        entity = AE(title)
        entity.add_supported_context(CT_IMAGE, "1.2.840.10008.1.2.1")
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        try:
            yield Destination(title, "127.0.0.1", server.server_address[1])
        finally:
            server.shutdown()
            server.server_close()
