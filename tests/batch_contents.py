"""Everything that a batch writes, so that two runs can be compared byte for byte."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def contents(folder: Path) -> dict[str, Any]:
    """Return every file but for the time that scans took, which the tables and records hold."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name == "scores.csv":
            with path.open(newline="") as opened:
                found[name] = [
                    {key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(opened)
                ]
        elif name.startswith("records/"):
            record = json.loads(path.read_text())
            record["row"].pop("seconds")
            record.pop("digest")
            found[name] = record
        else:
            found[name] = path.read_bytes()
    return found
