"""Was the scan taken as the healthy ones were?  Statistics of a whole scan against those of the training scans.

A local anomaly is 1 % of the voxels; noise, motion, a wrong contrast or field of view is in all of them, and each voxel
may look nearly usual.  So whole scans are compared by some hundred numbers: intensities, texture along each axis, steps
from slice to slice, agreement with the mean healthy scan (also mirrored), edges of the field of view.  Some are of the
remainder, which is what the scan's codes cannot describe: where anatomy is taken away, noise and echoes stand out.
Others are of the scan's own voxels (`own_grid`), for the way to the model grid smooths noise and moves k-space's lines.
The distance from the training scans is two-sided by nature: too smooth is as suspicious as too noisy.  It is that of a
likelihood ratio: how much better a scan is explained by the healthy scans' normal distribution N(0, C) with a departure
of some size in every statistic, N(0, C + τ² I), than without, z' (C⁻¹ - (C + τ² I)⁻¹) z.  For large τ that is
Mahalanobis' distance squared; for small τ what healthy scans have in common counts more, and a combination of
statistics in which they differ anyway less.

No number was chosen by the artefacts that detection is measured on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from mendscan.detection.own_grid import ECHO_STATISTICS, EDGE_STATISTICS, OWN_GRID_STATISTICS, fisher_correlation

__all__ = [
    "DEPARTURE",
    "GENERATIONS",
    "STATISTICS",
    "AcquisitionReference",
    "acquisition_statistics",
    "strangest",
    "weights_of",
]

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BAND_SIGMAS = (0.0, 0.7, 1.4, 2.8)
_NOISE_SIGMA = 0.8
_COARSE_SIGMA = 1.0
"""Finer detail is not compared with the mean healthy scan."""
DEPARTURE = 0.3
"""τ², in healthy variances of a statistic; docs/evidence.md has what others were worth."""
_SMALLEST_VARIANCE = 1e-3
"""Of a combination of standardised statistics; where few scans agree wholly, they agree by chance."""
_SAYS_NOTHING = 1e9
"""Spread of a statistic that was the same in all training scans, such as the echo along an axis of a few voxels."""
_CLIP = 12.0
"""One absurd statistic must not hide the others' correlations."""
_REMAINDER_QUANTILES = (0.5, 0.9, 0.99)
_LAGS = (1, 2, 3)
_AXES = ("slices", "rows", "columns")
_FIELDS = {
    "slices": (1, 0, 0), "rows": (0, 1, 0), "columns": (0, 0, 1),
    "slices squared": (2, 0, 0), "rows squared": (0, 2, 0), "columns squared": (0, 0, 2),
    "slices and rows": (1, 1, 0), "rows and columns": (0, 1, 1), "slices and columns": (1, 0, 1),
}  # fmt: skip

_SCAN_STATISTICS = (
    *(f"intensity at {100 * q:g} %" for q in _QUANTILES),
    "spread of the intensities",
    "skewness of the intensities",
    *(f"{detail} detail along {axis}" for axis in _AXES for detail in ("fine", "medium", "coarse")),
    "typical noise",
    "strongest noise",
    *(
        f"{what} {axis}"
        for axis in _AXES
        for what in ("largest step between", "mean step between", "alternation of")
    ),
    "agreement with the mean healthy scan",
    *(f"agreement when mirrored along {axis}" for axis in _AXES),
    *(f"brightness varying with {field}" for field in _FIELDS),
    "difference from the mean healthy scan",
    *(f"steps at the {end} of {axis}" for axis in _AXES for end in ("beginning", "end")),
)  # fmt: skip
"""Of a scan on the model grid."""

_REMAINDER_STATISTICS = (
    "mean remainder",
    *(f"remainder at {100 * q:g} %" for q in _REMAINDER_QUANTILES),
    *(f"{detail} remainder along {axis}" for axis in _AXES for detail in ("fine", "medium", "coarse")),
    "typical noise of the remainder",
    "strongest noise of the remainder",
    *(f"likeness of the remainder at lag {lag} along {axis}" for axis in _AXES for lag in _LAGS),
)
"""Of what its codes leave over."""

STATISTICS = (*_SCAN_STATISTICS, *_REMAINDER_STATISTICS, *OWN_GRID_STATISTICS)
"""What each statistic measures, in words."""

