"""Finite-sample statements, checked exactly: exchangeable means that each scan of a pool is as likely the new one.

So for any pool of n + 1 scans the probability or mean over the new scan is an average over who is left out: no Monte
Carlo, no distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from mendscan.detection.conformal import (
    conformal_p_value,
    counted_at_most,
    expected_false_findings,
    finding_threshold,
    score_threshold,
    smallest_p_value,
)
from mendscan.errors import SettingsError
from mendscan.results import find_components
from mendscan.volumes.volume import volume_from_array

Peaks = Sequence[Sequence[float]]

tied_scores = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=24)
any_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
rates = st.one_of(
    st.floats(0.001, 0.999), st.tuples(st.integers(1, 30), st.integers(31, 60)).map(lambda t: t[0] / t[1])
)
pools = st.lists(st.lists(st.integers(1, 12).map(lambda k: k / 12), max_size=8), min_size=2, max_size=16)


def left_out(pool: Sequence) -> list[tuple]:
    """Each scan of a pool as the new one, with the others to calibrate."""
    return [(new, [*pool[:i], *pool[i + 1 :]]) for i, new in enumerate(pool)]


# --- p-values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 19, 20, 99])
def test_without_ties_p_values_are_exactly_uniform_on_their_steps(n: int) -> None:
    p_values = [conformal_p_value(new, others) for new, others in left_out([float(s) for s in range(n + 1)])]
    assert min(p_values) == smallest_p_value(n)
    for a in [Fraction(k, 3 * (n + 1)) for k in range(3 * (n + 1) + 1)]:
        at_most = sum(p <= float(a) for p in p_values)
        assert at_most == math.floor(a * (n + 1)), a


@given(tied_scores)
@settings(max_examples=100, deadline=None)
def test_with_ties_p_values_are_conservative(pool: list[float]) -> None:
    p_values = [conformal_p_value(new, others) for new, others in left_out(pool)]
    for k in range(len(pool) + 1):
        assert sum(p <= k / len(pool) for p in p_values) <= k


def test_without_the_one_for_the_new_scan_p_values_are_not_valid() -> None:
    """The oracle above can fail: #{s_cal >= s} / n is too small."""
    pool = [float(s) for s in range(20)]
    naive = [sum(other >= new for other in others) / len(others) for new, others in left_out(pool)]
    assert np.mean([p <= 0.04 for p in naive]) > 0.04


def test_a_score_that_is_no_number_is_refused() -> None:
    """It would be smaller than none and so the most anomalous of all."""
    for score, healthy in ((math.nan, [1.0]), (1.0, [math.nan])):
        with pytest.raises(ValueError, match="not a number"):
            conformal_p_value(score, healthy)
        with pytest.raises(ValueError, match="not a number"):
            expected_false_findings(score, [healthy])
    assert conformal_p_value(math.inf, [1.0]) == 0.5


# --- thresholds of the score -----------------------------------------------------------------------------------------


@given(any_scores | tied_scores, rates, st.data())
@settings(max_examples=300, deadline=None)
def test_above_the_threshold_is_a_p_value_of_at_most_the_rate(
    healthy: list[float], rate: float, data: st.DataObject
) -> None:
    if rate < smallest_p_value(len(healthy)):
        with pytest.raises(SettingsError, match="the smallest possible p is"):
            score_threshold(healthy, false_positive_rate=rate)
        return
    threshold = score_threshold(healthy, false_positive_rate=rate)
    assert threshold in healthy
    seen = data.draw(st.lists(st.floats(-2e6, 2e6), max_size=5))
    for score in [*seen, *healthy, threshold, math.nextafter(threshold, math.inf)]:
        assert (score > threshold) == (conformal_p_value(score, healthy) <= rate)


@pytest.mark.parametrize("n", [6, 9, 48, 99, 102])
def test_rates_that_are_p_values_count_in_full(n: int) -> None:
    """0.29 · 100 is 28.999… in floating point: the 29th p-value must not be lost."""
    healthy = [float(s) for s in range(n)]
    for m in range(1, n + 1):
        assert score_threshold(healthy, false_positive_rate=m / (n + 1)) == healthy[n - m]


@given(tied_scores, rates)
@settings(max_examples=100, deadline=None)
def test_the_rate_holds_for_any_pool(pool: list[float], rate: float) -> None:
    if rate < 1 / len(pool):
        return
    above = [new > score_threshold(others, false_positive_rate=rate) for new, others in left_out(pool)]
    assert Fraction(sum(above), len(pool)) <= Fraction(rate) * (1 + Fraction(1, 10**12))


