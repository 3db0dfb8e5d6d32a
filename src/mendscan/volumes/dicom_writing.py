"""Results as DICOM objects, beside the series that a scan was read from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from mendscan.errors import GeometryError, SettingsError, WriteError
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.dicom_derivation import read_source_series
from mendscan.volumes.dicom_frames import cuts_through, frames_of
from mendscan.volumes.dicom_objects import (
    MOST_SEGMENTS,
    Provenance,
    SegmentedFinding,
    findings_object,
    map_object,
)
from mendscan.volumes.dicom_sealing import sealed_bytes
from mendscan.volumes.dicom_silence import quoting_silenced
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import make_folder, write_chunks

__all__ = ["DICOM", "FINDINGS_SUFFIX", "MAP_SUFFIX", "require_highdicom", "write_dicom_results"]

DICOM = "dicom"
"""The folder in a results folder."""
MAP_SUFFIX = "-map.dcm"
"""What follows the case in the name of its map."""
FINDINGS_SUFFIX = "-findings.dcm"
"""What follows the case in the name of its findings."""


def require_highdicom() -> None:
    """Refuse to go on without highdicom.

    Raises:
        SettingsError: If it is not installed (E_EXTRA).
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise SettingsError(
            "writing DICOM needs highdicom",
            where="--dicom-out",
            code="E_EXTRA",
            found="not installed",
            remedy="pip install 'mendscan[dicom]'",
        ) from None


def write_dicom_results(
    folder: Path,
    *,
    volume: Volume,
    sources: Sequence[Path],
    map_XYZ: VoxelsXYZ,
    labels_XYZ: Integer[np.ndarray, "X Y Z"],
    findings: Sequence[SegmentedFinding],
    provenance: Provenance,
    patient: bool = False,
) -> tuple[Path, ...]:
    """Write map and findings of a scan as DICOM objects of the same study and frame of reference.

    ``dicom/CASE-map.dcm`` is a Parametric Map with one frame per source frame, ``dicom/CASE-findings.dcm`` a binary
    Segmentation with one segment per finding.  Without findings there is none, because a Segmentation needs a segment.
    The same input gives the same bytes.

    Args:
        folder: The results folder.
        volume: The scan, read from `sources`; its name is the case.
        sources: All files of the series, in any order.
        map_XYZ: Anomaly map on the scan's RAS+ grid, in [0, 1].
        labels_XYZ: n inside finding n, counted from 1, else 0.
        findings: In the order of their numbers; those after the first `MOST_SEGMENTS` are left out.
        provenance: What made them.
        patient: Whether to take over patient and request from the series, so that an archive files the objects;
            otherwise these attributes are empty.

    Returns:
        What was written.

    Raises:
        SettingsError: If highdicom is not installed (E_EXTRA).
        UnreadableScanError: If a file of the series cannot be read, or is of an unknown kind (E_DICOM_SOURCES).
        GeometryError: If the files are not one series, or not the slices of the scan (E_DICOM_SOURCES,
            E_DICOM_GEOMETRY, E_GRID).
        WriteError: If a file cannot be written, or does not hold what it should when read back.
    """
    require_highdicom()
    if map_XYZ.shape != volume.shape or labels_XYZ.shape != volume.shape:
        raise GeometryError(
            "the results are not on the grid of the scan",
            where=volume.name,
            code="E_GRID",
            found=f"{map_XYZ.shape} and {labels_XYZ.shape}",
            expected=volume.shape,
        )
    series = read_source_series(sources, volume)
    kept = findings[:MOST_SEGMENTS]
    if len(kept) < len(findings):
        labels_XYZ = np.where(labels_XYZ > len(kept), 0, labels_XYZ)
    filled_in = series.patient if patient else None
    target = make_folder(folder / DICOM)
    written = [target / f"{volume.name}{MAP_SUFFIX}"]
    data = sealed_bytes(map_object(series, map_XYZ, provenance, name=volume.name), filled_in)
    _write(written[0], data, partial(_check_map, map_XYZ, volume))
    path = target / f"{volume.name}{FINDINGS_SUFFIX}"
    if kept:
        data = sealed_bytes(findings_object(series, labels_XYZ, kept, provenance, name=volume.name), filled_in)
        _write(path, data, partial(_check_findings, labels_XYZ, volume))
        return (*written, path)
    path.unlink(missing_ok=True)
    return tuple(written)


def _write(path: Path, data: bytes, holds: Callable[[Any], bool]) -> None:
    def check(temporary: Path, _: str) -> None:
        import pydicom

        with quoting_silenced():
            same = holds(pydicom.dcmread(temporary))
        if not same:
            raise WriteError("the DICOM object does not hold what it should", where=path, code="E_READ_BACK")

    write_chunks(path, [data], check=check)


def _check_map(map_XYZ: VoxelsXYZ, volume: Volume, read: Any) -> bool:
    """Return whether every voxel of the map lies in the object where it lies in the scan."""
    frames = np.frombuffer(read.FloatPixelData, "<f4").reshape(-1, read.Rows, read.Columns)
    cuts = cuts_through(volume, frames_of(read, where=volume.name), where=volume.name)
    same = all(np.array_equal(frame, cut.of(map_XYZ)) for frame, cut in zip(frames, cuts, strict=True))
    return same and frames.size == map_XYZ.size


def _check_findings(labels_XYZ: Integer[np.ndarray, "X Y Z"], volume: Volume, read: Any) -> bool:
    """Return whether every voxel of every finding lies in the object where it lies in the scan, and no other does."""
    count = read.NumberOfFrames * read.Rows * read.Columns
    bits = np.unpackbits(np.frombuffer(read.PixelData, np.uint8), count=count, bitorder="little")
    frames = bits.reshape(-1, read.Rows, read.Columns).astype(bool)
    own, shared = read.PerFrameFunctionalGroupsSequence, read.SharedFunctionalGroupsSequence[0]
    macro = "SegmentIdentificationSequence"  # shared if there is one segment
    numbers = [(item if macro in item else shared)[macro].value[0].ReferencedSegmentNumber for item in own]
    # A slice has a frame for each finding in it, so places occur more than once: each frame is looked up alone.
    cuts = [cuts_through(volume, [frame], where=volume.name)[0] for frame in frames_of(read, where=volume.name)]
    same = all(
        np.array_equal(frame, cut.of(labels_XYZ) == number)
        for frame, cut, number in zip(frames, cuts, numbers, strict=True)
    )
    return same and int(bits.sum()) == int(np.count_nonzero(labels_XYZ))
