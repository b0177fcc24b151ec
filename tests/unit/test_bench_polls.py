"""What counts as a poll in the print campaign (bench/printing/polls.py): the judge must not be kinder than its rule."""

from __future__ import annotations

from typing import Any

import pytest

from bench.printing.polls import Polls
from bench.printing.wire import ASKED, PASSED, Seen


class _Service:
    """Looks at the printer in steps; `record` is what it has stored."""

    def __init__(self) -> None:
        self.record: Any = "old"
        self.process_id = 1
        self.polls = Polls(lambda: self.record, lambda: self.process_id)

    def ask_job(self) -> None:
        self.polls.see(Seen(ASKED, "GET", "/api/v1/print_job"))
        self.polls.see(Seen(PASSED, "GET", "/api/v1/print_job", 404))

    def ask_printer(self, status: int = 200) -> None:
        self.polls.see(Seen(ASKED, "GET", "/api/v1/printer"))
        self.polls.see(Seen(PASSED, "GET", "/api/v1/printer", status))

    def look(self, status: int = 200) -> None:
        self.ask_job()
        self.ask_printer(status)


@pytest.fixture
def service() -> _Service:
    return _Service()


def test_a_poll_ends_when_the_next_look_is_asked_for(service: _Service) -> None:
    service.polls.begin()
    service.look()
    assert service.polls.records == ["old"]
    service.record = "new"
    service.look()
    service.record = "too late"
    assert service.polls.records == ["old", "new"]


def test_a_look_begun_before_the_truth_is_none(service: _Service) -> None:
    service.ask_job()
    service.polls.begin()
    service.ask_printer()
    service.look()
    assert service.polls.records == ["old"]
    service.look()
    assert service.polls.records == ["old", "old"]


def test_questions_about_the_history_belong_to_the_poll_that_asks_them(service: _Service) -> None:
    service.polls.begin()
    service.look()
    service.ask_job()
    service.polls.see(Seen(ASKED, "GET", "/api/v1/history/print_jobs?offset=0&count=50"))
    service.polls.see(Seen(PASSED, "GET", "/api/v1/printer/status", 200))
    assert service.polls.records == ["old"]
    service.look()
    assert service.polls.records == ["old", "old"]


@pytest.mark.parametrize("status", [404, 500])
def test_an_answer_that_is_no_success_is_no_poll(service: _Service, status: int) -> None:
    service.polls.begin()
    service.look(status)
    service.look()
    assert service.polls.records == ["old"]


def test_a_look_that_a_kill_cut_off_is_none(service: _Service) -> None:
    service.polls.begin()
    service.look()
    service.process_id = 2
    service.look()
    assert service.polls.records == ["old"]
    service.look()
    assert service.polls.records == ["old", "old"]


def test_nothing_is_counted_outside_a_comparison(service: _Service) -> None:
    service.polls.begin()
    service.look()
    service.polls.end()
    service.look()
    assert service.polls.records == ["old"]
