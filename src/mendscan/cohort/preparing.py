"""From a scan to slices on the model grid, and back: the only recipe, for training, detection and viewing alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
from numpy.typing import NDArray

from mendscan.config import PreparationSettings
from mendscan.errors import IntensityError
from mendscan.shapes import MapSHW, MaskXYZ, SlicesSHW, VoxelsXYZ
from mendscan.volumes.grid import Grid, resampled_grid, resized_grid
from mendscan.volumes.volume import Volume

__all__ = [
    "INTENSITY_CLIP",
    "Prepared",
    "check_contrast",
    "evenly_spaced",
    "foreground_threshold",
    "from_slices",
    "prepare",
    "slice_positions",
    "to_slices",
]

INTENSITY_CLIP = 8.0
"""Prepared intensities stay within this many spreads, so that one absurd voxel cannot drown a slice."""


@dataclass(frozen=True)
class Prepared:
    """A scan on the model grid, with its way home.

    Attributes:
        slices_SHW: Normalised intensities, slice axis first.
        foreground_SHW: Where the scan shows something: all that it covers, less the background where the plan has one.
        grid: The way between the model grid and the scan's own.
        slice_axis: Which axis of the model grid comes first.
        slice_view: How the other two axes lie in a slice, as in the settings.
        intensity_scale: Scan intensity per unit of prepared intensity.
    """

    slices_SHW: SlicesSHW
    foreground_SHW: Bool[np.ndarray, "S H W"]
    grid: Grid
    slice_axis: str
    intensity_scale: float
    slice_view: str = "array"

    @property
    def positions_S(self) -> Float32[np.ndarray, " S"]:
        """The slice coordinate c of every slice, linear in [-0.5, 0.5]."""
        return slice_positions(len(self.slices_SHW))

    def slice_indices(self, *, at: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return where the slices `at` lie in the scan: indices of its RAS+ voxels along the slice axis."""
        axis = "XYZ".index(self.slice_axis)
        centres = at * self.grid.scale[axis] + self.grid.offset[axis]
        return np.clip(centres, 0, self.grid.source_shape_XYZ[axis] - 1)

    def to_scan(self, values_SHW: Float[np.ndarray, "n H W"], *, at: Int[np.ndarray, " n"] | None = None) -> VoxelsXYZ:
        """Return values of the model grid on the scan's own RAS+ grid; 0 outside the model's field of view.

        Args:
            values_SHW: One value per voxel of all slices, or of the slices `at`.
            at: Indices of the slices given, ascending; those between are interpolated.
        """
        every = values_SHW if at is None else _between_slices(values_SHW, at, len(self.slices_SHW))
        return self.grid.to_source(from_slices(every, self.slice_axis, self.slice_view).astype(np.float32))

    def labelled_slices(self, label_XYZ: MaskXYZ) -> Bool[np.ndarray, "S H W"]:
        """Return a label of the scan's voxels on the model grid: voxels that lie in it by half or more."""
        share_XYZ = self.grid.to_model(label_XYZ.astype(np.float32), outside=0.0)
        return to_slices(share_XYZ >= 0.5, self.slice_axis, self.slice_view)

    def restored_scan(
        self, volume: Volume, restored_SHW: MapSHW, *, at: Int[np.ndarray, " n"] | None = None
    ) -> VoxelsXYZ:
        """Return the scan with the restoration's change applied, in its own grid and intensity scale.

        The change, not the restoration, is resampled, so detail finer than the model grid survives and what lies
        outside the model's field of view stays as it was.
        """
        scored = self.slices_SHW if at is None else self.slices_SHW[at]
        change_XYZ = self.to_scan(restored_SHW - scored, at=at)
        return volume.voxels_XYZ + np.float32(self.intensity_scale) * change_XYZ


