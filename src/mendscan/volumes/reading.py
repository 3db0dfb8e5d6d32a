"""Reading scans: a file becomes a `Volume` or one typed error.

The file is read here and not by nibabel, which stops after the last voxel and so never compares a gzip file's
checksum: a file with one flipped bit would be read as if nothing were wrong.
"""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import os
import stat
import unicodedata
import zlib
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Shaped

from mendscan.errors import CohortError, IntensityError, MendscanError, UnreadableScanError
from mendscan.volumes.header import (
    LONGEST_HEADER,
    native_geometry,
    parse_header,
    scan_shape,
    usable_header,
    voxel_byte_range,
)
from mendscan.volumes.volume import Volume, oriented_volume

__all__ = ["DEFAULT_MAX_BYTES", "case_name", "find_scans", "read_volume"]

DEFAULT_MAX_BYTES = 4 * 2**30
"""4 GiB of float32 voxels: a cube of 1024 voxels along each edge."""

_LOGGER = logging.getLogger(__name__)
_SUFFIXES = (".nii.gz", ".nii")
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MAX_RATIO = 1032  # deflate cannot compress more than this
_CHUNK_BYTES = 2**20
_MAX_TRAILING_BYTES = 2**24
_SHOWN_DUPLICATES = 5


def read_volume(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 scan, compressed or not, whatever its name says.

    The sform is obeyed if it is set, else the qform.  Length and, for gzip, checksum are always verified.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        max_bytes: The most that the voxels may take as float32; checked before anything is allocated.

    Returns:
        The scan in RAS+.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_ACCESS, E_NOT_REGULAR, E_EMPTY, E_NOT_NIFTI, E_TRUNCATED, E_CORRUPT,
            E_DATATYPE, E_TOO_LARGE or E_MEMORY.
        GeometryError: E_DIMENSIONS or E_GEOMETRY.
        IntensityError: E_COLOUR, E_COMPLEX, E_SCALING, E_NAN or E_CONSTANT.

    Example:
        >>> read_volume("missing.nii.gz")
        Traceback (most recent call last):
        ...
        mendscan.errors.UnreadableScanError: missing.nii.gz: no such file; check the path
    """
    where = os.fspath(path)
    try:
        return _read(Path(where), where, max_bytes)
    except MendscanError:
        raise
    except MemoryError as error:
        raise UnreadableScanError(
            "not enough memory", where=where, code="E_MEMORY", remedy="read fewer scans at once or crop it"
        ) from error
    except OSError as error:
        raise _file_error(error, where) from error
    except Exception as error:
        # The one boundary: damaged headers make nibabel raise eight kinds of exception.  Their messages are left
        # out, for they may quote the file, and files may hold names of patients.
        raise _corrupt("the file cannot be understood", where, type(error).__name__) from error


def find_scans(path: str | os.PathLike[str]) -> list[Path]:
    """List the scans of a folder, at any depth, or the one file given.

    Hidden files and folders, such as the ``._`` files of macOS, are skipped; links to files are followed.

    Args:
        path: A scan or a folder.

    Returns:
        Paths in a stable order: by name, folder by folder.

    Raises:
        CohortError: E_NOT_FOUND, E_ACCESS, E_NO_SCANS, or E_DUPLICATE_NAME if two scans have the same case name,
            for their results would overwrite each other.
    """
    root = Path(path)
    if not root.is_dir():
        if not root.exists():
            raise CohortError("no such file or folder", where=path, code="E_NOT_FOUND", remedy="check the path")
        return [root]
    scans = sorted(_scans_below(root))
    if not scans:
        raise CohortError(
            "no scans found", where=path, code="E_NO_SCANS", expected=".nii or .nii.gz files", remedy="check the path"
        )
    _check_case_names(scans, path)
    return scans


def case_name(path: str | os.PathLike[str]) -> str:
    """Return a file's name without ``.nii`` or ``.nii.gz``.

    Example:
        >>> case_name("scans/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = Path(path).name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _read(path: Path, where: str, max_bytes: int) -> Volume:
    file_bytes = _regular_file_bytes(path, where)
    with path.open("rb") as file:
        if file.peek(2)[:2] == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read_stream(stream, path, where, max_bytes, largest=file_bytes * _GZIP_MAX_RATIO)
        return _read_stream(file, path, where, max_bytes, largest=file_bytes)


def _read_stream(stream: io.BufferedIOBase, path: Path, where: str, max_bytes: int, largest: int) -> Volume:
    data = bytearray()
    try:
        _fill(stream, data, LONGEST_HEADER)
        header = usable_header(parse_header(bytes(data), where=where), where=where)
        shape = scan_shape(header, where=where)
        start, end = voxel_byte_range(header, shape, max_bytes=max_bytes, where=where)
        if end > largest:
            raise _truncated(where, f"at most {largest} bytes", end)
        _fill(stream, data, end)
        trailing = _count_to_end(stream, where)
    except EOFError as error:
        raise _truncated(where, "an incomplete gzip stream", "the end of the stream") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise _corrupt("the compressed data are damaged", where, str(error)) from error
    if len(data) < end:
        raise _truncated(where, f"{len(data)} bytes", end)
    if trailing or len(data) > end:
        _LOGGER.warning("%s: %d bytes after the last voxel are ignored", where, trailing + len(data) - end)
    native = native_geometry(header, shape, where=where)
    if native.mm_per_unit != 1.0:
        _LOGGER.warning("%s: the spatial unit is not the millimetre; the affine is converted", where)
    stored = np.frombuffer(data, header.get_data_dtype(), offset=start, count=int(np.prod(shape)))
    voxels = _scaled(stored.reshape(shape, order="F"), header, where)
    return oriented_volume(voxels, native, name=case_name(path), where=where)


def _scaled(stored: Shaped[np.ndarray, "I J K"], header: nib.Nifti1Header, where: str) -> Float32[np.ndarray, "I J K"]:
    slope, inter = header.get_slope_inter()
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below, in words
        if slope is None or (slope, inter) == (1.0, 0.0):
            voxels = stored.astype(np.float32)
        else:
            voxels = (stored.astype(np.float64) * slope + inter).astype(np.float32)
    overflowed = np.count_nonzero(np.isfinite(stored) & ~np.isfinite(voxels))
    if overflowed:
        raise IntensityError(
            "scaled voxel values are too large for float32",
            where=where,
            code="E_SCALING",
            found=f"{overflowed} voxels, slope {slope}, intercept {inter}",
            remedy="correct scl_slope and scl_inter",
        )
    return voxels


def _regular_file_bytes(path: Path, where: str) -> int:
    # Asked before opening: to open a pipe would wait for its writer for ever.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableScanError(
            "not a regular file",
            where=where,
            code="E_NOT_REGULAR",
            found="a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device",
            expected="a .nii or .nii.gz file",
        )
    if status.st_size == 0:
        raise UnreadableScanError("the file is empty", where=where, code="E_EMPTY", remedy="copy or download it again")
    return status.st_size


def _fill(stream: io.BufferedIOBase, data: bytearray, byte_count: int) -> None:
    # Grows with what is there, not with what the header promises.
    while chunk := stream.read(max(0, min(_CHUNK_BYTES, byte_count - len(data)))):
        data += chunk


def _count_to_end(stream: io.BufferedIOBase, where: str) -> int:
    # Only at the end of the stream does gzip compare length and checksum.
    trailing = 0
    while chunk := stream.read(_CHUNK_BYTES):
        trailing += len(chunk)
        if trailing > _MAX_TRAILING_BYTES:
            raise UnreadableScanError(
                "the file goes on long after its last voxel",
                where=where,
                code="E_TOO_LARGE",
                expected=f"at most {_MAX_TRAILING_BYTES} more bytes",
                remedy="convert the scan again from its source",
            )
    return trailing


def _truncated(where: str, found: str, expected: object) -> UnreadableScanError:
    return UnreadableScanError(
        "the file is cut off",
        where=where,
        code="E_TRUNCATED",
        found=found,
        expected=f"{expected} bytes" if isinstance(expected, int) else expected,
        remedy="copy or download it again",
    )


def _corrupt(problem: str, where: str, found: str) -> UnreadableScanError:
    return UnreadableScanError(
        problem, where=where, code="E_CORRUPT", found=found, remedy="copy or download the file again"
    )


def _file_error(error: OSError, where: str) -> UnreadableScanError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableScanError("no such file", where=where, code="E_NOT_FOUND", remedy="check the path")
    return UnreadableScanError(
        "the file cannot be read", where=where, code="E_ACCESS", found=error.strerror, remedy="check its permissions"
    )


def _scans_below(root: Path) -> list[Path]:
    scans = []
    for folder, subfolders, names in os.walk(root, onerror=_raise_unlisted):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        visible = (name for name in names if not name.startswith("."))
        scans += [Path(folder, name) for name in visible if name.lower().endswith(_SUFFIXES)]
    return scans


def _raise_unlisted(error: OSError) -> None:
    raise CohortError(
        "the folder cannot be listed", where=error.filename, code="E_ACCESS", found=error.strerror
    ) from error


def _check_case_names(scans: list[Path], path: str | os.PathLike[str]) -> None:
    paths_of = defaultdict(list)
    for scan in scans:
        # Some file systems hold neither upper and lower case nor two spellings of an accent apart.
        paths_of[unicodedata.normalize("NFC", case_name(scan)).casefold()].append(os.fspath(scan))
    duplicates = [paths for paths in paths_of.values() if len(paths) > 1]
    if duplicates:
        shown = [" and ".join(paths) for paths in itertools.islice(duplicates, _SHOWN_DUPLICATES)]
        raise CohortError(
            "scans with the same case name",
            where=path,
            code="E_DUPLICATE_NAME",
            found=f"{len(duplicates)} times: {'; '.join(shown)}",
            expected="one file per name",
            remedy="rename them or run them apart",
        )
