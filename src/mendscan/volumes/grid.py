"""The way of a scan onto the model's grid, and of a map back onto the scan's.

Both grids have the same axes (RAS+), so that the mapping is one line per axis,

    source_index = scale * model_index + offset,

and every resampling is done one axis after the other.  Index i is the centre of voxel i: a grid of n voxels
reaches from -0.5 to n - 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Shaped
from scipy import ndimage

from mendscan.shapes import Affine, VoxelsXYZ

__all__ = ["Grid", "resampled_grid", "resized_grid"]

ModelVoxels = Float32[np.ndarray, "X_model Y_model Z_model"]
"""Values on the model's grid, in RAS+."""

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_HALF_VOXEL = 0.5 + 1e-6  # a position exactly on the border counts as inside, whatever its last digits


@dataclass(frozen=True)
class Grid:
    """How the model's grid lies in a scan.

    Attributes:
        shape_XYZ: Voxels of the model's grid.
        source_shape_XYZ: Voxels of the scan, in RAS+.
        scale: Source voxels per model voxel, above 0.
        offset: Source index of the centre of the first model voxel.

    Example:
        >>> grid = resized_grid((8, 8, 8), (4, 4, 4))
        >>> grid.scale, grid.offset
        ((2.0, 2.0, 2.0), (0.5, 0.5, 0.5))
        >>> grid.to_model(np.ones((8, 8, 8), dtype=np.float32), outside=0.0).shape
        (4, 4, 4)
    """

    shape_XYZ: tuple[int, int, int]
    source_shape_XYZ: tuple[int, int, int]
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    def __post_init__(self) -> None:
        if min(*self.shape_XYZ, *self.source_shape_XYZ) < 1:
            raise ValueError(f"shapes must be at least 1: {self.shape_XYZ}, {self.source_shape_XYZ}")
        if not all(math.isfinite(value) for value in (*self.scale, *self.offset)) or min(self.scale) <= 0:
            raise ValueError(f"scale must be above 0 and finite, offset finite: {self.scale}, {self.offset}")

    def to_model(self, voxels_XYZ: VoxelsXYZ, *, outside: float) -> ModelVoxels:
        """Bring a scan onto the model's grid.

        Linear interpolation.  Along an axis that becomes coarser, the scan is first smoothed by a Gaussian whose
        width at half maximum w, in source voxels, is what separates the two grids: w² = scale² - 1 (Cardoso et
        al., "Scale factor point spread function matching", MICCAI 2015).

        Args:
            voxels_XYZ: The scan, finite.
            outside: The value of model voxels that lie more than half a voxel outside the scan.

        Returns:
            A new array; for the identity grid, a copy of the scan.

        Raises:
            ValueError: If the scan does not have the grid's source shape.
        """
        _check_shape(voxels_XYZ.shape, self.source_shape_XYZ)
        positions = self._source_positions()
        values = voxels_XYZ.astype(np.float32)
        for axis, scale in enumerate(self.scale):
            values = _interpolated(_smoothed(values, scale, axis), positions[axis], axis)
        return _with_outside(values, positions, self.source_shape_XYZ, outside)

    def to_source(
        self, values_model_XYZ: Float[np.ndarray, "X_model Y_model Z_model"], *, outside: float = 0.0
    ) -> VoxelsXYZ:
        """Bring a map from the model's grid back onto the scan's, by linear interpolation.

        Args:
            values_model_XYZ: One finite value per voxel of the model's grid.
            outside: The value of source voxels that lie more than half a model voxel outside the model's grid.

        Returns:
            A new array with the scan's shape.

        Raises:
            ValueError: If the map does not have the model's shape.
        """
        _check_shape(values_model_XYZ.shape, self.shape_XYZ)
        axes = zip(self.source_shape_XYZ, self.scale, self.offset, strict=True)
        positions = [(np.arange(count) - offset) / scale for count, scale, offset in axes]
        values = values_model_XYZ.astype(np.float32)
        for axis in range(3):
            values = _interpolated(values, positions[axis], axis)
        return _with_outside(values, positions, self.shape_XYZ, outside)

    def label_to_model(self, labels_XYZ: Shaped[np.ndarray, "X Y Z"]) -> Shaped[np.ndarray, "X_model Y_model Z_model"]:
        """Bring labels onto the model's grid: each model voxel takes the label of the nearest source voxel.

        Args:
            labels_XYZ: Labels of any type on the scan's grid.

        Returns:
            Labels of the same type; 0 outside the scan.

        Raises:
            ValueError: If the labels do not have the grid's source shape.
        """
        _check_shape(labels_XYZ.shape, self.source_shape_XYZ)
        positions = self._source_positions()
        nearest = [
            np.clip(np.floor(position + 0.5).astype(np.intp), 0, count - 1)
            for position, count in zip(positions, self.source_shape_XYZ, strict=True)
        ]
        return _with_outside(labels_XYZ[np.ix_(*nearest)], positions, self.source_shape_XYZ, 0.0)

    def model_affine(self, affine: Affine) -> Affine:
        """Return the affine of the model's grid, given the scan's: model index to millimetres.

        Example:
            >>> resized_grid((8, 8, 8), (4, 4, 4)).model_affine(np.eye(4))[0]
            array([2. , 0. , 0. , 0.5])
        """
        model_to_source = np.diag([*self.scale, 1.0])
        model_to_source[:3, 3] = self.offset
        return affine @ model_to_source

    def model_spacing_mm(self, affine: Affine) -> tuple[float, float, float]:
        """Return the voxel size of the model's grid, given the scan's affine."""
        x, y, z = np.linalg.norm(self.model_affine(affine)[:3, :3], axis=0).tolist()
        return x, y, z

    def _source_positions(self) -> list[np.ndarray]:
        axes = zip(self.shape_XYZ, self.scale, self.offset, strict=True)
        return [np.arange(count) * scale + offset for count, scale, offset in axes]


