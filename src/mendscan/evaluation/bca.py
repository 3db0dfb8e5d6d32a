"""Which quantiles of the bootstrap distribution are the ends of a bias-corrected and accelerated (BCa) interval?

Efron (1987), "Better bootstrap confidence intervals", as written in DiCiccio & Efron (1996), "Bootstrap confidence
intervals", Statistical Science 11(3).  With z₀ the bias correction, a the acceleration and Φ the normal distribution
function, an end that would be the quantile at α is taken at

    Φ(z₀ + (z₀ + z) / (1 − a (z₀ + z))),   z = Φ⁻¹(α).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr, ndtri

__all__ = ["FEWEST_SUBJECTS", "ROUNDING", "bca_tails"]

FEWEST_SUBJECTS = 10
"""Below, the acceleration would be a third moment from a handful of numbers; the percentile is steadier."""
ROUNDING = 1e-12
"""Relative differences below this are the rounding of sums, not differences."""


def bca_tails(
    estimate: float,
    resampled: Float64[np.ndarray, " B"],
    left_out: Float64[np.ndarray, " G"],
    tails: Float64[np.ndarray, " T"],
) -> Float64[np.ndarray, " T"] | None:
    """Replace the tails α of a percentile interval by those of the BCa interval.

    z₀ = Φ⁻¹(share of resamples below the estimate), those equal to it counting half.

    Args:
        estimate: The figure of all cases.
        resampled: The figure of each resample, finite.
        left_out: The figure without each subject; NaN where that leaves it undefined.
        tails: α, inside (0, 1), as 0.025 and 0.975.

    Returns:
        The tails to take instead; None where BCa has no answer: fewer than ten subjects, a figure that does not move or
        is undefined when some subject is left out, all resamples on one side of the estimate, or an end at the pole of
        the formula.

    Example:
        >>> values = np.linspace(-1, 1, 21)
        >>> bca_tails(0.0, values, values, np.array([0.025, 0.975]))
        array([0.025, 0.975])
    """
    a = _acceleration(left_out)
    below = float(np.mean(resampled < estimate) + np.mean(resampled == estimate) / 2)
    if a is None or below in (0, 1):
        return None
    shifted = ndtri(below) + ndtri(tails)
    stretch = 1 - a * shifted
    # At zero the formula has its pole, and beyond it the ends would change places.
    return ndtr(ndtri(below) + shifted / stretch) if (stretch > 0).all() else None


def _acceleration(left_out: Float64[np.ndarray, " G"]) -> float | None:
    """a = Σ d³ / (6 (Σ d²)^{3/2}) with d = mean − value over the jackknife (DiCiccio & Efron 1996)."""
    if left_out.size < FEWEST_SUBJECTS or not np.isfinite(left_out).all():
        return None
    span = np.ptp(left_out)
    if span <= ROUNDING * np.abs(left_out).max():
        return None
    deviations = (left_out.mean() - left_out) / span  # the scale cancels; cubes of small figures would underflow
    return float(np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5))
