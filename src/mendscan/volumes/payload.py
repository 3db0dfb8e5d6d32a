"""Voxel data behind a header of few words: raw, compressed or as text, in the header's own file or beside it.

Used by formats whose header says how many values of which type follow.  Nothing is handed to a library that would
fill up what is missing with zeros or pass over a checksum: length and checksum are verified here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Float32, Shaped

from mendscan.errors import IntensityError, UnreadableScanError
from mendscan.volumes.faults import DEFLATE_MAX_RATIO, check_end, corrupt, regular_file_bytes, truncated

__all__ = ["CHUNK_VOXELS", "Encoding", "Payload", "confined_file", "float32_voxels", "payload_chunks"]

CHUNK_VOXELS = 2**18
"""Voxels that are converted at a time."""

_LONGEST_TEXT_BYTES = 2**26
_DEFLATED_BLOCK_BYTES = 2**16
_ANY_DEFLATE_WRAPPER = 47  # zlib or gzip, window of any size

Encoding = Literal["raw", "gzip", "zlib", "bzip2", "text", "hex"]


@dataclass(frozen=True)
class Payload:
    """Where the voxels are and how they are stored.

    Attributes:
        path: The file that holds them.
        start: Bytes of the file before them, not decoded.
        encoding: How they are stored.
        dtype: Their type, byte order included.
        shape: Voxels along the file's axes, fastest first.
        skip: Bytes to leave out after decoding.
        at_end: Whether they are the last bytes of the file, whatever `start` is; raw only.
    """

    path: Path
    start: int
    encoding: Encoding
    dtype: np.dtype
    shape: tuple[int, int, int]
    skip: int = 0
    at_end: bool = False

    @property
    def n_voxels(self) -> int:
        """All voxels."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of all voxels, decoded."""
        return self.n_voxels * self.dtype.itemsize


def payload_chunks(payload: Payload, *, where: str) -> Iterator[Shaped[np.ndarray, " n"]]:
    """Read all voxels in their stored type, some at a time; the last only after length and checksum have held.

    Raises:
        UnreadableScanError: E_TRUNCATED, E_CORRUPT or E_TOO_LARGE.
        OSError: If the file cannot be read.
    """
    file_bytes = regular_file_bytes(payload.path, where, expected="a file of voxels")
    start = file_bytes - payload.n_bytes if payload.at_end else payload.start
    if start < payload.start:
        raise truncated(where, f"{file_bytes - payload.start} bytes of voxels", f"{payload.n_bytes}")
    _check_length(payload, file_bytes - start, where)
    with payload.path.open("rb") as file:
        file.seek(start)
        if payload.encoding == "text":
            yield _text_values(file, payload, where)
            return
        stream = _decoded(file, payload, where)
        _take(stream, payload.skip, where)
        for first in range(0, payload.n_voxels, CHUNK_VOXELS):
            count = min(CHUNK_VOXELS, payload.n_voxels - first)
            chunk = np.frombuffer(_take(stream, count * payload.dtype.itemsize, where), payload.dtype)
            if first + count == payload.n_voxels:
                check_end(stream, where)
            yield chunk


def float32_voxels(
    chunks: Iterable[Shaped[np.ndarray, " n"]], shape: tuple[int, int, int], *, where: str, scaling: str, remedy: str
) -> Float32[np.ndarray, "I J K"]:
    """Collect voxels, first axis fastest, as float32.

    Args:
        chunks: All voxels, some at a time.
        shape: Voxels along each axis.
        where: What an error names.
        scaling: How the values were scaled, for an error.
        remedy: What to do if that is wrong.

    Raises:
        IntensityError: If a finite value is too large for float32 (E_SCALING).
    """
    voxels = np.empty(math.prod(shape), np.float32)
    done = overflowed = 0
    for chunk in chunks:
        part = voxels[done : done + chunk.size]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below, in words
            part[:] = chunk
        overflowed += int(np.count_nonzero(np.isfinite(chunk) & ~np.isfinite(part)))
        done += chunk.size
    if overflowed:
        raise IntensityError(
            "scaled voxel values are too large for float32",
            where=where,
            code="E_SCALING",
            found=f"{overflowed} voxels, {scaling}",
            remedy=remedy,
        )
    return voxels.reshape(shape, order="F")


