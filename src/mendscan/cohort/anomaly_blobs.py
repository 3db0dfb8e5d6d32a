"""The irregular, soft-edged blobs in which local anomalies happen; for evaluation only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from mendscan.shapes import VoxelsXYZ

__all__ = ["Index", "Triple", "blob_weight"]

_EDGE_SHARE = 0.4  # width of the soft edge, as a share of the radius; at least two voxels
_SURFACE_SHARE = 0.2  # standard deviation of the surface's perturbation, as a share of the radius

Triple = tuple[float, float, float]
Index = tuple[int, int, int]


def blob_weight(
    shape: Index, centre_index: Index, *, radius_mm: float, spacing_mm: Triple, rng: np.random.Generator
) -> VoxelsXYZ:
    """Draw an irregular blob: a randomly turned ellipsoid with a perturbed surface and a soft edge.

    Args:
        shape: Of the volume.
        centre_index: The ellipsoid's middle, in voxels.
        radius_mm: Of the ball that has the ellipsoid's volume.
        spacing_mm: Voxel size along each axis.
        rng: Source of randomness.

    Returns:
        1 inside, 0 outside, between them in the edge; one connected piece.
    """
    reach = np.ceil(2.5 * radius_mm / np.asarray(spacing_mm)).astype(int)
    box = tuple(slice(max(c - r, 0), min(c + r + 1, n)) for c, r, n in zip(centre_index, reach, shape, strict=True))
    distance = _ellipsoid_distance(box, centre_index, spacing_mm, rng) / radius_mm
    bumps = ndimage.gaussian_filter(rng.standard_normal(distance.shape), [0.4 * radius_mm / s for s in spacing_mm])
    surface = 1.0 + _SURFACE_SHARE * np.clip(bumps / max(bumps.std(), 1e-12), -2.0, 2.0)
    edge_mm = max(_EDGE_SHARE * radius_mm, 2.0 * min(spacing_mm))
    ramp = np.clip(0.5 + (surface - distance) * radius_mm / edge_mm, 0.0, 1.0)
    parts, _ = ndimage.label(ramp > 0)
    middle = tuple(c - side.start for c, side in zip(centre_index, box, strict=True))
    weight_XYZ = np.zeros(shape, dtype=np.float32)
    weight_XYZ[box] = ramp**2 * (3.0 - 2.0 * ramp) * (parts == parts[middle])
    return weight_XYZ


def _ellipsoid_distance(
    box: tuple[slice, ...], centre_index: Index, spacing_mm: Triple, rng: np.random.Generator
) -> Float64[np.ndarray, "U V W"]:
    """Distance in mm from the centre, in the metric of a randomly turned ellipsoid of the unit ball's volume."""
    axes = [
        (np.arange(side.start, side.stop) - c) * size
        for side, c, size in zip(box, centre_index, spacing_mm, strict=True)
    ]
    offsets_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    half_axes = np.exp(rng.uniform(-0.3, 0.3, 3))
    half_axes /= np.prod(half_axes) ** (1 / 3)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.linalg.norm(offsets_mm @ turn / half_axes, axis=-1)
