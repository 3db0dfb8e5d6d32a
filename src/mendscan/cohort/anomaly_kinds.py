"""What can happen inside an anomaly: eight kinds, each a pure function with the same face::

    kind(voxels_XYZ, weight_XYZ, *, rng, reference) -> voxels_XYZ

`weight_XYZ` in [0, 1] says how much each voxel takes part.  Every change is relative to the scan's own robust spread,
measured once in a `Reference`, so a scan in any unit gets the same anomaly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from mendscan.cohort.foreground import depth_inside, foreground_of
from mendscan.errors import IntensityError
from mendscan.shapes import MaskXYZ, VoxelsXYZ

__all__ = [
    "KINDS",
    "Reference",
    "blur",
    "brighten",
    "darken",
    "deform",
    "fill",
    "mirror",
    "reference_of",
    "retexture",
    "transplant",
]

# How strong anomalies are, in robust spreads of the foreground unless said otherwise; each is drawn from its range.
# Chosen by eye: faint to plain.  They define the evaluation set, no score depends on them.
_CONTRAST = (0.8, 2.0)  # bright and dark
_MOST_OF_THE_WAY = 0.7  # share of the way from the local mean to the smallest value that dark may go
_TEXTURE_AMPLITUDE = (0.4, 0.9)
_TEXTURE_GRAIN_VOXELS = (0.0, 1.5)  # standard deviation of the Gaussian that smooths the new texture, per axis
_BLUR_VOXELS = (1.2, 2.5)  # standard deviation of the Gaussian
_STRETCH = (0.5, 0.85)  # share of the radius by which the middle of a deformation is magnified or shrunk


@dataclass(frozen=True)
class Reference:
    """What is normal for one scan, and where other content may come from.

    Attributes:
        foreground_XYZ: Where the scan is not background.
        spread: Robust standard deviation of the foreground (interquartile range / 1.349), in the scan's unit.
        lowest: Smallest value of the scan.
        donor_XYZ: The source of foreign patches: the scan, or another one in this scan's unit, with `lowest` for its
            background.
        donor_places_XYZ: Where in the donor a patch may be centred.
    """

    foreground_XYZ: MaskXYZ
    spread: float
    lowest: float
    donor_XYZ: Float32[np.ndarray, "U V W"]
    donor_places_XYZ: Bool[np.ndarray, "U V W"]


def reference_of(
    voxels_XYZ: VoxelsXYZ,
    foreground_XYZ: MaskXYZ,
    *,
    donor_XYZ: Float32[np.ndarray, "U V W"] | None = None,
    patch_depth_voxels: float = 0.0,
) -> Reference:
    """Measure a scan, and bring the donor of foreign patches into its unit.

    Args:
        voxels_XYZ: The scan.
        foreground_XYZ: From `foreground_of`.
        donor_XYZ: Another scan, in any unit; the scan itself when left out.
        patch_depth_voxels: How deep inside the donor's foreground the middle of a patch should lie.

    Raises:
        IntensityError: If the foreground is constant.
    """
    centre, spread = _centre_and_spread(voxels_XYZ, foreground_XYZ)
    lowest = voxels_XYZ.min()
    if donor_XYZ is None:
        donor_XYZ, donor_foreground_XYZ = voxels_XYZ, foreground_XYZ
    else:
        donor_foreground_XYZ = foreground_of(donor_XYZ)
        donor_centre, donor_spread = _centre_and_spread(donor_XYZ, donor_foreground_XYZ)
        scaled_XYZ = ((donor_XYZ - donor_centre) * (spread / donor_spread) + centre).astype(np.float32)
        donor_XYZ = np.where(donor_foreground_XYZ, np.maximum(scaled_XYZ, lowest), lowest)
    depth_XYZ = depth_inside(donor_foreground_XYZ)
    places_XYZ = depth_XYZ >= min(patch_depth_voxels, depth_XYZ.max())
    return Reference(foreground_XYZ, spread, float(lowest), donor_XYZ, places_XYZ)


def _centre_and_spread(voxels_XYZ: VoxelsXYZ, foreground_XYZ: MaskXYZ) -> tuple[float, float]:
    inside = voxels_XYZ[foreground_XYZ].astype(np.float64)
    lower, middle, upper = np.quantile(inside, [0.25, 0.5, 0.75])
    spread = float(upper - lower) / 1.349 or float(inside.std())
    if not spread > 0:
        raise IntensityError("the foreground is constant", found=float(middle), expected="different values")
    return float(middle), spread


class _Kind(Protocol):
    def __call__(
        self, voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
    ) -> VoxelsXYZ: ...


def brighten(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Raise the intensity; the texture stays."""
    return voxels_XYZ + np.float32(rng.uniform(*_CONTRAST) * reference.spread) * weight_XYZ


