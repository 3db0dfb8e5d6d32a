"""Findings: the connected components of a map above its healthy threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.volume import Volume

__all__ = ["Finding", "find_components", "labelled_components"]


@dataclass(frozen=True)
class Finding:
    """One connected component of the map above the healthy threshold.

    Attributes:
        volume_mm3: Its volume.
        voxels: Its size in voxels of the scan.
        peak: Largest value of the map in it.
        mean: Mean value of the map in it.
        centre_mm: Centre of mass in the scan's world coordinates (RAS+ mm).
        centre_voxel: The same in voxels of the file's own axes.
        expected_false: How many findings with at least this peak a healthy scan has; None if that is not known.
    """

    volume_mm3: float
    voxels: int
    peak: float
    mean: float
    centre_mm: tuple[float, float, float]
    centre_voxel: tuple[float, float, float]
    expected_false: float | None = None


def find_components(
    map_XYZ: VoxelsXYZ, volume: Volume, *, threshold: float, smallest_mm3: float
) -> tuple[Finding, ...]:
    """Return the connected components of a map above a threshold, largest sum of the map first.

    Args:
        map_XYZ: Anomaly map on the scan's RAS+ grid.
        volume: The scan.
        threshold: Voxels above it belong to a component (26 neighbours).
        smallest_mm3: Components smaller than this are left out.
    """
    _, components = labelled_components(map_XYZ, volume, threshold)
    return tuple(found for _, found in components if found.volume_mm3 >= smallest_mm3)


def labelled_components(
    map_XYZ: VoxelsXYZ, volume: Volume, threshold: float
) -> tuple[Integer[np.ndarray, "X Y Z"], list[tuple[int, Finding]]]:
    """Return the connected components of a map above a threshold, down to one voxel, and which voxels are of which.

    Returns:
        The label of each voxel, 0 = none; label and description of each component, largest sum of the map first.
    """
    labels, count = ndimage.label(map_XYZ > threshold, structure=np.ones((3, 3, 3)))
    if count == 0:
        return labels, []
    # Only the voxels above the threshold are looked at again: a scan has many, its components few.
    where = np.nonzero(labels)
    component, values = labels[where] - 1, map_XYZ[where]
    voxels, sums = np.bincount(component), np.bincount(component, weights=values)
    peaks = ndimage.maximum(values, component, np.arange(count))
    centres = np.stack([np.bincount(component, weights=axis) for axis in where], axis=1) / voxels[:, None]
    voxel_mm3 = float(abs(np.linalg.det(volume.affine[:3, :3])))
    order = np.argsort(-sums, kind="stable")
    found = (
        Finding(
            volume_mm3=float(voxels[n] * voxel_mm3),
            voxels=int(voxels[n]),
            peak=float(peaks[n]),
            mean=float(sums[n] / voxels[n]),
            centre_mm=_triple(volume.affine[:3, :3] @ centres[n] + volume.affine[:3, 3]),
            centre_voxel=_triple(volume.native_index(np.array(centres[n]))),
        )
        for n in order
    )
    return labels, [(int(n) + 1, one) for n, one in zip(order, found, strict=True)]


def _triple(values: Float[np.ndarray, " 3"]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
