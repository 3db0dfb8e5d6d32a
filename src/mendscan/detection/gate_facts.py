"""What the acquisition gate asks of one scan, and what healthy scans answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from mendscan.cohort.overview import Overview, overview
from mendscan.volumes.checking import few_values
from mendscan.volumes.volume import Volume

__all__ = ["GateFacts", "Range", "cell_size_mm", "gate_facts"]

_CELLS = 20
"""Cells along the longest side of the largest scan."""
_AIR_HU, _TISSUE_HU = (-1100, -900), (-150, 150)
_CT_SHARE = 0.02
_PERCENTILES = range(5, 100, 5)


@dataclass(frozen=True, eq=False)
class GateFacts:
    """What is asked of one scan.

    Attributes:
        spacing_mm: Voxel size along the axes of RAS+.
        extent_mm: Field of view along them.
        low: 1st percentile of the intensities.
        high: 99th percentile.
        quantiles: Where between these two the 5th, 10th, … 95th percentile lie: the shape of the histogram.
        few_values: How many different intensities it has, if at most 16; else None.
        like_ct: Whether the intensities are those of CT: air near -1000 and soft tissue near 0 HU.
        oriented: Whether the file says how the scan lies.
        picture: The scan in some thousand cells.
    """

    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    low: float
    high: float
    quantiles: Float64[np.ndarray, " q"]
    few_values: int | None
    like_ct: bool
    oriented: bool
    picture: Overview


@dataclass(frozen=True)
class Range:
    """From the lowest to the highest value of the healthy scans, and by how much one may exceed it."""

    low: float
    high: float
    slack: float

    @classmethod
    def of(cls, values: Sequence[float], slack: float) -> Range:
        """Take the values' range, and allow half of it beyond either end, `slack` at least."""
        low, high = float(min(values)), float(max(values))
        return cls(low, high, max(slack, (high - low) / 2))

    def holds(self, value: float) -> bool:
        """Return whether a value is usual."""
        return self.low - self.slack <= value <= self.high + self.slack

    def to_json(self) -> list[float]:
        """Return it as JSON values."""
        return [self.low, self.high, self.slack]


def cell_size_mm(extents_mm: Sequence[tuple[float, float, float]]) -> float:
    """Return the side of a cell, given the fields of view of a cohort."""
    return float(np.max(extents_mm)) / _CELLS


def gate_facts(volume: Volume, *, cell_mm: float) -> GateFacts:
    """Return what is asked of a scan."""
    low, *between, high = (float(p) for p in np.percentile(volume.voxels_XYZ, (1, *_PERCENTILES, 99)))
    native = volume.native
    return GateFacts(
        spacing_mm=volume.spacing_mm,
        extent_mm=volume.extent_mm,
        low=low,
        high=high,
        quantiles=(np.array(between) - low) / max(high - low, 1e-12),
        few_values=few_values(volume.voxels_XYZ),
        like_ct=_like_ct(volume.voxels_XYZ),
        oriented=bool(native.sform_code or native.qform_code),
        picture=overview(volume, cell_mm=cell_mm),
    )


def _like_ct(voxels_XYZ: Float[np.ndarray, "X Y Z"]) -> bool:
    shares = [float(np.mean((voxels_XYZ > low) & (voxels_XYZ < high))) for low, high in (_AIR_HU, _TISSUE_HU)]
    return min(shares) >= _CT_SHARE
