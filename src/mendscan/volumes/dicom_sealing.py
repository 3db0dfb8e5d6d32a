"""The last step of writing a DICOM object: its bytes become a function of its content.

Unique identifiers come from the content's SHA-256 and not from chance, and nothing comes from the clock.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any

from mendscan.volumes.dicom_silence import quoting_silenced

__all__ = ["PLACEHOLDER_UID", "derived_uid", "sealed_bytes"]

PLACEHOLDER_UID = "2.25.0"
"""Stands where an identifier will be derived from all the rest."""


def sealed_bytes(made: Any, patient: Mapping[str, str] | None) -> bytes:
    """Return a derived object as a file: the same content, the same bytes and unique identifiers.

    Args:
        made: A multi-frame object of highdicom's; it is changed.
        patient: Attributes to fill in, by keyword; None leaves the patient empty.
    """
    with quoting_silenced():
        if patient is not None:
            _fill_in(made, patient)
        _forget_clock(made)
        _identify(made, lambda _: PLACEHOLDER_UID)
        digest = hashlib.sha256(_file(made).getbuffer()).hexdigest()
        _identify(made, lambda what: derived_uid(what, digest))
        return _file(made).getvalue()


def derived_uid(*parts: str) -> str:
    """Return a unique identifier under 2.25: a UUID (RFC 9562, version 8) of the parts' SHA-256.

    Example:
        >>> derived_uid("series", "a")
        '2.25.298960408425318785185321654184696544626'
    """
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16])
    number = number & ~(0xF << 76) | 0x8 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return f"2.25.{number}"


def _fill_in(made: Any, patient: Mapping[str, str]) -> None:
    for keyword, text in patient.items():
        setattr(made, keyword, text)
    if not all(text.isascii() for text in patient.values()):
        made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: whatever the source's was, it is decoded by now


def _forget_clock(made: Any) -> None:
    del made.InstanceCreationDate, made.InstanceCreationTime
    for equipment in made.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:
            del equipment.ContributionDateTime


def _identify(made: Any, uid_of: Callable[[str], str]) -> None:
    """Set every unique identifier of the object itself."""
    made.SeriesInstanceUID = uid_of("series")
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid_of("instance")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid_of("dimensions")


def _file(made: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer
