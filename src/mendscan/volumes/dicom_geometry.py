"""Where the slices of a DICOM series lie: sorted along their normal, checked, and one affine for all.

Unlike InstanceNumber, the positions say what was scanned; they are checked for gaps, repetitions and tilt.
DICOM PS3.3, C.7.6.2.1.1 (image plane module) gives the equation of the affine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mendscan.errors import GeometryError, IntensityError
from mendscan.shapes import Affine
from mendscan.volumes.dicom_headers import DicomSlice
from mendscan.volumes.faults import dimensions_error
from mendscan.volumes.remarks import remark
from mendscan.volumes.volume import MIN_VOXELS_PER_AXIS
from mendscan.volumes.world import LPS_TO_RAS, homogeneous

__all__ = ["check_rescale", "positions_along_normal", "series_affine"]

SAME_POSITION_MM = 0.01
"""Slices nearer to each other lie at the same place."""
SPACING_TOLERANCE = 0.05
"""How far a slice may be from where equal spacing puts it, in distances between slices."""
TILT_WARNING_DEGREES = 0.5
"""From this angle between the normal and the line of the slices on, the affine is said to be sheared."""
MAX_NOT_ORTHONORMAL = 1e-3
"""How far directions may be from unit length and a right angle."""

_SHOWN_GAPS = 8


def positions_along_normal(slices: Sequence[DicomSlice], *, where: str) -> list[list[DicomSlice]]:
    """Sort slices by their position along the normal; those at the same place are in one list.

    Raises:
        GeometryError: If a position, an orientation or a pixel spacing is missing or makes no sense (E_GEOMETRY).
    """
    for one in slices:
        _check_plane(one, where)
    normal = _normal(slices[0])
    heights = [float(normal @ np.array(one.position)) for one in slices]
    order = sorted(range(len(slices)), key=lambda n: (heights[n], slices[n].path, slices[n].frame))
    places: list[list[DicomSlice]] = []
    last = -math.inf
    for index in order:
        if heights[index] - last > SAME_POSITION_MM:
            places.append([])
            last = heights[index]
        places[-1].append(slices[index])
    return places


def series_affine(slices: Sequence[DicomSlice], *, where: str) -> Affine:
    """Return the map from (column, row, slice) to millimetres in RAS+.

    Args:
        slices: Sorted along the normal, one at each place.
        where: What errors and warnings name.

    Raises:
        GeometryError: If there are too few slices (E_DIMENSIONS), some are missing (E_MISSING_SLICES), or they are not
            on one line at equal distances (E_SLICE_SPACING).
    """
    if len(slices) < MIN_VOXELS_PER_AXIS:
        raise dimensions_error([len(slices)], where, "give the folder with all slices of the series")
    places = np.array([one.position for one in slices])
    normal = _normal(slices[0])
    heights = places @ normal
    spacing = float(np.median(np.diff(heights)))
    _check_gaps(heights, spacing, where)
    step = (places[-1] - places[0]) / (len(slices) - 1)
    _check_line(places, step, spacing, where)
    _warn_of_tilt(step, normal, where)
    rows, columns = slices[0].pixel_spacing or (math.nan, math.nan)
    along_row, along_column = np.array(slices[0].orientation).reshape(2, 3)
    axes = np.stack([along_row * columns, along_column * rows, step], axis=1)
    return LPS_TO_RAS @ homogeneous(axes, places[0])


def check_rescale(slices: Sequence[DicomSlice], *, where: str) -> None:
    """Check the scaling of the values of each slice.

    Raises:
        IntensityError: If a slope or an intercept is not finite, or a slope is 0 (E_SCALING).
    """
    for one in slices:
        if not (math.isfinite(one.slope) and math.isfinite(one.intercept) and one.slope):
            raise IntensityError(
                "the scaling of the voxel values makes no sense",
                where=where,
                code="E_SCALING",
                found=f"slope {one.slope:g}, intercept {one.intercept:g}",
                expected="finite numbers, the slope not 0",
                remedy="correct RescaleSlope and RescaleIntercept",
            )


def _check_plane(one: DicomSlice, where: str) -> None:
    for name, numbers in (
        ("ImagePositionPatient", one.position),
        ("ImageOrientationPatient", one.orientation),
        ("PixelSpacing", one.pixel_spacing),
    ):
        if numbers is None:
            raise _geometry_error(f"a slice has no {name}", where)
        if not all(math.isfinite(number) for number in numbers):
            raise _geometry_error(f"the {name} of a slice makes no sense", where)
    if one.pixel_spacing is None or min(one.pixel_spacing) <= 0:
        raise _geometry_error("the PixelSpacing of a slice makes no sense", where)
    directions = np.array(one.orientation).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > MAX_NOT_ORTHONORMAL:
        raise _geometry_error("the ImageOrientationPatient of a slice is no pair of directions at a right angle", where)


def _normal(one: DicomSlice) -> Float[np.ndarray, " 3"]:
    along_row, along_column = np.array(one.orientation, dtype=np.float64).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    return normal / np.linalg.norm(normal)


def _check_gaps(heights: Float[np.ndarray, " n"], spacing: float, where: str) -> None:
    tolerance = max(SAME_POSITION_MM, SPACING_TOLERANCE * spacing)
    gaps, unequal, missing = [], [], 0
    for below, above in itertools.pairwise(heights):
        steps = round(float(above - below) / spacing)
        if steps < 1 or abs(float(above - below) - steps * spacing) > tolerance * max(1, steps):
            unequal.append(f"{above - below:.2f} mm after {below:.1f} mm")
        elif steps > 1:
            missing += steps - 1
            gaps.append(f"{steps - 1} between {below:.1f} and {above:.1f} mm")
    if unequal:
        raise GeometryError(
            "the slices are not at equal distances",
            where=where,
            code="E_SLICE_SPACING",
            found=_listed(unequal),
            expected=f"{spacing:.2f} mm",
            remedy="copy all slices, or resample the series to equal distances",
        )
    if gaps:
        raise GeometryError(
            f"{missing} slices are missing",
            where=where,
            code="E_MISSING_SLICES",
            found=_listed(gaps),
            expected=f"one every {spacing:.2f} mm",
            remedy="copy all slices of the series",
        )


def _check_line(places: Float[np.ndarray, "n 3"], step: Float[np.ndarray, " 3"], spacing: float, where: str) -> None:
    expected = places[0] + np.arange(len(places))[:, None] * step
    distance = float(np.linalg.norm(places - expected, axis=1).max())
    # Equal distances add up: what each gap may be off, the slices in the middle may be together.
    if distance > max(SAME_POSITION_MM, SPACING_TOLERANCE * spacing) * max(1.0, math.sqrt(len(places))):
        raise GeometryError(
            "the slices do not lie on one straight line",
            where=where,
            code="E_SLICE_SPACING",
            found=f"a slice {distance:.2f} mm beside it",
            remedy="resample the series, or give each part alone",
        )


def _warn_of_tilt(step: Float[np.ndarray, " 3"], normal: Float[np.ndarray, " 3"], where: str) -> None:
    degrees = math.degrees(math.acos(min(1.0, float(normal @ step) / float(np.linalg.norm(step)))))
    if degrees > TILT_WARNING_DEGREES:
        tilt = f"the slices are sheared by {degrees:.1f} degrees (gantry tilt)"
        remark(where, "W_SHEAR", f"{tilt}; the affine says so exactly, and some programs cannot show a sheared map")


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - _SHOWN_GAPS} more" if len(parts) > _SHOWN_GAPS else ""
    return "; ".join(parts[:_SHOWN_GAPS]) + more


def _geometry_error(problem: str, where: str) -> GeometryError:
    return GeometryError(problem, where=where, remedy="convert the series again, or leave the slice out")
