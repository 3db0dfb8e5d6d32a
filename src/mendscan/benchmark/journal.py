"""What a benchmark has already done: a stopped one goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mendscan.errors import ResultsError
from mendscan.progress import Progress
from mendscan.strict_json import read_json
from mendscan.volumes.writing import make_folder, write_json

__all__ = ["JOURNAL", "Journal"]

JOURNAL = "journal.json"


class Journal:
    """The finished steps of a benchmark, and how long each took.

    Args:
        folder: The benchmark's folder; ``journal.json`` is kept in it.
        facts: What decides the outcome of every step, as JSON values by name.
        progress: Told of every step that begins or is skipped.

    Raises:
        ResultsError: If the folder holds a benchmark with other facts, or its journal cannot be read.
        WriteError: If the journal cannot be written.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], progress: Progress) -> None:
        self._path = make_folder(folder) / JOURNAL
        self._progress = progress
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))
        self._seconds: dict[str, float] = self._done_before()
        self._called: list[str] = []
        self._save()

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do a step unless it was done before.

        Args:
            name: The step; every step has its own name.
            work: Does it; must be able to start anew over what an interrupted attempt left.
        """
        self._called.append(name)
        if name in self._seconds:
            self._progress.say(f"done before: {name} ({self._seconds[name]:.0f} s)")
            return
        self._progress.say(f"step {len(self._called)}: {name}")
        started = time.monotonic()
        work()
        self._seconds[name] = round(time.monotonic() - started, 1)
        self._save()

    @property
    def seconds(self) -> dict[str, float]:
        """How long each step took."""
        return {name: self._seconds[name] for name in self._called if name in self._seconds}

    def _save(self) -> None:
        write_json(self._path, {"facts": self._facts, "seconds": self._seconds})

    def _done_before(self) -> dict[str, float]:
        try:
            saved = read_json(self._path)
            facts, seconds = saved["facts"], {str(name): float(value) for name, value in saved["seconds"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultsError(
                "the benchmark's journal cannot be read", where=self._path, found=error, remedy="name another folder"
            ) from None
        if facts != self._facts:
            names = [name for name in self._facts if facts.get(name) != self._facts[name]]
            raise ResultsError(
                "the folder holds a benchmark with other scans, settings or versions",
                where=self._path.parent,
                found=", ".join(names) + " changed" if names else "facts of another version",
                remedy="give the same as before to go on with it, or name another folder",
            )
        return seconds
