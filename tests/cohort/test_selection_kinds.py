"""The family that settings are chosen on: nothing in common with the reported one, and each kind does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cohort.conftest import structured_scan
from mendscan.cohort.anomaly_blobs import blob_weight
from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.anomaly_reference import reference_of
from mendscan.cohort.foreground import foreground_of
from mendscan.cohort.selection_kinds import SELECTION_KINDS

SHAPE = (40, 44, 36)


def blob(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return blob_weight(SHAPE, (20, 22, 18), radius_mm=9.0, spacing_mm=(1.0, 1.0, 1.0), rng=rng)


def done(kind: str, voxels: np.ndarray, weight: np.ndarray, *, seed: int = 0) -> np.ndarray:
    reference = reference_of(voxels, foreground_of(voxels))
    return SELECTION_KINDS[kind](voxels, weight, rng=np.random.default_rng(seed), reference=reference)


def test_the_two_families_share_no_name_and_no_function() -> None:
    assert not set(KINDS) & set(SELECTION_KINDS)
    assert not set(KINDS.values()) & set(SELECTION_KINDS.values())


@pytest.mark.parametrize("seed", range(4))
def test_rim_changes_the_shell_one_way_and_the_core_less_the_other_way(seed: int) -> None:
    voxels, weight = structured_scan(background=False), blob()
    change = (done("rim", voxels, weight, seed=seed) - voxels)[weight > 0]
    depth = ndimage.distance_transform_edt(weight > 0)[weight > 0]
    full = weight[weight > 0] > 0.9
    shell, core = change[full & (depth < 0.6 * depth.max())].mean(), change[depth > 0.9 * depth.max()].mean()
    assert shell * core < 0
    assert abs(core) < 0.7 * abs(shell)


def test_inverted_turns_dark_spots_bright_and_stays_in_range() -> None:
    voxels, weight = structured_scan(background=False), blob()
    altered = done("inverted", voxels, weight)
    core = weight == 1.0
    detail = [(v - ndimage.gaussian_filter(v, 2.0))[core] for v in (voxels, altered)]
    assert np.corrcoef(*detail)[0, 1] < -0.7
    assert voxels.min() <= altered.min() < altered.max() <= voxels.max()


@pytest.mark.parametrize("seed", range(4))
def test_stripes_keep_the_mean_and_are_one_frequency(seed: int) -> None:
    voxels, weight = structured_scan(background=False), blob()
    reference = reference_of(voxels, foreground_of(voxels))
    change = done("stripes", voxels, weight, seed=seed).astype(np.float64) - voxels
    assert abs(change.sum()) / weight.sum() < 1e-3 * reference.spread
    power = np.abs(np.fft.fftn(change, (64, 64, 64), axes=(0, 1, 2))) ** 2
    peak = np.unravel_index(np.argmax(power), power.shape)
    period = 1.0 / np.linalg.norm([np.fft.fftfreq(64)[k] for k in peak])
    assert 2.7 < period < 9.0
    assert change[weight == 1].std() == pytest.approx(change[weight == 1].max() / np.sqrt(2), rel=0.25)


def test_shuffled_holds_the_same_values_in_other_places() -> None:
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[11:29, 13:31, 9:27] = np.kron(np.arange(27.0).reshape(3, 3, 3), np.ones((6, 6, 6)))
    weight = np.zeros(SHAPE, dtype=np.float32)
    weight[11:29, 13:31, 9:27] = 1.0
    altered = done("shuffled", voxels, weight)
    middles = tuple(slice(first + 3, first + 18, 6) for first in (11, 13, 9))
    assert sorted(altered[middles].ravel().round(3).tolist()) == list(range(27))
    assert (altered[middles] != voxels[middles]).all()


@pytest.mark.parametrize("seed", range(6))
def test_turned_is_a_rotation_and_interpolates_nothing(seed: int) -> None:
    voxels = structured_scan(background=False)
    weight = np.zeros(SHAPE, dtype=np.float32)
    weight[12:29, 14:31, 10:27] = 1.0
    cube = (slice(12, 29), slice(14, 31), slice(10, 27))
    altered, before = done("turned", voxels, weight, seed=seed)[cube], voxels[cube]
    rotations = [
        np.rot90(np.rot90(np.rot90(before, a, (0, 1)), b, (1, 2)), c, (0, 2))
        for a in range(4)
        for b in range(4)
        for c in range(4)
    ]
    assert any(np.allclose(altered, one, rtol=1e-6) for one in rotations)
    assert not np.allclose(altered, before)


def test_faded_lowers_coarse_and_fine_contrast_and_keeps_the_level() -> None:
    voxels, weight = structured_scan(background=False), blob()
    altered, core = done("faded", voxels, weight), weight == 1.0
    for low, high in ((0.0, 1.5), (1.5, 4.0)):
        before, after = (
            (ndimage.gaussian_filter(v, low) - ndimage.gaussian_filter(v, high))[core].std() for v in (voxels, altered)
        )
        assert after < 0.8 * before
    assert abs(altered[core].mean() - voxels[core].mean()) < 0.25 * voxels[core].std()
