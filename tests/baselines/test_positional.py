import numpy as np
import pytest
from sklearn.decomposition import PCA

from baselines.conftest import blob_SHW, prepared_array
from mendscan.baselines.positional import AtlasBaseline, PcaBaseline, fit_atlas, fit_pca
from mendscan.detection.standardising import HealthyReference, to_unit_interval
from mendscan.evaluation.histograms import ScoreHistogram

SHAPE = (6, 16, 16)
BLOB = (slice(2, 4), slice(6, 10), slice(6, 10))
EVERYWHERE = np.ones(SHAPE, bool)


def healthy_scans(n, seed=0):
    """Three shared patterns in random amounts, some noise, and a background where all agree."""
    patterns = np.random.default_rng(99).normal(size=(3, *SHAPE))
    generator = np.random.default_rng(seed)
    scans = np.einsum("np,pshw->nshw", generator.normal(size=(n, 3)), patterns)
    scans += 0.1 * generator.normal(size=scans.shape)
    scans[:, :, :2] = 0
    return scans.astype(np.float32)


def residual(baseline, scan_SHW):
    return baseline.residual(prepared_array(scan_SHW))


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
    map_SHW = residual(baseline, planted_SHW)
    assert map_SHW.dtype == np.float32
    assert map_SHW.shape == SHAPE
    assert map_SHW.min() >= 0
    assert baseline.scan_score(map_SHW, EVERYWHERE) > baseline.scan_score(residual(baseline, scan_SHW), EVERYWHERE)
    figures = ScoreHistogram.of(to_unit_interval(map_SHW, scale=1.0), label_SHW)
    assert figures.auroc > 0.95
    assert figures.average_precision > 0.5


def test_atlas_equals_its_formula():
    train_NSHW, scan_SHW = healthy_scans(10), healthy_scans(1, seed=1)[0]
    spread = train_NSHW.std(axis=0, ddof=1)
    floor = 0.1 * np.sqrt(np.mean(spread**2))
    expected = np.abs(scan_SHW - train_NSHW.mean(axis=0)) / np.maximum(spread, floor)
    np.testing.assert_allclose(residual(AtlasBaseline.fit(train_NSHW), scan_SHW), expected, rtol=1e-4, atol=1e-5)


def test_atlas_floor_holds_where_all_scans_agree():
    train_NSHW = healthy_scans(10)
    speck_SHW = train_NSHW.mean(axis=0)
    speck_SHW[:, 0, 0] += 1e-3
    assert residual(AtlasBaseline.fit(train_NSHW), speck_SHW).max() < 0.1


def test_pca_reproduces_the_span_of_its_training_scans():
    train_NSHW = healthy_scans(8)
    baseline = PcaBaseline.fit(train_NSHW)
    assert baseline.components_PSHW.shape == (7, *SHAPE)
    mixed_SHW = np.tensordot(np.float32([0.5, -1, 0.25, 2, 0, 0, -0.5, -0.25]), train_NSHW, axes=1)
    for scan_SHW in (*train_NSHW, mixed_SHW):
        assert residual(baseline, scan_SHW).max() < 1e-4


def test_pca_equals_that_of_scikit_learn():
    train_NSHW, scan_SHW = healthy_scans(12), healthy_scans(1, seed=1)[0]
    oracle = PCA(5, svd_solver="full").fit(train_NSHW.reshape(12, -1).astype(np.float64))
    rebuilt = oracle.inverse_transform(oracle.transform(scan_SHW.reshape(1, -1).astype(np.float64)))
    expected_SHW = np.abs(scan_SHW - rebuilt.reshape(SHAPE))
    baseline = PcaBaseline.fit(train_NSHW, components=5)
    np.testing.assert_allclose(residual(baseline, scan_SHW), expected_SHW, atol=1e-5)


def test_pca_components_are_orthonormal_and_as_many_as_asked():
    baseline = PcaBaseline.fit(healthy_scans(20), components=3)
    flat_PD = baseline.components_PSHW.reshape(3, -1)
    np.testing.assert_allclose(flat_PD @ flat_PD.T, np.eye(3), atol=1e-5)


