"""Whole-scan statistics: named, finite, and far from usual where a scan was taken in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from mendscan.cohort.preparing import prepare
from mendscan.config import PreparationSettings
from mendscan.detection.acquisition import (
    GENERATIONS,
    STATISTICS,
    AcquisitionReference,
    acquisition_statistics,
    strangest,
)
from mendscan.detection.own_grid import OWN_GRID_STATISTICS, own_grid_statistics
from mendscan.volumes.volume import Volume, volume_from_array

SHAPE = (16, 20, 18)
GRID = PreparationSettings(shape_XYZ=(20, 18, 16), fit="resize", intensity="robust", background_below=0.0)


def scan(seed: int) -> np.ndarray:
    """The same anatomy with a subject's own detail and noise."""
    anatomy = gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 3.0) * 12
    own = np.random.default_rng(seed)
    detail = gaussian_filter(own.normal(size=SHAPE), 1.5) * 2
    return (anatomy + detail + 0.15 * own.normal(size=SHAPE)).astype(np.float32)


def remade(values: np.ndarray) -> np.ndarray:
    """What a few codes would make of a scan: its coarse part."""
    return gaussian_filter(values, 1.5)


def own(values: np.ndarray) -> np.ndarray:
    """The statistics of a scan that lies on the model grid already."""
    return own_grid_statistics(np.moveaxis(values, 0, 2), 1.0, GRID)


def distance(reference: AcquisitionReference, values: np.ndarray) -> float:
    return reference.length(reference.standardised(values, remade(values), own(values)))


def fitted(scans: list[np.ndarray]) -> AcquisitionReference:
    usual = np.mean(scans, axis=0).astype(np.float32)
    return AcquisitionReference.fit(
        usual, np.stack([acquisition_statistics(each, usual, remade(each), own(each)) for each in scans])
    )


@pytest.fixture(scope="module")
def reference() -> AcquisitionReference:
    return fitted([scan(seed) for seed in range(40)])


def test_every_statistic_has_a_name_of_its_own() -> None:
    found = acquisition_statistics(scan(0), scan(1), remade(scan(0)), own(scan(0)))
    assert len(found) == len(STATISTICS) == len(set(STATISTICS)) == GENERATIONS[-1]


def test_the_distance_is_of_a_likelihood_ratio() -> None:
    """log p(z | healthy and a departure) - log p(z | healthy) is half of its square, and a constant."""
    rng = np.random.default_rng(0)
    values_NK = rng.normal(size=(60, GENERATIONS[-1])) @ rng.normal(size=(GENERATIONS[-1],) * 2)
    known = AcquisitionReference.fit(np.zeros(SHAPE, np.float32), values_NK)
    n, departure = GENERATIONS[1], 0.3
    z_NK = np.clip((values_NK - known.centre) / known.spread, -12, 12)
    new_MK = rng.normal(size=(5, GENERATIONS[-1])) * 3
    ratios = np.zeros(5)
    for part in (slice(n), slice(n, None)):
        healthy = LedoitWolf(assume_centered=True).fit(z_NK[:, part]).covariance_
        departed = healthy + departure * np.eye(len(healthy))
        ratios += multivariate_normal(cov=departed).logpdf(new_MK[:, part])
        ratios -= multivariate_normal(cov=healthy).logpdf(new_MK[:, part])
    halves = np.array([known.length(new) ** 2 / 2 for new in new_MK])
    np.testing.assert_allclose(halves - halves[0], ratios - ratios[0], rtol=1e-6)