def resized_grid(source_shape: Sequence[int], model_shape: Sequence[int]) -> Grid:
    """Stretch a model grid over the whole field of view of a scan, edge to edge.

    Args:
        source_shape: Voxels of the scan.
        model_shape: Voxels of the model's grid.

    Returns:
        The grid; no model voxel lies outside the scan, and none of the scan outside the model.

    Example:
        >>> resized_grid((5, 6, 7), (5, 6, 7)).offset
        (0.0, 0.0, 0.0)
    """
    scale = [source / model for source, model in zip(source_shape, model_shape, strict=True)]
    return _grid(source_shape, model_shape, scale, [(value - 1) / 2 for value in scale])


def resampled_grid(
    source_shape: Sequence[int],
    source_spacing_mm: Sequence[float],
    model_shape: Sequence[int],
    model_spacing_mm: Sequence[float],
    centre_index: Sequence[float] | None = None,
) -> Grid:
    """Lay a model grid of a given voxel size over a scan, cropping or padding as needed.

    Args:
        source_shape: Voxels of the scan.
        source_spacing_mm: Voxel size of the scan, in millimetres.
        model_shape: Voxels of the model's grid.
        model_spacing_mm: Voxel size of the model's grid, in millimetres.
        centre_index: Index into the scan, possibly between voxels, where the model's grid has its centre;
            by default the middle of the scan.

    Returns:
        The grid.

    Example:
        >>> resampled_grid((10, 10, 10), (1.0, 1.0, 3.0), (4, 4, 4), (2.0, 2.0, 3.0)).offset
        (1.5, 1.5, 3.0)
    """
    centre = centre_index if centre_index is not None else [(count - 1) / 2 for count in source_shape]
    scale = [model / source for model, source in zip(model_spacing_mm, source_spacing_mm, strict=True)]
    axes = zip(centre, scale, model_shape, strict=True)
    return _grid(source_shape, model_shape, scale, [middle - step * (count - 1) / 2 for middle, step, count in axes])


def _grid(
    source_shape: Sequence[int], model_shape: Sequence[int], scale: Sequence[float], offset: Sequence[float]
) -> Grid:
    model_x, model_y, model_z = (int(count) for count in model_shape)
    x, y, z = (int(count) for count in source_shape)
    scale_x, scale_y, scale_z = (float(value) for value in scale)
    offset_x, offset_y, offset_z = (float(value) for value in offset)
    return Grid((model_x, model_y, model_z), (x, y, z), (scale_x, scale_y, scale_z), (offset_x, offset_y, offset_z))


def _smoothed(values: np.ndarray, scale: float, axis: int) -> np.ndarray:
    if scale <= 1:
        return values
    sigma = math.sqrt(scale**2 - 1) / _FWHM_PER_SIGMA
    return ndimage.gaussian_filter1d(values, sigma, axis=axis, mode="nearest")


def _interpolated(values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    last = values.shape[axis] - 1
    clamped = np.clip(positions, 0, last)
    lower = np.floor(clamped).astype(np.intp)
    weight = (clamped - lower).astype(np.float32)
    below = values.take(lower, axis=axis)
    if not weight.any():
        return below
    above = values.take(np.minimum(lower + 1, last), axis=axis)
    above -= below
    above *= weight.reshape([-1 if each == axis else 1 for each in range(3)])
    above += below
    return above


def _with_outside(
    values: np.ndarray, positions: Sequence[np.ndarray], shape: Sequence[int], outside: float
) -> np.ndarray:
    for axis, (position, count) in enumerate(zip(positions, shape, strict=True)):
        beyond = (position < -_HALF_VOXEL) | (position > count - 1 + _HALF_VOXEL)
        np.moveaxis(values, axis, 0)[beyond] = outside
    return values


def _check_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise ValueError(f"the array does not fit the grid (found {found}, expected {expected})")
