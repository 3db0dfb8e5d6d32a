"""What can go wrong with any file, in the same words for every format."""

from __future__ import annotations

import errno
import gzip
import io
import math
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mendscan.errors import GeometryError, MendscanError, UnreadableScanError
from mendscan.volumes.remarks import remark

__all__ = [
    "DEFLATE_MAX_RATIO",
    "check_end",
    "check_size",
    "corrupt",
    "dimensions_error",
    "file_error",
    "reading_errors",
    "regular_file_bytes",
    "required_field",
    "truncated",
    "unsupported",
]

DEFLATE_MAX_RATIO = 1032
"""Deflate, and with it gzip and zlib, cannot compress more than this."""

_TRAILING_CHUNK_BYTES = 2**20
_MAX_TRAILING_BYTES = 2**24


@contextmanager
def reading_errors(where: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one typed error that names the file."""
    try:
        yield
    except MendscanError:
        raise
    except MemoryError as error:
        raise UnreadableScanError(
            "not enough memory", where=where, code="E_MEMORY", remedy="read fewer scans at once or crop it"
        ) from error
    except EOFError as error:
        raise truncated(where, "an incomplete compressed stream", "the end of the stream") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise corrupt("the compressed data are damaged", where, str(error)) from error
    except OSError as error:
        raise file_error(error, where) from error
    except Exception as error:
        # The one boundary: damaged headers make nibabel raise eight kinds of exception.  Their messages are left
        # out, for they may quote the file, and files may hold names of patients.
        raise corrupt("the file cannot be understood", where, type(error).__name__) from error


def regular_file_bytes(path: Path, where: str, *, expected: str = "a .nii or .nii.gz file") -> int:
    """Return the size of a file.

    Asked before opening: to open a pipe would wait for its writer for ever.

    Raises:
        UnreadableScanError: E_NOT_REGULAR or E_EMPTY.
        OSError: If there is no such file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableScanError(
            "not a regular file",
            where=where,
            code="E_NOT_REGULAR",
            found="a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device",
            expected=expected,
        )
    if status.st_size == 0:
        raise UnreadableScanError("the file is empty", where=where, code="E_EMPTY", remedy="copy or download it again")
    return status.st_size


def check_size(shape: Sequence[int], max_bytes: int | None, where: object) -> None:
    """Check what a header says about a scan's size, before anything is allocated.

    Raises:
        UnreadableScanError: If the voxels would take more as float32 (E_TOO_LARGE).
    """
    voxels = math.prod(shape)
    if max_bytes is not None and voxels * 4 > max_bytes:
        raise UnreadableScanError(
            "the scan is too large",
            where=where,
            code="E_TOO_LARGE",
            found=f"{' x '.join(map(str, shape))} voxels, {voxels * 4} bytes as float32",
            expected=f"at most {max_bytes} bytes",
            remedy="check the header, crop the scan or raise --max-memory (max_bytes)",
        )


def check_end(stream: io.BufferedIOBase, where: str) -> None:
    """Read what lies behind the last voxel: only at the end of the stream does gzip compare length and checksum.

    Bytes behind the voxels are remarked (W_TRAILING), and so is what follows a whole gzip stream and is none.

    Raises:
        UnreadableScanError: If that is very much (E_TOO_LARGE).
    """
    trailing = 0
    while chunk := _behind_the_voxels(stream, where):
        trailing += len(chunk)
        if trailing > _MAX_TRAILING_BYTES:
            raise UnreadableScanError(
                "the file goes on long after its last voxel",
                where=where,
                code="E_TOO_LARGE",
                expected=f"at most {_MAX_TRAILING_BYTES} more bytes",
                remedy="convert the scan again from its source",
            )
    if trailing:
        remark(where, "W_TRAILING", f"{trailing} bytes after the last voxel are ignored")


def _behind_the_voxels(stream: io.BufferedIOBase, where: str) -> bytes:
    try:
        return stream.read(_TRAILING_CHUNK_BYTES)
    except gzip.BadGzipFile as error:
        # Said of what should begin a further stream: by then, length and checksum of those before it have held.
        if not str(error).startswith("Not a gzipped file"):
            raise
        remark(where, "W_TRAILING", "what follows the compressed scan is no gzip data and is ignored")
        return b""


def truncated(where: str, found: str, expected: str) -> UnreadableScanError:
    """Return the error of a file that ends too early."""
    return UnreadableScanError(
        "the file is cut off",
        where=where,
        code="E_TRUNCATED",
        found=found,
        expected=expected,
        remedy="copy or download it again",
    )


def corrupt(problem: str, where: str, found: str) -> UnreadableScanError:
    """Return the error of a file with wrong content."""
    return UnreadableScanError(
        problem, where=where, code="E_CORRUPT", found=found, remedy="copy or download the file again"
    )


def unsupported(what: str, expected: str, where: str) -> UnreadableScanError:
    """Return the error of a file that is in order, but of a kind that is not read."""
    return UnreadableScanError(
        f"{what} is not supported", where=where, code="E_DATATYPE", expected=expected, remedy="save it in another way"
    )


def required_field(fields: Mapping[str, str], key: str, where: str) -> str:
    """Return a field of a header of lines.

    Raises:
        UnreadableScanError: If it is not there (E_CORRUPT).
    """
    if key not in fields:
        raise corrupt("the header is incomplete", where, f"no field {key!r}")
    return fields[key]


def dimensions_error(found: Sequence[int], where: object, remedy: str) -> GeometryError:
    """Return the error of a file that holds something else than one three-dimensional volume."""
    return GeometryError(
        "the scan is not one three-dimensional volume",
        where=where,
        code="E_DIMENSIONS",
        found=f"dimensions {' x '.join(map(str, found))}",
        expected="three dimensions",
        remedy=remedy,
    )


def file_error(error: OSError, where: str) -> UnreadableScanError:
    """Return what is to be said of a file that the system does not let be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableScanError("no such file", where=where, code="E_NOT_FOUND", remedy="check the path")
    failing = error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
    remedy = "check the disk or network that it lies on" if failing else "check its permissions"
    return UnreadableScanError(
        "the file cannot be read", where=where, code="E_ACCESS", found=error.strerror, remedy=remedy
    )
