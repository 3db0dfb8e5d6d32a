"""No result, and no decision, depends on what time it is: clocks jump, and are set back in autumn."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))
CALENDAR = {"time", "time_ns", "localtime", "gmtime", "strftime", "ctime", "now", "utcnow", "today"}
"""What `time`, `datetime` and `date` say of the calendar; their other clocks only run forward."""


def questions(source: str) -> list[str]:
    """Return where a source asks what time it is."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and node.attr in CALENDAR]
    called = [ast.unparse(node) for node in found]
    imported = [
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}
        for alias in node.names
        if alias.name in CALENDAR | {"datetime", "date"}
    ]
    return called + imported


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nobody_asks_what_time_it_is(path: Path) -> None:
    assert questions(path.read_text(encoding="utf-8")) == []


def test_who_asks_is_noticed() -> None:
    assert questions("import time\ntime.time()") == ["time.time"]
    assert questions("import datetime\ndatetime.date.today()") == ["datetime.date.today"]
    assert questions("from time import time, monotonic") == ["time"]
    assert questions("import time\ntime.monotonic()") == []