def test_what_healthy_scans_have_in_common_counts() -> None:
    """Statistics go together by twos, but for the last: to part two is stranger than that both or one be unusual."""
    rng = np.random.default_rng(0)
    one_NK, apart_NK = rng.normal(size=(2, 100, GENERATIONS[-1] // 2))
    pairs_NK = np.stack([one_NK, one_NK + 0.1 * apart_NK], axis=2).reshape(100, -1)
    known = AcquisitionReference.fit(np.zeros(SHAPE, np.float32), np.c_[pairs_NK, rng.normal(size=100)])
    together, apart, alone = np.zeros((3, GENERATIONS[-1]))
    together[:2], apart[:2], alone[-1] = (1, 1), (1, -1), np.sqrt(2)
    assert known.length(apart) > 1.5 * max(known.length(together), known.length(alone))


def test_scans_that_agree_wholly_have_a_finite_distance() -> None:
    known = AcquisitionReference.fit(np.zeros(SHAPE, np.float32), np.ones((4, GENERATIONS[-1])))
    assert known.length(np.zeros(GENERATIONS[-1])) == 0
    assert 0 < known.length(np.full(GENERATIONS[-1], 0.1)) < np.inf


@pytest.mark.parametrize("n", GENERATIONS[:-1])
def test_a_reference_of_an_earlier_version_compares_the_first(reference: AcquisitionReference, n: int) -> None:
    earlier = replace(reference, centre=reference.centre[:n], spread=reference.spread[:n], precision=np.eye(n))
    assert reference.is_whole
    assert not earlier.is_whole
    seen = scan(3), remade(scan(3)), own(scan(3))
    np.testing.assert_array_equal(earlier.standardised(*seen), reference.standardised(*seen)[:n])


def test_noise_that_anatomy_hides_stands_out_in_what_codes_leave_over() -> None:
    """Where subjects differ in fine detail, a little more noise is nothing until that detail is taken away."""

    def subject(seed: int) -> np.ndarray:
        own = np.random.default_rng(seed)
        return (scan(seed) + own.uniform(0.5, 3) * gaussian_filter(own.normal(size=SHAPE), 0.8)).astype(np.float32)

    def taken(seed: int, noise: float) -> np.ndarray:
        return subject(seed) + (noise * np.random.default_rng(seed + 1000).normal(size=SHAPE)).astype(np.float32)

    def seen(seed: int, noise: float, usual: np.ndarray) -> np.ndarray:
        values = taken(seed, noise)
        return acquisition_statistics(values, usual, subject(seed), own(values))

    usual = np.mean([taken(seed, 0.05) for seed in range(60)], axis=0).astype(np.float32)
    n_scan, n_remainder, *_ = GENERATIONS
    for columns, tells in ((slice(n_scan), False), (slice(n_remainder), True)):
        known = AcquisitionReference.fit(usual, np.stack([seen(seed, 0.05, usual)[columns] for seed in range(60)]))
        usually, noisier = (
            [known.length((found[columns] - known.centre) / known.spread) for found in new]
            for new in ([seen(seed, noise, usual) for seed in range(200, 220)] for noise in (0.05, 0.15))
        )
        assert (min(noisier) > max(usually)) == tells


def test_noise_that_resampling_smooths_stands_out_on_the_scans_own_voxels() -> None:
    """On the model grid, which lies a little differently in each scan, noise is weaker here and there by chance."""

    def volume(seed: int, noise: float) -> Volume:
        rng = np.random.default_rng(seed)
        shape = tuple(int(n + rng.integers(-3, 4)) for n in (24, 24, 24))
        anatomy = (
            gaussian_filter(np.random.default_rng(99).normal(size=(40, 40, 40)), 4.0)[tuple(map(slice, shape))] * 20
        )
        return volume_from_array(anatomy + noise * rng.normal(size=shape), np.eye(4), name="scan")

    settings = PreparationSettings(shape_XYZ=(24, 24, 24), fit="resize", intensity="robust", background_below=0.0)

    def apart(statistics: Callable[[Volume], np.ndarray]) -> float:
        """Return how much of the noisier scans' fine detail is above all that healthy scans have."""
        usual, noisier = (np.array([statistics(volume(seed, x)) for seed in range(40)]) for x in (0.2, 0.23))
        return float((noisier > usual.max()).mean())

    def on_grid(each: Volume) -> float:
        slices = prepare(each, settings).slices_SHW
        return acquisition_statistics(slices, slices, slices, np.zeros(0))[STATISTICS.index("typical noise")]

    def on_own_voxels(each: Volume) -> float:
        scale = prepare(each, settings).intensity_scale
        found = own_grid_statistics(each.voxels_XYZ, scale, settings)
        return found[OWN_GRID_STATISTICS.index("typical noise of own voxels")]

    assert apart(on_own_voxels) > 2 * apart(on_grid)


def test_new_healthy_scans_are_near(reference: AcquisitionReference) -> None:
    known = [distance(reference, scan(seed)) for seed in range(40)]
    new = [distance(reference, scan(seed)) for seed in range(100, 120)]
    assert np.median(new) < 2 * np.max(known)


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noisier": lambda x: x + 0.5 * np.random.default_rng(5).normal(size=SHAPE).astype(np.float32),
    "smoother": lambda x: gaussian_filter(x, 1.0),
    "inverted": lambda x: -x,
    "mirrored": lambda x: np.flip(x, 1),
    "shifted": lambda x: shift(x, (0, 5, 0), order=1, mode="nearest"),
    "every other slice brighter": lambda x: x + 0.4 * (np.arange(SHAPE[0]) % 2)[:, None, None].astype(np.float32),
    "brighter to one side": lambda x: x + np.linspace(-1, 1, SHAPE[2]).astype(np.float32),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_scan_taken_in_another_way_is_far(reference: AcquisitionReference, name: str) -> None:
    healthy = [distance(reference, scan(seed)) for seed in range(100, 120)]
    assert min(distance(reference, ALTERED[name](scan(seed))) for seed in range(100, 105)) > max(healthy)


def test_the_statistic_that_tells_is_the_one_that_departs(reference: AcquisitionReference) -> None:
    altered = ALTERED["every other slice brighter"](scan(100))
    z = reference.standardised(altered, remade(altered), own(altered))
    assert STATISTICS[int(np.argmax(np.abs(z)))] in {"alternation of slices", "fine detail along slices"}
    name, departs = strangest(z).rsplit(" ", 1)
    assert name in STATISTICS
    assert abs(float(departs)) > 5
    altered = ALTERED["mirrored"](scan(100))
    z = reference.standardised(altered, remade(altered), own(altered))
    assert z[STATISTICS.index("agreement when mirrored along rows")] > 5


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 4), (3, 3, 3)])
def test_tiny_and_constant_scans_have_finite_statistics(shape: tuple[int, int, int]) -> None:
    for values in (np.zeros(shape, np.float32), np.random.default_rng(0).normal(size=shape).astype(np.float32)):
        seen = acquisition_statistics(values, np.zeros(shape, np.float32), values, own(values))
        assert np.isfinite(seen).all()


def test_it_can_be_taken_apart_and_put_together(reference: AcquisitionReference) -> None:
    again = AcquisitionReference(**reference.arrays())
    assert distance(again, scan(7)) == distance(reference, scan(7))


def test_a_statistic_that_never_varied_says_nothing() -> None:
    """Along an axis of fewer than eight voxels there is no echo to see; in a scan with eight there is."""
    index = STATISTICS.index("strongest echo of own voxels along Z")
    rng = np.random.default_rng(0)
    healthy_NK = rng.normal(size=(30, len(STATISTICS)))
    healthy_NK[:, index] = 0.0
    reference = AcquisitionReference.fit(np.zeros(SHAPE, np.float32), healthy_NK)
    usual = (healthy_NK[0] - reference.centre) / reference.spread
    other = healthy_NK[0].copy()
    other[index] = -2.0
    assert reference.length((other - reference.centre) / reference.spread) == pytest.approx(reference.length(usual))
