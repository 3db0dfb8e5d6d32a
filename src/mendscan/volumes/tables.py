"""Tables as CSV files: what is written is read back the same, and a spreadsheet takes no name for a formula."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mendscan.errors import ResultsError, WriteError
from mendscan.volumes.writing import write_text

__all__ = ["read_csv", "write_csv"]

_CELL = r"(?:\A|(?<=[;\t\r\n]))"
"""Where a spreadsheet may begin a cell: those of many countries do behind a semicolon, in the midst of a text, too."""
_FORMULA = r"(?=[\"']*[=+\-@\t\r\n＝＋－＠])"
"""What it takes for a formula, its full-width forms too, with the quotes that it takes away or that guard it."""
_UNGUARDED, _GUARDED = re.compile(f"{_CELL}{_FORMULA}"), re.compile(f"{_CELL}'{_FORMULA}")


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write a table as CSV, atomically.

    Text that a spreadsheet would take for a formula is given an apostrophe before it; numbers stay as they are.

    Args:
        path: The file; its folder must exist.
        rows: One mapping per row, column to cell; None or a missing cell is written empty.
        columns: The columns, in order.

    Raises:
        WriteError: If a row has a column that is not listed (E_COLUMNS) or the file cannot be written.
    """
    unknown = sorted({column for row in rows for column in row} - set(columns))
    if unknown:
        raise WriteError("unknown columns", where=path, code="E_COLUMNS", found=unknown, expected=list(columns))
    lines = [columns, *([row.get(column) for column in columns] for row in rows)]
    write_text(path, "".join(_line(cells) for cells in lines))


def read_csv(path: str | os.PathLike[str], columns: Sequence[str], *, key: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a table that `write_csv` or any other program wrote.

    Args:
        path: The file.
        columns: What it must have; it may have more.
        key: Columns whose cells together name a row: no two rows may have the same.

    Returns:
        The rows, column to cell as text, without the apostrophes that guard against formulas.

    Raises:
        ResultsError: If it cannot be read, columns are missing, or a row is too short or occurs twice.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            found, read = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError("the table cannot be read", where=path, found=error, remedy="write it again") from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise ResultsError(
            "columns are missing",
            where=path,
            found=", ".join(found) or "an empty file",
            expected=", ".join(missing),
            remedy="name the columns in the first line, with commas between them",
        )
    rows, names = [], set[tuple[str, ...]]()
    for number, cells in enumerate(read, start=1):
        if None in cells.values():
            raise ResultsError(
                f"row {number} is too short",
                where=path,
                found=f"{sum(cell is not None for cell in cells.values())} cells",
                expected=f"{len(found)} cells",
                remedy="complete or remove it",
            )
        row = {column: _unguarded(cells[column]) for column in found}
        name = tuple(row[column] for column in key)
        if key and name in names:
            raise ResultsError(
                f"row {number} is of the same {' and '.join(key)} as one before",
                where=path,
                found=", ".join(name),
                expected="one row each",
                remedy="remove one of them",
            )
        names.add(name)
        rows.append(row)
    return rows


def _line(cells: Sequence[object]) -> str:
    written = io.StringIO()
    # The writer quotes the characters of its line end only; a carriage return inside a name needs quotes, too.
    csv.writer(written, lineterminator="\r\n").writerow([_guarded(cell) for cell in cells])
    return written.getvalue().removesuffix("\r\n") + "\n"


def _guarded(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return value
    return _UNGUARDED.sub("'", str(value))


def _unguarded(text: str) -> str:
    return _GUARDED.sub("", text)