def confined_file(header: Path, name: str, *, where: str) -> Path:
    """Return the file of voxels that a header names: beside the header or below it, nowhere else.

    Args:
        header: The header's path.
        name: What it says; never quoted, for names of files may be names of patients.
        where: What an error names.

    Raises:
        UnreadableScanError: If the name leads elsewhere, also by a link (E_UNSAFE_PATH), or there is no such file
            (E_NO_DATA_FILE).
    """
    windows, folder = PureWindowsPath(name), header.resolve().parent
    relative = not (windows.drive or windows.root or PurePosixPath(name).root)
    plain = name and name.isprintable() and ".." not in windows.parts and "\\" not in name
    if not (relative and plain) or not (folder / name).resolve().is_relative_to(folder):
        raise UnreadableScanError(
            "the header names a file of voxels outside its folder",
            where=where,
            code="E_UNSAFE_PATH",
            expected="a file beside the header",
            remedy="put both into one folder and correct the header",
        )
    if not (folder / name).exists():
        raise UnreadableScanError(
            "the file of voxels that the header names is missing",
            where=where,
            code="E_NO_DATA_FILE",
            expected="it beside the header",
            remedy="copy both files into one folder",
        )
    return folder / name


def _check_length(payload: Payload, stored: int, where: str) -> None:
    """Compare what the header promises with the file's length, before anything is allocated."""
    wanted = payload.skip + payload.n_bytes
    most = {
        "raw": stored,
        "hex": stored // 2,
        "gzip": stored * DEFLATE_MAX_RATIO,
        "zlib": stored * DEFLATE_MAX_RATIO,
        "text": (stored + 1) // 2 * payload.dtype.itemsize,  # a digit and a space for each
    }.get(payload.encoding, wanted)
    if wanted > most:
        raise truncated(where, f"at most {most} bytes of voxels", f"{wanted} bytes")
    if payload.encoding in ("text", "hex") and stored > _LONGEST_TEXT_BYTES:
        raise UnreadableScanError(
            "too many voxels as text",
            where=where,
            code="E_TOO_LARGE",
            found=f"{stored} bytes",
            expected=f"at most {_LONGEST_TEXT_BYTES} bytes",
            remedy="save the scan in a binary encoding",
        )


def _decoded(file: BinaryIO, payload: Payload, where: str) -> io.BufferedIOBase:
    match payload.encoding:
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "zlib":
            return io.BufferedReader(_Inflated(file))
        case "bzip2":
            return io.BufferedReader(_Unpacked(file, where))
        case "hex":
            return io.BytesIO(_hex_bytes(file.read(), where))
    return file  # type: ignore[return-value]


class _Inflated(io.RawIOBase):
    """A zlib stream, as `gzip.GzipFile` is a gzip stream: at its end, its checksum has been compared."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._inflate = file, zlib.decompressobj(_ANY_DEFLATE_WRAPPER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(_DEFLATED_BLOCK_BYTES)
            unpacked = self._inflate.decompress(packed, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)
            if not packed:
                raise EOFError
        if self._inflate.unused_data or self._file.read(1):
            raise zlib.error("bytes behind the end of the stream")
        return 0


class _Unpacked(io.RawIOBase):
    """A bzip2 stream, whose blocks have checksums; what is wrong with it is said in words."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._stream, self._where = bz2.BZ2File(file), where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return self._stream.readinto(buffer)
        except OSError as error:
            if error.errno is not None:
                raise
            raise corrupt("the compressed data are damaged", self._where, "no valid bzip2 data") from error


def _take(stream: io.BufferedIOBase, wanted: int, where: str) -> bytes:
    data = stream.read(wanted)
    if len(data) < wanted:
        raise truncated(where, f"{len(data)} bytes of the last {wanted}", f"all {wanted}")
    return data


def _hex_bytes(text: bytes, where: str) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise corrupt("the voxels are not written in hexadecimal digits", where, "other characters") from error


def _text_values(file: BinaryIO, payload: Payload, where: str) -> Shaped[np.ndarray, " n"]:
    words = file.read().split()
    if len(words) < payload.n_voxels:
        raise truncated(where, f"{len(words)} numbers", f"{payload.n_voxels} numbers")
    if len(words) > payload.n_voxels:
        raise corrupt("more numbers than voxels", where, f"{len(words)} for {payload.n_voxels}")
    try:
        return np.array(words, np.float64)
    except ValueError as error:
        raise corrupt("the voxels are not written as numbers", where, "other words") from error
