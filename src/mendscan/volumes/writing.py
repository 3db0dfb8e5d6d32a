"""Writing files: whole or not at all, and the same bytes for the same content.

Every write goes to a temporary file beside its target, is flushed to the disk, read back, and only then put in
place.  Whoever finds a file under its final name finds all of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mendscan.errors import WriteError

__all__ = [
    "make_folder",
    "remove_leftovers",
    "temporary_folder",
    "write_bytes",
    "write_chunks",
    "write_errors",
    "write_json",
    "write_new",
    "write_text",
]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOGGER = logging.getLogger(__name__)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically: afterwards it is complete, or as it was before.

    Args:
        path: The file; its folder must exist.
        data: The content.

    Raises:
        WriteError: If it cannot be written; what was there before is intact and no temporary file is left.
    """
    with _put_in_place(Path(path), where=path) as temporary:
        _write_through(temporary, data)


def write_chunks(
    path: str | os.PathLike[str], chunks: Iterable[bytes], *, check: Callable[[Path, str], None] | None = None
) -> str:
    """Write a file atomically, piece by piece, so that it is never in memory as a whole.

    Args:
        path: The file; its folder must exist.
        chunks: The content, piece by piece.  A `MendscanError` raised while it is made is raised as it is.
        check: Told of the temporary file, complete and flushed, and its SHA-256, before it is put in place.  If it
            raises, the file is not put in place.

    Returns:
        The SHA-256 of the content, in hexadecimal.

    Raises:
        WriteError: If it cannot be written; what was there before is intact and no temporary file is left.
    """
    with _put_in_place(Path(path), where=path) as temporary:
        digest = _write_chunks_through(temporary, chunks)
        if check is not None:
            check(temporary, digest)
    return digest


@contextmanager
def write_errors(where: object, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the system says of a failed write in the block into a `WriteError` that names the file.

    Args:
        where: The file.
        needed: Its size in bytes, where that is known.

    Raises:
        WriteError: E_NO_SPACE with the space that is left, if there is too little; else E_WRITE.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        full = getattr(error, "errno", None) in _NO_SPACE
        raise WriteError(
            "the file cannot be written",
            where=where,
            code="E_NO_SPACE" if full else None,
            found=f"{getattr(error, 'strerror', None) or error}{_space_left(where) if full else ''}",
            expected=f"{needed / 1e6:.1f} MB" if full and needed else None,
            remedy="check that the folder exists, may be written to and has space left",
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder that nobody else writes to now."""
    for path in folder.glob(f".{'[0-9a-f]' * 16}.tmp"):
        _remove(path)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, unless they are there; return it.

    Raises:
        WriteError: If it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            "the folder cannot be made", where=folder, found=error.strerror, remedy="name another folder"
        ) from error
    return folder


@contextmanager
def temporary_folder(prefix: str = "mendscan-") -> Iterator[Path]:
    """Give the block an empty folder of the system's temporary one, and remove it in the end.

    Raises:
        WriteError: If the system has no folder for that.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    except OSError as error:
        remedy = "set TMPDIR to a folder that may be written to and has space left"
        raise WriteError(
            "no temporary folder can be made", where="TMPDIR", found=error.strerror, remedy=remedy
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that is not there yet, with its mode from the first byte on; afterwards it is complete or not there.

    Raises:
        FileExistsError: If it is there.
        OSError: If it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _remove(path)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, atomically, with the line ends as they are.

    Args:
        path: The file; its folder must exist.
        text: The content.  What UTF-8 cannot hold, as in undecodable file names, is written as an escape.

    Raises:
        WriteError: If it cannot be written; what was there before is intact.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as JSON, atomically, with sorted keys, so that the same value gives the same bytes.

    Args:
        path: The file; its folder must exist.
        value: Dictionaries, lists, text, numbers, truth values, None; no NaN, which JSON does not know.

    Raises:
        WriteError: If the value is not JSON (E_JSON) or the file cannot be written.
    """
    try:
        text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise WriteError("the value cannot be written as JSON", where=path, code="E_JSON", found=str(error)) from error
    write_text(path, text + "\n")


@contextmanager
def _put_in_place(target: Path, *, where: object) -> Iterator[Path]:
    """Give the block a temporary name; what it has written there replaces the target, unless it raises."""
    # The name does not grow with the target's, which may be as long as names can be.
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with write_errors(where):
            yield temporary
            temporary.replace(target)
    finally:
        _remove(temporary)
    _flush_folder(target.parent)


def _space_left(where: object) -> str:
    try:
        free = shutil.disk_usage(Path(str(where)).parent).free
    except (OSError, ValueError):
        return ""
    return f", {free / 1e6:.1f} MB free"


def _write_chunks_through(temporary: Path, chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    with temporary.open("xb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    with temporary.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest.hexdigest():
            raise OSError("what was read back differs from what was written")
    return digest.hexdigest()


def _write_through(temporary: Path, data: bytes) -> None:
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if temporary.read_bytes() != data:
        raise OSError("what was read back differs from what was written")


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        _LOGGER.debug("temporary file not removed: %s", type(error).__name__)


def _flush_folder(folder: Path) -> None:
    # The file is complete by now; without this, a power cut could still bring back the old one.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _LOGGER.warning("%s: the folder could not be flushed to the disk (%s)", folder, error.strerror)
