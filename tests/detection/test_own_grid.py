"""Statistics of a scan's own voxels: what they measure, and what they leave out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mendscan.config import PreparationSettings
from mendscan.detection.own_grid import OWN_GRID_STATISTICS, own_grid_statistics

SETTINGS = PreparationSettings(shape_XYZ=(8, 8, 8), fit="resize", intensity="robust", background_below=0.0)
IN_AIR = SETTINGS.model_copy(update={"background_below": 0.05})
SHAPE = (20, 24, 18)


def noise(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def statistics(
    voxels_XYZ: np.ndarray, scale: float = 1.0, settings: PreparationSettings = SETTINGS
) -> dict[str, float]:
    found = own_grid_statistics(voxels_XYZ.astype(np.float32), scale, settings)
    return dict(zip(OWN_GRID_STATISTICS, found.tolist(), strict=True))


def test_every_statistic_has_a_name_of_its_own() -> None:
    assert len(set(OWN_GRID_STATISTICS)) == len(statistics(noise(0))) == 40


def test_they_are_of_prepared_intensities_wherever_zero_is() -> None:
    one, other = statistics(noise(0)), statistics(1000 + 50 * noise(0), scale=50.0)
    assert list(other.values()) == pytest.approx(list(one.values()), abs=2e-3)


def test_white_noise_has_the_amounts_that_follow_from_its_variance() -> None:
    found = statistics(0.5 * noise(0, (60, 60, 60)))
    # Twice a voxel less its neighbours: 6 times the variance along one axis, 6³ times along all three.  Ends are 0.
    assert found["mean bend of own voxels along X"] == pytest.approx(np.log(6 * 0.25 * 58 / 60), abs=0.02)
    assert found["mean noise of own voxels"] == pytest.approx(np.log(6**3 * 0.25 * (58 / 60) ** 3), abs=0.03)
    assert found["likeness of own detail at lag 3 along Z"] == pytest.approx(0, abs=0.03)


def test_stripes_are_told_by_their_axis_and_period() -> None:
    stripes = noise(0) + (np.arange(SHAPE[1]) % 3 == 0)[:, None]
    changed = {name: abs(value - statistics(noise(0))[name]) for name, value in statistics(stripes).items()}
    lags = {name: change for name, change in changed.items() if "lag 3" in name}
    assert max(lags, key=lags.__getitem__) == "likeness of own detail at lag 3 along Y"


@pytest.mark.parametrize("away", [5, 8, 13])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_faint_echo_is_told_by_its_axis(away: int, sign: int) -> None:
    """An echo of a fifth; the noise is smooth, as anatomy is, so that most lines of k-space are weak."""
    healthy = [gaussian_filter(noise(seed, (50, 60, 40)), 0.7, mode="wrap") for seed in range(20)]
    names = [f"strongest echo of own voxels along {axis}" for axis in "XYZ"]
    usually = np.array([[statistics(scan)[name] for name in names] for scan in healthy])
    for seen in healthy[:5]:
        found = statistics(seen + sign * 0.2 * np.roll(seen, away, axis=1))
        apart = (np.array([found[name] for name in names]) - usually.mean(axis=0)) / usually.std(axis=0)
        assert apart[1] > 8
        assert np.abs(apart[[0, 2]]).max() < 4


def test_how_strong_an_echo_is_follows_from_its_share() -> None:
    """The logarithm of |1 + a exp(iθ)|² is 2a cos θ - a² cos 2θ + …, and the peak half of its first wave."""
    n, away, share = 64, 16, 0.1
    seen = noise(0, (n, 60, 60))
    found = np.exp(statistics(seen + share * np.roll(seen, away, axis=0))["strongest echo of own voxels along X"])
    assert found == pytest.approx(share, abs=0.02)


def test_a_scan_with_fewer_slices_has_no_other_echo() -> None:
    name = "strongest echo of own voxels along Z"
    usually = [statistics(gaussian_filter(noise(k, (40, 40, k)), 0.7))[name] for k in (40, 30, 26, 24, 22, 18)]
    assert max(usually) - min(usually) < 2


def test_edges_have_detail_of_all_sizes_in_the_same_places_and_noise_has_not() -> None:
    edges = 5.0 * (gaussian_filter(noise(0, (40, 40, 40)), 4.0) > 0) + 0.02 * noise(1, (40, 40, 40))
    seen, noisy = statistics(edges), statistics(edges + noise(2, (40, 40, 40)))
    names = [name for name in OWN_GRID_STATISTICS if name.startswith("agreement of")]
    assert len(names) == 9
    assert all(seen[name] > noisy[name] + 0.2 for name in names)


def test_how_evenly_steps_are_spread_is_an_entropy() -> None:
    even, edge = np.empty(SHAPE), np.zeros(SHAPE)
    even[:] = np.arange(SHAPE[0])[:, None, None]
    edge[7:] = 1
    # Over one of 19 steps along X all that there is.
    assert statistics(even)["evenness of own steps along X"] == pytest.approx(0, abs=1e-6)
    assert statistics(edge)["evenness of own steps along X"] == pytest.approx(-np.log(19), abs=1e-6)


def test_interpolation_binds_neighbours() -> None:
    half_way = (noise(0)[1:] + noise(0)[:-1]) / 2
    name = "likeness of own detail at lag 1 along X"
    assert statistics(half_way)[name] > statistics(noise(0))[name] + 0.2


def test_background_is_left_out_where_the_plan_has_one() -> None:
    head = np.zeros((40, 40, 40), np.float32)
    head[10:30, 10:30, 10:30] = 10 + noise(0, (20, 20, 20))
    name = "typical noise of own voxels"
    # Half of a normal variable's absolute values are below 0.674 standard deviations.
    assert statistics(head, settings=IN_AIR)[name] == pytest.approx(np.log(0.674 * 6**1.5), abs=0.05)
    assert statistics(head)[name] == pytest.approx(np.log(1e-3), abs=0.01)


def test_of_a_long_axis_the_middle_is_read() -> None:
    long = noise(0, (300, 5, 4))
    outside, inside = long.copy(), long.copy()
    outside[:50], inside[150] = 100, 100
    assert statistics(outside) == statistics(long)
    assert statistics(inside) != statistics(long)


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("settings", [SETTINGS, IN_AIR], ids=["all", "in air"])
def test_flat_and_constant_scans_have_finite_statistics(
    shape: tuple[int, int, int], settings: PreparationSettings
) -> None:
    for voxels in (noise(0, shape), np.zeros(shape), gaussian_filter(noise(1, shape), 1.0)):
        assert np.isfinite(list(statistics(voxels, settings=settings).values())).all()
