"""Random numbers, shapes and fields for self-made faults, on torch tensors; every draw comes from a generator."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import map_coordinates
from torch import Generator, Tensor
from torch.nn.functional import interpolate

__all__ = [
    "coordinates",
    "direction",
    "integer",
    "noise",
    "rotation",
    "sampled",
    "sign",
    "uniform",
]


def sampled(voxels: Float[Tensor, "S H W"], at: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Return the voxels at places given in voxels, by cubic splines; beyond the border the edge goes on.

    Linear interpolation would blur, and a fault would be known by that.
    """
    values = map_coordinates(voxels.numpy(), at.movedim(-1, 0).numpy(), output=np.float32, order=3, mode="nearest")
    return torch.from_numpy(values).clamp(voxels.min(), voxels.max())


def coordinates(shape: torch.Size) -> Float[Tensor, "s h w 3"]:
    """Return the index of each voxel."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"), dim=-1)


def noise(shape: torch.Size, grain: float, generator: Generator) -> Float[Tensor, "s h w"]:
    """Return a random field of unit spread, `grain` voxels between its control points."""
    if grain <= 1.0:
        return torch.randn(shape, generator=generator)
    cells = [max(2, round(n / grain) + 1) for n in shape]
    coarse = torch.randn(1, 1, *cells, generator=generator)
    field = interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return field / field.std().clamp_min(1e-3)


def rotation(generator: Generator) -> Float[Tensor, "3 3"]:
    """Return a random rotation, or one with a reflection."""
    orthogonal, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    return orthogonal


def direction(generator: Generator) -> Float[Tensor, " 3"]:
    """Return a random unit vector."""
    vector = torch.randn(3, generator=generator)
    return vector / vector.norm().clamp_min(1e-6)


def uniform(low: float, high: float, generator: Generator) -> float:
    """Draw a number between `low` and `high`."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def integer(count: int, generator: Generator) -> int:
    """Draw one of 0 … `count` - 1."""
    return int(torch.randint(count, (), generator=generator))


def sign(generator: Generator) -> float:
    """Draw 1 or -1."""
    return 1.0 if uniform(0.0, 1.0, generator) < 0.5 else -1.0
