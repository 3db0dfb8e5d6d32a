"""Every bad input of the catalogue: one typed error or one warning, within bounds, and nothing left behind."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.attack import Attack, Elsewhere, outcome
from attacks.corpus import CATALOGUE, CORPUS, ELSEWHERE
from attacks.page import PAGE, page

SECONDS = 120
"""Nothing takes as long; what waits for ever, such as for a pipe's writer, is ended."""


@pytest.fixture
def bounded() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError("the attack goes on for ever")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("bounded")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("attack", CORPUS, ids=[attack.id for attack in CORPUS])
def test_it_is_told_in_one_line_and_leaves_nothing(attack: Attack) -> None:
    came = outcome(attack)
    assert came.left <= attack.keeps
    if attack.expected.startswith("W_") or not attack.expected:
        assert came.code == "", came.message
        assert came.warnings == ((attack.expected,) if attack.expected else ())
        assert bool(attack.why) == (not attack.expected)
        return
    assert came.code == attack.expected, came.message
    if came.error is not None:
        assert came.error.problem
        assert came.error.where
        assert came.error.remedy or came.error.expected or came.error.found
        assert str(came.error).isprintable()


def test_names_are_told_apart() -> None:
    assert len({attack.id for attack in CORPUS}) == len(CORPUS)


def test_every_row_of_the_catalogue_is_there_in_order() -> None:
    rows = [row.row for row in CATALOGUE]
    assert rows == sorted(rows)
    assert set(rows) == set(range(1, 88))


@pytest.mark.parametrize("row", ELSEWHERE, ids=lambda row: f"{row.row} {row.test}")
def test_what_other_tests_hold_they_hold(row: Elsewhere) -> None:
    text = (Path(__file__).parents[1] / row.file).read_text(encoding="utf-8")
    assert f"def {row.test}(" in text


def without_details(text: str) -> str:
    """Leave out what was found: sizes and checksums, which another version of zlib may make others."""
    return re.sub(r"\(found [^|]*?\)(?=[; ])", "", text)


def test_the_page_says_what_happens() -> None:
    written, seen = PAGE.read_text(encoding="utf-8"), page()
    remedy = "write it anew: PYTHONPATH=src:tests python tests/attacks/page.py"
    assert without_details(written) == without_details(seen), remedy
    assert "**NO**" not in written
