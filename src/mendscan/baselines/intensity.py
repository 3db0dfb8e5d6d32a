"""The simplest baseline: how rare is a voxel's intensity among healthy voxels, wherever they lie?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.healthy import HealthyCohort
from mendscan.cohort.preparing import Prepared
from mendscan.config import Settings
from mendscan.shapes import SlicesSHW

__all__ = ["IntensityBaseline", "fit_intensity"]

_KNOTS_PER_TAIL = 60
_SUPPORT = 1e3
"""The rarest tail in the table, but for the extremes, holds this many healthy voxels."""
_COARSEST = 0.1
"""The rarest tail where there are too few voxels for that."""
_MOST_VOXELS = 20_000_000
"""More healthy voxels than this are thinned out evenly: they only cost memory."""


@dataclass(frozen=True, eq=False)
class IntensityBaseline(Baseline):
    """−log of the two-sided tail probability of each voxel's intensity: −log 2 min(P(v ≤ x), P(v ≥ x)).

    Two-sided, because an anomaly may be dark as well as bright.  It knows nothing of position, shape or texture.

    Args:
        values_n: Healthy intensities, normalised, ascending.
        nats_n: The map's value at each: 0 at the median, growing to either side.

    Example:
        >>> table = IntensityBaseline.fit(np.random.default_rng(0).normal(size=100_000))
        >>> [round(float(nats), 1) for nats in table.rarity(np.array([0.0, 1.96, -1.96]))]
        [0.0, 3.0, 3.0]
    """

    name: ClassVar[str] = "intensity"
    values_n: Float64[np.ndarray, " n"]
    nats_n: Float64[np.ndarray, " n"]

    @classmethod
    def fit(cls, healthy: Float[np.ndarray, "..."]) -> IntensityBaseline:
        """Learn the table from intensities of healthy foreground voxels.

        Raises:
            ValueError: If they do not differ.
        """
        ascending = np.sort(healthy, axis=None).astype(np.float64)
        count = ascending.size
        if count == 0 or ascending[0] == ascending[-1]:
            raise ValueError("all healthy intensities are the same; expected intensities that differ")
        tail_n = np.geomspace(min(_COARSEST, _SUPPORT / count), 0.5, _KNOTS_PER_TAIL)
        ranks = np.rint(np.concatenate([[0], tail_n, 1 - tail_n, [1]]) * (count - 1)).astype(np.int64)
        values_n = np.unique(ascending[ranks])
        below_n = np.searchsorted(ascending, values_n, side="right") / count
        above_n = 1 - np.searchsorted(ascending, values_n, side="left") / count
        return cls(values_n, -np.log(np.minimum(2 * np.minimum(below_n, above_n), 1)))

    def rarity(self, intensities: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the two-sided rarity of intensities, in nats, >= 0; higher = rarer among healthy voxels."""
        values, nats = self.values_n, self.nats_n
        beyond = np.maximum(values[0] - intensities, 0) * self._slope(values - values[0], nats)
        beyond += np.maximum(intensities - values[-1], 0) * self._slope((values[-1] - values)[::-1], nats[::-1])
        return np.interp(intensities, values, nats) + beyond

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return the rarity of every voxel's intensity, in nats, >= 0."""
        return self.rarity(prepared.slices_SHW).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """Return the table."""
        return {"values": torch.from_numpy(self.values_n), "nats": torch.from_numpy(self.nats_n)}

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> IntensityBaseline:
        """Rebuild it."""
        return cls(tensors["values"].numpy(), tensors["nats"].numpy())

    @staticmethod
    def _slope(distance_n: Float64[np.ndarray, " n"], nats_n: Float64[np.ndarray, " n"]) -> float:
        """Return nats per intensity in the outer half of a tail that begins with the rarest value."""
        inner = int(np.argmax(nats_n <= nats_n[0] / 2))
        slope = (nats_n[0] - nats_n[inner]) / distance_n[inner] if inner else 0.0
        # A value that half of the voxels share ends its side without a tail; below it is still rarer than at it.
        return float(max(slope, 1 / distance_n[-1]))


def fit_intensity(cohort: HealthyCohort) -> IntensityBaseline:
    """Learn the table from the foreground of the training scans."""
    rows = cohort.store.rows(cohort.split.train)
    total = sum(int(cohort.foreground_NSHW[row].sum()) for row in rows)
    every = -(-total // _MOST_VOXELS) or 1
    return IntensityBaseline.fit(
        np.concatenate([cohort.store.slices_NSHW[row][cohort.foreground_NSHW[row]][::every] for row in rows])
    )