def darken(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Lower the intensity, at most most of the way to the scan's smallest value; the texture stays."""
    way_down = float(np.average(voxels_XYZ, weights=weight_XYZ)) - reference.lowest
    step = min(rng.uniform(*_CONTRAST) * reference.spread, _MOST_OF_THE_WAY * way_down)
    return np.maximum(voxels_XYZ - np.float32(step) * weight_XYZ, np.float32(reference.lowest))


def fill(voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference) -> VoxelsXYZ:
    """Replace by one constant that occurs in the scan."""
    level = np.float32(np.quantile(voxels_XYZ[reference.foreground_XYZ], rng.uniform(0.02, 0.98)))
    return voxels_XYZ + weight_XYZ * (level - voxels_XYZ)


def retexture(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Replace by another texture of the same local mean; the mean over the blob does not change."""
    noise_XYZ = rng.standard_normal(voxels_XYZ.shape, dtype=np.float32)
    grain_XYZ = ndimage.gaussian_filter(noise_XYZ, rng.uniform(*_TEXTURE_GRAIN_VOXELS, 3))
    grain_XYZ *= np.float32(rng.uniform(*_TEXTURE_AMPLITUDE) * reference.spread / grain_XYZ.std())
    change_XYZ = _smoothed(voxels_XYZ, reference.foreground_XYZ, 2.0) + grain_XYZ - voxels_XYZ
    change_XYZ -= np.float32(np.average(change_XYZ, weights=weight_XYZ))
    return voxels_XYZ + weight_XYZ * change_XYZ


def blur(voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference) -> VoxelsXYZ:
    """Take the fine detail away; background does not bleed in."""
    smooth_XYZ = _smoothed(voxels_XYZ, reference.foreground_XYZ, rng.uniform(*_BLUR_VOXELS))
    return voxels_XYZ + weight_XYZ * (smooth_XYZ - voxels_XYZ)


def mirror(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Turn left into right, about the blob's own centre."""
    doubled_centre = round(2.0 * _centre_of(weight_XYZ)[0])
    last = voxels_XYZ.shape[0] - 1
    opposite = np.clip(doubled_centre - np.arange(last + 1), 0, last)
    return voxels_XYZ + weight_XYZ * (voxels_XYZ[opposite] - voxels_XYZ)


def transplant(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Replace by what lies elsewhere in the donor, voxel for voxel."""
    here = np.rint(_centre_of(weight_XYZ)).astype(int)
    places = np.argwhere(reference.donor_places_XYZ)
    shift = places[rng.integers(len(places))] - here
    indices = [
        np.clip(np.arange(size) + step, 0, donor_size - 1)
        for size, step, donor_size in zip(voxels_XYZ.shape, shift, reference.donor_XYZ.shape, strict=True)
    ]
    return voxels_XYZ + weight_XYZ * (reference.donor_XYZ[np.ix_(*indices)] - voxels_XYZ)


def deform(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Magnify or shrink the middle at the expense of the rim; no intensity is new and nothing folds.

    A voxel x takes the value at x - s (1 - q²)² w (x - c), where c is the blob's centre, q its ellipsoidal distance
    from c (1 at the surface) and s the drawn stretch; -1.25 < s < 1 keeps the map one-to-one.
    """
    stretch = rng.choice([-1.0, 1.0]) * rng.uniform(*_STRETCH)
    box = _support_of(weight_XYZ)
    places = np.argwhere(weight_XYZ[box] > 0) + [side.start for side in box]
    weights = weight_XYZ[tuple(places.T)].astype(np.float64)
    offsets = places - np.average(places, axis=0, weights=weights)
    covariance = np.einsum("n,ni,nj->ij", weights / weights.sum(), offsets, offsets)
    # A solid ellipsoid's covariance is a fifth of its squared half-axes.
    squared_distance = np.einsum("ni,ij,nj->n", offsets, np.linalg.pinv(5.0 * covariance), offsets)
    bump = np.clip(1.0 - squared_distance, 0.0, None) ** 2 * weights
    sources = places - stretch * bump[:, None] * offsets
    deformed_XYZ = voxels_XYZ.copy()
    deformed_XYZ[tuple(places.T)] = ndimage.map_coordinates(voxels_XYZ, sources.T, order=1, mode="nearest")
    return deformed_XYZ


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "bright": brighten,
        "dark": darken,
        "uniform": fill,
        "texture": retexture,
        "blur": blur,
        "mirror": mirror,
        "foreign": transplant,
        "deformation": deform,
    }
)
"""Every kind by its name in `anomalies.csv`."""


def _smoothed(voxels_XYZ: VoxelsXYZ, foreground_XYZ: MaskXYZ, sigma_voxels: float) -> VoxelsXYZ:
    """Average the foreground around each voxel, with Gaussian weights."""
    inside_XYZ = foreground_XYZ.astype(np.float32)
    total_XYZ = ndimage.gaussian_filter(voxels_XYZ * inside_XYZ, sigma_voxels)
    weights_XYZ = ndimage.gaussian_filter(inside_XYZ, sigma_voxels)
    return np.where(foreground_XYZ, total_XYZ / np.maximum(weights_XYZ, np.float32(1e-6)), voxels_XYZ)


def _centre_of(weight_XYZ: VoxelsXYZ) -> Float64[np.ndarray, " 3"]:
    return np.asarray(ndimage.center_of_mass(weight_XYZ), dtype=np.float64)


def _support_of(weight_XYZ: VoxelsXYZ) -> tuple[slice, ...]:
    return ndimage.find_objects((weight_XYZ > 0).astype(np.int8))[0]
