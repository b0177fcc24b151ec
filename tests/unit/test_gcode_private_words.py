"""Which words of a person are sought in a print file, and where they count as found."""

from __future__ import annotations

import pytest

from service.gcode.private_words import private_words, word_in
from tests.support_gcode import sliced_part


def test_name_number_and_every_way_to_write_the_birth_date_are_sought():
    words = private_words(
        name="Müller^Jane Ann=MUELLER", patient_id="PID-0815", birth_date="19610304", other=("A1234567", "")
    )
    assert {"Müller", "Jane", "Ann", "MUELLER", "PID-0815", "A1234567"} <= set(words)
    assert {"19610304", "1961-03-04", "04.03.1961"} <= set(words)
    assert "" not in words


@pytest.mark.parametrize("name", ["Wall^Glass", "Skin", "Li", "Al^An"])
def test_a_patient_called_like_a_word_of_every_file_does_not_stop_the_print(name):
    words = private_words(name=name, patient_id="210", birth_date="")
    text = sliced_part().gcode.read_text()
    assert not [w for w in words if any(word_in(w, t) for t in text.splitlines() if t.startswith(";"))]


def test_nothing_is_sought_without_data():
    assert private_words() == ()
    assert private_words(birth_date="unknown") == ()


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("Doe", ";NOTE:JANEDOE", True),
        ("19610304", ";X:19610304 Y", True),
        ("123456", ";TIME_ELAPSED:12.123456", False),
        ("123456", ";TIME_ELAPSED:91234567", False),
    ],
)
def test_a_number_counts_only_as_a_whole(word, text, found):
    assert word_in(word, text) is found
