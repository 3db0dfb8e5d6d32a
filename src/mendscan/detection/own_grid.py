"""Statistics of a scan's own voxels: noise, stripes, echoes, resampling, before the way to the model grid smooths them.

Between the model grid's voxels a scan is interpolated, here more and there less, so that fine noise is weaker on it and
differs more between healthy scans.  On its own voxels it does not.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy import fft
from scipy.ndimage import binary_erosion, gaussian_filter, gaussian_filter1d, uniform_filter, uniform_filter1d

from mendscan.cohort.preparing import foreground_threshold
from mendscan.config import PreparationSettings
from mendscan.shapes import VoxelsXYZ

__all__ = ["ECHO_STATISTICS", "EDGE_STATISTICS", "OWN_GRID_STATISTICS", "fisher_correlation", "own_grid_statistics"]

_AXES = ("X", "Y", "Z")
_LAGS = (1, 2, 3, 4)
_SPREAD_QUANTILES = (0.02, 0.1, 0.3, 0.5)
_WINDOW = 3
"""Voxels along each side of the neighbourhoods whose spread is taken: the calmest of them show the noise."""
_DETAIL_SIGMA = 1.0
"""What a Gaussian of as many voxels takes away is detail."""
_NEAREST_ECHO = 4
"""Voxels away; a nearer one is a little more or less smoothness."""
_TREND_DEGREE = 5
"""Of the polynomial in log k that a healthy scan's log power follows; lower where there are fewer than 12 lines."""
_BAND_SIGMAS = (0.0, 0.7, 1.4, 2.8)
"""Voxels; what the next wider Gaussian takes away more than one does is a band of detail."""
_PAIRS_OF_BANDS = {"fine and medium": (0, 1), "medium and coarse": (1, 2), "fine and coarse": (0, 2)}
_LONGEST_SIDE = 192
"""Of a longer axis only the middle is read: whole-scan artefacts are there, too."""

ECHO_STATISTICS = tuple(f"strongest echo of own voxels along {axis}" for axis in _AXES)
EDGE_STATISTICS = (
    *(f"agreement of {pair} own detail along {axis}" for axis in _AXES for pair in _PAIRS_OF_BANDS),
    *(f"evenness of own steps along {axis}" for axis in _AXES),
)
"""The last of them, in this order, are what models of earlier versions do not compare."""

OWN_GRID_STATISTICS = (
    *(f"{how} bend of own voxels along {axis}" for axis in _AXES for how in ("mean", "typical")),
    *(f"{how} noise of own voxels" for how in ("typical", "strongest", "mean")),
    *(f"spread of own voxels at {100 * q:g} %" for q in _SPREAD_QUANTILES),
    *(f"likeness of own detail at lag {lag} along {axis}" for axis in _AXES for lag in _LAGS),
    *ECHO_STATISTICS,
    *EDGE_STATISTICS,
)
"""What each statistic measures, in words."""


def own_grid_statistics(
    voxels_XYZ: VoxelsXYZ, intensity_scale: float, settings: PreparationSettings
) -> Float64[np.ndarray, " n"]:
    """Return the statistics of a scan, in the order of `OWN_GRID_STATISTICS`; amounts as logarithms.

    Args:
        voxels_XYZ: The scan as it was taken.
        intensity_scale: Its intensity per unit of prepared intensity.
        settings: Of the preparation: where they know a background, it is left out.
    """
    own_XYZ = voxels_XYZ[tuple(map(_middle, voxels_XYZ.shape))] / np.float32(intensity_scale)
    inside_XYZ = np.ones(own_XYZ.shape, dtype=bool)
    if settings.background_below:
        # Without its rim: what is computed from neighbours would be of the outline.
        foreground_XYZ = own_XYZ > foreground_threshold(own_XYZ, settings.background_below)
        inside_XYZ = binary_erosion(foreground_XYZ, np.ones((_WINDOW,) * 3), border_value=1)
    found = [*_of_bends(own_XYZ, inside_XYZ), *_of_noise(own_XYZ, inside_XYZ), *_of_spread(own_XYZ, inside_XYZ)]
    found += [*_of_likeness(own_XYZ, inside_XYZ), *_of_echoes(own_XYZ)]
    return np.array([*found, *_of_bands(own_XYZ, inside_XYZ), *_of_steps(own_XYZ, inside_XYZ)], dtype=np.float64)


