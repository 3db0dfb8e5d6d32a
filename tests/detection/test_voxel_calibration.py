"""From evidence to maps: tails, references, maps of new scans and of the calibration scans themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from detection.evidence_cases import (
    EVERY_KIND,
    EVERYWHERE,
    LEVELLED,
    PAPER,
    SHAPE,
    STANDARDISED,
    evidence_of,
    healthy_evidence,
)
from mendscan.config import DetectionSettings
from mendscan.detection.evidence import KINDS, Evidence
from mendscan.detection.scoring import pooled_residual
from mendscan.detection.standardising import HealthyReference
from mendscan.detection.voxel_calibration import (
    HealthyKind,
    TailTable,
    VoxelCalibration,
    calibrate_voxels,
    left_out_maps,
)


def without(voxels: VoxelCalibration, others: list[Evidence], settings: DetectionSettings) -> VoxelCalibration:
    """The same calibration, with the healthy statistics of other scans."""
    kinds = {}
    for name, known in voxels.kinds.items():
        channels = [KINDS[name].channels(each) for each in others]
        sigma = KINDS[name].sigma(settings)
        references = [HealthyReference.fit(np.stack(maps), sigma_voxels=sigma) for maps in zip(*channels, strict=True)]
        kinds[name] = known if KINDS[name].relative else HealthyKind(tuple(references), known.tail)
    return replace(voxels, kinds=kinds)


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


@pytest.mark.parametrize(
    "settings", [PAPER, STANDARDISED, EVERY_KIND, LEVELLED], ids=["paper", "two kinds", "every kind", "levelled"]
)
@pytest.mark.parametrize("n", [2, 6])
def test_maps_are_in_the_unit_interval_whatever_the_evidence(settings: DetectionSettings, n: int) -> None:
    voxels = calibrate_voxels(healthy_evidence(n), settings)
    generator = np.random.default_rng(3)
    for scale in (0.0, 1.0, 1e6):
        drawn = (scale * generator.exponential(size=(4, *SHAPE))).astype(np.float32)
        evidence = Evidence(*drawn[:3], EVERYWHERE, drawn[3])
        found = voxels.map_of(evidence)
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
    np.testing.assert_array_equal(voxels.map_of(evidence[2]), maps[2])
    assert voxels.threshold == pytest.approx(np.quantile(maps, 0.9))
    assert not voxels.kinds


def test_the_standardised_map_is_its_formula() -> None:
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    new = healthy_evidence(1, seed=5)[0]
    residual = HealthyReference.fit(np.stack([e.residual_SHW for e in evidence]), sigma_voxels=1.0)
    nll = HealthyReference.fit(np.stack([e.nll_SHW for e in evidence]), sigma_voxels=1.5)
    first = voxels.kinds["residual"].tail(residual.standardised(new.residual_SHW))
    second = voxels.kinds["nll"].tail(nll.standardised(new.nll_SHW))
    combined = (first**3 + second**3) ** (1 / 3)
    np.testing.assert_allclose(voxels.map_of(new), combined / (combined + voxels.scale), rtol=1e-5)


def test_smoothing_is_narrower_in_voxels_along_an_axis_where_they_are_longer() -> None:
    thick = STANDARDISED.model_copy(update={"evidence": ("nll",), "voxel_aspect_SHW": (3.0, 1.0, 1.0)})
    evidence, new = healthy_evidence(6), healthy_evidence(1, seed=5)[0]
    voxels = calibrate_voxels(evidence, thick)
    nll = HealthyReference.fit(np.stack([e.nll_SHW for e in evidence]), sigma_voxels=(0.5, 1.5, 1.5))
    expected = voxels.kinds["nll"].tail(nll.standardised(new.nll_SHW))
    np.testing.assert_allclose(voxels.nats_of(new), expected, rtol=1e-5)
    again = VoxelCalibration.from_json(voxels.to_json(), voxels.arrays(), thick)
    np.testing.assert_array_equal(again.nats_of(new), voxels.nats_of(new))
    assert np.abs(calibrate_voxels(evidence, STANDARDISED).nats_of(new) - voxels.nats_of(new)).max() > 0.1


def test_the_healthy_threshold_is_one_half_and_a_quantile_of_scans_that_were_left_out() -> None:
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    assert voxels.threshold == 0.5
    above = []
    for i, left_out in enumerate(evidence):
        others = [each for j, each in enumerate(evidence) if j != i]
        above.append(without(voxels, others, STANDARDISED).map_of(left_out) > 0.5)
    assert np.mean(above) == pytest.approx(0.05, abs=2e-3)
    new = [voxels.map_of(each) > 0.5 for each in healthy_evidence(4, seed=7)]
    assert 0.02 < np.mean(new) < 0.1


@pytest.mark.parametrize("kind", ["residual", "nll", "both"])
def test_an_anomaly_stands_out_in_either_kind_of_evidence(kind: str) -> None:
    voxels = calibrate_voxels(healthy_evidence(8), STANDARDISED)
    evidence = healthy_evidence(1, seed=9)[0]
    before = voxels.map_of(evidence)
    where = np.zeros(SHAPE, bool)
    where[2:4, 4:8, 5:9] = True
    residual, nll = evidence.residual_SHW.copy(), evidence.nll_SHW.copy()
    residual[where] += 1.5 if kind != "nll" else 0
    nll[where] += 8 if kind != "residual" else 0
    found = voxels.map_of(replace(evidence, residual_SHW=residual, nll_SHW=nll))
    assert (found[where] > 0.5).mean() > 0.9
    assert (found[where] > before[where]).all()
    np.testing.assert_allclose(found[:, :, -1], before[:, :, -1], atol=0.01)


NLL_ALONE = STANDARDISED.model_copy(update={"evidence": ("nll",), "nll_level": "scan"})


def test_what_a_whole_scan_has_in_common_points_at_no_place_once_it_is_levelled() -> None:
    healthy, evidence = healthy_evidence(8), healthy_evidence(1, seed=9)[0]
    spread = HealthyReference.fit(np.stack([each.nll_SHW for each in healthy]), sigma_voxels=1.5).spread_SHW
    everywhere = replace(evidence, nll_SHW=evidence.nll_SHW + 3 * spread.mean())
    levelled = calibrate_voxels(healthy, NLL_ALONE)
    before, after = (levelled.map_of(each) for each in (evidence, everywhere))
    as_it_is = NLL_ALONE.model_copy(update={"nll_level": "cohort"})
    assert (after > 0.5).mean() < 0.1
    assert np.abs(after - before).mean() < 0.1
    assert (calibrate_voxels(healthy, as_it_is).map_of(everywhere) > 0.5).mean() > 0.5


def test_a_levelled_map_is_its_formula_over_what_is_scored() -> None:
    body = np.zeros(SHAPE, bool)
    body[:, 3:9, 3:11] = True
    healthy = [with_foreground(each, body) for each in healthy_evidence(6)]
    voxels = calibrate_voxels(healthy, NLL_ALONE)
    new = with_foreground(healthy_evidence(1, seed=5)[0], body)
    reference = HealthyReference.fit(np.stack([each.nll_SHW for each in healthy]), sigma_voxels=1.5)
    standardised = reference.standardised(new.nll_SHW)
    excess = standardised - np.median(standardised[body])
    np.testing.assert_allclose(voxels.excess_of(new)["nll"], excess, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(voxels.nats_of(new)[body], voxels.kinds["nll"].tail(excess)[body], rtol=1e-4)


def with_foreground(evidence: Evidence, foreground_SHW: np.ndarray) -> Evidence:
    return replace(evidence, foreground_SHW=foreground_SHW)


def test_where_neither_the_scan_nor_healthy_scans_show_anything_the_map_is_zero() -> None:
    body = np.zeros(SHAPE, bool)
    body[:, 3:9, 3:11] = True
    voxels = calibrate_voxels([with_foreground(e, body) for e in healthy_evidence(8)], STANDARDISED)
    odd = evidence_of(np.full(SHAPE, 9), np.full(SHAPE, 20), foreground_SHW=np.zeros(SHAPE, bool))
    assert (voxels.map_of(odd)[~body] == 0).all()
    assert (voxels.map_of(odd)[body] > 0.5).all(), "what is missing here is still scored"
    beside = np.zeros(SHAPE, bool)
    beside[2, 0:2, 0:2] = True
    assert (voxels.map_of(with_foreground(odd, beside))[beside] > 0.5).all(), "and what does not belong"


def test_more_evidence_never_lowers_the_map() -> None:
    voxels = calibrate_voxels(healthy_evidence(5), STANDARDISED)
    evidence = healthy_evidence(1, seed=2)[0]
    more = replace(evidence, residual_SHW=evidence.residual_SHW + 0.2, nll_SHW=evidence.nll_SHW + 0.5)
    assert (voxels.map_of(more) >= voxels.map_of(evidence)).all()


# --- maps of the calibration scans themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [STANDARDISED, EVERY_KIND, LEVELLED], ids=["two kinds", "every kind", "levelled"])
def test_a_left_out_map_is_that_of_a_calibration_without_the_scan(settings: DetectionSettings) -> None:
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, settings)
    maps = list(left_out_maps(voxels, evidence))
    assert len(maps) == 6
    for i, found in enumerate(maps):
        others = [each for j, each in enumerate(evidence) if j != i]
        expected = without(voxels, others, settings).map_of(evidence[i])
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_a_scan_standardised_by_itself_has_weaker_peaks() -> None:
    """Why it must be left out: thresholds from its own map would let too many findings of new scans through."""
    evidence = healthy_evidence(6)
    voxels = calibrate_voxels(evidence, STANDARDISED)
    apart = np.array([found.max() for found in left_out_maps(voxels, evidence)])
    itself = np.array([voxels.map_of(each).max() for each in evidence])
    new = np.array([voxels.map_of(each).max() for each in healthy_evidence(30, seed=8)])
    assert (apart > itself).all()
    assert abs(apart.mean() - new.mean()) < 0.5 * (new.mean() - itself.mean())


def test_the_papers_map_needs_no_leaving_out() -> None:
    evidence = healthy_evidence(3)
    voxels = calibrate_voxels(evidence, PAPER)
    for each, found in zip(evidence, left_out_maps(voxels, evidence), strict=True):
        np.testing.assert_array_equal(found, voxels.map_of(each))
    with pytest.raises(ValueError, match="no healthy tails"):
        voxels.nats_of_standardised({}, EVERYWHERE)
