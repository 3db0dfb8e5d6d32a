"""Warnings of a scan that is read all the same: said in the log, or kept for whoever asks for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Remark", "remark", "remarks_kept"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remark:
    """What is odd about a scan that can be used.

    Attributes:
        code: A stable identifier for programs, such as ``W_ORIENTATION``.
        message: The same in words, without the scan's name.
    """

    code: str
    message: str


_LISTENERS: ContextVar[tuple[tuple[list[Remark], bool], ...]] = ContextVar("_LISTENERS", default=())
"""Where remarks go, and whether they are logged as well."""


def remark(where: object, code: str, message: str) -> None:
    """Say what is odd about a scan.

    Args:
        where: The scan, for the log.
        code: Begins with ``W_``.
        message: One line that quotes nothing of the file but numbers.
    """
    listeners = _LISTENERS.get()
    for kept, _ in listeners:
        if Remark(code, message) not in kept:
            kept.append(Remark(code, message))
    if all(logged for _, logged in listeners):
        _LOGGER.warning("%s: %s", where, message)


@contextmanager
def remarks_kept(*, logged: bool = False) -> Iterator[list[Remark]]:
    """Collect what is remarked within the block, in this thread.

    Args:
        logged: Whether it is logged as well, unless a block around this one keeps it from the log.

    Example:
        >>> with remarks_kept() as remarks:
        ...     remark("scan.nii", "W_UNIT", "the spatial unit is not the millimetre")
        >>> remarks[0].code
        'W_UNIT'
    """
    kept: list[Remark] = []
    token = _LISTENERS.set((*_LISTENERS.get(), (kept, logged)))
    try:
        yield kept
    finally:
        _LISTENERS.reset(token)