def test_pca_finds_the_shared_patterns():
    baseline = PcaBaseline.fit(healthy_scans(60), components=3)
    score = baseline.scan_score(residual(baseline, healthy_scans(1, seed=5)[0]), EVERYWHERE)
    assert 0.06 < score < 0.1  # mean |noise| of sigma 0.1 is 0.08, less in the empty background


def test_pca_keeps_weak_directions_of_large_grids():
    generator = np.random.default_rng(0)
    strong, weak = generator.normal(size=(2, 1, 64, 512))
    amounts = generator.normal(size=(20, 2))
    train_NSHW = (amounts[:, :1, None, None] * strong + 0.002 * amounts[:, 1:, None, None] * weak)[:, None, 0]
    assert len(PcaBaseline.fit(train_NSHW.astype(np.float32)).components_PSHW) >= 2


def test_pca_keeps_no_direction_without_variance():
    twice_NSHW = np.concatenate([healthy_scans(4), healthy_scans(4)])
    assert len(PcaBaseline.fit(twice_NSHW).components_PSHW) == 3
    same_NSHW = np.stack([healthy_scans(1)[0]] * 3)
    nothing = PcaBaseline.fit(same_NSHW)
    assert len(nothing.components_PSHW) == 0
    assert residual(nothing, same_NSHW[0] + 1).min() == pytest.approx(1, abs=1e-5)


def test_fit_leaves_its_input_alone():
    train_NSHW = healthy_scans(5)
    before = train_NSHW.copy()
    residual(PcaBaseline.fit(train_NSHW), train_NSHW[0])
    residual(AtlasBaseline.fit(train_NSHW), train_NSHW[0])
    np.testing.assert_array_equal(train_NSHW, before)


@pytest.mark.parametrize("kind", [AtlasBaseline, PcaBaseline])
def test_half_precision_is_computed_in_full(kind):
    half_NSHW = healthy_scans(10).astype(np.float16)
    scan_SHW = healthy_scans(1, seed=1)[0]
    from_half, from_full = (residual(kind.fit(train), scan_SHW) for train in (half_NSHW, half_NSHW.astype(np.float32)))
    np.testing.assert_array_equal(from_half, from_full)


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
    maps_NSHW = np.stack([residual(baseline, scan) for scan in healthy_scans(20, seed=2)])
    scan_SHW = healthy_scans(1, seed=3)[0]
    planted_SHW, label_SHW = with_blob(scan_SHW, height=0.3)
    reference = HealthyReference.fit(maps_NSHW, sigma_voxels=1.0)
    healthy_SHW = reference.standardised(residual(baseline, scan_SHW))
    found_SHW = reference.standardised(residual(baseline, planted_SHW))
    assert abs(healthy_SHW.mean()) < 1
    assert found_SHW[BLOB].mean() > 3
    raw = ScoreHistogram.of(to_unit_interval(residual(baseline, planted_SHW), 0.1), label_SHW)
    refined = ScoreHistogram.of(to_unit_interval(found_SHW, 2.0), label_SHW)
    assert refined.average_precision > raw.average_precision


@pytest.mark.parametrize("fit", [fit_atlas, fit_pca])
def test_fitted_on_a_cohort_they_see_its_training_scans_only(fit, cohort):
    train_NSHW = cohort.train_NSHW()
    assert len(train_NSHW) == len(cohort.split.train)
    np.testing.assert_allclose(fit(cohort).mean_SHW, train_NSHW.astype(np.float64).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("fit", [fit_atlas, fit_pca])
def test_a_blob_in_a_new_scan_stands_out(fit, cohort, new_scan):
    map_SHW = fit(cohort).residual(new_scan(blob=3.0))
    outside = np.ones(map_SHW.shape, bool)
    outside[blob_SHW()] = False
    assert map_SHW[blob_SHW()].mean() > 2 * map_SHW[outside].mean()
