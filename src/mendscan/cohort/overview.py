"""A whole scan in a few thousand cells: enough to see whether it is turned, cropped or of another kind.

Cells are cubes, the same for all scans of a cohort.  Two overviews are compared by their normalised correlation over
the cells that both cover, at the shift at which it is highest: scans lie anywhere in their own coordinates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from mendscan.cohort.fingerprint import BACKGROUND
from mendscan.cohort.preparing import foreground_threshold
from mendscan.shapes import Affine
from mendscan.volumes.grid import resampled_grid
from mendscan.volumes.volume import Volume

__all__ = ["ORIENTATIONS", "Match", "Orientation", "Overview", "best_match", "overview"]

Orientation = tuple[tuple[int, int, int], tuple[int, int, int]]
"""How axes are read: which axis of the scan comes first, second, third, and 1 or -1 for each."""

ORIENTATIONS: tuple[Orientation, ...] = tuple(
    ((a, b, c), (x, y, z))
    for a, b, c in itertools.permutations((0, 1, 2))
    for x, y, z in itertools.product((1, -1), repeat=3)
)
"""All 48, the one in which scans are read first."""

_SMALLEST_OVERLAP = 0.5
"""Of the smaller of two overviews: with less in common, any two agree somewhere."""
_CLIPPED_PERCENTILES = (1, 99)


@dataclass(frozen=True, eq=False)
class Overview:
    """A scan, coarse.

    Attributes:
        values_XYZ: Mean intensity of every cell, clipped at the scan's 1st and 99th percentile.
        covered_XYZ: Which cells the scan covers.
        foreground_XYZ: Which of them show something.
    """

    values_XYZ: Float32[np.ndarray, "X Y Z"]
    covered_XYZ: Bool[np.ndarray, "X Y Z"]
    foreground_XYZ: Bool[np.ndarray, "X Y Z"]

    def turned(self, orientation: Orientation) -> Overview:
        """Return the overview with its axes read in another way."""
        axes, signs = orientation
        flips = tuple(slice(None, None, sign) for sign in signs)
        parts = (self.values_XYZ, self.covered_XYZ, self.foreground_XYZ)
        return Overview(*(part.transpose(axes)[flips] for part in parts))


@dataclass(frozen=True)
class Match:
    """Where an overview fits another best.

    Attributes:
        agreement: Normalised correlation there, in [-1, 1].
        shift: Which cell of the other one the first cell of the overview lies on.
        lowest: The lowest correlation at any shift.
    """

    agreement: float
    shift: tuple[int, int, int]
    lowest: float


def overview(volume: Volume, *, cell_mm: float) -> Overview:
    """Return the overview of a scan."""
    voxels_XYZ, affine = _thinned(volume.voxels_XYZ, volume.affine, cell_mm)
    spacing = tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
    shape = tuple(max(1, round(n * mm / cell_mm)) for n, mm in zip(voxels_XYZ.shape, spacing, strict=True))
    grid = resampled_grid(voxels_XYZ.shape, spacing, shape, (cell_mm,) * 3)
    values_XYZ = grid.to_model(voxels_XYZ, outside=float("nan"))
    covered_XYZ = np.isfinite(values_XYZ)
    low, high = np.percentile(values_XYZ[covered_XYZ], _CLIPPED_PERCENTILES)
    clipped_XYZ = np.where(covered_XYZ, np.clip(values_XYZ, low, high), 0).astype(np.float32)
    foreground_XYZ = covered_XYZ & (clipped_XYZ > foreground_threshold(clipped_XYZ[covered_XYZ], BACKGROUND))
    return Overview(clipped_XYZ, covered_XYZ, foreground_XYZ)


def best_match(
    moving: Overview, values_XYZ: Float[np.ndarray, "X Y Z"], covered_XYZ: Bool[np.ndarray, "X Y Z"]
) -> Match:
    """Return where an overview fits a picture best.

    The normalised correlation of two masked pictures at every shift, by Fourier transforms (Padfield, "Masked object
    registration in the Fourier domain", IEEE TIP 2012).

    Args:
        moving: The overview.
        values_XYZ: The picture.
        covered_XYZ: Where it says something.
    """
    correlation, first = _correlation_at_every_shift(moving, values_XYZ, covered_XYZ)
    best = np.unravel_index(int(np.nanargmax(correlation)), correlation.shape)
    x, y, z = (int(at) + start for at, start in zip(best, first, strict=True))
    return Match(float(correlation[best]), (x, y, z), float(np.nanmin(correlation)))


def _correlation_at_every_shift(
    moving: Overview, values_XYZ: Float[np.ndarray, "X Y Z"], covered_XYZ: Bool[np.ndarray, "X Y Z"]
) -> tuple[Float[np.ndarray, "a b c"], tuple[int, ...]]:
    from scipy.fft import irfftn, next_fast_len, rfftn

    shape = [a + b - 1 for a, b in zip(values_XYZ.shape, moving.values_XYZ.shape, strict=True)]
    padded = [next_fast_len(n, real=True) for n in shape]

    def transformed(picture: np.ndarray) -> np.ndarray:
        return np.asarray(rfftn(picture, padded))

    def summed(fixed: np.ndarray, moved: np.ndarray) -> np.ndarray:
        whole = np.asarray(irfftn(fixed * moved.conj(), padded))
        # Shifts below 0 are at the end of the transform.
        starts = [-(n - 1) for n in moving.values_XYZ.shape]
        return np.roll(whole, [-start for start in starts], axis=(0, 1, 2))[tuple(slice(n) for n in shape)]

    still = _centred(values_XYZ, covered_XYZ)
    moves = _centred(moving.values_XYZ, moving.covered_XYZ)
    mask, own = covered_XYZ.astype(np.float64), moving.covered_XYZ.astype(np.float64)
    f_mask, f_own, f_still, f_moves = (transformed(picture) for picture in (mask, own, still, moves))
    overlap = np.maximum(summed(f_mask, f_own).round(), 1)
    mean_still, mean_moves = summed(f_still, f_own) / overlap, summed(f_mask, f_moves) / overlap
    together = summed(f_still, f_moves) - overlap * mean_still * mean_moves
    spread_still = summed(transformed(still**2), f_own) - overlap * mean_still**2
    spread_moves = summed(f_mask, transformed(moves**2)) - overlap * mean_moves**2
    size = np.sqrt(np.maximum(spread_still, 0) * np.maximum(spread_moves, 0))
    enough = overlap >= _SMALLEST_OVERLAP * min(mask.sum(), own.sum())
    told = enough & (size > 1e-6 * size.max())
    correlation = np.where(told, together / np.where(told, size, 1), np.nan)
    return np.clip(correlation, -1, 1), tuple(-(n - 1) for n in moving.values_XYZ.shape)


def _centred(values_XYZ: Float[np.ndarray, "X Y Z"], inside_XYZ: Bool[np.ndarray, "X Y Z"]) -> np.ndarray:
    """Return values with mean 0 and spread 1 inside, and 0 outside: large means would eat the digits of a sum."""
    inside = values_XYZ[inside_XYZ].astype(np.float64)
    spread = float(inside.std()) or 1.0
    return np.where(inside_XYZ, (values_XYZ - inside.mean()) / spread, 0.0)


def _thinned(
    voxels_XYZ: Float32[np.ndarray, "X Y Z"], affine: Affine, cell_mm: float
) -> tuple[Float32[np.ndarray, "x y z"], Affine]:
    """Average whole blocks of voxels, as long as a block is less than half a cell: large scans cost no more."""
    thinned, scale = voxels_XYZ, np.eye(4)
    for axis, mm in enumerate(np.linalg.norm(affine[:3, :3], axis=0)):
        block = min(int(cell_mm / (2 * mm)), voxels_XYZ.shape[axis])
        if block > 1:
            count = thinned.shape[axis] // block
            kept = np.take(thinned, range(count * block), axis=axis)
            split = (*kept.shape[:axis], count, block, *kept.shape[axis + 1 :])
            thinned = kept.reshape(split).mean(axis=axis + 1, dtype=np.float32)
            scale[axis, axis], scale[axis, 3] = block, (block - 1) / 2
    return thinned, affine @ scale