def test_the_threshold_is_the_order_statistic_of_the_definition() -> None:
    healthy = np.random.default_rng(0).normal(size=57)
    for rate in (0.02, 0.05, 0.1, 0.31, 0.5, 0.97):
        k = math.ceil(58 * (1 - rate))
        assert score_threshold(healthy.tolist(), false_positive_rate=rate) == np.partition(healthy, k - 1)[k - 1]


def test_too_few_scans_are_said_with_what_would_do() -> None:
    with pytest.raises(SettingsError) as caught:
        score_threshold([0.0] * 20, false_positive_rate=0.01)
    assert caught.value.code == "E_TOO_FEW_SCANS"
    assert str(caught.value) == (
        "false_positive_rate: with 20 healthy scans the smallest possible p is 1/21 = 0.0476 (found 0.01); "
        "ask for a rate of at least 0.048 or calibrate with at least 99 scans"
    )
    with pytest.raises(SettingsError) as caught:
        finding_threshold([[0.9]] * 4, false_positives_per_scan=0.1)
    assert str(caught.value) == (
        "false_positives_per_scan: with 4 healthy scans the smallest possible number of findings per scan is 1/5 = 0.2 "
        "(found 0.1); ask for a number of at least 0.2 or calibrate with at least 9 scans"
    )


@pytest.mark.parametrize("n", [2, 6, 10, 19, 20, 52, 160])
@pytest.mark.parametrize("rate", [0.001, 0.003, 0.0049])
def test_the_remedies_of_the_refusal_work_and_no_smaller_ones_do(n: int, rate: float) -> None:
    with pytest.raises(SettingsError) as caught:
        score_threshold([0.0] * n, false_positive_rate=rate)
    words = caught.value.remedy.split()
    assert score_threshold([0.0] * n, false_positive_rate=float(words[7])) == 0
    enough = int(words[-2])
    score_threshold([0.0] * enough, false_positive_rate=rate)
    with pytest.raises(SettingsError):
        score_threshold([0.0] * (enough - 1), false_positive_rate=rate)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 5.0, math.nan, math.inf])
def test_what_is_no_rate_is_refused(bad: float) -> None:
    with pytest.raises(SettingsError, match="not a rate") as caught:
        score_threshold([1.0] * 50, false_positive_rate=bad)
    assert caught.value.code == "E_SETTINGS"
    if not 0 < bad < math.inf:
        with pytest.raises(SettingsError, match="not a number of findings"):
            finding_threshold([[0.5]] * 50, false_positives_per_scan=bad)


# --- findings --------------------------------------------------------------------------------------------------------


def mean_counted(pool: Peaks, rule: Callable[[Peaks], float], cap: float) -> Fraction:
    """E[min(count, cap)] of the scan that is new, over who that is."""
    counts = [min(sum(p > rule(others) for p in new), cap) for new, others in left_out(pool)]
    return Fraction(sum(counts), len(pool))


@given(pools, st.floats(0.05, 6))
@settings(max_examples=300, deadline=None)
def test_the_wanted_number_of_findings_holds_for_any_pool(pool: Peaks, wanted: float) -> None:
    cap = counted_at_most(len(pool) - 1, false_positives_per_scan=wanted)
    if wanted < 1 / len(pool):
        assert cap == 0
        return
    found = mean_counted(pool, lambda others: finding_threshold(others, false_positives_per_scan=wanted), cap)
    assert found <= Fraction(wanted) * (1 + Fraction(1, 10**12))


def test_without_the_price_of_the_new_scan_the_number_does_not_hold() -> None:
    """The oracle above can fail: the threshold at which calibration scans have the wanted mean is too low."""

    def naive(others: Peaks) -> float:
        candidates = [0.0, *sorted(p for peaks in others for p in peaks)]
        return next(t for t in candidates if np.mean([sum(p > t for p in peaks) for peaks in others]) <= 0.5)

    pool = [[k / 10] for k in range(1, 6)]
    assert mean_counted(pool, naive, 10) == Fraction(3, 5)
    assert mean_counted(pool, lambda o: finding_threshold(o, false_positives_per_scan=0.5), 10) == Fraction(2, 5)


def test_without_the_cap_no_threshold_holds() -> None:
    """One scan of six has so many strong findings that the mean exceeds any number; two count."""
    pool = [[0.99] * 100, *([[0.5]] * 5)]

    def rule(others: Peaks) -> float:
        return finding_threshold(others, false_positives_per_scan=1.0)

    cap = counted_at_most(5, false_positives_per_scan=1.0)
    assert mean_counted(pool, rule, cap) <= 1 < mean_counted(pool, rule, math.inf)


