"""What is learnt from healthy scans: thresholds, p-values, tails and maps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from detection.evidence_cases import EVERY_KIND, PAPER, STANDARDISED, healthy_evidence
from mendscan.config import DetectionSettings
from mendscan.detection.calibration import Calibration, CodeThresholds
from mendscan.detection.voxel_calibration import VoxelCalibration, calibrate_voxels
from mendscan.errors import ModelError, SettingsError


def calibration_of(scores: list[float], voxels: VoxelCalibration | None = None) -> Calibration:
    return Calibration(CodeThresholds(7.25, 5.125), tuple(sorted(scores)), voxels or VoxelCalibration(0.1))


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_thresholds_are_percentiles() -> None:
    nll = np.random.default_rng(0).permutation(np.arange(1001, dtype=np.float32)).reshape(7, 11, 13)
    assert CodeThresholds.of(nll, DetectionSettings()) == CodeThresholds(score=980.0, restoration=900.0)
    other = DetectionSettings(score_percentile=75.0, restoration_percentile=12.5)
    assert CodeThresholds.of(nll, other) == CodeThresholds(score=750.0, restoration=125.0)


# --- p-values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "expected"), [(-1.0, 1.0), (1.0, 1.0), (1.5, 0.8), (2.0, 0.8), (2.5, 0.4), (3.0, 0.4), (9.0, 0.2)]
)
def test_p_value_counts_healthy_scans_at_least_as_high(score: float, expected: float) -> None:
    assert calibration_of([1.0, 2.0, 2.0, 3.0]).p_value(score) == expected


@pytest.mark.parametrize("scores", [[0.5, 1.5, 2.5, 3.5, 4.5], [0.0, 0.0, 0.0, 1.0, 1.0], [2.0] * 5])
def test_p_values_are_valid_over_all_orders(scores: list[float]) -> None:
    """Exchangeable: each order is as likely; one scan is new, the others calibrate.  Then P(p <= a) <= a, exactly."""
    p_values = [calibration_of(list(order[1:])).p_value(order[0]) for order in permutations(scores)]
    for a in (*np.linspace(0, 1, 101), 0.2, 0.4, 0.6, 0.8):
        assert np.mean(np.array(p_values) <= a) <= a + 1e-12
    if len(set(scores)) == 5:
        assert sorted(set(p_values)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_p_values_are_valid_for_random_scores() -> None:
    generator = np.random.default_rng(1)
    scores = np.maximum(generator.normal(size=(20_000, 20)), 0)  # half of them 0: many ties
    p_values = np.array([calibration_of(row[1:].tolist()).p_value(float(row[0])) for row in scores])
    for a in (0.05, 0.1, 0.25, 0.5, 0.9):
        assert np.mean(p_values <= a) <= a + 3 * np.sqrt(a * (1 - a) / 20_000)
    assert p_values.min() == 1 / 20


# --- thresholds of findings ------------------------------------------------------------------------------------------


def test_thresholds_come_from_the_healthy_scores_and_peaks() -> None:
    peaks = ((0.9, 0.6), (0.8,), (), (0.7, 0.65))
    known = replace(calibration_of([1.0, 2.0, 3.0, 4.0]), healthy_peaks=peaks)
    assert known.score_threshold(false_positive_rate=0.4) == 3.0
    assert known.finding_threshold(false_positives_per_scan=0.5) == 0.8
    assert known.expected_false(0.8) == 0.6
    with pytest.raises(SettingsError, match="with 4 healthy scans"):
        known.finding_threshold(false_positives_per_scan=0.1)


def test_a_threshold_of_findings_is_never_below_that_of_voxels() -> None:
    known = replace(calibration_of([1.0, 2.0], VoxelCalibration(0.5)), healthy_peaks=((0.6,), ()))
    assert known.finding_threshold(false_positives_per_scan=2.0) == 0.5


def test_a_model_that_knows_no_healthy_findings_says_so() -> None:
    unknowing = calibration_of([1.0, 2.0, 3.0, 4.0])
    assert unknowing.expected_false(0.8) is None
    with pytest.raises(ModelError, match=r"does not know the findings of healthy scans .*training again"):
        unknowing.finding_threshold(false_positives_per_scan=1.0)


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PAPER, STANDARDISED, EVERY_KIND], ids=["paper", "two kinds", "every kind"])
def test_a_calibration_comes_back_exactly(settings: DetectionSettings) -> None:
    saved = calibration_of([0.1 + 0.2, 1 / 3, 1e-300, 5.0], calibrate_voxels(healthy_evidence(4), settings))
    loaded = Calibration.from_json(json.loads(json.dumps(saved.to_json())), saved.arrays(), settings)
    assert loaded.thresholds == saved.thresholds
    assert loaded.healthy_scores == saved.healthy_scores
    assert (loaded.voxels.threshold, loaded.voxels.scale) == (saved.voxels.threshold, saved.voxels.scale)
    assert {n: kind.tail for n, kind in loaded.voxels.kinds.items()} == {
        n: kind.tail for n, kind in saved.voxels.kinds.items()
    }
    assert loaded.to_json() == saved.to_json()
    assert loaded.arrays().keys() == saved.arrays().keys()
    for name, array in saved.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array)
    new = healthy_evidence(1, seed=4)[0]
    np.testing.assert_array_equal(loaded.voxels.map_of(new), saved.voxels.map_of(new))


@pytest.mark.parametrize("peaks", [None, (), ((0.1 + 0.2, 1 / 3), (), (0.5,))])
def test_healthy_peaks_come_back_exactly(peaks: tuple[tuple[float, ...], ...] | None) -> None:
    saved = replace(calibration_of([1.0]), healthy_peaks=peaks)
    values = json.loads(json.dumps(saved.to_json()))
    assert ("healthy_peaks" in values) == (peaks is not None), "an earlier model's file stays as it was"
    assert Calibration.from_json(values, saved.arrays(), PAPER).healthy_peaks == peaks


def test_json_and_arrays_hold_what_they_say() -> None:
    saved = calibration_of([2.0, 1.0], calibrate_voxels(healthy_evidence(3), STANDARDISED))
    assert set(saved.arrays()) == {
        "residual_mean",
        "residual_spread",
        "nll_mean",
        "nll_spread",
        "usual_foreground",
    }
    values = saved.to_json()
    assert values["score_threshold_nats"] == 7.25
    assert values["restoration_threshold_nats"] == 5.125
    assert values["healthy_scores"] == [1.0, 2.0]
    json.dumps(values, allow_nan=False)
