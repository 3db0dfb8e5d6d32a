"""The pixels of DICOM slices as they are stored, unpacked by whichever of pydicom's plugins can.

GDCM alone unpacks some kinds, lossless JPEG among them, but damaged data can end its whole process.  It is asked last,
and in a process of its own: what ends is that one, and one scan fails.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from mendscan.errors import MendscanError, UnreadableScanError
from mendscan.parallel import each_in_processes
from mendscan.volumes.dicom_headers import DicomSlice, dicom_errors
from mendscan.volumes.faults import corrupt, truncated

__all__ = ["stored_pixels"]

_BITS_ALLOCATED = (8, 16, 32)
_GDCM = "gdcm"


def stored_pixels(slices: Sequence[DicomSlice], *, where: str) -> Iterator[Shaped[np.ndarray, "J I"]]:
    """Unpack slices one after the other; a file of many frames stays open in between.

    Args:
        slices: Files and frames.
        where: What an error names.

    Returns:
        Whole numbers, row by row, not yet scaled.

    Raises:
        UnreadableScanError: E_TRUNCATED, E_CORRUPT, E_CODEC or E_DATATYPE.
    """
    path: Path | None = None
    dataset = Dataset()
    for index, one in enumerate(slices):
        if one.path != path:
            dataset, path = _opened(one.path, where), one.path
        plugins = _plugins(dataset, where)
        pixels = _unpacked(dataset, one.frame, [name for name in plugins if name != _GDCM])
        if pixels is None and _GDCM in plugins:
            yield from _unpacked_apart(slices[index:], where)
            return
        if pixels is None:
            raise _not_unpacked(where)
        yield pixels


def _opened(path: Path, where: str) -> Dataset:
    dataset = pydicom.dcmread(path)
    if "BitsAllocated" not in dataset:  # pydicom forgets all fields if the last fragment of pixels is cut off
        raise truncated(where, "a header without pixels", "a whole DICOM file")
    bits = int(dataset.BitsAllocated)
    if bits not in _BITS_ALLOCATED:
        raise UnreadableScanError(
            "the pixel type is not supported",
            where=where,
            code="E_DATATYPE",
            found=f"{bits} bits",
            expected=f"{', '.join(map(str, _BITS_ALLOCATED))} bits",
            remedy="convert the series to 16 bits",
        )
    stored, wanted = len(dataset.get("PixelData") or b""), 1
    if not _syntax(dataset).is_compressed:
        wanted = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1) * bits // 8
    if stored < wanted:
        raise truncated(where, f"{stored} bytes of pixels", f"{wanted} bytes")
    return dataset


def _syntax(dataset: Dataset) -> UID:
    return UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))


def _plugins(dataset: Dataset, where: str) -> tuple[str, ...]:
    """Return the names of pydicom's plugins that can unpack a file; an empty one for pixels that are not packed."""
    syntax = _syntax(dataset)
    if not syntax.is_compressed:
        return ("",)
    try:
        names = tuple(get_decoder(syntax).available_plugins)
    except NotImplementedError:
        names = ()
    if not names:
        raise UnreadableScanError(
            "nothing is installed that unpacks the pixels",
            where=where,
            code="E_CODEC",
            found=syntax.name,
            remedy="pip install 'mendscan[dicom]'",
        )
    return names


def _unpacked(dataset: Dataset, frame: int, plugins: Sequence[str]) -> Shaped[np.ndarray, "J I"] | None:
    """Return the pixels of a frame, by the first plugin that can; None if none can."""
    for name in plugins:
        try:
            return pixel_array(dataset, index=frame, decoding_plugin=name)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - plugins raise what they like, in words that may quote the file
            continue
    return None


def _unpacked_apart(slices: Sequence[DicomSlice], where: str) -> Iterator[Shaped[np.ndarray, "J I"]]:
    jobs = [(one.path, one.frame) for one in slices]
    unpacked: dict[int, Shaped[np.ndarray, "J I"] | None] = {}
    try:
        work = each_in_processes(_unpacked_by_gdcm, jobs, expected=MendscanError, workers=1, initializer=_be_silent)
        unpacked.update(work)
    except BrokenExecutor:
        raise _not_unpacked(where) from None
    for index in range(len(slices)):
        pixels = unpacked[index]
        if not isinstance(pixels, np.ndarray):
            raise _not_unpacked(where)
        yield pixels


def _be_silent() -> None:
    """Keep back what GDCM writes past Python, and Python when GDCM ends it; it may quote the file."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _unpacked_by_gdcm(path: Path, frame: int) -> Shaped[np.ndarray, "J I"] | None:
    with dicom_errors(""):
        return _unpacked(_opened_once(path), frame, [_GDCM])


@lru_cache(maxsize=1)
def _opened_once(path: Path) -> Dataset:
    return pydicom.dcmread(path)


def _not_unpacked(where: str) -> UnreadableScanError:
    return corrupt("the pixels of a slice cannot be unpacked", where, "damaged or unusual data")
