"""Nothing is clipped: what differs before differs after, as far as the numbers that the challenge reads can tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendscan.submission.ranks import challenge_map, challenge_score

RATIOS = np.geomspace(1e-6, 1e4, 20_001)
"""Evidence in healthy thresholds, in steps of 0.12 %; at 10 000 thresholds float32 itself has no finer ones near 1."""


def ranking(ratio: np.ndarray) -> np.ndarray:
    """As `Detector.ranking_map` gives it."""
    return (ratio / (1 + ratio)).astype(np.float32)


def test_the_map_is_strictly_monotone_in_float32() -> None:
    found = challenge_map(ranking(RATIOS))
    assert found.dtype == np.float32
    assert (np.diff(found) > 0).all()
    assert found[0] > 0
    assert found[-1] < 1


@given(st.lists(st.floats(0, 1, width=32, exclude_max=True), min_size=2, max_size=50))
def test_the_map_never_reverses_two_voxels(values: list[float]) -> None:
    ordered = np.sort(np.array(values, np.float32))
    found = challenge_map(ordered)
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[ordered > 0] > 0).all() or ordered[ordered > 0].min() < 1e-37
    assert challenge_map(np.zeros(3, np.float32)).tolist() == [0, 0, 0]


def test_ranks_survive_float16_up_to_its_resolution() -> None:
    """Up to 64 healthy thresholds 0.2 % are told apart; a map with the threshold at 0.5 needs more than 3 % there."""
    normal = RATIOS[(RATIOS > 0.01) & (RATIOS < 64)][::2]
    assert (np.diff(challenge_map(ranking(normal)).astype(np.float16).astype(float)) > 0).all()
    high = np.geomspace(1, 1000, 10_000)
    spread, plain = (len(np.unique(m.astype(np.float16))) for m in (challenge_map(ranking(high)), ranking(high)))
    assert plain == 1024 - 1  # 0.5 to the last value below 1
    assert spread > 5.5 * plain


def test_the_order_of_float16_values_is_the_order_of_the_evidence() -> None:
    ratio = np.random.default_rng(0).lognormal(0, 3, 5000)
    half = challenge_map(ranking(ratio)).astype(np.float16)[np.argsort(ratio)]
    assert (np.diff(half.astype(float)) >= 0).all()


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.lists(st.floats(-100, 5000), min_size=1, max_size=30),
)
def test_scores_are_strictly_monotone(score: float, step: float, healthy: list[float]) -> None:
    low, high = challenge_score(score, healthy), challenge_score(score + step, healthy)
    assert 0 < low < 1
    assert low <= high < 1
    spread = max(np.std(healthy), 0.01 * abs(np.median(healthy)), 1e-6)
    if step > 1e-9 * (abs(score) + abs(np.median(healthy)) + spread) ** 2 / spread * 64:
        assert low < high


def test_scores_of_every_possible_size_stay_apart_as_text() -> None:
    """The paper's score: up to 32 slices of 400 codes of 100 nats each."""
    scores = np.concatenate([[0.0], np.geomspace(1e-3, 32 * 400 * 100, 10_000)])
    healthy = [310.0, 402.0, 500.0, 377.0]
    found = [float(f"{challenge_score(score, healthy)!r}") for score in scores]
    assert (np.diff(found) > 0).all()
    assert (np.diff(np.float32(found)[scores > 1]) > 0).all()


def test_the_median_healthy_scan_is_one_half() -> None:
    assert challenge_score(2.0, [1.0, 2.0, 7.0]) == 0.5
    assert challenge_score(5.0, [5.0]) == 0.5
    assert challenge_score(-3.0, [0.0, 0.0]) == pytest.approx(0, abs=1e-4)


def test_a_model_without_calibration_ranks_scans_too() -> None:
    found = [challenge_score(score, ()) for score in (0.0, 1.0, 500.0, 501.0, 1e6)]
    assert found[0] == 0.5
    assert (np.diff(found) > 0).all()
    assert found[-1] < 1