_FIRST_OF_OWN_GRID = OWN_GRID_STATISTICS[: -len(ECHO_STATISTICS + EDGE_STATISTICS)]
GENERATIONS = tuple(
    accumulate(
        map(len, (_SCAN_STATISTICS, _REMAINDER_STATISTICS, _FIRST_OF_OWN_GRID, ECHO_STATISTICS, EDGE_STATISTICS))
    )
)
"""How many of them, from the first on, models of this and of earlier versions compare."""
_ON_MODEL_GRID = GENERATIONS[1]
"""Taken apart from the rest: some hundred scans cannot tell the correlations of as many numbers."""


def strangest(standardised: Float64[np.ndarray, " n"]) -> str:
    """Return the statistic that departs most by itself, and how far; a hint, for the distance is of all together."""
    index = int(np.argmax(np.abs(standardised)))
    return f"{STATISTICS[index]} {standardised[index]:+.1f}"


def acquisition_statistics(
    slices_SHW: Float[np.ndarray, "S H W"],
    usual_SHW: Float32[np.ndarray, "S H W"],
    reconstruction_SHW: Float[np.ndarray, "S H W"],
    own: Float64[np.ndarray, " n"],
) -> Float64[np.ndarray, " m"]:
    """Return the statistics of one scan, in the order of `STATISTICS`; amounts as logarithms.

    Args:
        slices_SHW: The prepared scan.
        usual_SHW: The mean of the training scans.
        reconstruction_SHW: What the decoder makes of the scan's codes.
        own: Those of the scan's own voxels (`own_grid.own_grid_statistics`).
    """
    scan = slices_SHW.astype(np.float32)
    coarse, usual = gaussian_filter(scan, _COARSE_SIGMA), gaussian_filter(usual_SHW, _COARSE_SIGMA)
    found = [*_of_intensities(scan), *_of_detail(scan), *_of_slices(scan), *_of_agreement(coarse, usual)]
    found += [*_of_edges(scan), *_of_remainder(scan - reconstruction_SHW.astype(np.float32))]
    return np.array([*found, *own], dtype=np.float64)


def weights_of(covariance_KK: Float64[np.ndarray, "K K"], departure: float = DEPARTURE) -> Float64[np.ndarray, "K K"]:
    """Return C⁻¹ - (C + τ² I)⁻¹, which the squared distance weighs statistics by.

    Args:
        covariance_KK: C, of standardised statistics in healthy scans.
        departure: τ².
    """
    variances, directions = np.linalg.eigh(covariance_KK)
    variances = np.maximum(variances, _SMALLEST_VARIANCE)
    return (directions * (1 / variances - 1 / (variances + departure))) @ directions.T


