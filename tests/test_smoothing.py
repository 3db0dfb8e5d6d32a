"""Smoothing by products with matrices is the Gaussian filter that it replaces."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from mendscan.smoothing import gaussian_smoothed


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0, 5.0])
def test_each_volume_is_smoothed_as_by_scipy(sigma: float) -> None:
    """Also where the Gaussian reaches beyond both borders."""
    volumes = torch.rand(2, 9, 14, 11, dtype=torch.float64)
    found = gaussian_smoothed(volumes, sigma)
    for volume, smooth in zip(volumes.numpy(), found.numpy(), strict=True):
        expected = gaussian_filter(volume, sigma, mode="nearest", truncate=3.0)
        assert smooth == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(gaussian_smoothed(volumes[1], sigma), found[1])
