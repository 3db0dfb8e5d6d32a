"""A small anatomy without any symmetry, a little different in every subject."""

from __future__ import annotations

import numpy as np

from mendscan.volumes.volume import Volume, volume_from_array

SHAPE_MM = (72, 84, 66)
_BLOBS = (
    # centre as a fraction of the box, radius in mm, brightness
    ((0.5, 0.5, 0.5), 28.0, 400.0),
    ((0.35, 0.65, 0.55), 10.0, 500.0),
    ((0.6, 0.3, 0.65), 9.0, -250.0),
    ((0.55, 0.55, 0.25), 8.0, 300.0),
)


def anatomy(seed: int, *, spacing_mm: float = 2.0) -> np.ndarray:
    """Return a head-like thing: a bright body with brighter and darker parts, moved a little by the seed."""
    moved = np.random.default_rng(seed).uniform(-1.5, 1.5, size=(len(_BLOBS), 3))
    grids = np.meshgrid(*((np.arange(round(mm / spacing_mm)) + 0.5) * spacing_mm for mm in SHAPE_MM), indexing="ij")
    voxels_XYZ = np.zeros(grids[0].shape)
    for (centre, radius, brightness), move in zip(_BLOBS, moved, strict=True):
        at = [c * mm + m for c, mm, m in zip(centre, SHAPE_MM, move, strict=True)]
        distance = np.sqrt(sum((grid - middle) ** 2 for grid, middle in zip(grids, at, strict=True)))
        voxels_XYZ += brightness / (1 + np.exp((distance - radius) / 1.5))
    fine = np.random.default_rng(seed + 1000).normal(scale=8.0, size=voxels_XYZ.shape)
    return np.maximum(voxels_XYZ + 20 + fine, 0)


def scan(seed: int, *, spacing_mm: float = 2.0, voxels_XYZ: np.ndarray | None = None) -> Volume:
    """Return a subject's scan."""
    voxels_XYZ = anatomy(seed, spacing_mm=spacing_mm) if voxels_XYZ is None else voxels_XYZ
    return volume_from_array(voxels_XYZ, np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0]), name=f"subject{seed}")