@given(pools, st.floats(0.05, 6))
@settings(max_examples=200, deadline=None)
def test_the_threshold_is_the_smallest_that_the_rule_allows(healthy: Peaks, wanted: float) -> None:
    n, cap = len(healthy), counted_at_most(len(healthy), false_positives_per_scan=wanted)
    if cap == 0:
        return

    def allowed(t: float) -> bool:
        return (sum(min(sum(p > t for p in peaks), cap) for peaks in healthy) + cap) / (n + 1) <= wanted

    found = finding_threshold(healthy, false_positives_per_scan=wanted)
    candidates = sorted({0.0, *(p for peaks in healthy for p in peaks)})
    assert found == next(t for t in candidates if allowed(t))


@given(st.integers(1, 500), st.floats(0.01, 20))
@settings(max_examples=200, deadline=None)
def test_the_cap_says_something_and_can_be_paid(n: int, wanted: float) -> None:
    cap = counted_at_most(n, false_positives_per_scan=wanted)
    assert (cap > 0) == (wanted >= 1 / (n + 1))
    assert cap / (n + 1) <= wanted
    assert cap == 0 or cap > wanted, "a count that is capped at the wanted mean would be below it for any threshold"


def test_the_cap_grows_and_its_price_falls() -> None:
    caps = [counted_at_most(n, false_positives_per_scan=2.0) for n in (19, 99, 399, 9999)]
    assert caps == [8, 20, 40, 200]
    assert [cap / (n + 1) for cap, n in zip(caps, (19, 99, 399, 9999), strict=True)] == [0.4, 0.2, 0.1, 0.02]


def test_more_findings_allowed_never_raise_the_threshold() -> None:
    generator = np.random.default_rng(0)
    healthy = [generator.uniform(0.5, 1, size=n).tolist() for n in generator.poisson(4, size=30)]
    found = [finding_threshold(healthy, false_positives_per_scan=a) for a in (0.1, 0.5, 1.0, 2.0, 20.0)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 5
    assert found[-1] == 0.0


@given(pools)
@settings(max_examples=200, deadline=None)
def test_the_expected_number_bounds_the_share_of_scans_with_any_such_finding(pool: Peaks) -> None:
    strongest = [
        min((expected_false_findings(p, others) for p in new), default=math.inf) for new, others in left_out(pool)
    ]
    for k in range(len(pool) + 1):
        assert sum(e <= k / len(pool) for e in strongest) <= k


@pytest.mark.parametrize(("peak", "expected"), [(1.0, 0.2), (0.9, 0.4), (0.8, 0.8), (0.7, 0.8), (0.1, 1.2)])
def test_the_expected_number_counts_findings_at_least_as_strong(peak: float, expected: float) -> None:
    assert expected_false_findings(peak, [[0.9, 0.8], [0.8], [], [0.6, 0.5]]) == expected


# --- findings of maps ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peaks_of_fields() -> list[list[float]]:
    """Peaks of the components of 120 smooth Gaussian fields, as in detection; some fields are noisier than others."""
    generator, found = np.random.default_rng(5), []
    for _ in range(120):
        field = gaussian_filter(generator.normal(size=(10, 24, 24)), 1.5)
        z = field / field.std() * generator.uniform(0.8, 1.2)
        unit = (np.maximum(z, 0) / (np.maximum(z, 0) + 2)).astype(np.float32)
        volume = volume_from_array(unit, np.eye(4), name="field")
        found.append([f.peak for f in find_components(unit, volume, threshold=0.5, smallest_mm3=2.0)])
    return found


@pytest.mark.parametrize("wanted", [0.5, 1.0, 3.0])
def test_half_of_the_fields_calibrate_the_other_half(peaks_of_fields: list[list[float]], wanted: float) -> None:
    """Over random halves the mean is exactly that over the new scan, up to the scatter of 300 draws."""
    generator, cap = np.random.default_rng(1), counted_at_most(60, false_positives_per_scan=wanted)
    means = []
    for _ in range(300):
        order = generator.permutation(120)
        threshold = finding_threshold([peaks_of_fields[i] for i in order[:60]], false_positives_per_scan=wanted)
        means.append(np.mean([min(sum(p > threshold for p in peaks_of_fields[i]), cap) for i in order[60:]]))
    scatter = 3 * np.std(means) / math.sqrt(300)
    assert np.mean([len(peaks) for peaks in peaks_of_fields]) > 2 * wanted, "else every threshold would do"
    assert np.mean(means) <= wanted + scatter
    assert np.mean(means) >= wanted * (1 - 1.5 / math.sqrt(61)) - 1 / 61 - scatter, "and not by finding nothing"
