"""The one place that joins the core with its adapters."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import uvicorn
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from adapters.dicom_node import DicomNode, DicomSender, NodeConfig
from adapters.dicom_node.commitment_scu import CommitmentScu
from adapters.dicom_node.query import DicomFinder
from adapters.dicom_node.tls import TlsFiles
from adapters.dicom_node.web_door import WebDoor
from adapters.dicom_web import StowSender, StowTarget
from adapters.job_queue.dbos_queue import DbosJobQueue
from adapters.job_queue.engine import queue_engine
from adapters.oarm_dicom import ScanKind, recognise
from adapters.ultimaker import PrinterSettings, UltimakerPrinter
from adapters.ultimaker.camera import UltimakerCamera
from adapters.ultimaker.discovery import MdnsDiscovery
from adapters.ultimaker.interfaces import INTERFACES
from adapters.ultimaker.preflight import PLA_GUIDS
from service.bootstrap_tasks import describe_segmenter, make_slicer
from service.config import Config, PrinterConfig, WebDestinationConfig
from service.domain.case import CaseState
from service.domain.series import SeriesInfo
from service.errors import ConfigError, DeviceError, SpineprintError
from service.geometry.progress import Progress
from service.ops import logs
from service.ops.clock import SimulationClock, SystemClock
from service.ops.loops import Loop
from service.ports import (
    Clock,
    Destination,
    ImageNode,
    InstanceIntake,
    JobHandler,
    Peer,
    Printer,
    PrinterState,
)
from service.store import outbox, settings
from service.store.database import migrate, open_engine
from service.workflow import (
    approve,
    build,
    deliver,
    intake,
    intake_batch,
    print_pictures,
    print_run,
    publish,
    pull,
    scan_pictures,
    sterile_settings,
    sterilise,
    verify,
    waiting,
)
from service.workflow.app import App
from service.workflow.jobs import case_job
from service.workflow.node_watch import NodeWatch
from service.workflow.standby import Standby
from service.workflow.tether import run_tethered

log = logging.getLogger("spineprint")

ROLES = ("all", "web", "dicom", "worker")
_CAMERA_S = 3.0
QUEUES = ("cpu", "urgent", "printers", "io", "pulls")


def _printer(config: PrinterConfig) -> UltimakerPrinter:
    settings = PrinterSettings(
        materials=PLA_GUIDS | set(config.materials), interface=INTERFACES[config.interface]
    )
    return UltimakerPrinter(config.name, config.url, config.credentials_file, settings)


def open_app(config: Config) -> App:
    """Database, clock and clients, without anything that listens or works. Used by the CLI and by `serve`."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(config.resolved_database_url)
    migrate(engine)
    clock: Clock = _simulation_clock(engine) if config.simulation.enabled else SystemClock()
    printers: dict[str, Printer] = {p.name: _printer(p) for p in config.printers}
    tls = tls_files(config)
    app = App(
        config=config,
        engine=engine,
        clock=clock,
        notifier=logs.LogNotifier(),
        run_task=partial(_run_task, config.worker.job_timeout_s),
        recognise=recognise_scan,
        printers=printers,
        cameras={p.name: UltimakerCamera(p.url) for p in config.printers if p.camera},
        discovery=MdnsDiscovery(),
        sender=DicomSender(config.dicom.ae_title, tls=tls),
        web_senders={w.name: StowSender(_stow_target(w)) for w in config.dicom.web_destinations},
        finder=DicomFinder(config.dicom.ae_title, tls=tls),
    )
    # An archive may report on the association of the request itself; else its report comes to the node.
    sink = partial(deliver.note_commitment, app)
    return replace(app, committer=CommitmentScu(config.dicom.ae_title, tls=tls, on_report=sink))


def tls_files(config: Config) -> TlsFiles | None:
    """What we show to peers and check them with; None when it is not configured."""
    certificate, key, ca = config.dicom.tls_certificate, config.dicom.tls_key, config.dicom.tls_ca
    return TlsFiles(certificate, key, ca) if certificate and key and ca else None


def _stow_target(entry: WebDestinationConfig) -> StowTarget:
    return StowTarget(entry.name, entry.url, entry.user, entry.password_file, entry.ca_file)


def _simulation_clock(engine: Engine) -> SimulationClock:
    key = "simulation.offset_s"
    offset_s = float(settings.load(engine, key) or 0.0)
    return SimulationClock(offset_s, lambda seconds: settings.save(engine, key, str(seconds)))


def _run_task(
    timeout_s: float, kind: str, argument: Mapping[str, object], progress: Progress
) -> dict[str, object]:
    return run_tethered(kind, argument, progress, timeout_s=timeout_s)


_KINDS = {ScanKind.PLANNING_CT: "planning_ct", ScanKind.INTRAOPERATIVE: "oarm", ScanKind.UNKNOWN: "unknown"}


def recognise_scan(info: SeriesInfo, roles: Sequence[str]) -> str:
    return _KINDS[recognise(info, caller_roles=roles).kind]


