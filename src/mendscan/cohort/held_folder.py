"""The folder that a command fills: held by one run at a time, and empty where nothing may be mixed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mendscan.errors import WriteError
from mendscan.volumes.locking import locked
from mendscan.volumes.writing import make_folder

__all__ = ["held_folder", "refuse_occupied"]


@contextmanager
def held_folder(folder: Path, work: str) -> Iterator[None]:
    """Keep every other run out of a folder, made if need be, for as long as the block lasts.

    Args:
        folder: The folder; it and those above it that were made for this are removed again if they stay empty.
        work: What is done there, for the message to others: ``evaluation``.

    Raises:
        WriteError: If another run is at work there (E_LOCKED), or it cannot be made or written to.
    """
    new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    make_folder(folder)
    try:
        with locked(folder, work):
            yield
    finally:
        with suppress(OSError):
            for path in new:
                path.rmdir()


def refuse_occupied(folder: Path, names: Sequence[str] | None = None) -> None:
    """Refuse a folder in which something would be overwritten or mixed up.

    Args:
        folder: The folder, which is held.
        names: What it must not hold; None = anything that is not hidden.

    Raises:
        WriteError: If the folder holds such a thing.
    """
    held = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    held = held if names is None else [name for name in held if name in names]
    if held:
        raise WriteError(
            "the folder holds files already", where=folder, code="E_NOT_EMPTY", found=", ".join(held[:3]),
            expected="an empty folder", remedy="name another one, or remove it",
        )  # fmt: skip
