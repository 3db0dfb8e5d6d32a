"""Maps against what is usual in healthy scans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from mendscan.detection.standardising import (
    SPREAD_FLOOR,
    HealthyReference,
    floored,
    leave_one_out,
    mean_and_spread,
    smoothed,
    to_unit_interval,
)

SHAPE = (6, 16, 16)
BLOB = (slice(2, 4), slice(6, 10), slice(6, 10))


def healthy_maps(n: int, seed: int = 0) -> np.ndarray:
    """Maps with more spread in some places than in others, and a background where all agree."""
    width = np.random.default_rng(99).uniform(0.5, 2.0, size=SHAPE)
    maps = np.abs(width * np.random.default_rng(seed).normal(size=(n, *SHAPE)))
    maps[:, :, :2] = 0
    return maps.astype(np.float32)


# --- the reference ---------------------------------------------------------------------------------------------------


def test_standardised_healthy_maps_are_around_zero_and_blobs_are_not() -> None:
    reference = HealthyReference.fit(healthy_maps(40), sigma_voxels=1.0)
    new_SHW = healthy_maps(1, seed=1)[0]
    planted_SHW = new_SHW.copy()
    planted_SHW[BLOB] += 3
    assert abs(reference.standardised(new_SHW).mean()) < 0.3
    assert reference.standardised(planted_SHW)[BLOB].mean() > 3


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_smoothing_comes_before_the_statistics(sigma: float) -> None:
    maps_NSHW = healthy_maps(6)
    smooth_NSHW = np.stack([gaussian_filter(each, sigma, mode="nearest") for each in maps_NSHW])
    mean = gaussian_filter(smooth_NSHW.mean(axis=0), sigma, mode="nearest")
    spread = gaussian_filter(smooth_NSHW.std(axis=0, ddof=1), sigma, mode="nearest")
    spread = np.maximum(spread, SPREAD_FLOOR * np.sqrt(np.mean(spread**2)))
    found = HealthyReference.fit(maps_NSHW, sigma_voxels=sigma).standardised(maps_NSHW[0])
    np.testing.assert_allclose(found, (smooth_NSHW[0] - mean) / spread, rtol=1e-3, atol=1e-4)


def test_the_floor_holds_where_all_agree() -> None:
    maps_NSHW = healthy_maps(6)
    reference = HealthyReference.fit(maps_NSHW, sigma_voxels=0.0)
    assert reference.spread_SHW.min() > 0
    speck_SHW = maps_NSHW.mean(axis=0)
    speck_SHW[:, 0, 0] += 1e-3
    assert np.abs(reference.standardised(speck_SHW)[:, :2]).max() < 0.1


def test_mean_and_spread_are_numpys() -> None:
    maps_NSHW = 1e4 + healthy_maps(5)
    mean, spread = mean_and_spread(maps_NSHW)
    np.testing.assert_allclose(mean, maps_NSHW.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(spread, maps_NSHW.astype(np.float64).std(0, ddof=1), rtol=1e-5)
    assert mean.dtype == spread.dtype == np.float32


def test_fitting_leaves_its_input_alone() -> None:
    maps_NSHW = healthy_maps(5)
    before = maps_NSHW.copy()
    HealthyReference.fit(maps_NSHW, sigma_voxels=1.0).standardised(maps_NSHW[0])
    leave_one_out(maps_NSHW, sigma_voxels=1.0)
    np.testing.assert_array_equal(maps_NSHW, before)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_maps_are_an_error(n: int) -> None:
    for learn in (HealthyReference.fit, leave_one_out):
        with pytest.raises(ValueError, match=f"found {n} healthy scans"):
            learn(healthy_maps(2)[:n], sigma_voxels=1.0)


def test_settings_out_of_range_are_errors() -> None:
    maps_NSHW = healthy_maps(3)
    for sigma in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma_voxels"):
            HealthyReference.fit(maps_NSHW, sigma_voxels=sigma)
        with pytest.raises(ValueError, match="sigma_voxels"):
            smoothed(maps_NSHW[0], sigma)
    for floor in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="spread_floor"):
            floored(maps_NSHW[0], floor)
    with pytest.raises(ValueError, match="all healthy scans are the same"):
        HealthyReference.fit(np.ones((3, *SHAPE), np.float32), sigma_voxels=0.0)


# --- leaving one out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("n", [3, 4, 9])
def test_leaving_one_out_is_fitting_again_without_it(n: int, sigma: float) -> None:
    maps_NSHW = healthy_maps(n)
    found_NSHW = leave_one_out(maps_NSHW, sigma_voxels=sigma)
    for i in range(n):
        others_NSHW = np.delete(maps_NSHW, i, axis=0)
        expected = HealthyReference.fit(others_NSHW, sigma_voxels=sigma).standardised(maps_NSHW[i])
        np.testing.assert_allclose(found_NSHW[i], expected, rtol=1e-3, atol=1e-4)


def test_leaving_one_out_survives_a_large_common_offset() -> None:
    maps_NSHW = np.float32(1000) + healthy_maps(6)
    found_NSHW = leave_one_out(maps_NSHW, sigma_voxels=0.0)
    for i in range(6):
        expected = HealthyReference.fit(np.delete(maps_NSHW, i, axis=0), sigma_voxels=0.0).standardised(maps_NSHW[i])
        np.testing.assert_allclose(found_NSHW[i], expected, rtol=2e-3, atol=2e-3)


def test_a_scan_looks_less_usual_when_it_is_left_out() -> None:
    maps_NSHW = healthy_maps(5)
    reference = HealthyReference.fit(maps_NSHW, sigma_voxels=0.0)
    within = np.stack([reference.standardised(each) for each in maps_NSHW])
    assert leave_one_out(maps_NSHW, sigma_voxels=0.0).std() > 1.3 * within.std()


def test_with_two_maps_both_count() -> None:
    maps_NSHW = healthy_maps(2)
    reference = HealthyReference.fit(maps_NSHW, sigma_voxels=1.0)
    expected = np.stack([reference.standardised(each) for each in maps_NSHW])
    np.testing.assert_array_equal(leave_one_out(maps_NSHW, sigma_voxels=1.0), expected)


# --- the unit interval -----------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (1, 2, 6), elements=st.floats(-10, 1e6, width=32)), st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_unit_interval_keeps_the_order(map_SHW: np.ndarray, scale: float) -> None:
    unit_SHW = to_unit_interval(map_SHW, scale)
    assert unit_SHW.dtype == np.float32
    assert unit_SHW.min() >= 0
    assert unit_SHW.max() <= 1
    order = np.argsort(map_SHW, axis=None)
    assert np.all(np.diff(unit_SHW.ravel()[order]) >= 0)
    assert np.all(unit_SHW[map_SHW <= 0] == 0)


def test_the_scale_is_worth_one_half() -> None:
    assert to_unit_interval(np.full((1, 1, 1), 0.37), 0.37).item() == 0.5


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_unit_interval_needs_a_positive_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        to_unit_interval(np.ones((1, 1, 1)), scale)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unit_interval_needs_finite_maps(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        to_unit_interval(np.full((1, 1, 1), bad), 1.0)
