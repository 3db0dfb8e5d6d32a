"""Statements about healthy scans that hold in finite samples, whatever their distribution.

All of them need one thing: the n calibration scans and the new healthy scan are *exchangeable*, that is, each order of
the n + 1 is as likely.  They then hold on average over calibration sets.  For one given set the true rate scatters
around the wanted one: that of `score_threshold` follows Beta(m, n + 1 − m), m = ⌊rate · (n + 1)⌋, which with 19 scans
and a rate of 0.05 has its middle 95 % between 0.001 and 0.18.

Sources:
    Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (Springer, 2005): conformal p-values.
    Bates, Candès, Lei, Romano & Sesia, "Testing for outliers with conformal p-values" (Annals of Statistics, 2023):
    the same for outliers, and what holds given one calibration set.
    Angelopoulos, Bates, Fisch, Lei & Schuster, "Conformal Risk Control" (2022, arXiv 2208.02814): counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context
from itertools import chain

import numpy as np

from mendscan.errors import SettingsError

__all__ = [
    "conformal_p_value",
    "counted_at_most",
    "expected_false_findings",
    "finding_threshold",
    "flagged",
    "score_threshold",
    "smallest_p_value",
]


def conformal_p_value(score: float, healthy_scores: Sequence[float]) -> float:
    """Return (1 + #{s_cal >= s}) / (n + 1): how rarely a healthy scan scores at least as high.

    Of a new healthy scan, P(p <= a) <= a for every a; without ties it is exactly ⌊a (n + 1)⌋ / (n + 1).

    Args:
        score: s, higher = more anomalous.
        healthy_scores: s_cal of the n calibration scans.

    Returns:
        The p-value, from `smallest_p_value` to 1; small = rarely as anomalous.

    Raises:
        ValueError: If a score is not a number: it would compare as the most anomalous of all.

    Example:
        >>> conformal_p_value(2.5, [1.0, 2.0, 3.0, 4.0])
        0.6
    """
    if np.isnan([score, *healthy_scores]).any():
        raise ValueError("a score is not a number")
    return (1 + sum(healthy >= score for healthy in healthy_scores)) / (len(healthy_scores) + 1)


def smallest_p_value(scans: int) -> float:
    """Return the smallest p-value that `scans` calibration scans can give, 1 / (n + 1).

    Example:
        >>> smallest_p_value(19)
        0.05
    """
    return 1 / (scans + 1)


def flagged(p_value: float, scans: int, *, false_positive_rate: float) -> int | None:
    """Return 1 or 0, whether a scan is flagged; None where no p-value can be small enough.

    Args:
        p_value: Of the scan.
        scans: How many calibration scans there are.
        false_positive_rate: Share of healthy scans that may be flagged.
    """
    if smallest_p_value(scans) > false_positive_rate:
        return None
    return int(p_value <= false_positive_rate)


def score_threshold(healthy_scores: Sequence[float], *, false_positive_rate: float) -> float:
    """Return the smallest threshold that a new healthy scan exceeds with at most the wanted probability.

    It is the k-th smallest healthy score, k = ⌈(n + 1)(1 − rate)⌉.  A score is above it exactly where its
    `conformal_p_value` is at most the rate, ties included.

    Args:
        healthy_scores: Scores of the n calibration scans.
        false_positive_rate: The wanted P(score > threshold) of a healthy scan, between 0 and 1.

    Raises:
        SettingsError: If the rate is out of range, or below 1 / (n + 1): no threshold is known to keep it.

    Example:
        >>> score_threshold([1.0, 2.0, 3.0, 4.0], false_positive_rate=0.4)
        3.0
    """
    scans = len(healthy_scores)
    if not 0 < false_positive_rate < 1:
        raise SettingsError(
            "not a rate", where="false_positive_rate", found=false_positive_rate, expected="a number between 0 and 1"
        )
    above = _largest_share(false_positive_rate, scans)
    if above == 0:
        raise _too_few("false_positive_rate", "p", "a rate", false_positive_rate, scans)
    return float(np.sort(healthy_scores)[scans - above])


def counted_at_most(scans: int, *, false_positives_per_scan: float) -> int:
    """Return the cap B at which the findings of one scan are counted in `finding_threshold`.

    Nothing bounds how many findings a healthy scan may have, and the mean of an unbounded count cannot be bounded from
    n scans without assuming how it is distributed.  What can be bounded is the mean of min(count, B), at the price of
    counting B in advance for the new scan, B / (n + 1) of the wanted α.  B must not be chosen by what was seen.  It is
    α √(n + 1), rounded down but more than α: the more scans, the higher the cap and the lower its price.

    Args:
        scans: n.
        false_positives_per_scan: α.

    Returns:
        B; 0 if n is too small for α.  A cap of at most α would bound nothing.

    Example:
        >>> [counted_at_most(n, false_positives_per_scan=1.0) for n in (19, 99, 399)]
        [4, 10, 20]
    """
    alpha = false_positives_per_scan
    return min(max(math.floor(alpha) + 1, math.floor(alpha * math.sqrt(scans + 1))), _largest_share(alpha, scans))


def finding_threshold(healthy_peaks_per_scan: Sequence[Sequence[float]], *, false_positives_per_scan: float) -> float:
    """Return the smallest threshold that the peaks of few enough findings of a new healthy scan exceed.

    Conformal risk control with the loss min(#{peaks > t}, B), which falls with t: the smallest t with
    n / (n + 1) · mean loss(t) + B / (n + 1) <= α.  Then E[min(count, B)] <= α for a new healthy scan, with B from
    `counted_at_most`: of more than B findings in one healthy scan, only B count.

    Args:
        healthy_peaks_per_scan: For each of the n calibration scans the peaks of its findings, none if it has none;
            found as in a new scan, which a map standardised by the scan itself would not be.
        false_positives_per_scan: α > 0, the wanted number of findings in a healthy scan.

    Returns:
        The threshold; findings with a peak above it count.  0 if even all findings are few enough.

    Raises:
        SettingsError: If α is not positive, or below 1 / (n + 1): no threshold is known to keep it.

    Example:
        >>> finding_threshold([[0.9, 0.6], [0.8], [], [0.7, 0.65]], false_positives_per_scan=1.0)
        0.65
    """
    scans, wanted = len(healthy_peaks_per_scan), false_positives_per_scan
    if not 0 < wanted < math.inf:
        raise SettingsError(
            "not a number of findings", where="false_positives_per_scan", found=wanted, expected="a positive number"
        )
    cap = counted_at_most(scans, false_positives_per_scan=wanted)
    if cap == 0:
        raise _too_few("false_positives_per_scan", "number of findings per scan", "a number", wanted, scans)
    allowed = _largest_share(wanted, scans) - cap
    # A scan's losses above any t are its strongest B findings above t, so the threshold is one order statistic.
    counted = sorted(chain.from_iterable(sorted(p, reverse=True)[:cap] for p in healthy_peaks_per_scan), reverse=True)
    return float(counted[allowed]) if len(counted) > allowed else 0.0


def expected_false_findings(peak: float, healthy_peaks_per_scan: Sequence[Sequence[float]]) -> float:
    """Return (1 + #{healthy findings with a peak >= this one}) / (n + 1): how many so strong a healthy scan has.

    It estimates the mean count, and for a <= 1 bounds it by scans: the probability that a new healthy scan has any
    finding with a value <= a is at most a.

    Args:
        peak: The largest value of the map in a finding.
        healthy_peaks_per_scan: For each of the n calibration scans the peaks of its findings.

    Returns:
        Findings per healthy scan, >= 1 / (n + 1); small = rarely as strong.

    Raises:
        ValueError: If a peak is not a number.

    Example:
        >>> expected_false_findings(0.8, [[0.9, 0.6], [0.8], [], [0.7, 0.65]])
        0.6
    """
    healthy = np.fromiter(chain.from_iterable(healthy_peaks_per_scan), float)
    if np.isnan(peak) or np.isnan(healthy).any():
        raise ValueError("a peak is not a number")
    return (1 + int((healthy >= peak).sum())) / (len(healthy_peaks_per_scan) + 1)


def _largest_share(wanted: float, scans: int) -> int:
    """Return the largest m with m / (n + 1) <= wanted, in the arithmetic that makes p-values.

    wanted · (n + 1) may be off by one rounding: 0.29 · 100 is 28.999….
    """
    m = math.floor(wanted * (scans + 1)) + 1
    while m / (scans + 1) > wanted:
        m -= 1
    return m


def _too_few(setting: str, what: str, a_number: str, wanted: float, scans: int) -> SettingsError:
    needed = math.floor(1 / wanted)
    needed -= smallest_p_value(needed - 1) <= wanted
    smallest = smallest_p_value(scans)
    at_least = Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(smallest))
    return SettingsError(
        f"with {scans} healthy scans the smallest possible {what} is 1/{scans + 1} = {smallest:.3g}",
        where=setting,
        code="E_TOO_FEW_SCANS",
        found=f"{wanted:g}",
        remedy=f"ask for {a_number} of at least {at_least} or calibrate with at least {needed} scans",
    )
