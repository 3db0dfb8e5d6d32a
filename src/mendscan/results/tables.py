"""The tables of a results folder while a batch runs: complete at its end, however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mendscan.errors import WriteError
from mendscan.results.layout import TIMING, write_results
from mendscan.results.records import CaseRecord
from mendscan.volumes.tables import write_csv

__all__ = ["Tables"]

_Rows = dict[str, tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]
_EVERY_S = 20.0
"""Tables are written anew at most so often: every row each time, they would cost as the square of the scans."""


class Tables:
    """Rows of ``scores.csv`` and ``findings.csv``; what is not yet in the files is in the records of the cases.

    Args:
        folder: The results folder.
        run: What ``results.json`` holds.
        claim: Returns the records that are there; their rows are in the tables until their cases are done.
    """

    def __init__(self, folder: Path, run: dict[str, Any], claim: Callable[[], Sequence[CaseRecord]]) -> None:
        self.folder = folder
        self._run = run
        self._claim = claim
        self._claimed = self._rows_of_records()
        self._done: _Rows = {}
        self._seconds: dict[str, float] = {}
        self._written_at: float | None = None

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """Rows of the scans done, sorted by case."""
        return tuple(dict(self._done[case][0]) for case in sorted(self._done))

    @property
    def kept(self) -> int:
        """How many scans were not done again."""
        return sum(row["status"] == "ok" and case not in self._seconds for case, (row, _) in self._done.items())

    def add(
        self, row: Mapping[str, Any], findings: Sequence[Mapping[str, Any]], *, seconds: float | None = None
    ) -> None:
        """Take the rows of a scan; write the tables if that was not done for a while.

        Args:
            row: Its row of ``scores.csv``.
            findings: Its rows of ``findings.csv``.
            seconds: How long it took; None if it failed, or is kept from a stopped run.

        Raises:
            WriteError: If they cannot be written.
        """
        self._done[str(row["case"])] = (row, findings)
        if seconds is not None:
            self._seconds[str(row["case"])] = seconds
        if self._written_at is None or time.monotonic() - self._written_at > _EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the tables and ``results.json``."""
        entries = (self._claimed | self._done).values()
        write_results(
            self.folder, [row for row, _ in entries], [each for _, findings in entries for each in findings], self._run
        )
        timing = [{"case": case, "seconds": round(taken, 2)} for case, taken in sorted(self._seconds.items())]
        write_csv(self.folder / TIMING, timing, ("case", "seconds"))
        self._written_at = time.monotonic()

    @contextmanager
    def completed_at_last(self) -> Iterator[None]:
        """Write the tables when the block ends; if by an error, as far as it goes, and the error goes on.

        Raises:
            WriteError: If they cannot be written.
        """
        try:
            yield
        except BaseException:
            self._claimed = self._rows_of_records()  # a scan may be done and the word of it not have come
            if self._done or self._claimed:
                with suppress(WriteError):
                    self.write()
            raise
        self.write()

    def _rows_of_records(self) -> _Rows:
        return {record.case: (record.row, record.findings) for record in self._claim()}
