"""How far may a figure move by chance, when cases were drawn and not voxels?

The voxels of a scan stand and fall together: a million of them say no more about the next patient than the scan they
come from.  Here every figure is therefore a function of *case weights*, how often each case counts, and whole subjects
are drawn.  A figure of pooled voxels sums the cases' histograms with these weights; no voxel is ever resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int

from mendscan.evaluation.bca import ROUNDING, bca_tails

__all__ = [
    "Difference",
    "FiguresOfWeights",
    "Interval",
    "Statistic",
    "intervals",
    "jackknife_weights",
    "paired_difference",
    "resampled_weights",
]

Statistic = Callable[[Float[np.ndarray, "B N"]], Float[np.ndarray, " B"]]
"""One figure: weights of N cases in each of B resamples -> B values, NaN where the figure is undefined."""
FiguresOfWeights = Callable[[Float[np.ndarray, "B N"]], Mapping[str, Float[np.ndarray, " B"]]]
"""Several figures by name from one pass over the cases, each as a `Statistic` returns it."""
Method = Literal["bca", "percentile", "none"]
"""How an interval was found; "none" where there is none."""

RESAMPLES = 2000
"""As in DiCiccio & Efron (1996): ends of intervals need more resamples than standard errors."""
LEVEL = 0.95
LARGEST_UNDEFINED_SHARE = 0.5
"""Beyond, the defined resamples are no longer a sample of what might have been."""
ROWS_AT_ONCE = 64
"""Resamples handed to a figure together: with 15 361 values per histogram, 8 MB per array."""


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval over subjects; NaN where undefined.

    Args:
        estimate: The figure of all cases, each counted once.
        low: The interval's lower end.
        high: Its upper end.
        level: The share of such intervals that should hold the true figure, as 0.95.
        undefined_share: The share of resamples in which the figure was undefined; they were left out.
        method: "bca"; "percentile" where BCa has no answer; "none" where nothing has.
    """

    estimate: float
    low: float
    high: float
    level: float
    undefined_share: float
    method: Method


