"""Where a scan is not background, and how deep inside it a voxel lies: the room that synthetic anomalies have.

Unlike `preparing.foreground_threshold`, which is one intensity, this is a place: one solid piece without holes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from mendscan.shapes import MaskXYZ, VoxelsXYZ

__all__ = ["depth_inside", "foreground_of", "smallest_extent_mm"]

_BACKGROUND_SHARE = 0.05  # of the voxels equal to the smallest value: then that value is background
_AIR_LEVEL_SHARE = 0.1  # of the way from the smallest value to the 99th percentile: air is below


def foreground_of(voxels_XYZ: VoxelsXYZ) -> MaskXYZ:
    """Find where a scan is not background; the whole volume when it has none.

    Background is one exact value (a skull-stripped scan) or, when most of the volume's surface is dark, air.
    """
    lowest = voxels_XYZ.min()
    if np.mean(voxels_XYZ == lowest) >= _BACKGROUND_SHARE:
        return _largest_solid(voxels_XYZ > lowest)
    air_level = lowest + _AIR_LEVEL_SHARE * (np.quantile(voxels_XYZ, 0.99) - lowest)
    surface_XYZ = np.ones(voxels_XYZ.shape, dtype=bool)
    surface_XYZ[1:-1, 1:-1, 1:-1] = False
    if np.median(voxels_XYZ[surface_XYZ]) >= air_level:
        return np.ones(voxels_XYZ.shape, dtype=bool)
    return _largest_solid(ndimage.gaussian_filter(voxels_XYZ, 1.0) > air_level)


def depth_inside(
    mask_XYZ: MaskXYZ, *, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Float64[np.ndarray, "X Y Z"]:
    """Measure how far each voxel is from the nearest one outside the mask; outside the volume is outside the mask.

    Args:
        mask_XYZ: Any mask.
        spacing_mm: Voxel size; left out, the distance is in voxels.

    Returns:
        Distance in mm; 0 outside the mask.
    """
    padded = np.pad(mask_XYZ, 1)
    return ndimage.distance_transform_edt(padded, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]


def smallest_extent_mm(mask_XYZ: MaskXYZ, *, spacing_mm: tuple[float, float, float]) -> float:
    """Measure the shortest side of the box around a mask, voxel edge to voxel edge.

    Example:
        >>> smallest_extent_mm(np.ones((4, 5, 6), dtype=bool), spacing_mm=(2.0, 1.0, 1.0))
        5.0
    """
    used = (np.flatnonzero(mask_XYZ.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return min(float(one[-1] - one[0] + 1) * size for one, size in zip(used, spacing_mm, strict=True))


def _largest_solid(mask_XYZ: MaskXYZ) -> MaskXYZ:
    parts_XYZ, count = ndimage.label(mask_XYZ)
    if count == 0:
        return np.ones(mask_XYZ.shape, dtype=bool)
    largest = 1 + int(np.argmax(np.bincount(parts_XYZ.ravel())[1:]))
    return ndimage.binary_fill_holes(parts_XYZ == largest)
