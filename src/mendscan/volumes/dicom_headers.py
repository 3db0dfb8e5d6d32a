"""The header of one DICOM file: is it an image, of which series, and where do its slices lie?

Only fields that are needed are read, and none that names a person.  pydicom's own messages are kept from the user,
for they may quote the file.
"""

from __future__ import annotations

import errno
import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mendscan.errors import MendscanError, UnreadableScanError
from mendscan.volumes.faults import corrupt, regular_file_bytes, truncated

__all__ = ["COLOUR_IMAGE", "DicomHeader", "DicomSlice", "dicom_errors", "dicom_files", "is_dicom", "read_header"]

for _chatty in ("pydicom", "openjpeg"):
    # Their messages may quote the file, and files hold names of patients.
    logging.getLogger(_chatty).setLevel(logging.CRITICAL)

_MAGIC_OFFSET, _MAGIC, _HEAD_BYTES = 128, b"DICM", 2048
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TAGS = [
    "SOPClassUID", "ImageType", "Modality", "SeriesInstanceUID", "SeriesNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_DERIVED_OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}
COLOUR_IMAGE = "a colour image"
"""Why an image of colours is no scan."""

_MOST_FRAMES = 2**16
_MODALITY = re.compile(r"[A-Z0-9]{2,6}")

_Geometry = tuple[tuple[float, ...] | None, tuple[float, ...] | None, tuple[float, ...] | None]


@dataclass(frozen=True)
class DicomSlice:
    """One image: a file, or one frame of a file with many.

    Attributes:
        path: The file.
        frame: Which of its frames, from 0.
        position: Centre of the first pixel, in millimetres (LPS+); None if the file does not say.
        orientation: Direction of a row, then of a column; None if the file does not say.
        pixel_spacing: Distance between rows, then between columns, in millimetres; None if the file does not say.
        slope: What stored values are multiplied by.
        intercept: What is then added.
    """

    path: Path
    frame: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slope: float
    intercept: float


@dataclass(frozen=True)
class DicomHeader:
    """What one file says about itself.

    Attributes:
        no_scan: Why it is no part of a scan, in words, such as "a localizer"; empty if it may be.
        modality: Such as ``MR``; empty if it is unknown.
        series_uid: Which series it belongs to; never shown.
        series_number: The number that people know the series by.
        rows: Pixels along a column.
        columns: Pixels along a row.
        photometric: Meaning of the pixel values, such as ``MONOCHROME2``.
        has_lookup_table: Whether values are scaled by a table.
        slices: Its images.
    """

    no_scan: str
    modality: str
    series_uid: str
    series_number: int | None
    rows: int
    columns: int
    photometric: str
    has_lookup_table: bool
    slices: tuple[DicomSlice, ...]


def is_dicom(path: Path) -> bool:
    """Whether a regular file begins as DICOM files do.

    Raises:
        OSError: If it cannot be read.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _is_dicom_head(file.read(_MAGIC_OFFSET + len(_MAGIC)))


def dicom_files(folder: Path) -> tuple[list[Path], int]:
    """Return the DICOM files of a folder, not of those below it, and how many files cannot be opened.

    Hidden files are skipped.  Files are recognised by content, and those in ``.dcm`` by name too, so that a damaged
    one is passed over by nobody.

    Raises:
        OSError: If the folder cannot be listed.
    """
    found: list[Path] = []
    closed = 0
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        try:
            if (path.suffix.lower() == ".dcm" and path.is_file()) or is_dicom(path):
                found.append(path)
        except OSError:
            closed += 1
    return found, closed


def read_header(path: Path, *, where: str) -> DicomHeader:
    """Read the header of a DICOM file; of a file that has not changed since, from memory.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_ACCESS, E_NOT_REGULAR, E_EMPTY, E_TRUNCATED, E_CORRUPT or E_CODEC.
    """
    try:
        with dicom_errors(where):
            status = path.stat()
            return _read_header(path, status.st_size, status.st_mtime_ns)
    except UnreadableScanError as error:
        raise error.at(where) from None


@contextmanager
def dicom_errors(where: str) -> Iterator[None]:
    """Turn whatever pydicom raises into one typed error without its words, and keep its warnings back."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MendscanError, MemoryError):
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # which a nonsensical length in the file leads to
            raise
        raise corrupt("the DICOM file cannot be understood", where, type(error).__name__) from None
    except Exception as error:  # noqa: BLE001 - the one boundary
        # `from None`: a traceback would print the words of the error, which may quote the file.
        raise corrupt("the DICOM file cannot be understood", where, type(error).__name__) from None


@lru_cache(maxsize=2**16)
def _read_header(path: Path, size: int, modified_ns: int) -> DicomHeader:
    regular_file_bytes(path, "", expected="a DICOM file")
    with path.open("rb") as file:
        _check_head(file.read(_HEAD_BYTES))
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
    if "Rows" in dataset and "Columns" in dataset and int(dataset.Rows) > 0 and int(dataset.Columns) > 0:
        return _header(dataset, path, _why_no_scan(dataset))
    kind = _sop_class(dataset)
    if not kind:
        raise corrupt("the DICOM file does not say what it is", "", "no SOPClassUID")
    if "Image" in UID(kind).name:
        raise truncated("", "an image without rows and columns", "a whole DICOM file")
    name = "an object of an unknown kind" if UID(kind).name == kind else UID(kind).name.removesuffix(" Storage")
    return DicomHeader(name, "", "", None, 0, 0, "", False, ())


def _check_head(head: bytes) -> None:
    if not _is_dicom_head(head):
        raise corrupt("not a DICOM file", "", "a beginning without 'DICM'")
    if _DEFLATED in head:
        # It would have to be unpacked as a whole before one field could be read.
        raise UnreadableScanError(
            "the DICOM file is deflated",
            code="E_CODEC",
            expected="a transfer syntax that compresses pixels only, or nothing",
            remedy="convert it, for example with 'gdcmconv --raw'",
        )


def _is_dicom_head(head: bytes) -> bool:
    return head[_MAGIC_OFFSET : _MAGIC_OFFSET + len(_MAGIC)] == _MAGIC


def _header(dataset: Dataset, path: Path, no_scan: str) -> DicomHeader:
    number = dataset.get("SeriesNumber")
    modality = str(dataset.get("Modality", ""))
    return DicomHeader(
        no_scan=no_scan,
        modality=modality if _MODALITY.fullmatch(modality) else "",
        series_uid=str(dataset.get("SeriesInstanceUID", "")),
        series_number=None if number is None else int(number),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        photometric=str(dataset.get("PhotometricInterpretation", "")),
        has_lookup_table=bool(dataset.get("ModalityLUTSequence")),
        slices=() if no_scan else _slices(dataset, path),
    )


def _why_no_scan(dataset: Dataset) -> str:
    if _sop_class(dataset) in _DERIVED_OBJECTS:
        return _DERIVED_OBJECTS[_sop_class(dataset)]
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        return COLOUR_IMAGE
    kind = dataset.get("ImageType") or ()
    return "a localizer" if "LOCALIZER" in ([kind] if isinstance(kind, str) else kind) else ""


def _sop_class(dataset: Dataset) -> str:
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def _slices(dataset: Dataset, path: Path) -> tuple[DicomSlice, ...]:
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    count = int(dataset.get("NumberOfFrames") or 1)
    if count > _MOST_FRAMES or (frames is not None and len(frames) != count):
        raise corrupt("the DICOM file contradicts itself", "", f"{count} frames")
    if frames is None:
        geometry: _Geometry = _geometry(dataset, dataset, dataset) if count == 1 else (None, None, None)
        return tuple(DicomSlice(path, frame, *geometry, *_rescale(dataset)) for frame in range(count))
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    return tuple(_frame(path, index, frame, shared) for index, frame in enumerate(frames))


def _frame(path: Path, index: int, frame: Dataset, shared: Dataset) -> DicomSlice:
    def group(keyword: str) -> Dataset:
        items = frame.get(keyword) or shared.get(keyword)
        return items[0] if items else Dataset()

    geometry = _geometry(
        group("PlanePositionSequence"), group("PlaneOrientationSequence"), group("PixelMeasuresSequence")
    )
    return DicomSlice(path, index, *geometry, *_rescale(group("PixelValueTransformationSequence")))


def _geometry(position: Dataset, orientation: Dataset, measures: Dataset) -> _Geometry:
    return (
        _numbers(position.get("ImagePositionPatient"), 3),
        _numbers(orientation.get("ImageOrientationPatient"), 6),
        _numbers(measures.get("PixelSpacing"), 2),
    )


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or value == "":
        return None
    numbers = tuple(float(number) for number in (value if hasattr(value, "__len__") else [value]))
    return numbers if len(numbers) == count else (math.nan,) * count


def _rescale(dataset: Dataset) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
