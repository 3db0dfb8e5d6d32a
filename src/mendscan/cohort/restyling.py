"""Random changes of how a whole scan looks, as another scanner or another day would show the same anatomy.

The discriminator sees the same healthy scans again and again.  Were each always as sharp, noisy and evenly lit as it
is, it might know faults by how they were made, and take a healthy scan of another look for faulty.  Changed together
with its faults, what is left to learn is which part does not belong to the rest.  That is the thought; what was
measured is in docs/evidence.md.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mendscan.cohort.random_fields import noise, uniform
from mendscan.smoothing import gaussian_smoothed

__all__ = ["restyled"]

Voxels = Float[Tensor, "S H W"]

# How often, and how much; what they are worth is in docs/evidence.md.
_SHARPNESS_CHANGES = 0.4
_SMOOTHING_VOXELS = (0.25, 0.7)
_SHARPENING = 0.7
"""This much of what the smoothing takes away is added instead."""
_NOISY, _MOST_NOISE = 0.3, 0.12
_SHADED, _SHADING = 0.5, 0.1
_SHADE_SHARE = 0.3
"""Distance between two control points of the shading, as a share of the grid's longest side."""


def restyled(scan_SHW: Voxels, *, generator: Generator) -> Voxels:
    """Return a scan a little smoother or sharper, noisier and unevenly bright, or with some of that, or as it is.

    Args:
        scan_SHW: Prepared intensities.
        generator: The only source of chance.
    """
    if _happens(_SHARPNESS_CHANGES, generator):
        smooth_SHW = gaussian_smoothed(scan_SHW, uniform(*_SMOOTHING_VOXELS, generator))
        softer = _happens(0.5, generator)
        scan_SHW = smooth_SHW if softer else scan_SHW + _SHARPENING * (scan_SHW - smooth_SHW)
    if _happens(_NOISY, generator):
        amount = uniform(0.0, _MOST_NOISE, generator)
        scan_SHW = scan_SHW + amount * torch.randn(scan_SHW.shape, generator=generator)
    if _happens(_SHADED, generator):
        scan_SHW = scan_SHW * (1 + _SHADING * noise(scan_SHW.shape, _SHADE_SHARE * max(scan_SHW.shape), generator))
    return scan_SHW


def _happens(probability: float, generator: Generator) -> bool:
    return uniform(0.0, 1.0, generator) < probability
