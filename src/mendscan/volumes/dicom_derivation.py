"""What a derived DICOM object takes over from the series it comes from: geometry and references, and no patient.

Only what is listed here is ever read, so nothing else can be passed on.  The patient is kept apart and passed on
on request alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mendscan.errors import GeometryError, UnreadableScanError
from mendscan.volumes.dicom_frames import Cut, Frame, cuts_through, frames_of
from mendscan.volumes.dicom_silence import quoting_silenced
from mendscan.volumes.volume import Volume

__all__ = ["PATIENT_ATTRIBUTES", "SourceSeries", "read_source_series"]

PATIENT_ATTRIBUTES = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ReferringPhysicianName",
)
"""What files an object under a patient and a request; passed on only if asked for."""

_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")
_TIMES = ("StudyTime", "SeriesTime", "AcquisitionTime")
_SIDES = ("Laterality", "ImageLaterality")
_COMPRESSION = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_GEOMETRY = (
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_READ = (
    *_IDENTIFIERS,
    *_DATES,
    *_TIMES,
    *_SIDES,
    *_COMPRESSION,
    *_GEOMETRY,
    *PATIENT_ATTRIBUTES,
    "SeriesNumber",
)
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_DATE = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_NO_DATE, _NO_TIME = "19000101", "000000"
"""Stand for missing ones, because an object must have a content date, and the clock must not give it."""


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The images that an object is derived from, without the patient.

    Attributes:
        images: pydicom datasets: the single-frame images in the order of their slices, or the one multi-frame image.
        cuts: The slice of the scan that each frame shows, in the order of the images or of the frames.
        number: Its series number; None if it has none.
        content_date: When it was taken (DA).
        content_time: The same (TM).
        laterality: ``L`` or ``R`` of a part that the body has two of, as far as the series says; else ``U``.
        patient: Text by keyword, of `PATIENT_ATTRIBUTES`.
    """

    images: tuple[Any, ...]
    cuts: tuple[Cut, ...]
    number: int | None
    content_date: str
    content_time: str
    laterality: str
    patient: dict[str, str]


def read_source_series(paths: Sequence[Path], volume: Volume) -> SourceSeries:
    """Read the headers of the files that a scan was read from.

    Args:
        paths: All files of one series, in any order.
        volume: The scan.

    Raises:
        UnreadableScanError: If a file cannot be read (E_DICOM_SOURCES).
        GeometryError: If the files are not one series in one frame of reference (E_DICOM_SOURCES), do not say where
            their pixels lie (E_DICOM_GEOMETRY), or are not the slices of the scan (E_GRID).
    """
    name = volume.name
    with quoting_silenced():
        headers = [_header(path, name) for path in paths]
        _check_one_series(headers, name)
        frames = [frame for header in headers for frame in frames_of(header, where=name)]
        cuts = cuts_through(volume, frames, where=name)
        _check_complete(cuts, volume)
        order = sorted(range(len(cuts)), key=lambda n: cuts[n].index)
        first = order[0]
        thickness_mm = _thickness_mm(frames[first], cuts[first].axis, volume)
        if len(headers) == 1:
            return _series(headers[0], [_multi_frame(headers[0], frames, thickness_mm)], cuts)
        images = [_single_frame(headers[n], frames[n], frames[first], thickness_mm) for n in order]
        return _series(headers[first], images, [cuts[n] for n in order])


def _series(header: Any, images: Sequence[Any], cuts: Sequence[Cut]) -> SourceSeries:
    date, time = _content_date_time(header)
    return SourceSeries(
        images=tuple(images),
        cuts=tuple(cuts),
        number=_series_number(header),
        content_date=date,
        content_time=time,
        laterality=next((str(header.get(side)) for side in _SIDES if header.get(side) in ("L", "R")), "U"),
        patient=_patient(header),
    )


def _header(path: Path, name: str) -> Any:
    import pydicom

    try:
        # Forced: readers accept files without the preamble, too.  What is no DICOM file fails the checks that follow.
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_READ))
        for keyword in _READ:  # values are decoded, and faults found, when they are looked at
            header.get(keyword)
        known = all(_UID.fullmatch(str(header.get(keyword, ""))) for keyword in _IDENTIFIERS[:-1])
    except Exception:  # noqa: BLE001 - damaged headers raise a dozen kinds, and the messages may quote the patient
        known = False
    if not known:
        raise UnreadableScanError(
            "a DICOM file of the series cannot be read", where=name, code="E_DICOM_SOURCES", expected="a DICOM image"
        ) from None
    return header


