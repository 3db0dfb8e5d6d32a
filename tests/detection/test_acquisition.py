"""Whole-scan statistics: named, finite, and far from usual where a scan was taken in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from mendscan.detection.acquisition import (
    SCAN_STATISTICS,
    STATISTICS,
    AcquisitionReference,
    acquisition_statistics,
    strangest,
)

SHAPE = (16, 20, 18)


def scan(seed: int) -> np.ndarray:
    """The same anatomy with a subject's own detail and noise."""
    anatomy = gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 3.0) * 12
    own = np.random.default_rng(seed)
    detail = gaussian_filter(own.normal(size=SHAPE), 1.5) * 2
    return (anatomy + detail + 0.15 * own.normal(size=SHAPE)).astype(np.float32)


def remade(values: np.ndarray) -> np.ndarray:
    """What a few codes would make of a scan: its coarse part."""
    return gaussian_filter(values, 1.5)


def not_asked(values: np.ndarray) -> np.ndarray:
    raise AssertionError("nothing was to be reconstructed")


def distance(reference: AcquisitionReference, values: np.ndarray) -> float:
    return reference.length(reference.standardised(values, remade))


def fitted(scans: list[np.ndarray]) -> AcquisitionReference:
    return AcquisitionReference.fit(scans, map(remade, scans))


@pytest.fixture(scope="module")
def reference() -> AcquisitionReference:
    return fitted([scan(seed) for seed in range(40)])


def test_every_statistic_has_a_name_of_its_own() -> None:
    assert len(acquisition_statistics(scan(0), scan(1), remade(scan(0)))) == len(STATISTICS) == len(set(STATISTICS))
    assert len(acquisition_statistics(scan(0), scan(1))) == len(SCAN_STATISTICS)
    assert STATISTICS[: len(SCAN_STATISTICS)] == SCAN_STATISTICS


def test_a_reference_of_an_earlier_version_compares_the_scan_itself(reference: AcquisitionReference) -> None:
    n = len(SCAN_STATISTICS)
    earlier = replace(reference, centre=reference.centre[:n], spread=reference.spread[:n], precision=np.eye(n))
    assert reference.reads_remainder
    assert not earlier.reads_remainder
    np.testing.assert_array_equal(earlier.standardised(scan(3), not_asked), reference.standardised(scan(3), remade)[:n])


def test_noise_that_anatomy_hides_stands_out_in_what_codes_leave_over() -> None:
    """Where subjects differ in fine detail, a little more noise is nothing until that detail is taken away."""

    def subject(seed: int) -> np.ndarray:
        own = np.random.default_rng(seed)
        return (scan(seed) + own.uniform(0.5, 3) * gaussian_filter(own.normal(size=SHAPE), 0.8)).astype(np.float32)

    def taken(seed: int, noise: float) -> np.ndarray:
        return subject(seed) + (noise * np.random.default_rng(seed + 1000).normal(size=SHAPE)).astype(np.float32)

    train, new = range(60), range(200, 220)
    known = AcquisitionReference.fit([taken(seed, 0.05) for seed in train], map(subject, train))
    n = len(SCAN_STATISTICS)
    precision = np.linalg.inv(np.linalg.inv(known.precision)[:n, :n])
    blind = replace(known, centre=known.centre[:n], spread=known.spread[:n], precision=precision)
    seeing, without = (
        [
            [each.length(each.standardised(taken(seed, noise), lambda _, seed=seed: subject(seed))) for seed in new]
            for noise in (0.05, 0.15)
        ]
        for each in (known, blind)
    )
    assert min(seeing[1]) > max(seeing[0])
    assert min(without[1]) < max(without[0])


def test_new_healthy_scans_are_near(reference: AcquisitionReference) -> None:
    known = [distance(reference, scan(seed)) for seed in range(40)]
    new = [distance(reference, scan(seed)) for seed in range(100, 120)]
    assert np.median(new) < 1.5 * np.max(known)


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
    z = reference.standardised(altered, remade)
    assert STATISTICS[int(np.argmax(np.abs(z)))] in {"alternation of slices", "fine detail along slices"}
    name, departs = strangest(z).rsplit(" ", 1)
    assert name in STATISTICS
    assert abs(float(departs)) > 5
    altered = ALTERED["mirrored"](scan(100))
    z = reference.standardised(altered, remade)
    assert z[STATISTICS.index("agreement when mirrored along rows")] > 5


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 4), (3, 3, 3)])
def test_tiny_and_constant_scans_have_finite_statistics(shape: tuple[int, int, int]) -> None:
    for values in (np.zeros(shape, np.float32), np.random.default_rng(0).normal(size=shape).astype(np.float32)):
        assert np.isfinite(acquisition_statistics(values, np.zeros(shape, np.float32), values)).all()


def test_it_can_be_taken_apart_and_put_together(reference: AcquisitionReference) -> None:
    again = AcquisitionReference(**reference.arrays())
    assert distance(again, scan(7)) == distance(reference, scan(7))