def prepare(volume: Volume, settings: PreparationSettings) -> Prepared:
    """Bring a scan onto the model grid and normalise its intensities.

    Args:
        volume: Any scan.
        settings: The plan's grid and intensity recipe.

    Raises:
        IntensityError: If the scan has no foreground or no contrast.
    """
    grid = _grid_for(volume, settings)
    darkest = float(volume.voxels_XYZ.min())
    model_XYZ = grid.to_model(volume.voxels_XYZ, outside=float("nan"))
    covered_XYZ = np.isfinite(model_XYZ)
    model_XYZ[~covered_XYZ] = darkest
    normalised_XYZ, scale = _RECIPES[settings.intensity](model_XYZ, covered_XYZ, settings, volume.name)
    background_XYZ = model_XYZ <= foreground_threshold(model_XYZ, settings.background_below)
    foreground_XYZ = covered_XYZ & ~background_XYZ if settings.background_below else covered_XYZ
    slices, foreground = (
        to_slices(values, settings.slice_axis, settings.slice_view) for values in (normalised_XYZ, foreground_XYZ)
    )
    return Prepared(slices, foreground, grid, settings.slice_axis, scale, settings.slice_view)


def check_contrast(volume: Volume, *, background_below: float, where: str) -> None:
    """Refuse a scan whose foreground is all one value between its 1st and 99th percentile, such as a mask.

    `prepare` would refuse most of them, but by then a cohort is counted and split.

    Args:
        volume: The scan.
        background_below: As in the settings; the foreground lies above it.
        where: The scan's file, for the error.

    Raises:
        IntensityError: If there is no foreground, or no contrast in it.
    """
    voxels_XYZ = volume.voxels_XYZ
    foreground = voxels_XYZ[voxels_XYZ > foreground_threshold(voxels_XYZ, background_below)]
    _mean_and_spread(_without_extremes(foreground, where), where)


def slice_positions(slices: int) -> Float32[np.ndarray, " S"]:
    """Return the slice coordinate of each of `slices` slices, linear in [-0.5, 0.5]; 0 for a single one."""
    return np.linspace(-0.5, 0.5, slices, dtype=np.float32) if slices > 1 else np.zeros(1, np.float32)


def evenly_spaced(slices: int, wanted: int | None) -> NDArray[np.int64]:
    """Return the indices of `wanted` evenly spaced slices, first and last included; all of them for None.

    Example:
        >>> evenly_spaced(9, 3).tolist()
        [0, 4, 8]
    """
    count = slices if wanted is None else min(wanted, slices)
    return np.unique(np.linspace(0, slices - 1, count).round().astype(np.int64))


def foreground_threshold(voxels: Float[np.ndarray, "..."], background_below: float) -> float:
    """Return the intensity below which a voxel is background: a fraction of the scan's robust range."""
    low, high = np.percentile(voxels, (0.5, 99.5))
    return float(low + background_below * (high - low))


def to_slices(values_XYZ: Shaped[np.ndarray, "X Y Z"], axis: str, view: str) -> Shaped[np.ndarray, "S H W"]:
    """Return a volume as slices; `axis` and `view` are the settings ``slice_axis`` and ``slice_view``."""
    slices = np.moveaxis(values_XYZ, "XYZ".index(axis), 0)
    return np.ascontiguousarray(slices.swapaxes(1, 2)[:, ::-1] if view == "image" else slices)


def from_slices(values_SHW: Shaped[np.ndarray, "S H W"], axis: str, view: str) -> Shaped[np.ndarray, "X Y Z"]:
    """Return slices as a volume: the way back from `to_slices`."""
    slices = values_SHW[:, ::-1].swapaxes(1, 2) if view == "image" else values_SHW
    return np.moveaxis(slices, 0, "XYZ".index(axis))


def _grid_for(volume: Volume, settings: PreparationSettings) -> Grid:
    if settings.fit == "resize" or settings.spacing_mm is None:
        return resized_grid(volume.shape, settings.shape_XYZ)
    centre = _foreground_centre(volume.voxels_XYZ, settings.background_below)
    return resampled_grid(volume.shape, volume.spacing_mm, settings.shape_XYZ, settings.spacing_mm, centre_index=centre)


