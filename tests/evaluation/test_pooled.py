"""Condensing the healthy values changes no figure, whatever is drawn."""

import numpy as np
import pytest

from mendscan.evaluation.pooled import PooledVoxels

CASES, VALUES = 5, 400


def pooled(seed: int, threshold: float | None, share: float) -> PooledVoxels:
    """Many healthy values, few that an anomalous voxel has."""
    generator = np.random.default_rng(seed)
    healthy = generator.integers(0, 50, (CASES, VALUES)).astype(float)
    anomalous = generator.integers(1, 4, (CASES, VALUES)) * (generator.random(VALUES) < share)
    return PooledVoxels(np.linspace(0, 1, VALUES), healthy, anomalous.astype(float), threshold)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.41, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_figures_stay_the_same(threshold, share):
    voxels = pooled(0, threshold, share)
    weights = np.random.default_rng(1).integers(0, 3, (20, CASES)).astype(float)
    expected, found = voxels.figures(weights), voxels.condensed().figures(weights)
    assert expected.keys() == found.keys()
    assert ("dice" in found) == (threshold is not None)
    for name, figure in expected.items():
        np.testing.assert_allclose(found[name], figure, rtol=1e-12, err_msg=name)


def test_few_values_remain():
    voxels = pooled(0, 0.5, 0.02)
    occupied = int(voxels.anomalous_NV.any(axis=0).sum())
    condensed = voxels.condensed()
    assert len(condensed.values_V) <= 2 * occupied + 2 < VALUES / 4
    np.testing.assert_array_equal(condensed.healthy_NV.sum(axis=1), voxels.healthy_NV.sum(axis=1))


def test_anomalous_at_either_end():
    """The lowest and the highest value are anomalous; so is everything between two neighbours."""
    voxels = PooledVoxels(np.array([0.0, 0.25, 0.5, 1.0]), np.ones((1, 4)), np.array([[2.0, 0, 0, 3]]), 0.25)
    condensed = voxels.condensed()
    np.testing.assert_array_equal(condensed.values_V, [0.0, 0.25, 0.5, 1.0])
    assert condensed.figures(np.ones((1, 1))) == voxels.figures(np.ones((1, 1)))