@dataclass(frozen=True, eq=False)
class AcquisitionReference:
    """How healthy training scans were taken.

    Attributes:
        usual_SHW: Their mean.
        centre: Median of each statistic.
        spread: Standard deviation of each.
        precision: C⁻¹ - (C + τ² I)⁻¹, C the covariance of the standardised statistics, shrunk by Ledoit & Wolf (2004):
            of those on the model grid and those of the scan's own voxels, each by themselves.  In models of earlier
            versions C⁻¹ alone.
    """

    usual_SHW: Float32[np.ndarray, "S H W"]
    centre: Float64[np.ndarray, " n"]
    spread: Float64[np.ndarray, " n"]
    precision: Float64[np.ndarray, "n n"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it by name."""
        return {name: getattr(self, name) for name in ("usual_SHW", "centre", "spread", "precision")}

    @property
    def is_whole(self) -> bool:
        """Whether it compares every statistic; models of an earlier version compare the first of them."""
        return len(self.centre) == len(STATISTICS)

    @classmethod
    def fit(
        cls, usual_SHW: Float32[np.ndarray, "S H W"], statistics_NK: Float64[np.ndarray, "N K"]
    ) -> AcquisitionReference:
        """Learn from training scans.

        Args:
            usual_SHW: Their mean, prepared.
            statistics_NK: What `acquisition_statistics` says of each, at least two.
        """
        from scipy.linalg import block_diag
        from sklearn.covariance import LedoitWolf

        centre, spread = np.median(statistics_NK, axis=0), statistics_NK.std(axis=0, ddof=1) + 1e-6
        spread[np.ptp(statistics_NK, axis=0) == 0] = _SAYS_NOTHING
        z_NK = np.clip((statistics_NK - centre) / spread, -_CLIP, _CLIP)
        parts = [part_NK for part_NK in np.split(z_NK, [_ON_MODEL_GRID], axis=1) if part_NK.size]
        covariances = [LedoitWolf(assume_centered=True).fit(part_NK).covariance_ for part_NK in parts]
        return cls(usual_SHW, centre, spread, block_diag(*map(weights_of, covariances)))

    def standardised(
        self,
        slices_SHW: Float[np.ndarray, "S H W"],
        reconstruction_SHW: Float[np.ndarray, "S H W"],
        own: Float64[np.ndarray, " n"],
    ) -> Float64[np.ndarray, " m"]:
        """Return each statistic of a scan in standard deviations above the training scans' median.

        Args:
            slices_SHW: The prepared scan.
            reconstruction_SHW: What the decoder makes of its codes.
            own: Statistics of its own voxels.
        """
        found = acquisition_statistics(slices_SHW, self.usual_SHW, reconstruction_SHW, own)[: len(self.centre)]
        return np.clip((found - self.centre) / self.spread, -_CLIP, _CLIP)

    def length(self, standardised: Float64[np.ndarray, " n"]) -> float:
        """Return the distance from the training scans, >= 0; higher = taken in another way."""
        return float(np.sqrt(max(standardised @ self.precision @ standardised, 0.0)))


def _of_intensities(scan: Float32[np.ndarray, "S H W"]) -> list[float]:
    spread = float(scan.std(dtype=np.float64))
    third = float(np.mean((scan - scan.mean(dtype=np.float64)) ** 3))
    return [*np.quantile(scan, _QUANTILES).tolist(), np.log(spread + 1e-3), third / (spread**3 + 1e-9)]


def _of_detail(scan: Float32[np.ndarray, "S H W"]) -> list[float]:
    energies = []
    for axis in range(3):
        blurred = [gaussian_filter1d(scan, s, axis=axis, mode="nearest") if s else scan for s in _BAND_SIGMAS]
        energies += [_log(np.mean((fine - rest) ** 2, dtype=np.float64), 1e-4) for fine, rest in pairwise(blurred)]
    noise = np.abs(scan - gaussian_filter(scan, _NOISE_SIGMA, mode="nearest"))
    return [*energies, _log(np.median(noise), 1e-3), _log(np.quantile(noise, 0.99), 1e-3)]


def _of_slices(scan: Float32[np.ndarray, "S H W"]) -> list[float]:
    found = []
    for axis in range(3):
        means = scan.mean(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
        if len(means) < 3:
            found += [0.0, 0.0, 0.0]
            continue
        bend = means[1:-1] - (means[:-2] + means[2:]) / 2
        alternating = abs(np.mean(bend * (-1.0) ** np.arange(len(bend))))
        found += [_log(np.abs(bend).max(), 1e-2), _log(np.abs(np.diff(means)).mean(), 1e-2), _log(alternating, 1e-2)]
    return found


def _of_agreement(coarse: Float32[np.ndarray, "S H W"], usual: Float32[np.ndarray, "S H W"]) -> list[float]:
    own = fisher_correlation(coarse, usual)
    mirrored = [fisher_correlation(np.flip(coarse, axis), usual) - own for axis in range(3)]
    apart = (coarse - usual).astype(np.float64)
    sides = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in coarse.shape]
    fields = []
    for powers in _FIELDS.values():
        waves = [side**power - (1 / 3 if power == 2 else 0) for side, power in zip(sides, powers, strict=True)]
        size = np.prod([np.mean(wave**2) for wave in waves])
        fields.append(float(np.einsum("shw,s,h,w->", apart, *waves)) / apart.size / np.sqrt(size + 1e-12))
    return [own, *mirrored, *fields, _log(np.mean(apart**2), 1e-6)]


def _of_edges(scan: Float32[np.ndarray, "S H W"]) -> list[float]:
    ends = [np.moveaxis(scan, axis, 0)[end] for axis in range(3) for end in (slice(3), slice(-3, None))]
    return [_log(np.abs(np.diff(end, axis=0)).mean(dtype=np.float64) if len(end) > 1 else 0.0, 1e-2) for end in ends]


def _of_remainder(remainder: Float32[np.ndarray, "S H W"]) -> list[float]:
    size = np.abs(remainder)
    amounts = [size.mean(dtype=np.float64), *np.quantile(size, _REMAINDER_QUANTILES)]
    return [*(_log(amount, 1e-3) for amount in amounts), *_of_detail(remainder), *_of_repetition(remainder)]


def _of_repetition(remainder: Float32[np.ndarray, "S H W"]) -> list[float]:
    apart = (remainder - remainder.mean(dtype=np.float64)).astype(np.float64)
    power, found = float(np.mean(apart**2)) + 1e-12, []
    for axis in range(3):
        moved = np.moveaxis(apart, axis, 0)
        found += [float(np.mean(moved[lag:] * moved[:-lag])) / power if len(moved) > lag else 0.0 for lag in _LAGS]
    return found


def _log(amount: float | np.floating, floor: float) -> float:
    return float(np.log(amount + floor))
