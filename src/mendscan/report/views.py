"""Which planes of a scan a reader should see: three through each of its strongest findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mendscan.results import Finding, locate_findings
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.volume import Volume

__all__ = ["View", "choose_views"]


@dataclass(frozen=True)
class View:
    """Three planes through one voxel.

    Attributes:
        finding: The number of the finding whose peak it is; None for the map's highest voxel in a scan without any.
        index_XYZ: The voxel, in RAS+.
        component: The finding's number among the components of the map; 0 if it is none of them.
        peak: The map there.
    """

    finding: int | None
    index_XYZ: tuple[int, int, int]
    component: int
    peak: float


def choose_views(
    findings: Sequence[Finding], map_XYZ: VoxelsXYZ, scan: Volume, *, threshold: float, most: int
) -> tuple[Int[np.ndarray, "X Y Z"], tuple[View, ...]]:
    """Choose the planes to show: through the peak of each of the strongest findings.

    Args:
        findings: Of the scan, most anomalous first.
        map_XYZ: Its map.
        scan: The scan.
        threshold: The map's healthy threshold.
        most: How many findings to show.

    Returns:
        The component that each voxel is in, 0 for none and for those that are no finding, and the views; without a
        finding one, through the map's highest voxel.
    """
    labels_XYZ, places = locate_findings(findings, map_XYZ, scan, threshold=threshold)
    views = []
    for number, (finding, place) in enumerate(zip(findings[:most], places, strict=False), start=1):
        index_XYZ = _nearest_voxel(finding, scan) if place is None else place.peak_XYZ
        views.append(View(number, index_XYZ, 0 if place is None else place.component, float(map_XYZ[index_XYZ])))
    if not findings:
        x, y, z = (int(index) for index in np.unravel_index(int(map_XYZ.argmax()), map_XYZ.shape))
        views.append(View(None, (x, y, z), 0, float(map_XYZ[x, y, z])))
    kept = np.zeros(int(labels_XYZ.max()) + 1, dtype=labels_XYZ.dtype)
    listed = [place.component for place in places if place is not None]
    kept[listed] = listed
    return kept[labels_XYZ], tuple(views)


def _nearest_voxel(finding: Finding, scan: Volume) -> tuple[int, int, int]:
    """The voxel at a finding's centre, for a table and a map that do not belong together."""
    index = np.linalg.solve(scan.affine, np.array([*finding.centre_mm, 1.0]))[:3]
    x, y, z = (int(np.clip(round(float(at)), 0, length - 1)) for at, length in zip(index, scan.shape, strict=True))
    return x, y, z
