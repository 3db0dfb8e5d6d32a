"""One run at a time in a folder: who holds its lock may write there, and the next one is told who it is.

The lock is the kernel's (``flock``) on a small file in the folder, so that it ends with the process that holds it,
however that ends; a file left behind by a killed process is no obstacle.  Where a file system knows no such locks, the
file's record of who wrote it is all there is: the folder is then refused while that process lives on this machine.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mendscan.errors import WriteError
from mendscan.strict_json import parse_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "locked"]

LOCK_NAME = ".mendscan-lock"
"""Name of the lock file in a folder; it is there only while a run is, or was killed."""

_LOGGER = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Keep every other run out of a folder for as long as the block lasts.

    Args:
        folder: An existing folder.
        work: What is done there, for the message to others: ``training``.

    Raises:
        WriteError: If another run holds the folder (E_LOCKED; says which process), or the lock file cannot be made.
    """
    path = folder / LOCK_NAME
    descriptor = _acquire(path)
    try:
        _record(descriptor, work)
        yield
    finally:
        # Removed while it is still held: whoever opened it in the meantime sees that it is gone, and makes another.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise WriteError(
                "the folder cannot be written to",
                where=path.parent,
                found=error.strerror,
                remedy="check that it exists, may be written to and has space left",
            ) from error
        try:
            _lock(descriptor, path)
            if _is_same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        if fcntl is None:
            raise OSError("no locks on this system")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _locked_by(_holder(descriptor), path.parent) from None
    except OSError as error:
        holder = _holder(descriptor)
        if _lives_here(holder):
            raise _locked_by(holder, path.parent) from None
        _LOGGER.warning("%s: no lock on this file system (%s); run nothing else there", path.parent, error)


def _locked_by(holder: dict[str, Any], folder: Path) -> WriteError:
    who = "process {pid} on {host}, {work}".format_map({"pid": "?", "host": "?", "work": "?"} | holder)
    return WriteError(
        "another run is at work in this folder",
        where=folder,
        code="E_LOCKED",
        found=who,
        remedy="wait for it or stop it, or name another folder",
    )


def _record(descriptor: int, work: str) -> None:
    holder = {"pid": os.getpid(), "host": platform.node(), "work": work}
    # A full disk is found out by the first real write; the lock holds without its record.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = parse_json(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives_here(holder: dict[str, Any]) -> bool:
    pid = holder.get("pid")
    if holder.get("host") != platform.node() or type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
