"""Findings: the connected components of a map above its healthy threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.volume import Volume

__all__ = ["Finding", "Place", "find_components", "locate_findings"]

_ROUNDED_VOXELS = 0.051
"""Tables keep a tenth of a voxel."""


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


@dataclass(frozen=True)
class Place:
    """Where a finding is in its map.

    Attributes:
        component: Its number among the components of the map.
        peak_XYZ: Voxel of its largest value, in RAS+.
    """

    component: int
    peak_XYZ: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class _Components:
    """All components of a map above a threshold, in the order of their numbers, which begin at 1."""

    labels_XYZ: Int[np.ndarray, "X Y Z"]
    voxels: Int[np.ndarray, " N"]
    sums: Float[np.ndarray, " N"]
    peaks: Float[np.ndarray, " N"]
    centres: Float[np.ndarray, "N 3"]
    peak_indices: Int[np.ndarray, "N 3"]


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
    components = _components(map_XYZ, threshold)
    voxel_mm3 = float(abs(np.linalg.det(volume.affine[:3, :3])))
    order = np.argsort(-components.sums, kind="stable")
    return tuple(
        Finding(
            volume_mm3=float(components.voxels[n] * voxel_mm3),
            voxels=int(components.voxels[n]),
            peak=float(components.peaks[n]),
            mean=float(components.sums[n] / components.voxels[n]),
            centre_mm=_triple(volume.affine[:3, :3] @ components.centres[n] + volume.affine[:3, 3]),
            centre_voxel=_triple(volume.native_index(components.centres[n])),
        )
        for n in order
        if components.voxels[n] * voxel_mm3 >= smallest_mm3
    )


def locate_findings(
    findings: Sequence[Finding], map_XYZ: VoxelsXYZ, volume: Volume, *, threshold: float
) -> tuple[Int[np.ndarray, "X Y Z"], tuple[Place | None, ...]]:
    """Find in a map the components that findings describe.

    Args:
        findings: As `find_components` returned them, or as a table keeps them, rounded.
        map_XYZ: The map they are of, on the scan's RAS+ grid.
        volume: The scan.
        threshold: The one they were found with.

    Returns:
        The number of the component that each voxel is in, 0 for none; and for each finding its place, None if the map
        has no component of this size there.
    """
    components = _components(map_XYZ, threshold)
    centres = np.array([volume.native_index(centre) for centre in components.centres]).reshape(-1, 3)
    return components.labels_XYZ, tuple(_place(finding, components, centres) for finding in findings)


def _place(finding: Finding, components: _Components, centres: Float[np.ndarray, "N 3"]) -> Place | None:
    away = np.abs(centres - finding.centre_voxel).max(axis=1)
    away[components.voxels != finding.voxels] = np.inf
    if not away.size or away.min() > _ROUNDED_VOXELS:
        return None
    nearest = int(away.argmin())
    x, y, z = (int(index) for index in components.peak_indices[nearest])
    return Place(nearest + 1, (x, y, z))


def _components(map_XYZ: VoxelsXYZ, threshold: float) -> _Components:
    labels_XYZ, count = ndimage.label(map_XYZ > threshold, structure=np.ones((3, 3, 3)))
    # Only the voxels above the threshold are looked at again: a scan has many, its components few.
    where = np.nonzero(labels_XYZ)
    component, values = labels_XYZ[where] - 1, map_XYZ[where]
    voxels = np.bincount(component, minlength=count)
    highest = np.lexsort((-values, component))[np.cumsum(voxels) - voxels]  # the first of each component's own
    return _Components(
        labels_XYZ=labels_XYZ,
        voxels=voxels,
        sums=np.bincount(component, weights=values, minlength=count).astype(np.float64),
        peaks=values[highest],
        centres=np.stack([np.bincount(component, weights=axis, minlength=count) for axis in where], axis=1)
        / voxels[:, None],
        peak_indices=np.stack([axis[highest] for axis in where], axis=1),
    )


def _triple(values: Float[np.ndarray, " 3"]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
