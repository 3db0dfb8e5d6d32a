"""Is a member what the challenge says it is?  Asked of its bytes, while they are written and once they are.

Nothing here holds a volume: scans are read to their end a piece at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mendscan.cohort.mood_layout import PlannedFile
from mendscan.cohort.mood_record import other_shape
from mendscan.errors import ArchiveError, ScanError
from mendscan.volumes.chunks import VoxelStream, open_voxels
from mendscan.volumes.reading import DEFAULT_MAX_BYTES

__all__ = ["CommonShape", "gzipped_chunks", "label_facts", "scan_facts", "short_chunks", "times"]

_CHUNK_VOXELS = 2**18
_GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_SAMPLE_LABEL = 64
_AGAIN = "download the archive again; the same command then goes on where it was"


class CommonShape:
    """The shape that every scan and voxel label must have: that of the first.

    Args:
        folder: Where the import goes; what was imported into it before counts as first.

    Raises:
        ResultsError: If the record of an import in it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._first = other_shape(folder)

    def check(self, file: PlannedFile, found: tuple[int, ...], where: str) -> None:
        """Compare a shape with the first.

        Raises:
            ArchiveError: E_SHAPE.
        """
        if self._first is None:
            self._first = file.target, found
        first, expected = self._first
        if found != expected:
            raise ArchiveError(
                "a scan of another shape",
                where=where,
                code="E_SHAPE",
                found=times(found),
                expected=f"{times(expected)}, as {first}",
                remedy="get the archive from the challenge itself; import each body region into its own folder",
            )


def gzipped_chunks(chunks: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Hand on what begins as gzip does; whatever else it is need not be copied to find out.

    Raises:
        ArchiveError: E_NOT_NIFTI.
    """
    first = next(chunks, b"")
    if not first.startswith(_GZIP_MAGIC):
        raise ArchiveError(
            "not a compressed NIfTI file", where=where, code="E_NOT_NIFTI", found=f"first bytes {first[:4].hex()}",
            expected="gzip", remedy="get the archive from the challenge itself",
        )  # fmt: skip
    yield first
    yield from chunks


def short_chunks(chunks: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Hand on what is as short as a scan label.

    Raises:
        ArchiveError: E_LABEL.
    """
    text = next(chunks, b"")
    yield text[:_LONGEST_SAMPLE_LABEL]
    if len(text) > _LONGEST_SAMPLE_LABEL or next(chunks, b""):
        raise _not_a_label(f"more than {_LONGEST_SAMPLE_LABEL} bytes", where)


def scan_facts(path: Path, file: PlannedFile, shape: CommonShape, where: str) -> dict[str, Any]:
    """Read a scan to its end; this compares its length and checksum as well.

    Args:
        path: The complete file.
        file: What it is.
        shape: What its shape must agree with.
        where: What an error names.

    Returns:
        Its shape, spacing in mm, and smallest and largest value, or None for these if they are not finite.

    Raises:
        ArchiveError: E_SHAPE, or what `open_voxels` raises, with its code.
    """
    try:
        with open_voxels(path, max_bytes=DEFAULT_MAX_BYTES, where=where) as stream:
            shape.check(file, stream.shape, where)
            spacing = np.linalg.norm(stream.affine[:3, :3], axis=0)
            low, high = _range(stream)
    except ScanError as error:
        raise ArchiveError(
            error.problem, where=where, code=error.code, found=error.found, expected=error.expected, remedy=_AGAIN
        ) from error
    facts: dict[str, Any] = {"shape": list(stream.shape), "spacing_mm": [round(float(mm), 6) for mm in spacing]}
    return facts | {"range": [low, high] if math.isfinite(low) and math.isfinite(high) else None}


def _range(stream: VoxelStream) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for chunk in stream.chunks(_CHUNK_VOXELS):
        low, high = float(np.minimum(low, chunk.min())), float(np.maximum(high, chunk.max()))  # a NaN stays
    return low, high


def label_facts(text: bytes, where: str) -> dict[str, Any]:
    """Read a scan label.

    Raises:
        ArchiveError: E_LABEL.
    """
    if text.strip() not in (b"0", b"1"):
        raise _not_a_label(ascii(text.decode("latin-1")), where)
    return {"anomalous": int(text)}


def _not_a_label(found: str, where: str) -> ArchiveError:
    return ArchiveError(
        "a scan label is neither 0 nor 1", where=where, code="E_LABEL", found=found, expected="0 or 1", remedy=_AGAIN
    )


def times(shape: tuple[int, ...]) -> str:
    """Return a shape in words."""
    return " x ".join(map(str, shape))