@dataclass(frozen=True)
class Difference:
    """How much higher the first of two methods is than the second on the same cases; NaN where undefined.

    Args:
        estimate: First minus second, of all cases; positive = the first is higher.
        low: Lower end of the difference's confidence interval.
        high: Its upper end.
        p_value: Two-sided, for "no difference", from the bootstrap distribution; never below 2 / (resamples + 1).
        level: The interval's confidence level.
        undefined_share: The share of resamples in which either was undefined; they were left out.
        method: As in `Interval`.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    level: float
    undefined_share: float
    method: Method


def resampled_weights(subjects: Sequence[str], *, resamples: int, seed: int) -> Float64[np.ndarray, "B N"]:
    """Draw whole subjects with replacement, as many as there are, and count how often each case comes along.

    The draws depend on the seed and the subjects' sorted names alone: the same for every figure and every method, and
    the same for a case wherever it stands in the list.

    Args:
        subjects: The subject of each case; cases of one subject are drawn together.
        resamples: Rows to draw, >= 1.
        seed: Of the draws.

    Returns:
        Weights, whole numbers as floats; each row sums to the number of cases on average.

    Raises:
        ValueError: If there is no case or less than one resample.

    Example:
        >>> resampled_weights(["a", "a", "b"], resamples=3, seed=1)
        array([[1., 1., 1.],
               [0., 0., 2.],
               [2., 2., 0.]])
    """
    if resamples < 1:
        raise ValueError(f"found resamples={resamples}; expected at least 1")
    n_subjects, subject_of_case = _numbered(subjects)
    drawn_BG = np.random.default_rng(seed).integers(0, n_subjects, (resamples, n_subjects))
    drawn_BG += n_subjects * np.arange(resamples)[:, None]
    times_BG = np.bincount(drawn_BG.ravel(), minlength=resamples * n_subjects).reshape(resamples, n_subjects)
    return times_BG.astype(np.float64)[:, subject_of_case]


def jackknife_weights(subjects: Sequence[str]) -> Float64[np.ndarray, "G N"]:
    """Leave out one subject, with all its cases, per row.

    Args:
        subjects: The subject of each case.

    Returns:
        Weights 0 and 1; one row per subject, by sorted name.

    Raises:
        ValueError: If there is no case.

    Example:
        >>> jackknife_weights(["a", "a", "b"])
        array([[0., 0., 1.],
               [1., 1., 0.]])
    """
    n_subjects, subject_of_case = _numbered(subjects)
    return (np.arange(n_subjects)[:, None] != subject_of_case).astype(np.float64)


def intervals(
    figures: FiguresOfWeights,
    subjects: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, Interval]:
    """Find the confidence interval of each figure over subjects.

    BCa (see `bca`) with at least ten subjects; the ordinary percentile with fewer, or if the bias correction is
    infinite (all resamples on one side of the estimate) or the acceleration undefined (the figure does not move, or is
    undefined, when some subject is left out).  With few subjects both are too short: the 95 % interval of a mean of
    normal values holds the true mean in about 89 % at ten subjects, 92 % at forty.
    There is no interval with fewer than two subjects, or if the figure is undefined in more than half of the resamples.

    Args:
        figures: From case weights to figures.
        subjects: The subject of each case.
        resamples: How many.
        level: The confidence level, inside (0, 1).
        seed: Of the draws; see `resampled_weights`.
        rows_at_once: Resamples handed to `figures` together; decides memory, not values.

    Returns:
        One interval per figure.

    Raises:
        ValueError: If there is no case, an option is out of range, or a figure does not return one value per row.

    Example:
        >>> dice = np.arange(20) / 20
        >>> found = intervals(lambda weights: {"dice": weights @ dice / weights.sum(1)}, [str(i) for i in range(20)])
        >>> found["dice"].low < found["dice"].estimate < found["dice"].high
        True
    """
    _check_level(level)
    sampled = _sampled(figures, subjects, resamples=resamples, seed=seed, rows_at_once=rows_at_once)
    return {name: _interval(figure, level) for name, figure in sampled.items()}


def paired_difference(
    first: FiguresOfWeights,
    second: FiguresOfWeights,
    subjects: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, Difference]:
    """Compare two methods on the same cases, resample by resample, so that hard cases are hard for both.

    The p-value is twice the smaller of (1 + #{d <= 0}) / (n + 1) and (1 + #{d >= 0}) / (n + 1) over the n defined
    resampled differences d (the added one as in Davison & Hinkley 1997, "Bootstrap
    Methods and their Application"), at most 1.  It is not corrected for several figures or methods.

    Args:
        first: Figures of one method from case weights.
        second: The same figures of another, with the cases in the same order.
        subjects: The subject of each case.
        resamples: How many.
        level: The confidence level, inside (0, 1).
        seed: Of the draws, which both share.
        rows_at_once: Resamples handed to both together.

    Returns:
        First minus second, per figure.

    Raises:
        ValueError: As `intervals`, or if the two do not return the same figures.
    """
    _check_level(level)

    def differences(weights_BN: Float[np.ndarray, "B N"]) -> dict[str, Float[np.ndarray, " B"]]:
        ours, theirs = first(weights_BN), second(weights_BN)
        if ours.keys() != theirs.keys():
            raise ValueError(f"found figures {sorted(ours)} and {sorted(theirs)}; expected the same of both")
        return {name: _difference(ours[name], theirs[name]) for name in ours}

    sampled = _sampled(differences, subjects, resamples=resamples, seed=seed, rows_at_once=rows_at_once)
    return {name: _with_p_value(figure, level) for name, figure in sampled.items()}


@dataclass(frozen=True, eq=False)
class _Sampled:
    """One figure of all cases, of each resample, and without each subject."""

    estimate: float
    resampled: Float64[np.ndarray, " B"]
    left_out: Float64[np.ndarray, " G"]

    @property
    def defined(self) -> Float64[np.ndarray, " D"]:
        return self.resampled[np.isfinite(self.resampled)]


def _sampled(
    figures: FiguresOfWeights, subjects: Sequence[str], *, resamples: int, seed: int, rows_at_once: int
) -> dict[str, _Sampled]:
    if rows_at_once < 1:
        raise ValueError(f"found rows_at_once={rows_at_once}; expected at least 1")
    drawn_BN, without_GN = resampled_weights(subjects, resamples=resamples, seed=seed), jackknife_weights(subjects)
    estimates = _evaluated(figures, np.ones((1, len(subjects))), rows_at_once)
    resampled = _evaluated(figures, drawn_BN, rows_at_once)
    # Without the only subject there is no case, which no figure need put up with.
    left_out = dict.fromkeys(estimates, np.zeros(0))
    if len(without_GN) > 1:
        left_out = _evaluated(figures, without_GN, rows_at_once)
    return {name: _Sampled(float(estimates[name][0]), resampled[name], left_out[name]) for name in estimates}


def _evaluated(
    figures: FiguresOfWeights, weights_BN: Float[np.ndarray, "B N"], rows_at_once: int
) -> dict[str, Float64[np.ndarray, " B"]]:
    chunks = [weights_BN[start : start + rows_at_once] for start in range(0, len(weights_BN), rows_at_once)]
    parts = [figures(chunk) for chunk in chunks]
    for chunk, part in zip(chunks, parts, strict=True):
        wrong = {name: np.shape(values) for name, values in part.items() if np.shape(values) != (len(chunk),)}
        if wrong:
            raise ValueError(f"found figures of shapes {wrong}; expected ({len(chunk)},), one value per row of weights")
    return {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts]) for name in parts[0]}


def _interval(sampled: _Sampled, level: float) -> Interval:
    defined = sampled.defined
    undefined_share = 1 - defined.size / sampled.resampled.size
    nowhere = not np.isfinite(sampled.estimate) or sampled.left_out.size < 2
    if nowhere or undefined_share > LARGEST_UNDEFINED_SHARE:
        estimate = sampled.estimate if np.isfinite(sampled.estimate) else np.nan
        return Interval(estimate, np.nan, np.nan, level, undefined_share, "none")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    bca = bca_tails(sampled.estimate, defined, sampled.left_out, tails)
    low, high = np.quantile(defined, tails if bca is None else bca)
    method: Method = "percentile" if bca is None else "bca"
    return Interval(sampled.estimate, float(low), float(high), level, undefined_share, method)


def _difference(ours: Float[np.ndarray, " B"], theirs: Float[np.ndarray, " B"]) -> Float64[np.ndarray, " B"]:
    """Ours minus theirs; equal but for rounding is equal, lest rounding be significant."""
    difference = np.asarray(ours, np.float64) - theirs
    difference[np.abs(difference) <= ROUNDING * np.maximum(np.abs(ours), np.abs(theirs))] = 0
    return difference


def _with_p_value(sampled: _Sampled, level: float) -> Difference:
    found = _interval(sampled, level)
    defined = sampled.defined
    tails = [(1 + np.sum(side)) / (1 + defined.size) for side in (defined <= 0, defined >= 0)]
    p_value = np.nan if found.method == "none" else float(min(1, 2 * min(tails)))
    return Difference(found.estimate, found.low, found.high, p_value, level, found.undefined_share, found.method)


def _numbered(subjects: Sequence[str]) -> tuple[int, Int[np.ndarray, " N"]]:
    """How many subjects there are, and the place of each case's among their sorted names."""
    if not len(subjects):
        raise ValueError("found no case; expected at least one")
    names, subject_of_case = np.unique(np.asarray(subjects, dtype=np.str_), return_inverse=True)
    return names.size, subject_of_case


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"found level={level}; expected a share inside (0, 1), such as 0.95")
