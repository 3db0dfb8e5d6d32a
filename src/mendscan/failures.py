"""Why one scan of a batch failed: whatever was raised or happened, as an error with a code and a remedy."""

from __future__ import annotations

import errno
import logging

from mendscan.errors import MendscanError, ScanError, WriteError
from mendscan.workers import WorkerDied, WorkerTimedOut

__all__ = ["as_error", "concerns_the_folder", "told_apart"]

_OF_THE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_MEMORY_WORDS = ("can't allocate memory", "out of memory", "not enough memory")
_MORE_MEMORY = "use fewer --workers, --no-maps, or a machine with more memory"

_LOGGER = logging.getLogger(__name__)


def as_error(outcome: Exception, where: str) -> MendscanError:
    """Return what is to be said about a scan that failed.

    Args:
        outcome: What was raised, or happened to the process.
        where: What the scan is called; no message quotes more of its path.
    """
    if isinstance(outcome, MendscanError):
        return outcome.at(where)
    if isinstance(outcome, WorkerTimedOut):
        remedy = "give it more time with --timeout, or look at the scan"
        return ScanError("the scan was given up", where=where, code="E_TIMEOUT", found=outcome, remedy=remedy)
    if isinstance(outcome, WorkerDied):
        problem = "the process died of this scan, twice"
        return ScanError(problem, where=where, code="E_WORKER_DIED", found=outcome, remedy=_MORE_MEMORY)
    if _is_memory(outcome):
        return ScanError("memory ran out", where=where, code="E_MEMORY", remedy=_MORE_MEMORY)
    # What an unforeseen error says may quote anything, so only its kind is told.
    _LOGGER.debug("%s", where, exc_info=outcome)
    return MendscanError(
        "an error in mendscan itself",
        where=where,
        code="E_INTERNAL",
        found=type(outcome).__name__,
        remedy="see it with --debug and report it",
    )


def _is_memory(outcome: Exception) -> bool:
    words = str(outcome).lower()
    return isinstance(outcome, MemoryError) or (
        isinstance(outcome, RuntimeError) and any(each in words for each in _MEMORY_WORDS)
    )


def told_apart(error: WriteError) -> WriteError:
    """Return an error of writing, as E_NAME if it is about the name of the scan, not about the folder."""
    cause = error.__cause__
    if isinstance(cause, ValueError) or (isinstance(cause, OSError) and cause.errno in _OF_THE_NAME):
        found = getattr(cause, "strerror", None) or cause
        remedy = "give the scan another, shorter name"
        return WriteError(
            "no results can have the scan's name", where=error.where, code="E_NAME", found=found, remedy=remedy
        )
    return error


def concerns_the_folder(outcome: object) -> bool:
    """Return whether an error of writing says that the results folder can hold nothing more, of any scan."""
    return isinstance(outcome, WriteError) and outcome.code in ("E_WRITE", "E_NO_SPACE")