def handlers(app: App) -> dict[str, JobHandler]:
    return {
        "inspect": case_job(app, CaseState.RECEIVING, intake.inspect),
        "build": case_job(app, CaseState.BUILDING, build.build),
        "slice": case_job(app, CaseState.APPROVED, approve.slice_approved),
        "verify": case_job(app, CaseState.VERIFYING, verify.verify),
        "send_print": partial(print_run.send_print, app),
        "publish_plan": partial(publish.publish_plan, app),
        "publish_scan": partial(publish.publish_scan, app),
        "publish_pictures": partial(publish.publish_pictures, app),
        "scan_pictures": partial(scan_pictures.make, app),
        "pull": partial(pull.run, app),
    }


@dataclass
class Daemon:
    """Everything that runs, started and stopped in one order."""

    app: App
    role: str
    queue: DbosJobQueue | None = None
    node: DicomNode | None = None
    door: WebDoor | None = None
    watch: NodeWatch | None = None
    standby: Standby | None = None
    loops: list[Loop] = field(default_factory=list)
    _intake: Loop | None = None
    _relay: Loop | None = None

    def start(self) -> None:
        if self.role in ("all", "worker"):
            self._start_worker()
        if self.role in ("all", "web"):
            self._start_door()
        if self.role in ("all", "dicom"):
            self._start_dicom()
        for loop in self.loops:
            loop.start()

    def stop(self) -> None:
        if self.node:
            self.node.stop()
        if self.door:
            self.door.stop()
        for loop in self.loops:
            loop.stop()
        if self.watch:
            _say_goodbye(self.watch)
        if self.queue:
            self.queue.stop(0)
        if self.standby:
            self.standby.close()
        self.app.engine.dispose()

    def _start_worker(self) -> None:
        config = self.app.config
        self.standby = Standby("verify", timeout_s=config.worker.job_timeout_s)
        self.app = app = replace(self.app, run_task=self.standby.run)
        name = config.worker.executor_id
        self.queue = DbosJobQueue(
            queue_engine(config.queue_database_url), name, config.data_dir / f"worker-{name}.lock"
        )
        self.queue.run_worker(handlers(app), QUEUES)
        _recover(app, self.queue)
        self._loop("recover", 60.0, partial(_recover, app, self.queue))
        self._relay = self._loop("relay", 0.2, partial(_relay_jobs, app, self.queue))
        self._loop("standby", 0.25, partial(_keep_ready, app, self.standby))
        deliver.release_claims(app)
        for name in deliver.destination_names(config):
            # One loop each: a destination that does not answer keeps only its own results waiting.
            self._loop(f"deliver-{name}", 1.0, partial(deliver.take_turn, app, name))
        self._loop("deliver-unknown", 10.0, partial(deliver.settle_unknown, app))
        self._loop("expiry", 30.0, partial(sterilise.withdraw_expired, app))
        self._loop("overdue", 60.0, partial(waiting.tell_overdue, app))
        for printer, entry in zip(app.printers.values(), config.printers, strict=True):
            self._loop(f"printer-{printer.name}", entry.poll_s, partial(print_run.poll, app, printer))
        for name, camera in app.cameras.items():
            # a loop of its own: a camera that hangs keeps no print waiting
            self._loop(f"camera-{name}", _CAMERA_S, partial(print_pictures.take_due, app, name, camera))

    def _start_door(self) -> None:
        config = self.app.config.dicom
        self.door = WebDoor(
            self.app.config.data_dir / "dicom-web",
            partial(intake.accept_instance, self.app),
            scratch=self.app.config.data_dir / "uploads" / "arriving",
            batch_sink=partial(intake_batch.accept_instances, self.app),
            disk_reserve_bytes=config.disk_reserve_mb << 20,
            ae_title=config.ae_title,
            now=self.app.clock.now,
        )
        self.app = replace(self.app, door=self.door)
        self.door.start()

    def _start_dicom(self) -> None:
        config = self.app.config.dicom
        self.node = DicomNode(
            NodeConfig(
                host=config.host,
                port=config.port,
                store_dir=self.app.config.data_dir / "dicom",
                ae_title=config.ae_title,
                tls_port=config.tls_port,
                tls=tls_files(self.app.config),
                peers=tuple(
                    Peer(p.ae_title, p.host, p.port, tuple(p.roles), tls=p.tls) for p in config.peers
                ),
                require_known_callers=config.require_known_peers,
                max_associations=config.max_associations,
                disk_reserve_bytes=config.disk_reserve_mb << 20,
            ),
            partial(intake.accept_instance, self.app),
            conflict_sink=partial(intake.accept_instance, self.app),
            batch_sink=partial(intake_batch.accept_instances, self.app),
            commitment_sink=partial(deliver.note_commitment, self.app),
            on_quiet=self._nudge_intake,
            now=self.app.clock.now,
        )
        self.app = replace(self.app, node=self.node)
        self.node.start()
        listening_since = self.app.clock.now()
        self.watch = NodeWatch(self.app, self.node, socket.gethostname(), self.node.port, listening_since)
        # a scan that is complete now is measured now, not at the next turns
        done = self._relay.nudge if self._relay else _nothing
        self._intake = self._loop("intake", 0.5, partial(_intake_tick, self.watch, done))

    def _nudge_intake(self) -> None:
        if self._intake:
            self._intake.nudge()

    def _loop(self, name: str, interval_s: float, step: Callable[[], object]) -> Loop:
        self.loops.append(Loop(name, interval_s, step))
        return self.loops[-1]


