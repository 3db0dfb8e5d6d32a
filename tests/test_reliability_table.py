"""docs/faults.md names a test for every fault and promise, or says that it is not promised."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
NUMBERS = [f"{kind}{n + 1}" for kind, count in (("F", 26), ("D", 8), ("M", 10), ("P", 10)) for n in range(count)]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [A-Z]\d+ ", line)
]
HELD = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)")
MEASURED = re.compile(r"measured: \[(benchmarks/\w+\.py)\]\(\.\./(benchmarks/\w+\.py)\)")


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_number_is_there_in_order() -> None:
    assert all(len(row) == 4 and all(row) for row in ROWS)
    assert list(dict.fromkeys(number for number, *_ in ROWS)) == NUMBERS


def test_no_row_is_there_twice() -> None:
    told = [tuple(row) for row in ROWS]
    assert sorted(set(told)) == sorted(told)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}-{row[1][:40]}" for row in ROWS])
def test_who_holds_a_row_is_there(row: list[str]) -> None:
    held, measured = HELD.fullmatch(row[3]), MEASURED.fullmatch(row[3])
    if held:
        assert held[1] in functions_of(ROOT / held[2])
    elif measured:
        assert measured[1] == measured[2]
        assert (ROOT / measured[1]).is_file()
    else:
        assert row[3] == "not promised"


def test_most_is_held_by_tests() -> None:
    held = {row[0] for row in ROWS if HELD.fullmatch(row[3])}
    assert held == set(NUMBERS) - {"D6"}
