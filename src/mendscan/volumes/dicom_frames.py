"""Where the frames of a DICOM image lie on a scan's voxel grid, by what each says of itself.

A DICOM frame has the centre of its first pixel, the directions of its rows and columns, and the distances between
them, in LPS+ millimetres.  Neither the order of the files nor any convention about axes is relied on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from mendscan.errors import GeometryError
from mendscan.volumes.volume import Volume

__all__ = ["TOLERANCE_MM", "Cut", "Frame", "cuts_through", "frames_of"]

TOLERANCE_MM = 0.01
"""A pixel may lie this far from its voxel: what positions with two decimals are off by."""

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_MACROS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
_REMEDY = "give the very files that the scan was read from"


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a DICOM image, in DICOM's own terms.

    Attributes:
        position_mm: Centre of its first pixel, in LPS+ mm.
        orientation: Direction in which columns follow each other, then that of rows, in LPS+.
        spacing_mm: Distance between rows, then between columns.
        thickness_mm: Slice thickness; None if it is not said.
        rows: Pixels from top to bottom.
        columns: Pixels from left to right.
    """

    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float | None
    rows: int
    columns: int

    @property
    def corner_mm(self) -> Float64[np.ndarray, " 3"]:
        """Centre of its first pixel, in RAS+ mm."""
        return np.array(self.position_mm) * _LPS_TO_RAS

    @property
    def across_mm(self) -> Float64[np.ndarray, " 3"]:
        """Step to the next column, in RAS+ mm."""
        return np.array(self.orientation[:3]) * _LPS_TO_RAS * self.spacing_mm[1]

    @property
    def down_mm(self) -> Float64[np.ndarray, " 3"]:
        """Step to the next row, in RAS+ mm."""
        return np.array(self.orientation[3:]) * _LPS_TO_RAS * self.spacing_mm[0]


@dataclass(frozen=True)
class Cut:
    """The slice of a voxel grid that a frame shows.

    Attributes:
        axis: The axis of X, Y, Z that the slice is perpendicular to.
        index: Where it cuts that axis.
        transposed: Whether the frame's rows run along the later of the other two axes.
        row_step: 1, or -1 if rows run against their axis.
        column_step: The same for columns.
    """

    axis: int
    index: int
    transposed: bool
    row_step: int
    column_step: int

    def of(self, values_XYZ: Shaped[np.ndarray, "X Y Z"]) -> Shaped[np.ndarray, "rows columns"]:
        """Return the values of the slice as the frame's pixels; a view, nothing is copied."""
        plane = np.moveaxis(values_XYZ, self.axis, 0)[self.index]
        return (plane.T if self.transposed else plane)[:: self.row_step, :: self.column_step]


def frames_of(dataset: Any, *, where: object) -> list[Frame]:
    """Return the frames of a single-frame or multi-frame image, in order.

    Args:
        dataset: A pydicom dataset.
        where: What an error names.

    Raises:
        GeometryError: If a frame does not say where it lies (E_DICOM_GEOMETRY).
    """
    try:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            return [_frame(dataset, dataset, dataset, dataset)]
        shared = dataset.SharedFunctionalGroupsSequence[0]
        frames = []
        for own in dataset.PerFrameFunctionalGroupsSequence:
            position, orientation, measures = ((own if macro in own else shared)[macro].value[0] for macro in _MACROS)
            frames.append(_frame(position, orientation, measures, dataset))
        if not frames:
            raise ValueError("no frames")
        return frames
    except Exception:  # noqa: BLE001 - damaged headers raise a dozen kinds, and the messages may quote the patient
        raise GeometryError(
            "the DICOM image does not say where its pixels lie",
            where=where,
            code="E_DICOM_GEOMETRY",
            expected="image position, image orientation (patient) and pixel spacing",
        ) from None


def cuts_through(volume: Volume, frames: Sequence[Frame], *, where: object) -> list[Cut]:
    """Find the slice of a scan that each frame shows.

    Args:
        volume: The scan.
        frames: Of one series, in any order.
        where: What an error names.

    Returns:
        One per frame.

    Raises:
        GeometryError: If pixels are not on the scan's voxels, to within `TOLERANCE_MM`, or two frames show the same
            slice (E_GRID).
    """
    to_index = np.linalg.inv(volume.affine)
    cuts = [_cut(frame, volume, to_index, where) for frame in frames]
    if len({cut.axis for cut in cuts}) > 1 or len({cut.index for cut in cuts}) < len(cuts):
        raise GeometryError(
            "two frames show the same slice of the scan",
            where=where,
            code="E_GRID",
            found=f"{len(cuts)} frames, {len({(cut.axis, cut.index) for cut in cuts})} places",
            expected="one frame per slice",
            remedy=_REMEDY,
        )
    return cuts


def _frame(position: Any, orientation: Any, measures: Any, image: Any) -> Frame:
    thickness = measures.get("SliceThickness")
    return Frame(
        position_mm=_finite(position.ImagePositionPatient, 3),
        orientation=_finite(orientation.ImageOrientationPatient, 6),
        spacing_mm=_finite(measures.PixelSpacing, 2),
        thickness_mm=None if thickness in (None, "") or not 0 < float(thickness) < np.inf else float(thickness),
        rows=int(image.Rows),
        columns=int(image.Columns),
    )


def _finite(numbers: Any, count: int) -> tuple[float, ...]:
    values = tuple(float(number) for number in numbers)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"not {count} finite numbers")
    return values


def _cut(frame: Frame, volume: Volume, to_index: Float64[np.ndarray, "4 4"], where: object) -> Cut:
    corner = np.rint(to_index[:3, :3] @ frame.corner_mm + to_index[:3, 3]).astype(int)
    across, down = (np.rint(to_index[:3, :3] @ step).astype(int) for step in (frame.across_mm, frame.down_mm))
    if _misses(frame, volume, corner, across, down):
        raise GeometryError(
            "a frame is not on the grid of the scan",
            where=where,
            code="E_GRID",
            found=f"{frame.rows} x {frame.columns} pixels from {frame.corner_mm.round(3).tolist()} mm",
            expected=f"a whole slice of {' x '.join(map(str, volume.shape))} voxels, to within {TOLERANCE_MM} mm",
            remedy=_REMEDY,
        )
    column_axis, row_axis = int(np.abs(across).argmax()), int(np.abs(down).argmax())
    axis = 3 - column_axis - row_axis
    return Cut(axis, int(corner[axis]), row_axis > column_axis, int(down.sum()), int(across.sum()))


def _misses(frame: Frame, volume: Volume, corner: Any, across: Any, down: Any) -> bool:
    """Return whether the frame's pixels are other points than those voxels."""
    if not (np.abs(across).sum() == np.abs(down).sum() == 1 and across @ down == 0):
        return True
    size = np.abs(across) * frame.columns + np.abs(down) * frame.rows
    shape = np.array(volume.shape)
    if not ((size == shape) | (size == 0)).all():
        return True
    for column in (0, frame.columns - 1):
        for row in (0, frame.rows - 1):
            voxel = corner + column * across + row * down
            pixel_mm = frame.corner_mm + column * frame.across_mm + row * frame.down_mm
            off_mm = volume.affine[:3, :3] @ voxel + volume.affine[:3, 3] - pixel_mm
            if not (np.abs(off_mm).max() <= TOLERANCE_MM and (voxel >= 0).all() and (voxel < shape).all()):
                return True
    return False
