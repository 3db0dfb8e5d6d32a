"""Voxels as a stream: a file of any size is read in a few megabytes.

The file is read here and not by nibabel, which stops after the last voxel and so never compares a gzip file's
checksum: a file with one flipped bit would be read as if nothing were wrong.
"""

from __future__ import annotations

import gzip
import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

import nibabel as nib
import numpy as np
from jaxtyping import Shaped

from mendscan.shapes import Affine
from mendscan.volumes.faults import DEFLATE_MAX_RATIO, check_end, reading_errors, regular_file_bytes, truncated
from mendscan.volumes.header import (
    LONGEST_HEADER,
    native_geometry,
    parse_header,
    scan_shape,
    usable_header,
    voxel_byte_range,
)
from mendscan.volumes.volume import NativeGeometry

__all__ = ["VoxelStream", "open_voxels"]

_GZIP_MAGIC = b"\x1f\x8b"


class VoxelStream:
    """The voxels of one open file, in the order in which they are stored: the first axis runs fastest.

    Made by `open_voxels`; a context manager.

    Attributes:
        shape: Voxels along the file's own axes.
        stored_shape: The same as the header has it, which may have axes of length 1 after the third.
        dtype: The type in which the file stores its voxels, byte order included.
        slope: What stored values are multiplied by; 1.0 if the file does not scale.
        intercept: What is then added; 0.0 if the file does not scale.
    """

    def __init__(
        self,
        stream: io.BufferedIOBase,
        header: nib.Nifti1Header,
        shape: tuple[int, int, int],
        closing: ExitStack,
        *,
        where: str,
    ) -> None:
        self.shape = shape
        self.stored_shape = tuple(int(n) for n in header.get_data_shape())
        self.dtype: np.dtype = header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        self.slope: float = 1.0 if slope is None else slope
        self.intercept: float = 0.0 if slope is None else intercept
        self._stream, self._header, self._closing, self._where = stream, header, closing, where
        self._begun = False

    def __enter__(self) -> VoxelStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._closing.close()

    @property
    def n_voxels(self) -> int:
        """All voxels of the file."""
        return math.prod(self.shape)

    @cached_property
    def native(self) -> NativeGeometry:
        """What the header says about where the voxels lie.

        Raises:
            GeometryError: If that makes no sense.
        """
        return native_geometry(self._header, self.shape, where=self._where)

    @property
    def affine(self) -> Affine:
        """Voxel index along the file's own axes to millimetres in RAS+.

        Raises:
            GeometryError: If the header's affine makes no sense.
        """
        return np.diag([self.native.mm_per_unit] * 3 + [1.0]) @ self.native.affine

    def chunks(self, n_voxels: int) -> Iterator[Shaped[np.ndarray, " n"]]:
        """Read all voxels, once, `n_voxels` at a time; fewer in the last chunk.

        Values are scaled by `slope` and `intercept`, to float64.  Unscaled values keep the stored type in the
        machine's byte order, and such chunks may be read-only.  NaN is handed on.

        The last chunk comes only after the file's length and, for gzip, its checksum have held.

        Raises:
            UnreadableScanError: E_TRUNCATED, E_CORRUPT, E_TOO_LARGE, E_ACCESS or E_MEMORY.
            ValueError: If `n_voxels` is below 1, the voxels were asked for before, or the stream has been closed.
        """
        if n_voxels < 1:
            raise ValueError(f"a chunk of {n_voxels} voxels; expected at least 1")
        if self._begun:
            raise ValueError("a stream of voxels can be read once; open the file again")
        self._begun = True
        return self._chunks(n_voxels)

    def _chunks(self, n_voxels: int) -> Iterator[Shaped[np.ndarray, " n"]]:
        for first in range(0, self.n_voxels, n_voxels):
            if self._stream.closed:
                raise ValueError(f"{self._where}: the stream of voxels has been closed")
            with reading_errors(self._where):
                chunk = self._scaled(self._read(min(n_voxels, self.n_voxels - first)))
                if first + chunk.size == self.n_voxels:
                    check_end(self._stream, self._where)
            yield chunk

    def _read(self, n_voxels: int) -> Shaped[np.ndarray, " n"]:
        wanted = n_voxels * self.dtype.itemsize
        data = self._stream.read(wanted)
        if len(data) < wanted:
            end = self._stream.tell()
            raise truncated(self._where, f"{end} bytes", f"at least {end + wanted - len(data)} bytes")
        return np.frombuffer(data, self.dtype)

    def _scaled(self, stored: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
        if (self.slope, self.intercept) == (1.0, 0.0):
            return stored.astype(self.dtype.newbyteorder("="), copy=False)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller judges what becomes infinite
            return stored.astype(np.float64) * self.slope + self.intercept


def open_voxels(path: str | os.PathLike[str], *, max_bytes: int | None = None, where: str | None = None) -> VoxelStream:
    """Open a NIfTI-1 or NIfTI-2 file, compressed or not, whatever its name says, and read its header.

    Use it in a ``with`` statement.  Where the voxels lie is looked at when it is asked for.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        max_bytes: The most that the voxels may take as float32; None = any number.
        where: What errors and warnings name; None = the path.

    Returns:
        The stream of its voxels, of which none has been read.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_ACCESS, E_NOT_REGULAR, E_EMPTY, E_NOT_NIFTI, E_TRUNCATED, E_CORRUPT,
            E_DATATYPE, E_TOO_LARGE or E_MEMORY.
        GeometryError: E_DIMENSIONS or E_GEOMETRY.
        IntensityError: E_COLOUR, E_COMPLEX or E_SCALING.

    Example:
        >>> open_voxels("missing.nii.gz")
        Traceback (most recent call last):
        ...
        mendscan.errors.UnreadableScanError: missing.nii.gz: no such file; check the path
    """
    where = os.fspath(path) if where is None else where
    with reading_errors(where), ExitStack() as opened:
        file_bytes = regular_file_bytes(Path(path), where)
        file = opened.enter_context(Path(path).open("rb"))
        if file.peek(2)[:2] != _GZIP_MAGIC:
            return _stream(file, opened, where, max_bytes, largest=file_bytes)
        uncompressed = opened.enter_context(gzip.GzipFile(fileobj=file))
        return _stream(uncompressed, opened, where, max_bytes, largest=file_bytes * DEFLATE_MAX_RATIO)


def _stream(
    stream: io.BufferedIOBase, opened: ExitStack, where: str, max_bytes: int | None, *, largest: int
) -> VoxelStream:
    header = usable_header(parse_header(stream.read(LONGEST_HEADER), where=where), where=where)
    shape = scan_shape(header, where=where)
    start, end = voxel_byte_range(header, shape, max_bytes=max_bytes, where=where)
    if end > largest:
        raise truncated(where, f"at most {largest} bytes", f"{end} bytes")
    stream.seek(start)
    return VoxelStream(stream, header, shape, opened.pop_all(), where=where)