def _middle(n: int) -> slice:
    beyond = max(0, n - _LONGEST_SIDE)
    return slice(beyond // 2, n - (beyond + 1) // 2)


def _of_bends(own_XYZ: Float32[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> list[float]:
    found = []
    for axis in range(3):
        bend = np.abs(_bent(own_XYZ, axis)[inside_XYZ])
        found += [_log(_mean(np.square(bend)), 1e-4), _log(_quantile(bend, 0.5), 1e-3)]
    return found


def _of_noise(own_XYZ: Float32[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> list[float]:
    """Bend along all three axes at once: what no smooth anatomy has (Immerkær, 1996, in 3-D)."""
    bent_XYZ = own_XYZ
    for axis in range(3):
        bent_XYZ = _bent(bent_XYZ, axis)
    noise = np.abs(bent_XYZ[inside_XYZ])
    typical, strongest = (_log(_quantile(noise, q), 1e-3) for q in (0.5, 0.99))
    return [typical, strongest, _log(_mean(np.square(noise)), 1e-4)]


def _of_spread(own_XYZ: Float32[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> list[float]:
    centred_XYZ = own_XYZ - own_XYZ.mean(dtype=np.float64).astype(np.float32)
    mean_XYZ = uniform_filter(centred_XYZ, _WINDOW, mode="nearest")
    square_XYZ = uniform_filter(np.square(centred_XYZ), _WINDOW, mode="nearest")
    spread = np.sqrt(np.maximum(square_XYZ - np.square(mean_XYZ), 0.0))[inside_XYZ]
    return [_log(_quantile(spread, q), 1e-3) for q in _SPREAD_QUANTILES]


def _of_likeness(own_XYZ: Float32[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> list[float]:
    """How like itself the detail is a few voxels on: stripes repeat, interpolation binds neighbours."""
    detail_XYZ = own_XYZ - gaussian_filter(own_XYZ, _DETAIL_SIGMA, mode="nearest")
    detail_XYZ = np.where(inside_XYZ, detail_XYZ - np.float32(_mean(detail_XYZ[inside_XYZ])), np.float32(0.0))
    power, found = _mean(np.square(detail_XYZ)) + 1e-12, []
    for axis in range(3):
        moved = np.moveaxis(detail_XYZ, axis, 0)
        found += [_mean(moved[lag:] * moved[:-lag]) / power for lag in _LAGS]
    return found


def _of_echoes(own_XYZ: Float32[np.ndarray, "X Y Z"]) -> list[float]:
    """How strong the strongest echo along each axis is: the highest peak of the cepstrum (Bogert et al., 1963)."""
    centred_XYZ = own_XYZ - np.float32(_mean(own_XYZ))
    return [_log(_strongest_echo(np.moveaxis(centred_XYZ, axis, 0)), 1e-3) for axis in range(3)]


def _strongest_echo(lines_first: Float32[np.ndarray, "N A B"]) -> float:
    """What is seen twice, s of N voxels apart, has more and less power by turns in every N/s lines of k-space.

    Of a healthy scan the logarithm of the power runs smoothly from line to line, whichever lines its anatomy is in.
    """
    n = len(lines_first)
    # Without the line of the mean, which has none.
    power = np.square(np.abs(fft.rfft(lines_first, axis=0))).mean(axis=(1, 2), dtype=np.float64)[1:]
    lines, shifts = np.arange(1, len(power) + 1), np.arange(_NEAREST_ECHO, n // 2 + 1)
    if not shifts.size:
        return 0.0
    log_power, degree = np.log(power + 1e-3), min(_TREND_DEGREE, len(lines) // 2 - 1)
    apart = log_power - np.polynomial.Chebyshev.fit(np.log(lines), log_power, degree)(np.log(lines))
    return float(np.abs(np.exp(2j * np.pi * np.outer(shifts, lines) / n) @ apart).max() / len(lines))


def _of_bands(own_XYZ: Float32[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> list[float]:
    """How far fine and coarse detail are in the same places: edges have all of them, noise has each anywhere."""
    found = []
    for axis in range(3):
        blurred = [gaussian_filter1d(own_XYZ, s, axis=axis, mode="nearest") if s else own_XYZ for s in _BAND_SIGMAS]
        powers = [uniform_filter1d(np.square(a - b), _WINDOW, axis=axis, mode="nearest") for a, b in pairwise(blurred)]
        logs = [np.log(power[inside_XYZ] + np.float32(1e-4)) for power in powers]
        found += [fisher_correlation(logs[one], logs[other]) for one, other in _PAIRS_OF_BANDS.values()]
    return found


def _of_steps(own_XYZ: Float32[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> list[float]:
    """How evenly the steps from voxel to voxel are spread: the entropy of their sizes (Atkinson et al., 1997).

    Less log n, so that it does not depend on how many there are: 0 if all are alike, lower the fewer hold most.
    """
    found = []
    for axis in range(3):
        moved, inside = np.moveaxis(own_XYZ, axis, 0), np.moveaxis(inside_XYZ, axis, 0)
        steps = np.abs(np.diff(moved, axis=0))[inside[1:] & inside[:-1]].astype(np.float64)
        shares = steps[steps > 0] / max(steps.sum(), 1e-12)
        found.append(float(-(shares * np.log(shares)).sum() - np.log(max(steps.size, 1))))
    return found


def fisher_correlation(one: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."]) -> float:
    """Return Fisher's transform of the correlation of two arrays: its spread is even over its range."""
    if not one.size:
        return 0.0
    a, b = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float(np.arctanh(np.clip((a * b).sum() / max(size, 1e-12), -0.99, 0.99)))


def _bent(values_XYZ: Float32[np.ndarray, "X Y Z"], axis: int) -> Float32[np.ndarray, "X Y Z"]:
    """Return how far each voxel is from the mean of its two neighbours, twice; 0 at both ends."""
    moved = np.moveaxis(values_XYZ, axis, 0)
    bent = np.zeros_like(moved)
    bent[1:-1] = 2 * moved[1:-1] - moved[:-2] - moved[2:]
    return np.moveaxis(bent, 0, axis)


def _mean(values: Float32[np.ndarray, "..."]) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else 0.0


def _quantile(values: Float32[np.ndarray, " n"], q: float) -> float:
    return float(np.quantile(values, q)) if values.size else 0.0


def _log(amount: float, floor: float) -> float:
    return float(np.log(amount + floor))