def _check_one_series(headers: Sequence[Any], name: str) -> None:
    if not headers:
        raise GeometryError("there is no DICOM file to derive from", where=name, code="E_DICOM_SOURCES")
    for keyword, what in (
        ("StudyInstanceUID", "study"),
        ("SeriesInstanceUID", "series"),
        ("FrameOfReferenceUID", "frame of reference"),
    ):
        found = {str(header.get(keyword, "")) for header in headers}
        if len(found) > 1 or not _UID.fullmatch(found.pop()):
            raise GeometryError(
                f"the DICOM files are not of one {what}",
                where=name,
                code="E_DICOM_SOURCES",
                expected=f"the same valid {keyword} in all",
                remedy="give the files of one series with a geometry",
            )
    multi = [header for header in headers if "PerFrameFunctionalGroupsSequence" in header]
    if multi and len(headers) > 1:
        raise GeometryError(
            "a series in several multi-frame files cannot be derived from",
            where=name,
            code="E_DICOM_SOURCES",
            found=f"{len(headers)} files",
            expected="one multi-frame file, or single-frame files",
            remedy="leave out the DICOM output",
        )


def _check_complete(cuts: Sequence[Cut], volume: Volume) -> None:
    slices = volume.shape[cuts[0].axis]
    if len(cuts) != slices:
        raise GeometryError(
            "the DICOM files are not the slices of the scan",
            where=volume.name,
            code="E_GRID",
            found=f"{len(cuts)} frames",
            expected=f"{slices}, one per slice",
            remedy="give the very files that the scan was read from",
        )


def _single_frame(header: Any, frame: Frame, first: Frame, thickness_mm: float) -> Any:
    image = _bare_image(header)
    _say_position(image, frame)
    # Those of the first slice, because highdicom compares digits; the others' are the same to within the tolerance.
    _say_orientation(image, first)
    _say_measures(image, first, thickness_mm)
    return image


def _multi_frame(header: Any, frames: Sequence[Frame], thickness_mm: float) -> Any:
    from pydicom.dataset import Dataset

    image, shared = _bare_image(header), Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [Dataset()], [Dataset()]
    _say_orientation(shared.PlaneOrientationSequence[0], frames[0])
    _say_measures(shared.PixelMeasuresSequence[0], frames[0], thickness_mm)
    groups = []
    for frame in frames:
        own = Dataset()
        own.PlanePositionSequence = [Dataset()]
        _say_position(own.PlanePositionSequence[0], frame)
        groups.append(own)
    image.NumberOfFrames = len(frames)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], groups
    return image


def _bare_image(header: Any) -> Any:
    """Return what highdicom wants to know of a source image, with the patient left empty."""
    from pydicom.dataset import Dataset

    image = Dataset()
    for keyword in (*_IDENTIFIERS, *_COMPRESSION):
        if keyword in header:
            setattr(image, keyword, header[keyword].value)
    image.Rows, image.Columns = int(header.Rows), int(header.Columns)
    image.StudyDate, image.StudyTime = _valid(header, "StudyDate", _DATE), _valid(header, "StudyTime", _TIME)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(image, keyword, "")
    return image


def _say_position(place: Any, frame: Frame) -> None:
    place.ImagePositionPatient = _decimals(frame.position_mm)


def _say_orientation(place: Any, frame: Frame) -> None:
    place.ImageOrientationPatient = _decimals(frame.orientation)


def _say_measures(place: Any, frame: Frame, thickness_mm: float) -> None:
    place.PixelSpacing, (place.SliceThickness,) = _decimals(frame.spacing_mm), _decimals([thickness_mm])


def _decimals(numbers: Sequence[float]) -> list[Any]:
    from pydicom.valuerep import DSfloat

    return [DSfloat(number, auto_format=True) for number in numbers]


def _thickness_mm(frame: Frame, axis: int, volume: Volume) -> float:
    """Return the slice thickness, or, where it is not said, the distance between slices."""
    if frame.thickness_mm is not None:
        return frame.thickness_mm
    normal = np.cross(frame.across_mm, frame.down_mm)
    return float(abs(volume.affine[:3, axis] @ normal) / np.linalg.norm(normal))


def _content_date_time(header: Any) -> tuple[str, str]:
    """Return date and time of the series, else of the study, else of the acquisition; never the clock's."""
    for kind in ("Series", "Study", "Acquisition"):
        date = _valid(header, f"{kind}Date", _DATE)
        if date:
            return date, _valid(header, f"{kind}Time", _TIME) or _NO_TIME
    return _NO_DATE, _NO_TIME


def _valid(header: Any, keyword: str, form: re.Pattern[str]) -> str:
    text = str(header.get(keyword) or "").strip()
    return text if form.fullmatch(text) else ""


def _series_number(header: Any) -> int | None:
    try:
        return int(header.SeriesNumber)
    except (AttributeError, TypeError, ValueError):
        return None


def _patient(header: Any) -> dict[str, str]:
    """Return the patient's attributes as text, decoded; empty where there is none."""
    return {keyword: _text(header[keyword].value) for keyword in PATIENT_ATTRIBUTES if keyword in header}


def _text(value: Any) -> str:
    from pydicom.multival import MultiValue

    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str("" if value is None else value)
