"""What batches over a folder of scans share: one at a time in a folder, a failure costs its own scan, whole tables."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mendscan.detection.case_work import Case
from mendscan.errors import WriteError
from mendscan.failures import as_error, concerns_the_folder
from mendscan.progress import Progress
from mendscan.results import forget_case
from mendscan.results.layout import remove_temporary
from mendscan.results.tables import Tables
from mendscan.volumes.locking import LOCK_NAME, locked
from mendscan.volumes.writing import make_folder

__all__ = ["BatchSummary", "held_results", "summary_of", "take_outcomes"]


@dataclass(frozen=True)
class BatchSummary:
    """How a batch went.

    Attributes:
        rows: Rows of ``scores.csv``.
        failed: How many scans failed.
        kept: How many were there before, verified.
    """

    rows: tuple[dict[str, Any], ...]
    failed: int
    kept: int = 0


def summary_of(tables: Tables) -> BatchSummary:
    """Return how a batch went, by its tables."""
    return BatchSummary(tables.rows, sum(row["status"] == "failed" for row in tables.rows), tables.kept)


@contextmanager
def held_results(folder: Path) -> Iterator[None]:
    """Hold a results folder, made if need be; leave no unfinished file in it, of this run or of one that was killed.

    Raises:
        WriteError: If it cannot be written to, or another run is at work in it (E_LOCKED).
    """
    with locked(make_folder(folder), "detection"):
        remove_temporary(folder)
        try:
            yield
        finally:
            with suppress(WriteError):
                remove_temporary(folder)


def take_outcomes(
    cases: Sequence[Case],
    outcomes: Generator[tuple[int, Any], None, None],
    tables: Tables,
    progress: Progress,
    take: Callable[[Case, Any], None],
) -> None:
    """Take what comes of each case into the tables, in whatever order; a case that failed has a row and no file.

    However it ends, the processes are ended first and the tables written then, so that these have all that was done.

    Args:
        cases: The scans.
        outcomes: Index of a case and what came of it, or the exception, as `parallel.each_outcome` yields them.
        tables: Of the results folder, which is held.
        progress: Told of every case.
        take: Told of a case that did not fail, and what came of it; adds its rows to the tables.

    Raises:
        WriteError: If the results folder can hold nothing more, or was moved away.
    """
    with tables.completed_at_last(), closing(outcomes):
        for index, outcome in outcomes:
            _refuse_other_folder(tables.folder)
            if concerns_the_folder(outcome):
                raise outcome
            if isinstance(outcome, Exception):
                _take_failure(cases[index], outcome, tables, progress)
            else:
                take(cases[index], outcome)
            progress.advance()


def _take_failure(case: Case, outcome: Exception, tables: Tables, progress: Progress) -> None:
    error = as_error(outcome, case.pseudonym or case.path.name)
    progress.say(f"failed: {error}")
    forget_case(tables.folder, case.name)
    tables.add({"case": case.name, "status": "failed", "code": error.code, "message": str(error)}, [])


def _refuse_other_folder(folder: Path) -> None:
    """Refuse to go on if the folder was moved away: a worker would make it anew, and half the results be elsewhere."""
    if not (folder / LOCK_NAME).exists():
        raise WriteError(
            "the results folder was moved or removed while the batch ran",
            where=folder,
            remedy="bring it back and go on with --resume, or begin again",
        )
