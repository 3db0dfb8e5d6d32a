"""What is learnt from healthy scans: thresholds, p-values, tails and maps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mendscan.config import DetectionSettings
from mendscan.detection.calibration import (
    Calibration,
    CodeThresholds,
    Evidence,
    TailTable,
    VoxelCalibration,
    calibrate_voxels,
    left_out_maps,
)
from mendscan.detection.scoring import pooled_residual
from mendscan.detection.standardising import HealthyReference
from mendscan.errors import ModelError, SettingsError

SHAPE = (6, 12, 14)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
PAPER = DetectionSettings(voxel_map="residual", threshold_quantile=0.9)
STANDARDISED = DetectionSettings(voxel_map="standardised", residual_sigma=1.0, nll_sigma=1.5, threshold_quantile=0.95)


def healthy_evidence(n: int, seed: int = 0) -> list[Evidence]:
    width = np.random.default_rng(99).uniform(0.5, 1.5, size=SHAPE)
    generator = np.random.default_rng(seed)
    residuals = np.abs(0.3 * width * generator.normal(size=(n, *SHAPE))).astype(np.float32)
    nlls = generator.exponential(1.5, size=(n, *SHAPE)).astype(np.float32)
    return [Evidence(residual, nll, EVERYWHERE) for residual, nll in zip(residuals, nlls, strict=True)]


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


# --- tails -----------------------------------------------------------------------------------------------------------

numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(numbers, min_size=2, max_size=60), st.lists(numbers, min_size=2, max_size=30))
@hypothesis_settings(max_examples=100, deadline=None)
def test_tails_are_monotone_and_not_negative(healthy: list[float], seen: list[float]) -> None:
    table = TailTable.of(np.array(healthy, dtype=np.float32))
    nats = table(np.sort(np.array([*seen, *healthy, 1e4], dtype=np.float32)))
    assert np.isfinite(nats).all()
    assert nats.min() >= 0
    assert (np.diff(nats) >= 0).all()


def test_tails_are_those_of_the_distribution() -> None:
    """Of an exponential distribution −log P(X > x) is x itself, within the table and, by its last slope, beyond."""
    table = TailTable.of(np.random.default_rng(0).exponential(size=400_000).astype(np.float32))
    inside = np.array([0.2, 1.0, 2.0, 4.0, 5.9])
    np.testing.assert_allclose(table(inside), inside, rtol=0.05)
    np.testing.assert_allclose(table(np.array([8.0, 12.0])), [8.0, 12.0], rtol=0.1)
    assert table(np.array([-1.0])).item() == 0
    assert max(table.nats) == pytest.approx(-np.log(1e3 / 400_000))


def test_tails_rise_strictly_beyond_the_last_quantile() -> None:
    table = TailTable.of(np.random.default_rng(0).normal(size=500).astype(np.float32))
    nats = table(np.linspace(table.values[-1], table.values[-1] + 50, 100))
    assert (np.diff(nats) > 0).all()
    assert nats[0] == pytest.approx(table.nats[-1])


def test_few_voxels_support_only_a_short_tail() -> None:
    assert max(TailTable.of(np.random.default_rng(0).normal(size=200)).nats) == pytest.approx(-np.log(0.1))


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PAPER, STANDARDISED], ids=lambda s: s.voxel_map)
@pytest.mark.parametrize("n", [2, 6])
def test_maps_are_in_the_unit_interval_whatever_the_evidence(settings: DetectionSettings, n: int) -> None:
    voxels = calibrate_voxels(healthy_evidence(n), settings)
    generator = np.random.default_rng(3)
    for scale in (0.0, 1.0, 1e6):
        evidence = Evidence(*(scale * generator.exponential(size=(2, *SHAPE))).astype(np.float32), EVERYWHERE)
        found = voxels.map_of(evidence, settings)
        assert found.shape == SHAPE
        assert found.min() >= 0
        assert found.max() <= 1


def test_the_papers_map_is_the_pooled_residual_and_its_threshold_a_quantile() -> None:
    evidence = healthy_evidence(5)
    voxels = calibrate_voxels(evidence, PAPER)
    maps = [
        pooled_residual(each.residual_SHW, min_pool=PAPER.min_pool, mean_pool_SHW=PAPER.mean_pool_SHW)
        for each in evidence
    ]
    np.testing.assert_array_equal(voxels.map_of(evidence[2], PAPER), maps[2])
    assert voxels.threshold == pytest.approx(np.quantile(maps, 0.9))
    assert voxels.residual is None
    assert voxels.nll is None


def test_the_standardised_map_is_its_formula() -> None:
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    new = healthy_evidence(1, seed=5)[0]
    residual = HealthyReference.fit(np.stack([e.residual_SHW for e in evidence]), sigma_voxels=1.0)
    nll = HealthyReference.fit(np.stack([e.nll_SHW for e in evidence]), sigma_voxels=1.5)
    first = voxels.residual_tail(residual.standardised(new.residual_SHW))
    second = voxels.nll_tail(nll.standardised(new.nll_SHW))
    combined = (first**3 + second**3) ** (1 / 3)
    np.testing.assert_allclose(voxels.map_of(new, STANDARDISED), combined / (combined + voxels.scale), rtol=1e-5)


def test_the_healthy_threshold_is_one_half_and_a_quantile_of_scans_that_were_left_out() -> None:
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    assert voxels.threshold == 0.5
    above = []
    for i, left_out in enumerate(evidence):
        others = [each for j, each in enumerate(evidence) if j != i]
        without = VoxelCalibration(
            0.5,
            HealthyReference.fit(np.stack([e.residual_SHW for e in others]), sigma_voxels=1.0),
            HealthyReference.fit(np.stack([e.nll_SHW for e in others]), sigma_voxels=1.5),
            voxels.residual_tail,
            voxels.nll_tail,
            voxels.usual_SHW,
            voxels.scale,
        )
        above.append(without.map_of(left_out, STANDARDISED) > 0.5)
    assert np.mean(above) == pytest.approx(0.05, abs=2e-3)
    new = [voxels.map_of(each, STANDARDISED) > 0.5 for each in healthy_evidence(4, seed=7)]
    assert 0.02 < np.mean(new) < 0.1


@pytest.mark.parametrize("kind", ["residual", "nll", "both"])
def test_an_anomaly_stands_out_in_either_kind_of_evidence(kind: str) -> None:
    voxels = calibrate_voxels(healthy_evidence(8), STANDARDISED)
    evidence = healthy_evidence(1, seed=9)[0]
    before = voxels.map_of(evidence, STANDARDISED)
    where = np.zeros(SHAPE, bool)
    where[2:4, 4:8, 5:9] = True
    residual, nll = evidence.residual_SHW.copy(), evidence.nll_SHW.copy()
    residual[where] += 1.5 if kind != "nll" else 0
    nll[where] += 8 if kind != "residual" else 0
    found = voxels.map_of(Evidence(residual, nll, EVERYWHERE), STANDARDISED)
    assert (found[where] > 0.5).mean() > 0.9
    assert (found[where] > before[where]).all()
    np.testing.assert_allclose(found[:, :, -1], before[:, :, -1], atol=0.01)


def with_foreground(evidence: Evidence, foreground_SHW: np.ndarray) -> Evidence:
    return Evidence(evidence.residual_SHW, evidence.nll_SHW, foreground_SHW)


def test_where_neither_the_scan_nor_healthy_scans_show_anything_the_map_is_zero() -> None:
    body = np.zeros(SHAPE, bool)
    body[:, 3:9, 3:11] = True
    voxels = calibrate_voxels([with_foreground(e, body) for e in healthy_evidence(8)], STANDARDISED)
    odd = Evidence(np.full(SHAPE, 9, np.float32), np.full(SHAPE, 20, np.float32), np.zeros(SHAPE, bool))
    assert (voxels.map_of(odd, STANDARDISED)[~body] == 0).all()
    assert (voxels.map_of(odd, STANDARDISED)[body] > 0.5).all(), "what is missing here is still scored"
    beside = np.zeros(SHAPE, bool)
    beside[2, 0:2, 0:2] = True
    assert (voxels.map_of(with_foreground(odd, beside), STANDARDISED)[beside] > 0.5).all(), "and what does not belong"


def test_more_evidence_never_lowers_the_map() -> None:
    voxels = calibrate_voxels(healthy_evidence(5), STANDARDISED)
    evidence = healthy_evidence(1, seed=2)[0]
    more = Evidence(evidence.residual_SHW + np.float32(0.2), evidence.nll_SHW + np.float32(0.5), EVERYWHERE)
    assert (voxels.map_of(more, STANDARDISED) >= voxels.map_of(evidence, STANDARDISED)).all()


# --- maps of the calibration scans themselves ------------------------------------------------------------------------


def test_a_left_out_map_is_that_of_a_calibration_without_the_scan() -> None:
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    maps = list(left_out_maps(voxels, evidence, STANDARDISED))
    assert len(maps) == 6
    for i, found in enumerate(maps):
        others = [each for j, each in enumerate(evidence) if j != i]
        without = replace(
            voxels,
            residual=HealthyReference.fit(np.stack([e.residual_SHW for e in others]), sigma_voxels=1.0),
            nll=HealthyReference.fit(np.stack([e.nll_SHW for e in others]), sigma_voxels=1.5),
        )
        np.testing.assert_allclose(found, without.map_of(evidence[i], STANDARDISED), rtol=2e-3, atol=1e-3)


def test_a_scan_standardised_by_itself_has_weaker_peaks() -> None:
    """Why it must be left out: thresholds from its own map would let too many findings of new scans through."""
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    apart = np.array([found.max() for found in left_out_maps(voxels, evidence, STANDARDISED)])
    itself = np.array([voxels.map_of(each, STANDARDISED).max() for each in evidence])
    new = np.array([voxels.map_of(each, STANDARDISED).max() for each in healthy_evidence(30, seed=8)])
    assert (apart > itself).all()
    assert abs(apart.mean() - new.mean()) < 0.5 * (new.mean() - itself.mean())


def test_the_papers_map_needs_no_leaving_out() -> None:
    evidence = healthy_evidence(3)
    voxels = calibrate_voxels(evidence, PAPER)
    for each, found in zip(evidence, left_out_maps(voxels, evidence, PAPER), strict=True):
        np.testing.assert_array_equal(found, voxels.map_of(each, PAPER))
    with pytest.raises(ValueError, match="no healthy tails"):
        voxels.map_of_standardised(evidence[0].residual_SHW, evidence[0].nll_SHW, EVERYWHERE)


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


@pytest.mark.parametrize("settings", [PAPER, STANDARDISED], ids=lambda s: s.voxel_map)
def test_a_calibration_comes_back_exactly(settings: DetectionSettings) -> None:
    saved = calibration_of([0.1 + 0.2, 1 / 3, 1e-300, 5.0], calibrate_voxels(healthy_evidence(4), settings))
    loaded = Calibration.from_json(json.loads(json.dumps(saved.to_json())), saved.arrays(), settings)
    assert loaded.thresholds == saved.thresholds
    assert loaded.healthy_scores == saved.healthy_scores
    assert (loaded.voxels.threshold, loaded.voxels.scale) == (saved.voxels.threshold, saved.voxels.scale)
    assert loaded.voxels.residual_tail == saved.voxels.residual_tail
    assert loaded.voxels.nll_tail == saved.voxels.nll_tail
    assert loaded.to_json() == saved.to_json()
    assert loaded.arrays().keys() == saved.arrays().keys()
    for name, array in saved.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array)
    new = healthy_evidence(1, seed=4)[0]
    np.testing.assert_array_equal(loaded.voxels.map_of(new, settings), saved.voxels.map_of(new, settings))


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
