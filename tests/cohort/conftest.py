"""Scans that cost nothing, and someone who listens."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from mendscan.volumes import Volume, volume_from_array


def structured_scan(seed: int = 0, shape: tuple[int, int, int] = (40, 44, 36), background: bool = True) -> np.ndarray:
    """Structured noise of several scales, in a ball when there is a background."""
    rng = np.random.default_rng(seed)
    voxels = 100.0 + sum(
        amplitude * smooth / smooth.std()
        for amplitude, sigma in ((12.0, 4.0), (8.0, 1.5), (2.0, 0.0))
        for smooth in [ndimage.gaussian_filter(rng.standard_normal(shape), sigma)]
    )
    if background:
        centred = [2.0 * i / (n - 1) - 1.0 for i, n in zip(np.ogrid[tuple(map(slice, shape))], shape, strict=True)]
        voxels = np.where(sum(c**2 for c in centred) < 0.9, voxels, 0.0)
    return voxels.astype(np.float32)


def as_volume(voxels: np.ndarray, spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.5)) -> Volume:
    return volume_from_array(voxels, np.diag([*spacing_mm, 1.0]), name="case")


def write_scan(
    path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, *, codes: str = "RAS", dtype: type = np.float32
) -> Path:
    """Store a scan given in RAS+ in another axis order, and integers with the slope that fits."""
    affine = np.diag([2.0, 2.0, 2.5, 1.0]) if affine is None else affine
    wanted = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    slope = 1.0 if np.issubdtype(dtype, np.floating) else float(np.abs(voxels).max()) / np.iinfo(dtype).max
    stored = voxels if slope == 1.0 else np.rint(voxels / slope)
    image = nib.Nifti1Image(stored.astype(dtype), affine).as_reoriented(change)
    image.header.set_slope_inter(slope, 0.0)
    nib.save(image, path)
    return path


class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.units = 0
        self.messages: list[str] = []

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        self.stages.append((stage, total))

    def advance(self, units: int = 1, **facts: float) -> None:
        self.units += units

    def say(self, message: str) -> None:
        self.messages.append(message)
