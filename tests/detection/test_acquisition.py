"""Whole-scan statistics: named, finite, and far from usual where a scan was taken in another way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from mendscan.detection.acquisition import STATISTICS, AcquisitionReference, acquisition_statistics, strangest

SHAPE = (16, 20, 18)


def scan(seed: int) -> np.ndarray:
    """The same anatomy with a subject's own detail and noise."""
    anatomy = gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 3.0) * 12
    own = np.random.default_rng(seed)
    detail = gaussian_filter(own.normal(size=SHAPE), 1.5) * 2
    return (anatomy + detail + 0.15 * own.normal(size=SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> AcquisitionReference:
    return AcquisitionReference.fit(scan(seed) for seed in range(40))


def test_every_statistic_has_a_name_of_its_own() -> None:
    assert len(acquisition_statistics(scan(0), scan(1))) == len(STATISTICS) == len(set(STATISTICS))


def test_new_healthy_scans_are_near(reference: AcquisitionReference) -> None:
    known = [reference.distance(scan(seed)) for seed in range(40)]
    new = [reference.distance(scan(seed)) for seed in range(100, 120)]
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
    healthy = [reference.distance(scan(seed)) for seed in range(100, 120)]
    assert min(reference.distance(ALTERED[name](scan(seed))) for seed in range(100, 105)) > max(healthy)


def test_the_statistic_that_tells_is_the_one_that_departs(reference: AcquisitionReference) -> None:
    z = reference.standardised(ALTERED["every other slice brighter"](scan(100)))
    assert STATISTICS[int(np.argmax(np.abs(z)))] in {"alternation of slices", "fine detail along slices"}
    name, departs = strangest(z).rsplit(" ", 1)
    assert name in STATISTICS
    assert abs(float(departs)) > 5
    z = reference.standardised(ALTERED["mirrored"](scan(100)))
    assert z[STATISTICS.index("agreement when mirrored along rows")] > 5


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 4), (3, 3, 3)])
def test_tiny_and_constant_scans_have_finite_statistics(shape: tuple[int, int, int]) -> None:
    for values in (np.zeros(shape, np.float32), np.random.default_rng(0).normal(size=shape).astype(np.float32)):
        assert np.isfinite(acquisition_statistics(values, np.zeros(shape, np.float32))).all()


def test_it_can_be_taken_apart_and_put_together(reference: AcquisitionReference) -> None:
    again = AcquisitionReference(**reference.arrays())
    assert again.distance(scan(7)) == reference.distance(scan(7))