def _nothing() -> None:
    """In a process without a worker nobody here takes up what intake found."""


def _relay_jobs(app: App, queue: DbosJobQueue) -> None:
    outbox.relay(app.engine, queue, app.clock.now())


def _recover(app: App, queue: DbosJobQueue) -> None:
    for key in outbox.recover(app.engine, queue):
        log.warning("job %s had failed or was unknown to the queue; it is queued again", key)


def _keep_ready(app: App, standby: Standby) -> None:
    standby.keep(verify.may_be_needed(app))
    standby.tell(verify.arriving_files(app))


def _say_goodbye(watch: NodeWatch) -> None:
    try:
        watch.leave()
    except SQLAlchemyError as exc:
        # Stopping goes on; the others take the node for lost after some seconds.
        log.warning("the end of the DICOM node could not be recorded: %s", type(exc).__name__)


def _intake_tick(watch: NodeWatch, done: Callable[[], None] = _nothing) -> None:
    elsewhere = watch.look().open_associations
    doors: list[ImageNode | InstanceIntake] = [watch.node]
    if watch.app.door:
        doors.append(watch.app.door)
    # What is durable but not yet sorted could belong to a study that looks quiet: wait for the sorting.
    if all(door.counters().get("intake_waiting", 0) == 0 for door in doors):
        # Looking may have waited for the database: our own associations are asked for once more.
        carried = {i: ae for door in doors for i, ae in door.open_associations().items()}
        intake.tick(watch.app, {**elsewhere, **carried}, watch.listening_since)
        done()


def serve(config: Config, role: str) -> int:
    """Run until SIGTERM or SIGINT. Everything resumes at the next start, after kill -9 too."""
    logs.set_up(config.log_level)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn hands the signal on when it has shut down; with the default action that would be the end of us
        # before the queue and the node are stopped.
        signal.signal(number, lambda *_: stopped.set())
    daemon = Daemon(open_app(config), role)
    sterile_settings.note_settings(daemon.app)
    try:
        daemon.start()
        log.info("spineprint is up", extra={"role": role, "started_at": datetime.now(UTC).isoformat()})
        if role in ("all", "web"):
            from service.web.api import create_web

            web = create_web(daemon.app, daemon.loops)
            server = uvicorn.Server(
                uvicorn.Config(web, host=config.web.host, port=config.web.port, log_config=None, access_log=False,
                               timeout_graceful_shutdown=5, server_header=False)
            )  # fmt: skip
            try:
                server.run()
            except SystemExit:
                raise ConfigError(
                    f"The web port {config.web.port} cannot be opened.",
                    next_step="Choose another [web] host or port, or stop the program that holds it.",
                ) from None
            if not server.started:
                return 1
        else:
            stopped.wait()
    finally:
        daemon.stop()
        log.info("spineprint has stopped")
    return 0


def self_test(config: Config) -> list[tuple[str, bool, str]]:
    """Named checks of an installation: (name, good, detail)."""
    results: list[tuple[str, bool, str]] = []

    def check(name: str, probe: Callable[[], str]) -> None:
        try:
            results.append((name, True, probe()))
        except SpineprintError as exc:
            results.append((name, False, str(exc)))

    check(
        "configuration", lambda: f"{len(config.printers)} printer(s), {len(config.dicom.peers)} DICOM peer(s)"
    )
    check("database", lambda: open_app(config).engine.dialect.name)
    check("slicer", lambda: make_slicer(config).describe())
    if config.isolation.segmentation_model:
        check("segmentation model", partial(describe_segmenter, config.isolation.segmentation_model))
    for p in config.printers:
        seen = _printer(p).read()
        results.append(
            (
                f"printer {p.name}",
                seen.state is not PrinterState.SILENT,
                f"{seen.state} {seen.detail}".strip(),
            )
        )
    for peer in config.dicom.peers:
        if "pacs" in peer.roles:
            echo = partial(
                DicomSender(config.dicom.ae_title, tls=tls_files(config)).echo, deliver.address_of(peer)
            )
            check(f"PACS {peer.ae_title}", partial(_must_answer, echo, "C-ECHO"))
    for entry in config.dicom.web_destinations:
        echo = partial(StowSender(_stow_target(entry)).echo, Destination(entry.name, "", 0))
        check(f"PACS {entry.name}", partial(_must_answer, echo, "DICOMweb"))
    return results


def _must_answer(echo: Callable[[], bool], what: str) -> str:
    if not echo():
        raise DeviceError(f"does not answer {what}", code="device.silent")
    return f"answers {what}"
