"""A whole scan in a few thousand cells: enough to see whether it is turned, cropped or of another kind.

Cells are cubes, the same for all scans of a cohort.  Two overviews are compared by their normalised correlation over
the cells that both cover, at the shift at which it is highest: scans lie anywhere in their own coordinates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from mendscan.cohort.fingerprint import BACKGROUND
from mendscan.cohort.preparing import foreground_threshold
from mendscan.shapes import Affine
from mendscan.volumes.grid import resampled_grid
from mendscan.volumes.volume import Volume

__all__ = ["ORIENTATIONS", "Match", "Orientation", "Overview", "Picture", "overview"]

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


class Picture:
    """What overviews are laid on, at every shift.

    The normalised correlation of two masked pictures by Fourier transforms (Padfield, "Masked object registration in
    the Fourier domain", IEEE TIP 2012).  Overviews of one shape share the transforms of the picture, and those that
    cover all of their box, which most do, what depends on the box alone: of the twelve transforms for each of 48
    orientations of a scan, seven.

    Args:
        values_XYZ: The picture.
        covered_XYZ: Where it says something.
    """

    def __init__(self, values_XYZ: Float[np.ndarray, "X Y Z"], covered_XYZ: Bool[np.ndarray, "X Y Z"]) -> None:
        self._values_XYZ, self._covered_XYZ = values_XYZ, covered_XYZ
        self._frames: dict[tuple[int, ...], _Frame] = {}

    def best_match(self, moving: Overview) -> Match:
        """Return where an overview fits the picture best.

        One without contrast, such as a mask of a few voxels, fits nowhere: its agreement is 0, in the middle.
        """
        shape = moving.values_XYZ.shape
        if shape not in self._frames:
            self._frames[shape] = _Frame(self._values_XYZ, self._covered_XYZ, shape)
        correlation = self._frames[shape].correlation(moving)
        if np.isnan(correlation).all():
            x, y, z = ((a - b) // 2 for a, b in zip(self._values_XYZ.shape, shape, strict=True))
            return Match(0.0, (x, y, z), 0.0)
        best = np.unravel_index(int(np.nanargmax(correlation)), correlation.shape)
        x, y, z = (int(at) - (n - 1) for at, n in zip(best, shape, strict=True))
        return Match(float(correlation[best]), (x, y, z), float(np.nanmin(correlation)))


class _Under(NamedTuple):
    """The picture under the cells of an overview, at every shift."""

    cells: Float64[np.ndarray, "a b c"]
    """How many both cover, at least 1."""
    enough: Bool[np.ndarray, "a b c"]
    """Where they are enough to compare."""
    mean: Float64[np.ndarray, "a b c"]
    spread: Float64[np.ndarray, "a b c"]
    """Sum of the squared deviations from the mean."""


class _Frame:
    """A picture, ready for overviews of one shape; the first shift lays their last cell on its first."""

    def __init__(
        self,
        values_XYZ: Float[np.ndarray, "X Y Z"],
        covered_XYZ: Bool[np.ndarray, "X Y Z"],
        moving_shape: tuple[int, ...],
    ) -> None:
        from scipy.fft import next_fast_len

        self._shape = tuple(a + b - 1 for a, b in zip(values_XYZ.shape, moving_shape, strict=True))
        self._padded = [next_fast_len(n, real=True) for n in self._shape]
        self._first = tuple(n - 1 for n in moving_shape)
        still = _centred(values_XYZ, covered_XYZ)
        self._cells = int(covered_XYZ.sum())
        self._mask = self._transformed(covered_XYZ.astype(np.float64))
        self._still, self._squares = self._transformed(still), self._transformed(still**2)
        self._under_all: _Under | None = None

    def correlation(self, moving: Overview) -> Float64[np.ndarray, "a b c"]:
        """Return the normalised correlation at every shift, in [-1, 1]; NaN where it means nothing."""
        under = self._under(moving.covered_XYZ)
        values = _centred(moving.values_XYZ, moving.covered_XYZ)
        moves, squares = self._transformed(values), self._transformed(values**2)
        mean = self._summed(self._mask, moves) / under.cells
        together = self._summed(self._still, moves) - under.cells * under.mean * mean
        spread = self._summed(self._mask, squares) - under.cells * mean**2
        size = np.sqrt(np.maximum(under.spread, 0) * np.maximum(spread, 0))
        told = under.enough & (size > 1e-6 * size.max())
        return np.clip(np.where(told, together / np.where(told, size, 1), np.nan), -1, 1)

    def _under(self, covered_XYZ: Bool[np.ndarray, "x y z"]) -> _Under:
        if not covered_XYZ.all():
            return self._computed_under(covered_XYZ)
        if self._under_all is None:
            self._under_all = self._computed_under(covered_XYZ)
        return self._under_all

    def _computed_under(self, covered_XYZ: Bool[np.ndarray, "x y z"]) -> _Under:
        own = self._transformed(covered_XYZ.astype(np.float64))
        cells = np.maximum(self._summed(self._mask, own).round(), 1)
        mean = self._summed(self._still, own) / cells
        enough = cells >= _SMALLEST_OVERLAP * min(self._cells, int(covered_XYZ.sum()))
        return _Under(cells, enough, mean, self._summed(self._squares, own) - cells * mean**2)

    def _transformed(self, picture: Float64[np.ndarray, "x y z"]) -> np.ndarray:
        from scipy.fft import rfftn

        return np.asarray(rfftn(picture, self._padded))

    def _summed(self, fixed: np.ndarray, moved: np.ndarray) -> Float64[np.ndarray, "a b c"]:
        """Return the sum of products at every shift."""
        from scipy.fft import irfftn

        whole = np.asarray(irfftn(fixed * moved.conj(), self._padded))
        # Shifts below 0 are at the end of the transform.
        return np.roll(whole, self._first, axis=(0, 1, 2))[tuple(slice(n) for n in self._shape)]


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
