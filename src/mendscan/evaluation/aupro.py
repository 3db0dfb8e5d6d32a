"""How much of each lesion lies above the threshold, at the cost of how many healthy voxels?

The per-region overlap of Bergmann et al. (2021), "The MVTec Anomaly Detection Dataset", in three dimensions: at
threshold t it is the mean over all lesions k of |voxels of k scored >= t| / |k|, so that a small lesion counts as much
as a large one.  It is drawn against the share of healthy voxels scored >= t; the area up to a limit of that share,
divided by the limit, is the AUPRO.  Thresholds are all scores that occur, as float16: nothing is sampled or binned.

Between two thresholds the curve is the straight line (trapezoid rule), and the last piece is cut at the limit.  That is
the area to expect if voxels with equal scores were put in random order: a map of one value everywhere has the curve of
chance, overlap = false-positive rate, and the AUPRO limit / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float16, Float64
from scipy.sparse import csr_array

from mendscan.evaluation.sparse import N_VALUES, SparseCounts

__all__ = ["LIMIT", "STRICT_LIMIT", "PooledRegions", "aupro"]

LIMIT = 0.3
"""The false-positive rate up to which Bergmann et al. integrate."""
STRICT_LIMIT = 0.05
"""A limit nearer to use: in a brain of a litre, 0.3 of the healthy voxels are a third of a litre."""


@dataclass(frozen=True, eq=False)
class PooledRegions:
    """The cases' healthy voxels and lesions per score, ready to be weighted again and again.

    Memory: 8 bytes per case and distinct score for healthy voxels, at most 123 kB per case, and 12 bytes per case and
    distinct score inside its lesions.

    Args:
        scores: The V distinct scores, falling.
        healthy_NV: Healthy voxels of each case with each score.
        overlap_NV: Sum over each case's lesions of the share of the lesion with each score; N × V, sparse.
        lesions_N: Lesions of each case.
    """

    scores: Float16[np.ndarray, " V"]
    healthy_NV: Float64[np.ndarray, "N V"]
    overlap_NV: csr_array
    lesions_N: Float64[np.ndarray, " N"]

    @classmethod
    def of(cls, healthy: Sequence[SparseCounts], lesions: Sequence[Sequence[SparseCounts]]) -> PooledRegions:
        """Put the counts of all cases side by side.

        Args:
            healthy: Per case, the scores of its healthy voxels.
            lesions: Per case, the scores of each lesion's voxels; no lesion in a healthy case.

        Returns:
            The pooled regions.

        Raises:
            ValueError: If there are not as many cases in both, or a lesion has no voxel.
        """
        if len(healthy) != len(lesions):
            raise ValueError(f"found {len(healthy)} cases with healthy voxels, {len(lesions)} with lesions")
        every_lesion = [(case, lesion) for case, in_case in enumerate(lesions) for lesion in in_case]
        if not all(lesion.patterns.size for _, lesion in every_lesion):
            raise ValueError("found a lesion without voxels; expected at least one")
        falling = np.flatnonzero(_occurring([*healthy, *(lesion for _, lesion in every_lesion)]))[::-1]
        column_of = np.zeros(N_VALUES, np.intp)
        column_of[falling] = np.arange(falling.size)
        healthy_NV = np.zeros((len(healthy), falling.size))
        for row, case_counts in zip(healthy_NV, healthy, strict=True):
            row[column_of[case_counts.patterns]] = case_counts.counts
        overlap_NV = _overlap(every_lesion, column_of, healthy_NV.shape)
        lesions_N = np.array([len(in_case) for in_case in lesions], np.float64)
        return cls(falling.astype(np.uint16).view(np.float16), healthy_NV, overlap_NV, lesions_N)

    def curve(
        self, weights_BN: Float[np.ndarray, "B N"]
    ) -> tuple[Float64[np.ndarray, "B T"], Float64[np.ndarray, "B T"]]:
        """Find false-positive rate and per-region overlap at every threshold.

        Args:
            weights_BN: How often each case counts in each resample.

        Returns:
            False-positive rate and overlap, T = V + 1 rising points from (0, 0) on; the next ones are at the thresholds
            `scores`.  NaN where the weights leave no healthy voxel or no lesion.
        """
        healthy_BV, overlap_BV = weights_BN @ self.healthy_NV, weights_BN @ self.overlap_NV
        lesions_B = weights_BN @ self.lesions_N
        with np.errstate(invalid="ignore"):
            rate_BV = np.cumsum(healthy_BV, axis=1) / healthy_BV.sum(axis=1)[:, None]
            return _from_zero(rate_BV), _from_zero(np.cumsum(overlap_BV, axis=1) / lesions_B[:, None])

    def aupro(
        self, weights_BN: Float[np.ndarray, "B N"], *, limits: Sequence[float] = (LIMIT, STRICT_LIMIT)
    ) -> Float64[np.ndarray, "B L"]:
        """Find the area under the curve up to each of L limits, divided by the limit.

        Args:
            weights_BN: How often each case counts in each resample.
            limits: False-positive rates, in (0, 1].

        Returns:
            AUPRO in [0, 1]; NaN where the weights leave no healthy voxel or no lesion.

        Raises:
            ValueError: If a limit is outside (0, 1].
        """
        if not all(0 < limit <= 1 for limit in limits):
            raise ValueError(f"found limits {list(limits)}; expected false-positive rates in (0, 1]")
        rate_BT, overlap_BT = self.curve(weights_BN)
        # Beyond the first point at or past the limit nothing counts, in any row.
        needed = 1 + int((rate_BT < max(limits, default=0)).sum(axis=1).max(initial=0))
        rate_BT, overlap_BT = rate_BT[:, :needed], overlap_BT[:, :needed]
        undefined_B = (weights_BN @ self.lesions_N == 0) | (weights_BN @ self.healthy_NV.sum(axis=1) == 0)
        areas = [np.where(undefined_B, np.nan, _area(rate_BT, overlap_BT, limit) / limit) for limit in limits]
        return np.stack(areas, axis=1) if areas else np.zeros((len(weights_BN), 0))


def aupro(
    healthy: Sequence[SparseCounts],
    lesions: Sequence[Sequence[SparseCounts]],
    weights_BN: Float[np.ndarray, "B N"],
    *,
    limit: float = LIMIT,
) -> Float64[np.ndarray, " B"]:
    """Find the AUPRO of pooled cases; to weight the same cases again and again, keep `PooledRegions`.

    Args:
        healthy: Per case, the scores of its healthy voxels.
        lesions: Per case, the scores of each lesion's voxels.
        weights_BN: How often each case counts in each resample.
        limit: False-positive rate up to which is integrated, in (0, 1].

    Returns:
        AUPRO in [0, 1], higher = better; NaN where the weights leave no healthy voxel or no lesion.

    Raises:
        ValueError: As `PooledRegions.of` and `PooledRegions.aupro`.

    Example:
        >>> healthy, lesion = SparseCounts.of(np.array([0.1, 0.2])), SparseCounts.of(np.array([0.3, 0.4]))
        >>> aupro([healthy], [[lesion]], np.ones((1, 1)))
        array([1.])
    """
    return PooledRegions.of(healthy, lesions).aupro(weights_BN, limits=(limit,))[:, 0]


def _occurring(counts: Sequence[SparseCounts]) -> Bool[np.ndarray, " 15361"]:
    occurring = np.zeros(N_VALUES, np.bool_)
    for one in counts:
        occurring[one.patterns] = True
    return occurring


def _overlap(
    every_lesion: Sequence[tuple[int, SparseCounts]], column_of: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """Shares of lesions per case and score; a case's lesions add up."""
    rows = np.repeat([case for case, _ in every_lesion], [lesion.patterns.size for _, lesion in every_lesion])
    columns = column_of[np.concatenate([np.zeros(0, np.uint16), *(lesion.patterns for _, lesion in every_lesion)])]
    shares = np.concatenate([np.zeros(0), *(lesion.counts / lesion.n_voxels for _, lesion in every_lesion)])
    return csr_array((shares, (rows.astype(np.intp), columns)), shape=shape)


def _from_zero(curve_BV: Float64[np.ndarray, "B V"]) -> Float64[np.ndarray, "B T"]:
    return np.pad(curve_BV, ((0, 0), (1, 0)))


def _area(
    rate_BT: Float64[np.ndarray, "B T"], overlap_BT: Float64[np.ndarray, "B T"], limit: float
) -> Float64[np.ndarray, " B"]:
    """Trapezoids up to the limit; of the one that crosses it, the part on this side."""
    widths, rises = np.diff(rate_BT, axis=1), np.diff(overlap_BT, axis=1)
    inside = np.diff(np.minimum(rate_BT, limit), axis=1)
    crossed = np.divide(inside, widths, out=np.zeros_like(widths), where=widths > 0)
    return np.sum(inside * (overlap_BT[:, :-1] + rises * crossed / 2), axis=1)
