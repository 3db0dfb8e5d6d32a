"""What a benchmark has already done: a stopped one goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mendscan.errors import ResultsError
from mendscan.progress import Progress
from mendscan.volumes.writing import make_folder, write_json

__all__ = ["Journal"]


class Journal:
    """The finished steps of a benchmark, with what each was done with and how long it took.

    A step is done again if what it is done with changed, and so is every step after it.

    Args:
        folder: The benchmark's folder; ``journal.json`` is kept in it.
        progress: Told of every step that begins or is skipped.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._path = make_folder(folder) / "journal.json"
        self._progress = progress
        self._entries: list[dict[str, Any]] = _entries(self._path)
        self._position = 0

    def step(self, name: str, facts: Mapping[str, Any], work: Callable[[], None]) -> None:
        """Do a step unless it was done with the same facts before.

        Args:
            name: The step.
            facts: What decides its outcome, as JSON values.
            work: Does it; must be able to start anew over what an interrupted attempt left.
        """
        done = self._entries[self._position : self._position + 1]
        wanted = {"step": name, "facts": json.loads(json.dumps(facts))}
        if done and {key: done[0].get(key) for key in wanted} == wanted:
            self._progress.say(f"done before: {name} ({done[0]['seconds']:.0f} s)")
        else:
            self._progress.say(f"step {self._position + 1}: {name}")
            started = time.monotonic()
            work()
            seconds = round(time.monotonic() - started, 1)
            self._entries[self._position :] = [{**wanted, "seconds": seconds}]
            write_json(self._path, self._entries)
        self._position += 1

    @property
    def seconds(self) -> dict[str, float]:
        """How long each step took."""
        return {entry["step"]: float(entry["seconds"]) for entry in self._entries[: self._position]}


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ResultsError(
            "the benchmark's journal cannot be read", where=path, found=error, remedy="name another folder"
        ) from None
