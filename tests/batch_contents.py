"""Everything that a batch writes, so that two runs can be compared byte for byte."""

from __future__ import annotations

import csv
from pathlib import Path

from mendscan.results.layout import TIMING


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but for the one of how long scans took."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != TIMING}


def score_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``scores.csv``, as it has them."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))
