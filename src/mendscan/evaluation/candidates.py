"""Where does a map point?  Its connected components above a threshold, each as sure as its highest value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64, Shaped
from scipy import ndimage

__all__ = ["SMALLEST_VOXELS", "Candidates", "connected_components"]

SMALLEST_VOXELS = 1
"""Every candidate counts; take more where maps are known to be speckled, and the same for all methods."""
_NEIGHBOURS = np.ones((3, 3, 3), np.int8)
"""26: voxels belong together if they share a face, an edge or a corner."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The connected components (26 neighbours) of a map above a threshold.

    Args:
        numbers_XYZ: 0, or the number 1..C of the candidate that the voxel belongs to.
        peaks: Highest value of each candidate; higher = more anomalous.
        voxels: Size of each.
        centres: Centre of mass of each, the plain mean of its voxels' indices, in voxels.
    """

    numbers_XYZ: Int32[np.ndarray, "X Y Z"]
    peaks: Float64[np.ndarray, " C"]
    voxels: Int64[np.ndarray, " C"]
    centres: Float64[np.ndarray, "C 3"]

    @classmethod
    def of(
        cls, map_XYZ: Float[np.ndarray, "X Y Z"], *, threshold: float, smallest_voxels: int = SMALLEST_VOXELS
    ) -> Candidates:
        """Find the components of `map > threshold`.

        Args:
            map_XYZ: One scan's map, higher = more anomalous.
            threshold: The base threshold; take it from healthy scans, never from the labels.
            smallest_voxels: Candidates of fewer voxels are left out.

        Returns:
            The candidates, numbered in the order of their first voxels.

        Raises:
            ValueError: If the map is not three-dimensional, it has a NaN or +∞ value, or the threshold is NaN.

        Example:
            >>> map_XYZ = np.zeros((4, 4, 4))
            >>> map_XYZ[0, 0, 0], map_XYZ[1, 1, 1], map_XYZ[3, 3, 3] = 0.5, 0.7, 0.9
            >>> Candidates.of(map_XYZ, threshold=0.1).peaks
            array([0.7, 0.9])
        """
        _check(map_XYZ, threshold)
        above_XYZ = map_XYZ > threshold
        numbers_XYZ = connected_components(above_XYZ)
        number_of = numbers_XYZ[above_XYZ]
        if smallest_voxels > 1:
            number_of = _renumbered(number_of, smallest_voxels)
            numbers_XYZ[above_XYZ] = number_of
        voxels = np.bincount(number_of, minlength=1)
        peaks = np.full(voxels.size, -np.inf)
        np.maximum.at(peaks, number_of, map_XYZ[above_XYZ].astype(np.float64))
        centres = _index_sums(above_XYZ, number_of, voxels.size)[1:] / voxels[1:, None]
        return cls(numbers_XYZ, peaks[1:], voxels[1:], centres)


def connected_components(mask_XYZ: Bool[np.ndarray, "X Y Z"]) -> Int32[np.ndarray, "X Y Z"]:
    """Number the components (26 neighbours) of a mask, looking only at the box that holds them all.

    Args:
        mask_XYZ: Which voxels belong to any.

    Returns:
        0, or the number 1..n of the voxel's component, in the order of their first voxels.

    Raises:
        ValueError: If the mask is not three-dimensional.
    """
    _check_three_dimensional(mask_XYZ)
    numbers_XYZ = np.zeros_like(mask_XYZ, np.int32)  # and in the same memory order
    box = tuple(_extent(mask_XYZ, others) for others in ((1, 2), (0, 2), (0, 1)))
    n_components = ndimage.label(mask_XYZ[box], structure=_NEIGHBOURS, output=numbers_XYZ[box])
    # The order of those numbers depends on the memory order; that of the first voxels does not.
    number_of = numbers_XYZ[mask_XYZ]
    numbers_XYZ[mask_XYZ] = _by_first_voxel(number_of, n_components)[number_of]
    return numbers_XYZ


def _by_first_voxel(number_of: Int32[np.ndarray, " V"], n_components: int) -> Int32[np.ndarray, " N"]:
    """The new number of each old one."""
    first_voxel = np.full(n_components + 1, -1)
    first_voxel[number_of[::-1]] = np.arange(number_of.size)[::-1]  # of several values the last one stays
    renumbered = np.empty(n_components + 1, np.int32)
    renumbered[np.argsort(first_voxel)] = np.arange(n_components + 1)
    return renumbered


def _index_sums(
    mask_XYZ: Bool[np.ndarray, "X Y Z"], number_of: Int32[np.ndarray, " V"], n_numbers: int
) -> Float64[np.ndarray, "N 3"]:
    """Sum the indices of the mask's voxels per number, one axis at a time to hold only one axis' indices."""
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in mask_XYZ.shape), indexing="ij", copy=False)
    sums = [np.bincount(number_of, weights=indices_XYZ[mask_XYZ], minlength=n_numbers) for indices_XYZ in axes]
    return np.stack(sums, axis=1).astype(np.float64)  # of no voxel they are integers


def _extent(mask_XYZ: Bool[np.ndarray, "X Y Z"], others: tuple[int, int]) -> slice:
    places = np.flatnonzero(mask_XYZ.any(axis=others))
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)


def _renumbered(number_of: Int32[np.ndarray, " V"], smallest_voxels: int) -> Int32[np.ndarray, " V"]:
    """0 where a component is too small; the others numbered from 1 in the same order."""
    kept: Int[np.ndarray, " N"] = (np.bincount(number_of, minlength=1) >= smallest_voxels).astype(np.int32)
    kept[0] = 0
    return (np.cumsum(kept, dtype=np.int32) * kept)[number_of]


def _check(map_XYZ: Float[np.ndarray, "..."], threshold: float) -> None:
    _check_three_dimensional(map_XYZ)
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN; it must be a number")
    # The maximum is NaN if any value is; −∞ is below every threshold and does no harm.
    if map_XYZ.size and not map_XYZ.max() < np.inf:
        raise ValueError(f"the map's highest value is {map_XYZ.max()}; every value must be a finite number")


def _check_three_dimensional(array: Shaped[np.ndarray, "..."]) -> None:
    if array.ndim != 3:
        raise ValueError(f"found an array of shape {array.shape}; expected three dimensions, one scan")
