"""What is normal for one scan, and the few operations that every kind of anomaly shares.

Every change is relative to the scan's own robust spread, measured once in a `Reference`, so a scan in any unit gets the
same anomaly.  Kinds work on the box around the blob, so their cost does not grow with the scan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from mendscan.cohort.foreground import depth_inside, foreground_of
from mendscan.errors import IntensityError
from mendscan.shapes import MaskXYZ, VoxelsXYZ

__all__ = [
    "Box",
    "Kind",
    "Reference",
    "blend_in",
    "centre_of",
    "equivalent_radius",
    "local_mean",
    "reference_of",
    "support_box",
    "with_donor",
]

Box = tuple[slice, slice, slice]


class Kind(Protocol):
    """What may happen inside a blob: a pure function from a scan and a weight to another scan."""

    def __call__(
        self, voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
    ) -> VoxelsXYZ:
        """Return a copy that differs only where the weight is above 0."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What is normal for one scan, and where other content may come from.

    Attributes:
        foreground_XYZ: Where the scan is not background.
        spread: Robust standard deviation of the foreground (interquartile range / 1.349), in the scan's unit.
        centre: Median of the foreground.
        lowest: Smallest value of the scan.
        highest: Largest value of the scan.
        donor_XYZ: Another scan in this scan's unit, with `lowest` for its background; the scan itself if there is none.
        donor_foreground_XYZ: Where the donor is not background.
    """

    foreground_XYZ: MaskXYZ
    spread: float
    centre: float
    lowest: float
    highest: float
    donor_XYZ: Float32[np.ndarray, "U V W"]
    donor_foreground_XYZ: Bool[np.ndarray, "U V W"]

    @cached_property
    def depth_XYZ(self) -> Float64[np.ndarray, "X Y Z"]:
        """How deep each voxel lies inside the foreground, in voxels."""
        return depth_inside(self.foreground_XYZ)

    @cached_property
    def donor_depth_XYZ(self) -> Float64[np.ndarray, "U V W"]:
        """How deep each voxel lies inside the donor's foreground, in voxels."""
        own = self.donor_foreground_XYZ is self.foreground_XYZ
        return self.depth_XYZ if own else depth_inside(self.donor_foreground_XYZ)


def reference_of(voxels_XYZ: VoxelsXYZ, foreground_XYZ: MaskXYZ) -> Reference:
    """Measure a scan; it is its own donor until `with_donor` names another.

    Args:
        voxels_XYZ: The scan.
        foreground_XYZ: From `foreground_of`.

    Raises:
        IntensityError: If the foreground is constant.
    """
    centre, spread = _centre_and_spread(voxels_XYZ, foreground_XYZ)
    lowest, highest = float(voxels_XYZ.min()), float(voxels_XYZ.max())
    return Reference(foreground_XYZ, spread, centre, lowest, highest, voxels_XYZ, foreground_XYZ)


def with_donor(reference: Reference, donor_XYZ: Float32[np.ndarray, "U V W"]) -> Reference:
    """Take foreign patches from another scan, brought to this scan's median and spread.

    Args:
        reference: Of the scan that gets the patch.
        donor_XYZ: Another scan, in any unit and of any shape.

    Raises:
        IntensityError: If the donor's foreground is constant.
    """
    foreground_XYZ = foreground_of(donor_XYZ)
    centre, spread = _centre_and_spread(donor_XYZ, foreground_XYZ)
    lowest = np.float32(reference.lowest)
    scaled_XYZ = ((donor_XYZ - centre) * (reference.spread / spread) + reference.centre).astype(np.float32)
    scaled_XYZ = np.where(foreground_XYZ, np.maximum(scaled_XYZ, lowest), lowest)
    return replace(reference, donor_XYZ=scaled_XYZ, donor_foreground_XYZ=foreground_XYZ)


def support_box(weight_XYZ: VoxelsXYZ, *, margin: int = 0) -> Box:
    """Return the smallest box around all that takes part, and `margin` voxels more on each side."""
    x, y, z = ndimage.find_objects((weight_XYZ > 0).astype(np.int8))[0]
    sides = ((side, size) for side, size in zip((x, y, z), weight_XYZ.shape, strict=True))
    x, y, z = (slice(max(side.start - margin, 0), min(side.stop + margin, size)) for side, size in sides)
    return x, y, z


def blend_in(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, box: Box, content_UVW: Float32[np.ndarray, "U V W"]
) -> VoxelsXYZ:
    """Return a copy in which the box is (1 - w) · scan + w · content."""
    changed_XYZ = voxels_XYZ.copy()
    changed_XYZ[box] += weight_XYZ[box] * (content_UVW - voxels_XYZ[box])
    return changed_XYZ


def local_mean(voxels_XYZ: VoxelsXYZ, counts_XYZ: MaskXYZ, sigma_voxels: float) -> VoxelsXYZ:
    """Average what counts around each voxel, with Gaussian weights; what does not count is left as it is."""
    inside_XYZ = counts_XYZ.astype(np.float32)
    total_XYZ = ndimage.gaussian_filter(voxels_XYZ * inside_XYZ, sigma_voxels)
    weights_XYZ = ndimage.gaussian_filter(inside_XYZ, sigma_voxels)
    return np.where(counts_XYZ, total_XYZ / np.maximum(weights_XYZ, np.float32(1e-6)), voxels_XYZ)


def centre_of(weight_XYZ: VoxelsXYZ) -> Float64[np.ndarray, " 3"]:
    """Return the blob's centre of mass, in voxels."""
    return np.asarray(ndimage.center_of_mass(weight_XYZ), dtype=np.float64)


def equivalent_radius(weight_XYZ: VoxelsXYZ) -> float:
    """Return the radius, in voxels, of the ball with as many voxels as the blob has."""
    return float((3.0 * weight_XYZ.sum(dtype=np.float64) / (4.0 * np.pi)) ** (1.0 / 3.0))


def _centre_and_spread(voxels_XYZ: VoxelsXYZ, foreground_XYZ: MaskXYZ) -> tuple[float, float]:
    inside = voxels_XYZ[foreground_XYZ].astype(np.float64)
    lower, middle, upper = np.quantile(inside, [0.25, 0.5, 0.75])
    spread = float(upper - lower) / 1.349 or float(inside.std())
    if not spread > 0:
        raise IntensityError("the foreground is constant", found=float(middle), expected="different values")
    return float(middle), spread
