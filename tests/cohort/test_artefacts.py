"""Whole-scan artefacts: each does what its formula says, and plainer is more."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cohort.conftest import structured_scan
from mendscan.cohort.anomaly_reference import reference_of
from mendscan.cohort.artefacts import ARTEFACTS, apply_artefact
from mendscan.cohort.foreground import foreground_of
from mendscan.errors import SettingsError


def done(kind: str, voxels: np.ndarray, *, seed: int = 0, severity: float = 0.5) -> tuple[np.ndarray, float]:
    reference = reference_of(voxels, foreground_of(voxels))
    rng = np.random.default_rng(seed)
    return apply_artefact(voxels, kind, rng=rng, reference=reference, severity=severity)


def lifted(shape: tuple[int, int, int] = (40, 44, 36)) -> np.ndarray:
    """A scan far above its smallest value, so that no magnitude folds over."""
    voxels = structured_scan(background=False, shape=shape)
    voxels[0, 0, 0] = -900.0
    return voxels


@pytest.mark.parametrize("kind", ARTEFACTS)
@pytest.mark.parametrize("background", [True, False])
def test_artefacts_are_pure_seeded_and_finite(kind: str, background: bool) -> None:
    voxels = structured_scan(background=background)
    before = voxels.copy()
    first, second, other = (done(kind, voxels, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(voxels, before)
    np.testing.assert_array_equal(first, second)
    assert first.shape == voxels.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert (first != voxels).any()
    assert (first != other).any() or kind in ("flip", "contrast")


@pytest.mark.parametrize("kind", ARTEFACTS)
@pytest.mark.parametrize("scale", [2.0**-14, 2.0**14])
def test_scaling_the_scan_scales_the_artefact(kind: str, scale: float) -> None:
    voxels = structured_scan()
    plain, strength = done(kind, voxels)
    scaled, scaled_strength = done(kind, voxels * np.float32(scale))
    np.testing.assert_allclose(scaled / scale, plain, rtol=1e-3, atol=2e-3)
    assert scaled_strength == pytest.approx(strength, rel=1e-3)


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_plainer_is_more(kind: str) -> None:
    voxels = structured_scan()
    faint, medium, plain = (
        np.mean([done(kind, voxels, seed=seed, severity=severity)[1] for seed in range(6)])
        for severity in (1 / 6, 1 / 2, 5 / 6)
    )
    assert 0.02 < faint < medium < plain


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_strength_is_the_rms_over_the_foreground_in_spreads(kind: str) -> None:
    voxels = structured_scan()
    altered, strength = done(kind, voxels)
    inside = voxels[foreground_of(voxels)]
    spread = np.subtract(*np.quantile(inside, [0.75, 0.25])) / 1.349
    change = (altered - voxels)[foreground_of(voxels)]
    assert strength == pytest.approx(np.sqrt(np.mean(change**2)) / spread, rel=1e-4)


def test_noise_is_rician() -> None:
    voxels = structured_scan()
    voxels[foreground_of(voxels)] += 400.0
    altered, strength = done("noise", voxels, severity=0.0)
    background = altered[~foreground_of(voxels)]
    sigma = background.mean() / np.sqrt(np.pi / 2)
    assert stats.kstest(background[::7], stats.rayleigh(scale=sigma).cdf).pvalue > 1e-3
    assert (altered - voxels)[foreground_of(voxels)].std() == pytest.approx(sigma, rel=0.05)
    assert strength == pytest.approx(0.12, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_ghosts_are_shifted_copies(seed: int) -> None:
    voxels = lifted((60, 60, 60))
    altered, _ = done("ghosting", voxels, seed=seed, severity=0.0)
    errors = []
    for axis in range(3):
        for every in range(2, 6):
            varying = voxels - voxels.mean(axis=axis, keepdims=True)
            ghosts = sum(np.roll(varying, j * 60 // every, axis) for j in range(every))
            for sign in (-1, 1):
                predicted = voxels + sign * 0.15 / np.sqrt(every - 1) * ghosts
                errors.append(np.quantile(np.abs(altered - predicted), 0.99))
    assert min(errors) < 1e-2 < np.median(errors)


@pytest.mark.parametrize("size", [59, 61])
@pytest.mark.parametrize("seed", range(4))
def test_ghosts_are_as_strong_where_no_number_of_lines_divides_the_axis(seed: int, size: int) -> None:
    """Lines counted from the first on, not by their frequencies, would leave ghosts that are partly imaginary."""
    found = []
    for n in (60, size):
        voxels = lifted((n, n, n))
        altered, _ = done("ghosting", voxels, seed=seed, severity=0.0)
        found.append(np.std(altered - voxels) / np.std(voxels))
    assert found[1] == pytest.approx(found[0], rel=0.1)


@pytest.mark.parametrize("seed", range(12))
def test_ghosts_are_never_nothing(seed: int) -> None:
    """A stack of four thick slices has no fifth line of k-space along them."""
    voxels = lifted((40, 40, 4))
    _, strength = done("ghosting", voxels, seed=seed, severity=0.5)
    assert strength > 0.02


def test_gibbs_rings_at_an_edge() -> None:
    voxels = np.zeros((64, 64, 64), dtype=np.float32)
    voxels[16:48, 16:48, 16:48] = 100.0 + np.random.default_rng(0).standard_normal((32, 32, 32))
    altered, _ = done("gibbs", voxels, severity=1.0)
    overshoot = altered[:, 30:34, 30:34].max() / 100.0, altered[30:34, :, 30:34].max() / 100.0
    assert 1.04 < max(overshoot) < 1.35
    assert altered[:8, 24:40, 24:40].max() > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_spikes_are_one_to_three_points_of_kspace(seed: int) -> None:
    voxels = lifted()
    altered, strength = done("spikes", voxels, seed=seed)
    power = np.abs(np.fft.fftn(altered.astype(np.float64) - voxels)) ** 2
    strong = np.flatnonzero(power > 1e-4 * power.max())
    assert 2 <= len(strong) <= 6
    assert power.ravel()[strong].sum() > 0.999 * power.sum()
    assert strength == pytest.approx(np.sqrt(0.15 * 1.0), rel=0.02)


def test_bias_is_smooth_and_leaves_the_background() -> None:
    voxels = structured_scan()
    altered, _ = done("bias", voxels, severity=1.0)
    inside = foreground_of(voxels)
    np.testing.assert_array_equal(altered[~inside], voxels[~inside])
    field = np.log(altered[inside] / voxels[inside])
    assert 0.85 < np.abs(field).max() <= 0.9001
    whole = np.zeros_like(voxels)
    whole[inside] = field
    both = inside[1:] & inside[:-1]
    assert np.abs(np.diff(whole, axis=0))[both].max() < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_motion_keeps_what_is_still_and_disturbs_the_rest(seed: int) -> None:
    voxels = lifted()
    altered, _ = done("motion", voxels, seed=seed, severity=1.0)
    assert altered.mean() == pytest.approx(voxels.mean(), rel=0.01)
    changed = np.abs(np.fft.fftn(altered.astype(np.float64) - voxels))
    along = [changed.max(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    assert min(line[0] / line.max() for line in along) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_dropout_loses_whole_slices_of_one_axis(seed: int) -> None:
    voxels = structured_scan()
    altered, _ = done("dropout", voxels, seed=seed, severity=1.0)
    touched = [(altered != voxels).any(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    axis = int(np.argmin([one.mean() for one in touched]))
    lost = np.flatnonzero(touched[axis])
    used = foreground_of(voxels).any(axis=tuple(a for a in range(3) if a != axis)).sum()
    assert len(lost) == round(0.25 * used)
    assert (np.take(altered, lost, axis) == voxels.min()).all()


def test_flip_goes_through_the_axes_from_the_most_alike_on() -> None:
    voxels = structured_scan()
    voxels[20:] = voxels[19::-1] + np.random.default_rng(0).standard_normal((20, 44, 36)) * (voxels[19::-1] > 0)
    flipped = [done("flip", voxels, severity=severity)[0] for severity in (0.0, 0.5, 1.0)]
    np.testing.assert_array_equal(flipped[0], voxels[::-1])
    assert {next(a for a in range(3) if (one == np.flip(voxels, a)).all()) for one in flipped} == {0, 1, 2}


def test_crop_shifts_or_enlarges() -> None:
    x, y, z = np.ogrid[:40, :44, :36]
    ramp = (1000.0 + x + 50.0 * y + 2500.0 * z).astype(np.float32)
    seen = set()
    for seed in range(12):
        altered, _ = done("crop", ramp, seed=seed, severity=0.5)
        slopes = [np.median(np.diff(altered, axis=a)) / step for a, step in enumerate((1.0, 50.0, 2500.0))]
        if np.allclose(slopes, 1.0, atol=0.01):
            inner = (altered - ramp)[14:26, 14:30, 14:22]
            assert np.ptp(inner) == 0.0 != inner[0, 0, 0]
            seen.add("shift")
        else:
            np.testing.assert_allclose(slopes, 1 / 1.34, atol=0.01)
            seen.add("zoom")
    assert seen == {"shift", "zoom"}


@pytest.mark.parametrize(("severity", "sign"), [(0.0, 1.0), (0.6, 1.0), (0.7, -1.0), (1.0, -1.0)])
def test_contrast_is_monotone_below_two_thirds_and_inverted_above(severity: float, sign: float) -> None:
    voxels = structured_scan()
    altered, _ = done("contrast", voxels, severity=severity)
    inside = foreground_of(voxels)
    np.testing.assert_array_equal(altered[~inside], voxels[~inside])
    assert stats.spearmanr(voxels[inside], altered[inside]).statistic == pytest.approx(sign, abs=1e-3)
    assert np.abs(altered[inside] - voxels[inside]).max() > 5.0


def test_nonsense_is_refused() -> None:
    with pytest.raises(SettingsError, match="noise, ghosting"):
        done("nois", structured_scan())
    with pytest.raises(ValueError, match="severity"):
        done("noise", structured_scan(), severity=1.2)
