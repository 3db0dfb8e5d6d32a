import numpy as np
import pytest

from mendscan.detection.standardising import HealthyReference, to_unit_interval
from mendscan.evaluation.baselines import AtlasBaseline, PcaBaseline, scan_score
from mendscan.evaluation.histograms import ScoreHistogram

SHAPE = (6, 16, 16)
BLOB = (slice(2, 4), slice(6, 10), slice(6, 10))


def healthy_scans(n, seed=0):
    """Three shared patterns in random amounts, some noise, and a background where all agree."""
    patterns = np.random.default_rng(99).normal(size=(3, *SHAPE))
    generator = np.random.default_rng(seed)
    scans = np.einsum("np,pshw->nshw", generator.normal(size=(n, 3)), patterns)
    scans += 0.1 * generator.normal(size=scans.shape)
    scans[:, :, :2] = 0
    return scans.astype(np.float32)


def with_blob(scan_SHW, height=3.0):
    planted_SHW, label_SHW = scan_SHW.copy(), np.zeros(SHAPE, bool)
    planted_SHW[BLOB] += np.float32(height)
    label_SHW[BLOB] = True
    return planted_SHW, label_SHW


@pytest.mark.parametrize("kind", [AtlasBaseline, PcaBaseline])
def test_a_planted_blob_scores_above(kind):
    baseline = kind.fit(healthy_scans(40))
    scan_SHW = healthy_scans(1, seed=1)[0]
    planted_SHW, label_SHW = with_blob(scan_SHW, height=8.0)
    map_SHW = baseline.residual(planted_SHW)
    assert map_SHW.dtype == np.float32
    assert map_SHW.shape == SHAPE
    assert map_SHW.min() >= 0
    assert scan_score(map_SHW) > scan_score(baseline.residual(scan_SHW))
    figures = ScoreHistogram.of(to_unit_interval(map_SHW, scale=1.0), label_SHW)
    assert figures.auroc > 0.95
    assert figures.average_precision > 0.5


def test_atlas_equals_its_formula():
    train_NSHW, scan_SHW = healthy_scans(10), healthy_scans(1, seed=1)[0]
    spread = train_NSHW.std(axis=0, ddof=1)
    floor = 0.1 * np.sqrt(np.mean(spread**2))
    expected = np.abs(scan_SHW - train_NSHW.mean(axis=0)) / np.maximum(spread, floor)
    np.testing.assert_allclose(AtlasBaseline.fit(train_NSHW).residual(scan_SHW), expected, rtol=1e-4, atol=1e-5)


def test_atlas_floor_holds_where_all_scans_agree():
    train_NSHW = healthy_scans(10)
    speck_SHW = train_NSHW.mean(axis=0)
    speck_SHW[:, 0, 0] += 1e-3
    assert AtlasBaseline.fit(train_NSHW).residual(speck_SHW).max() < 0.1


def test_pca_reproduces_the_span_of_its_training_scans():
    train_NSHW = healthy_scans(8)
    baseline = PcaBaseline.fit(train_NSHW)
    assert baseline.components_PSHW.shape == (7, *SHAPE)
    mixed_SHW = np.tensordot(np.float32([0.5, -1, 0.25, 2, 0, 0, -0.5, -0.25]), train_NSHW, axes=1)
    for scan_SHW in (*train_NSHW, mixed_SHW):
        assert baseline.residual(scan_SHW).max() < 1e-4


def test_pca_components_are_orthonormal_and_as_many_as_asked():
    baseline = PcaBaseline.fit(healthy_scans(20), components=3)
    flat_PD = baseline.components_PSHW.reshape(3, -1)
    np.testing.assert_allclose(flat_PD @ flat_PD.T, np.eye(3), atol=1e-5)


def test_pca_finds_the_shared_patterns():
    baseline = PcaBaseline.fit(healthy_scans(60), components=3)
    map_SHW = baseline.residual(healthy_scans(1, seed=5)[0])
    assert 0.06 < scan_score(map_SHW) < 0.1  # mean |noise| of sigma 0.1 is 0.08, less in the empty background


def test_pca_keeps_no_direction_without_variance():
    twice_NSHW = np.concatenate([healthy_scans(4), healthy_scans(4)])
    assert len(PcaBaseline.fit(twice_NSHW).components_PSHW) == 3
    same_NSHW = np.stack([healthy_scans(1)[0]] * 3)
    nothing = PcaBaseline.fit(same_NSHW)
    assert len(nothing.components_PSHW) == 0
    assert nothing.residual(same_NSHW[0] + 1).min() == pytest.approx(1, abs=1e-5)


def test_fit_leaves_its_input_alone():
    train_NSHW = healthy_scans(5)
    before = train_NSHW.copy()
    PcaBaseline.fit(train_NSHW).residual(train_NSHW[0])
    AtlasBaseline.fit(train_NSHW).residual(train_NSHW[0])
    np.testing.assert_array_equal(train_NSHW, before)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_scans_are_an_error(n):
    few_NSHW = healthy_scans(2)[:n]
    with pytest.raises(ValueError, match=f"found {n} healthy scans"):
        AtlasBaseline.fit(few_NSHW)
    with pytest.raises(ValueError, match=f"found {n} healthy scans"):
        PcaBaseline.fit(few_NSHW)


def test_settings_out_of_range_are_errors():
    scans_NSHW = healthy_scans(3)
    with pytest.raises(ValueError, match="components=0"):
        PcaBaseline.fit(scans_NSHW, components=0)
    with pytest.raises(ValueError, match="spread_floor"):
        AtlasBaseline.fit(scans_NSHW, spread_floor=0.0)
    with pytest.raises(ValueError, match="all healthy scans are the same"):
        AtlasBaseline.fit(np.zeros((3, *SHAPE), np.float32))


def test_standardising_a_baseline_makes_blobs_stand_out():
    baseline = PcaBaseline.fit(healthy_scans(40), components=3)
    maps_NSHW = np.stack([baseline.residual(scan) for scan in healthy_scans(20, seed=2)])
    scan_SHW = healthy_scans(1, seed=3)[0]
    planted_SHW, label_SHW = with_blob(scan_SHW, height=0.3)
    reference = HealthyReference.fit(maps_NSHW, sigma_voxels=1.0)
    healthy_SHW = reference.standardised(baseline.residual(scan_SHW))
    found_SHW = reference.standardised(baseline.residual(planted_SHW))
    assert abs(healthy_SHW.mean()) < 1
    assert found_SHW[BLOB].mean() > 3
    raw = ScoreHistogram.of(to_unit_interval(baseline.residual(planted_SHW), 0.1), label_SHW)
    refined = ScoreHistogram.of(to_unit_interval(found_SHW, 2.0), label_SHW)
    assert refined.average_precision > raw.average_precision
