"""A step is done once; a folder holds one benchmark."""

import json
from pathlib import Path

import pytest

from mendscan.benchmark.journal import Journal
from mendscan.errors import ResultsError
from mendscan.progress import Silent


def do(folder: Path, *names: str, fact: int = 1) -> list[str]:
    """Run steps; return those that were really done."""
    done: list[str] = []
    journal = Journal(folder, {"fact": fact, "pair": (1, 2)}, Silent())
    for name in names:
        journal.step(name, lambda name=name: done.append(name))
    assert list(journal.seconds) == list(names)
    return done


def test_what_was_done_is_skipped(tmp_path: Path) -> None:
    assert do(tmp_path, "a", "b") == ["a", "b"]
    assert do(tmp_path, "a", "b", "c") == ["c"]
    assert do(tmp_path, "a", "d", "c") == ["d"]


def test_another_benchmark_is_refused_and_keeps_what_it_did(tmp_path: Path) -> None:
    do(tmp_path, "a")
    with pytest.raises(ResultsError, match=r"other scans, settings or versions \(found fact changed\).*another folder"):
        do(tmp_path, "a", fact=2)
    assert do(tmp_path, "a") == []


def test_even_before_its_first_step_was_done(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Journal(tmp_path, {"fact": 1}, Silent()).step("a", lambda: 1 // 0)
    with pytest.raises(ResultsError, match="fact changed"):
        Journal(tmp_path, {"fact": 2}, Silent())


def test_a_step_that_failed_is_not_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"fact": 1, "pair": (1, 2)}, Silent())
    with pytest.raises(ZeroDivisionError):
        journal.step("a", lambda: 1 // 0)
    assert journal.seconds == {}
    assert do(tmp_path, "a") == ["a"]


@pytest.mark.parametrize(
    "content", ["[{", "[]", "{}", '{"facts": {}, "seconds": 3}', '{"facts": 1, "seconds": {"a": "b"}}']
)
def test_a_damaged_journal_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "journal.json").write_text(content)
    with pytest.raises(ResultsError, match=r"journal\.json.*cannot be read.*another folder"):
        Journal(tmp_path, {}, Silent())
    assert (tmp_path / "journal.json").read_text() == content


def test_it_is_plain_json(tmp_path: Path) -> None:
    do(tmp_path, "a")
    saved = json.loads((tmp_path / "journal.json").read_text())
    assert saved["facts"] == {"fact": 1, "pair": [1, 2]}
    assert list(saved["seconds"]) == ["a"]
