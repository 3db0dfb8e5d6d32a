"""Where a scan is not background, and how deep inside."""

from __future__ import annotations

import numpy as np
import pytest

from cohort.conftest import structured_scan
from mendscan.cohort.foreground import depth_inside, foreground_of


def test_foreground_is_the_head_without_holes() -> None:
    voxels = structured_scan()
    inside = voxels > 0
    voxels[20, 22, 18] = 0.0
    np.testing.assert_array_equal(foreground_of(voxels), inside)


def test_foreground_without_background_is_everything() -> None:
    assert foreground_of(structured_scan(background=False)).all()


def test_foreground_leaves_noisy_air_out() -> None:
    clean = structured_scan(shape=(60, 60, 60))
    air = np.abs(np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    found, head = foreground_of(clean + air), clean > 0
    assert (found & head).sum() / (found | head).sum() > 0.85


def test_depth_is_in_millimetres_and_ends_at_the_volume() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[2:7, 2:7, 2:7] = True
    depth = depth_inside(mask, spacing_mm=(1.0, 2.0, 3.0))
    assert depth[4, 4, 4] == 3.0
    assert depth[2, 4, 4] == 1.0
    assert (depth[~mask] == 0).all()
    whole = depth_inside(np.ones((5, 7, 9), dtype=bool))
    assert whole[2, 3, 4] == 3.0
    assert whole[0, 3, 4] == whole[2, 3, 8] == 1.0


def test_depth_of_a_ball_falls_by_one_voxel_a_voxel() -> None:
    x, y, z = np.ogrid[-10:11, -10:11, -10:11]
    depth = depth_inside(x**2 + y**2 + z**2 < 64)
    assert depth[10, 10, 10] == pytest.approx(8.0, abs=0.5)
    assert depth[13, 10, 10] == pytest.approx(5.0, abs=0.5)
