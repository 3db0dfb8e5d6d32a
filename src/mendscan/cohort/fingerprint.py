"""A cohort in figures: what planning needs to know of the scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from nibabel.orientations import aff2axcodes

from mendscan.cohort.preparing import foreground_threshold
from mendscan.errors import CohortError
from mendscan.shapes import MaskXYZ
from mendscan.volumes.volume import Volume

__all__ = ["BACKGROUND", "Fingerprint", "ScanFacts", "Triple", "fingerprint", "scan_facts"]

Triple = tuple[float, float, float]

BACKGROUND = 0.05
"""A voxel below this fraction of its scan's robust range counts as background."""


@dataclass(frozen=True)
class ScanFacts:
    """What planning needs to know of one scan."""

    name: str
    content_hash: str
    shape: tuple[int, int, int]
    spacing_mm: Triple
    orientation: str
    percentiles: Triple
    """1st, 50th and 99th percentile of the intensities."""
    background_fraction: float
    """Share of the voxels that are background."""
    foreground_mm: Triple
    """Sides of the box that holds the foreground."""


@dataclass(frozen=True)
class Fingerprint:
    """The cohort in figures."""

    scans: int
    shape_min: tuple[int, ...]
    shape_median: Triple
    shape_max: tuple[int, ...]
    spacing_median_mm: Triple
    spacing_max_mm: Triple
    extent_median_mm: Triple
    foreground_mm: Triple
    """95th percentile over scans of the sides of the foreground's box."""
    orientations: dict[str, int]
    intensity_scale_ratio: float
    """Largest 99th percentile over the smallest: 1 when all scans share one scale."""
    intensity_low: float
    intensity_high: float
    background_fraction: float


def scan_facts(volume: Volume) -> ScanFacts:
    """Measure one scan."""
    voxels = volume.voxels_XYZ
    inside = voxels > foreground_threshold(voxels, BACKGROUND)
    low, middle, high = (float(p) for p in np.percentile(voxels, (1, 50, 99)))
    return ScanFacts(
        name=volume.name,
        content_hash=volume.content_hash,
        shape=volume.shape,
        spacing_mm=volume.spacing_mm,
        orientation=_orientation(volume),
        percentiles=(low, middle, high),
        background_fraction=1 - float(inside.mean()),
        foreground_mm=_box_mm(inside, volume.spacing_mm),
    )


def fingerprint(facts: Sequence[ScanFacts]) -> Fingerprint:
    """Sum up a cohort.

    Raises:
        CohortError: If there is no scan.
    """
    if not facts:
        raise CohortError("no usable scan", code="E_NO_SCANS", remedy="give a folder of healthy .nii or .nii.gz scans")
    shapes = np.array([f.shape for f in facts])
    spacings = np.array([f.spacing_mm for f in facts])
    percentiles = np.array([f.percentiles for f in facts])
    tops = np.maximum(percentiles[:, 2] - percentiles[:, 0], 1e-12)
    return Fingerprint(
        scans=len(facts),
        shape_min=tuple(int(n) for n in shapes.min(0)),
        shape_median=_triple(np.median(shapes, 0)),
        shape_max=tuple(int(n) for n in shapes.max(0)),
        spacing_median_mm=_triple(np.median(spacings, 0)),
        spacing_max_mm=_triple(spacings.max(0)),
        extent_median_mm=_triple(np.median(shapes * spacings, 0)),
        foreground_mm=_triple(np.percentile([f.foreground_mm for f in facts], 95, axis=0)),
        orientations=dict(sorted(Counter(f.orientation for f in facts).items())),
        intensity_scale_ratio=round(float(tops.max() / tops.min()), 3),
        intensity_low=round(float(np.median(percentiles[:, 0])), 4),
        intensity_high=round(float(np.median(percentiles[:, 2])), 4),
        background_fraction=round(float(np.median([f.background_fraction for f in facts])), 4),
    )


def _orientation(volume: Volume) -> str:
    return "".join(code or "?" for code in aff2axcodes(volume.native.affine))


def _box_mm(inside: MaskXYZ, spacing_mm: Triple) -> Triple:
    sides = []
    for axis, mm in enumerate(spacing_mm):
        filled = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(float((filled[-1] - filled[0] + 1) * mm) if filled.size else 0.0)
    return _triple(sides)


def _triple(values: Sequence[float] | Float[np.ndarray, " 3"]) -> Triple:
    x, y, z = (round(float(value), 4) for value in values)
    return x, y, z