def _foreground_centre(voxels_XYZ: VoxelsXYZ, background_below: float) -> tuple[float, float, float] | None:
    """Return the centre of mass of the foreground, in voxels: where the head is, wherever it lies in the scan."""
    if background_below == 0:
        return None
    inside = voxels_XYZ > foreground_threshold(voxels_XYZ, background_below)
    count = int(inside.sum())
    if count == 0:
        return None
    axes = [inside.sum(axis=tuple(b for b in range(3) if b != a)) for a in range(3)]
    x, y, z = (float(np.arange(len(profile)) @ profile / count) for profile in axes)
    return x, y, z


def _foreground(
    model_XYZ: VoxelsXYZ, covered_XYZ: MaskXYZ, settings: PreparationSettings, name: str
) -> tuple[VoxelsXYZ, float]:
    """The paper, brain: background to 0, the rest standardised by the foreground's mean and standard deviation."""
    low, high = float(model_XYZ.min()), float(model_XYZ.max())
    inside = covered_XYZ & (model_XYZ >= low + settings.background_below * (high - low))
    mean, spread = _mean_and_spread(model_XYZ[inside], name)
    return np.where(inside, (model_XYZ - mean) / spread, 0).astype(np.float32), spread


def _robust(
    model_XYZ: VoxelsXYZ, covered_XYZ: MaskXYZ, settings: PreparationSettings, name: str
) -> tuple[VoxelsXYZ, float]:
    """Standardised by the foreground between its 1st and 99th percentile: a bright lesion does not move the scale."""
    scanned = model_XYZ[covered_XYZ]
    threshold = foreground_threshold(model_XYZ, settings.background_below)
    foreground = scanned[scanned > threshold] if settings.background_below else scanned
    mean, spread = _mean_and_spread(_without_extremes(foreground, name), name)
    return np.clip((model_XYZ - mean) / spread, -INTENSITY_CLIP, INTENSITY_CLIP).astype(np.float32), spread


def _range(
    model_XYZ: VoxelsXYZ, covered_XYZ: MaskXYZ, settings: PreparationSettings, name: str
) -> tuple[VoxelsXYZ, float]:
    """The paper, abdomen: a fixed range mapped linearly onto [-1, 1]."""
    low, high = settings.intensity_range
    half = (high - low) / 2
    return np.clip((model_XYZ - low) / half - 1, -1, 1).astype(np.float32), half


_RECIPES = {"foreground": _foreground, "robust": _robust, "range": _range}


def _without_extremes(foreground: Float[np.ndarray, " n"], name: str) -> Float[np.ndarray, " m"]:
    if foreground.size == 0:
        raise IntensityError("the scan has no foreground", where=name, code="E_CONSTANT", remedy="check the scan")
    low, high = np.percentile(foreground, (1, 99))
    return foreground[(foreground >= low) & (foreground <= high)]


def _mean_and_spread(values: Float[np.ndarray, " n"], name: str) -> tuple[float, float]:
    mean, spread = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if not spread > 1e-6 * max(abs(mean), 1e-30):
        raise IntensityError(
            "the scan has no contrast",
            where=name,
            code="E_CONSTANT",
            found=f"spread {spread:g}",
            remedy="check the scan",
        )
    return mean, spread


def _between_slices(values_nHW: Float[np.ndarray, "n H W"], at: Int[np.ndarray, " n"], slices: int) -> MapSHW:
    """Interpolate linearly between the given slices; beyond the first and last, repeat them."""
    target = np.clip(np.arange(slices), at[0], at[-1])
    upper = np.clip(np.searchsorted(at, target), 1, max(len(at) - 1, 1)) if len(at) > 1 else np.zeros(slices, int)
    lower = np.maximum(upper - 1, 0)
    gap = np.maximum(at[upper] - at[lower], 1)
    weight = ((target - at[lower]) / gap)[:, None, None]
    return (1 - weight) * values_nHW[lower] + weight * values_nHW[upper]
