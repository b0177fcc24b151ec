"""Our printer client against things at the printer's address that are not a printer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapters.ultimaker import PrinterClient, PrinterSettings, Timeouts, UltimakerPrinter
from adapters.ultimaker.faults import PrinterOddAnswerError, PrinterSilentError
from service.ports import LookupOutcome, PrinterState

LIMIT_S = 0.5


class _Trickle(BaseHTTPRequestHandler):
    """Answers at once, then lets the body drip for ten seconds: no single wait is ever long."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "200")
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Portal(_Trickle):
    """A captive portal: everything is redirected to a page that says 200 to anybody."""

    def do_GET(self) -> None:
        if self.path == "/":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "idle"}')
            return
        self.send_response(302)
        self.send_header("Location", "/")
        self.end_headers()


@contextmanager
def _at_the_address(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_dripping_answer_is_cut_off() -> None:
    with _at_the_address(_Trickle) as url:
        client = PrinterClient(url, timeouts=Timeouts(LIMIT_S, LIMIT_S, LIMIT_S))
        began = time.monotonic()
        with pytest.raises(PrinterSilentError) as caught:
            client.get("/printer")
        assert time.monotonic() - began < 5
        assert caught.value.reached


class _Cut(_Trickle):
    """The connection ends in the middle of an answer that would be good JSON as it stands."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "50")
        self.end_headers()
        self.wfile.write(b"[]")


def test_an_answer_cut_short_is_none() -> None:
    with _at_the_address(_Cut) as url, pytest.raises(PrinterSilentError):
        PrinterClient(url).get_json("/history/print_jobs")


def test_a_portal_is_not_taken_for_an_idle_printer() -> None:
    with _at_the_address(_Portal) as url:
        settings = PrinterSettings(settle_s=0.0, timeouts=Timeouts(2, 2, 2))
        with pytest.raises(PrinterOddAnswerError):
            PrinterClient(url).get("/printer/status")
        printer = UltimakerPrinter("um3", url, None, settings)
        assert printer.read().state is PrinterState.SILENT
        assert printer.find("case-1").outcome is LookupOutcome.UNSURE
