"""Reading a DICOM series: its slices, decoded one by one, become one array with one affine.

DICOM files carry no checksum: a changed pixel of uncompressed data cannot be noticed; missing ones are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Shaped

from mendscan.errors import GeometryError, IntensityError
from mendscan.volumes.dicom_decoding import stored_pixels
from mendscan.volumes.dicom_geometry import check_rescale, positions_along_normal, series_affine
from mendscan.volumes.dicom_headers import DicomSlice, dicom_errors
from mendscan.volumes.dicom_series import DicomSeries, chosen_series
from mendscan.volumes.faults import check_size, corrupt, reading_errors
from mendscan.volumes.remarks import remark, remarks_kept

__all__ = ["dicom_sources", "read_dicom"]


def read_dicom(
    path: Path, *, max_bytes: int | None, where: str
) -> tuple[Float32[np.ndarray, "I J K"], Float[np.ndarray, "4 4"]]:
    """Read the series that a path means.

    Values are stored values times slope plus intercept, each slice with its own.  Of MONOCHROME1, where low values
    are bright, they are mirrored: v becomes largest + smallest - v, over all slices.

    Args:
        path: A folder of DICOM files, FOLDER/FOLDER_sNUMBER, or a file with many frames.
        max_bytes: The most that the voxels may take as float32; None = any number.
        where: What errors and warnings name.

    Returns:
        The voxels along (column, row, slice), slices sorted along their normal, and the map from their index to
        millimetres in RAS+.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_ACCESS, E_NO_SERIES, E_SEVERAL_SERIES, E_TRUNCATED, E_CORRUPT, E_CODEC,
            E_DATATYPE, E_TOO_LARGE or E_MEMORY.
        GeometryError: E_DIMENSIONS, E_GEOMETRY, E_MISSING_SLICES, E_SLICE_SPACING or E_SEVERAL_VOLUMES.
        IntensityError: E_COLOUR or E_SCALING.
    """
    with dicom_errors(where):
        series = chosen_series(path, where=where)
        if series.left_behind:
            other = "of another size, orientation or spacing and are left out"
            remark(where, "W_SLICES_LEFT_OUT", f"{series.left_behind} slices of the series are {other}")
        slices, affine = _sorted_slices(series, max_bytes, where)
        voxels_KJI = np.empty((len(slices), series.rows, series.columns), np.float32)
        for values, pixels in zip(voxels_KJI, _pixels_of(slices, series, where), strict=True):
            values[:] = pixels
        _check_overflow(voxels_KJI, where)
        if series.inverted:
            np.subtract(voxels_KJI.max() + voxels_KJI.min(), voxels_KJI, out=voxels_KJI)
            remark(where, "W_MIRRORED", "low values are bright (MONOCHROME1); the values are mirrored")
        return voxels_KJI.T, affine


def dicom_sources(path: str | os.PathLike[str]) -> list[Path]:
    """Return the DICOM files of a scan in the order of its slices.

    File n holds slice n along the last axis of the file's own axes: ``volume.to_native(values_XYZ)[:, :, n].T`` has
    its rows and columns.  A file with many frames is listed once.

    Args:
        path: As `read_volume` takes it: a folder of one series, FOLDER/FOLDER_sNUMBER, or a file with many frames.

    Raises:
        ScanError: As `read_volume`.
    """
    where = os.fspath(path)
    # What is odd was remarked when it was read, under the name that the scan then had.
    with remarks_kept(), reading_errors(where), dicom_errors(where):
        slices, _ = _sorted_slices(chosen_series(Path(path), where=where), None, where)
    return list(dict.fromkeys(one.path for one in slices))


def _sorted_slices(
    series: DicomSeries, max_bytes: int | None, where: str
) -> tuple[list[DicomSlice], Float[np.ndarray, "4 4"]]:
    """Return the slices along their normal, one at each place, and the affine."""
    check_size((series.columns, series.rows, len(series.slices)), max_bytes, where)
    if series.has_lookup_table:
        raise IntensityError(
            "the voxel values are scaled by a table",
            where=where,
            code="E_SCALING",
            expected="a slope and an intercept",
            remedy="convert the series to NIfTI with a program that applies the table",
        )
    check_rescale(series.slices, where=where)
    places = positions_along_normal(series.slices, where=where)
    slices = [same_place[0] for same_place in places]
    repeated = [same_place for same_place in places if len(same_place) > 1]
    for same_place in repeated:
        _check_identical(same_place, series, where)
    if repeated:
        dropped = len(series.slices) - len(slices)
        remark(where, "W_SLICES_TWICE", f"{dropped} slices are there twice, pixel by pixel; one of each is kept")
    return slices, series_affine(slices, where=where)


def _check_identical(same_place: Sequence[DicomSlice], series: DicomSeries, where: str) -> None:
    first, *others = _pixels_of(same_place, series, where)
    if all(np.array_equal(first, other) for other in others):
        return
    x, y, z = same_place[0].position or (math.nan,) * 3
    raise GeometryError(
        "the series holds several volumes",
        where=where,
        code="E_SEVERAL_VOLUMES",
        found=f"{len(same_place)} different images at ({x:.1f}, {y:.1f}, {z:.1f}) mm",
        expected="one image at each place",
        remedy="keep one time, echo, phase or type of image in a folder of its own",
    )


def _pixels_of(slices: Sequence[DicomSlice], series: DicomSeries, where: str) -> Iterator[Shaped[np.ndarray, "J I"]]:
    for one, stored in zip(slices, stored_pixels(slices, where=where), strict=True):
        if stored.shape != (series.rows, series.columns):
            raise corrupt("a slice is not of the size that its header gave a moment ago", where, f"{stored.shape}")
        if (one.slope, one.intercept) == (1.0, 0.0):
            yield stored
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused, in words
                yield stored.astype(np.float64) * one.slope + one.intercept


def _check_overflow(voxels_KJI: Float32[np.ndarray, "K J I"], where: str) -> None:
    # Stored values and scaling are finite: what is not has become too large.
    overflowed = int(voxels_KJI.size - np.count_nonzero(np.isfinite(voxels_KJI)))
    if overflowed:
        raise IntensityError(
            "scaled voxel values are too large for float32",
            where=where,
            code="E_SCALING",
            found=f"{overflowed} voxels",
            remedy="correct RescaleSlope and RescaleIntercept",
        )
