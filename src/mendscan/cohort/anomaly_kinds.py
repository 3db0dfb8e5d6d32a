"""What can happen inside a reported anomaly: ten kinds, each a pure function with the same face::

    kind(voxels_XYZ, weight_XYZ, *, rng, reference) -> voxels_XYZ

`weight_XYZ` in [0, 1] says how much each voxel takes part; its edge is soft, so that nothing is found by its seam.
Settings are never chosen on these kinds: for that there is the disjoint family in `selection_kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from mendscan.cohort.anomaly_reference import (
    Box,
    Kind,
    Reference,
    blend_in,
    centre_of,
    equivalent_radius,
    local_mean,
    support_box,
)
from mendscan.shapes import MaskXYZ, VoxelsXYZ

__all__ = [
    "KINDS",
    "STRUCTURE_KINDS",
    "blur",
    "brighten",
    "darken",
    "deform",
    "fill",
    "mirror",
    "remove",
    "retexture",
    "transplant",
    "transplant_other",
]

# How strong anomalies are, in robust spreads of the foreground unless said otherwise; each is drawn from its range.
# Chosen by eye: faint to plain.  They define the evaluation set, no score depends on them.
_CONTRAST = (0.3, 2.0)  # bright and dark
_MOST_OF_THE_WAY = 0.7  # share of the way from the local mean to the smallest value that dark may go
_TEXTURE_AMPLITUDE = (0.4, 0.9)
_TEXTURE_GRAIN_VOXELS = (0.0, 1.5)  # standard deviation of the Gaussian that smooths the new texture, per axis
_BLUR_VOXELS = (1.2, 2.5)  # standard deviation of the Gaussian
_STRETCH = (0.5, 0.85)  # share of the radius by which the middle of a deformation is magnified or shrunk
_FINE_VOXELS = 1.5  # detail finer than a Gaussian of this standard deviation is texture, coarser is structure
_TEXTURE_PLACES_TRIED = 24
_REACH_VOXELS = 10  # margin of the box: four standard deviations of the widest Gaussian


def brighten(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Raise the intensity by 0.3 to 2 spreads; the texture stays."""
    return voxels_XYZ + np.float32(rng.uniform(*_CONTRAST) * reference.spread) * weight_XYZ


def darken(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Lower the intensity by 0.3 to 2 spreads, at most 70 % of the way to the scan's smallest value."""
    way_down = float(np.average(voxels_XYZ, weights=weight_XYZ)) - reference.lowest
    step = min(rng.uniform(*_CONTRAST) * reference.spread, _MOST_OF_THE_WAY * way_down)
    darker_XYZ = voxels_XYZ - np.float32(step) * weight_XYZ
    return np.maximum(darker_XYZ, np.float32(reference.lowest))


def fill(voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference) -> VoxelsXYZ:
    """Replace by one constant that occurs in the scan."""
    level = np.float32(np.quantile(voxels_XYZ[reference.foreground_XYZ], rng.uniform(0.02, 0.98)))
    return voxels_XYZ + weight_XYZ * (level - voxels_XYZ)


def retexture(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Replace by another texture of the same local mean; the mean over the blob does not change."""
    box = support_box(weight_XYZ, margin=_REACH_VOXELS)
    patch_XYZ = voxels_XYZ[box]
    noise_XYZ = rng.standard_normal(patch_XYZ.shape, dtype=np.float32)
    grain_XYZ = ndimage.gaussian_filter(noise_XYZ, rng.uniform(*_TEXTURE_GRAIN_VOXELS, 3))
    grain_XYZ *= np.float32(rng.uniform(*_TEXTURE_AMPLITUDE) * reference.spread / grain_XYZ.std())
    content_XYZ = local_mean(patch_XYZ, reference.foreground_XYZ[box], 2.0) + grain_XYZ
    content_XYZ -= np.float32(np.average(content_XYZ - patch_XYZ, weights=weight_XYZ[box]))
    return blend_in(voxels_XYZ, weight_XYZ, box, content_XYZ)


def blur(voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference) -> VoxelsXYZ:
    """Take the fine detail away; background does not bleed in."""
    box = support_box(weight_XYZ, margin=_REACH_VOXELS)
    smooth_XYZ = local_mean(voxels_XYZ[box], reference.foreground_XYZ[box], rng.uniform(*_BLUR_VOXELS))
    return blend_in(voxels_XYZ, weight_XYZ, box, smooth_XYZ)


def mirror(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Turn left into right, about the blob's own centre."""
    box = support_box(weight_XYZ)
    doubled_centre = round(2.0 * centre_of(weight_XYZ)[0])
    opposite = np.clip(doubled_centre - np.arange(box[0].start, box[0].stop), 0, voxels_XYZ.shape[0] - 1)
    return blend_in(voxels_XYZ, weight_XYZ, box, voxels_XYZ[opposite, box[1], box[2]])


def transplant(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Replace by what lies elsewhere in the same scan, voxel for voxel."""
    here = np.rint(centre_of(weight_XYZ)).astype(int)
    radius = equivalent_radius(weight_XYZ)
    elsewhere_XYZ = np.ones(voxels_XYZ.shape, dtype=bool)
    elsewhere_XYZ[tuple(slice(max(int(c - radius), 0), int(c + radius) + 1) for c in here)] = False
    places_XYZ = _deep_places(np.where(elsewhere_XYZ, reference.depth_XYZ, 0.0), radius)
    return _transplanted(voxels_XYZ, weight_XYZ, voxels_XYZ, places_XYZ, rng)


def transplant_other(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Replace by what lies anywhere in the reference's donor, voxel for voxel; the scan itself if it has no other."""
    places_XYZ = _deep_places(reference.donor_depth_XYZ, equivalent_radius(weight_XYZ))
    return _transplanted(voxels_XYZ, weight_XYZ, reference.donor_XYZ, places_XYZ, rng)


def remove(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Let a structure be missing: what surrounds the blob closes over it.

    The coarse part is the membrane u with Δu = 0 inside and the surrounding's local mean on the rim, as in Poisson
    editing (Pérez et al., 2003); the fine part is the surrounding's own texture t, taken beside the blob:
    v + w (u - local mean of v) for the coarse and √(1-w) · own + √w · t for the fine part, which keeps the texture's
    variance across the rim.  No value is outside the range of the surrounding.
    """
    box = support_box(weight_XYZ, margin=_REACH_VOXELS)
    patch_XYZ, inside_XYZ, weight = voxels_XYZ[box], weight_XYZ[box] > 0, weight_XYZ[box]
    around_XYZ = reference.foreground_XYZ[box] & ~inside_XYZ
    coarse_XYZ = local_mean(patch_XYZ, reference.foreground_XYZ[box], _FINE_VOXELS)
    rim_XYZ = local_mean(patch_XYZ, around_XYZ, _FINE_VOXELS)
    membrane_XYZ = _membrane(rim_XYZ, inside_XYZ, around_XYZ)
    texture_XYZ = _texture_beside(voxels_XYZ, weight_XYZ, box, reference, rng)
    content_XYZ = coarse_XYZ + weight * (membrane_XYZ - coarse_XYZ)
    content_XYZ += np.sqrt(1.0 - weight) * (patch_XYZ - coarse_XYZ) + np.sqrt(weight) * texture_XYZ
    surrounding = patch_XYZ[around_XYZ] if around_XYZ.any() else patch_XYZ
    content_XYZ = np.clip(content_XYZ, surrounding.min(), surrounding.max())
    removed_XYZ = voxels_XYZ.copy()
    removed_XYZ[box] = np.where(inside_XYZ, content_XYZ, patch_XYZ)
    return removed_XYZ


def deform(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Magnify or shrink the middle at the expense of the rim; no intensity is new and nothing folds.

    A voxel x takes the value at x - s (1 - q²)² w (x - c), where c is the blob's centre, q its ellipsoidal distance
    from c (1 at the surface) and s the drawn stretch; -1.25 < s < 1 keeps the map one-to-one.  Read by cubic splines:
    linear interpolation would take fine detail away, and the anomaly would be found by that.
    """
    stretch = rng.choice([-1.0, 1.0]) * rng.uniform(*_STRETCH)
    box = support_box(weight_XYZ, margin=_REACH_VOXELS)
    patch_XYZ, weight = voxels_XYZ[box], weight_XYZ[box]
    places = np.argwhere(weight > 0)
    weights = weight[tuple(places.T)].astype(np.float64)
    offsets = places - np.average(places, axis=0, weights=weights)
    covariance = np.einsum("n,ni,nj->ij", weights / weights.sum(), offsets, offsets)
    # A solid ellipsoid's covariance is a fifth of its squared half-axes.
    squared_distance = np.einsum("ni,ij,nj->n", offsets, np.linalg.pinv(5.0 * covariance), offsets)
    bump = np.clip(1.0 - squared_distance, 0.0, None) ** 2 * weights
    moved = bump > 0
    sources = places[moved] - stretch * bump[moved, None] * offsets[moved]
    values = ndimage.map_coordinates(patch_XYZ, sources.T, order=3, mode="nearest")
    deformed_XYZ = voxels_XYZ.copy()
    deformed_XYZ[box][tuple(places[moved].T)] = np.clip(values, patch_XYZ.min(), patch_XYZ.max())
    return deformed_XYZ


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "bright": brighten,
        "dark": darken,
        "uniform": fill,
        "texture": retexture,
        "blur": blur,
        "mirror": mirror,
        "foreign": transplant,
        "foreign-other": transplant_other,
        "missing": remove,
        "deformation": deform,
    }
)
"""Every reported kind by its name in `anomalies.csv`."""

STRUCTURE_KINDS = frozenset({"mirror", "foreign", "foreign-other", "missing", "deformation"})
"""Kinds that change what is where: in even tissue they would only redraw the noise, and be labelled for nothing."""


def _deep_places(depth_UVW: Float64[np.ndarray, "U V W"], radius: float) -> Bool[np.ndarray, "U V W"]:
    """Where a patch of this radius lies inside the foreground; the deepest places if it does nowhere."""
    return depth_UVW >= min(radius, float(depth_UVW.max()))


def _transplanted(
    voxels_XYZ: VoxelsXYZ,
    weight_XYZ: VoxelsXYZ,
    source_UVW: Float32[np.ndarray, "U V W"],
    places_UVW: Bool[np.ndarray, "U V W"],
    rng: np.random.Generator,
) -> VoxelsXYZ:
    box = support_box(weight_XYZ)
    places = np.flatnonzero(places_UVW)
    there = np.unravel_index(places[rng.integers(len(places))], places_UVW.shape)
    shift = np.asarray(there) - np.rint(centre_of(weight_XYZ)).astype(int)
    indices = [
        np.clip(np.arange(side.start, side.stop) + step, 0, size - 1)
        for side, step, size in zip(box, shift, source_UVW.shape, strict=True)
    ]
    return blend_in(voxels_XYZ, weight_XYZ, box, source_UVW[np.ix_(*indices)])


def _membrane(rim_XYZ: VoxelsXYZ, inside_XYZ: MaskXYZ, around_XYZ: MaskXYZ) -> VoxelsXYZ:
    """Solve Δu = 0 inside with u given around it; what is neither, such as background, does not pull.

    Each unknown is the mean of its known and unknown neighbours: Σ_j (u_i - u_j) = 0 over the six neighbours j.
    """
    number_XYZ = np.full(inside_XYZ.shape, -1)
    count = int(inside_XYZ.sum())
    number_XYZ[inside_XYZ] = np.arange(count)
    level = float(rim_XYZ[around_XYZ].mean()) if around_XYZ.any() else float(rim_XYZ.mean())
    degree, pull = np.zeros(count), np.zeros(count)
    pairs = []
    for axis in range(3):
        for step in (1, -1):
            shown = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
            hidden = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
            here, there = (shown, hidden) if step > 0 else (hidden, shown)
            fixed = inside_XYZ[here] & around_XYZ[there]
            np.add.at(degree, number_XYZ[here][fixed], 1.0)
            np.add.at(pull, number_XYZ[here][fixed], rim_XYZ[there][fixed].astype(np.float64) - level)
            both = inside_XYZ[here] & inside_XYZ[there]
            np.add.at(degree, number_XYZ[here][both], 1.0)
            pairs.append((number_XYZ[here][both], number_XYZ[there][both]))
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    laplacian = sparse.diags(degree) - sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    # Relative to the rim's mean, so that a blob without a rim gets that mean and not a singular system's whim.
    height, _ = cg(laplacian.tocsr(), pull, rtol=1e-4, maxiter=1000)
    membrane_XYZ = rim_XYZ.copy()
    membrane_XYZ[inside_XYZ] = level + height
    return membrane_XYZ


def _texture_beside(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, box: Box, reference: Reference, rng: np.random.Generator
) -> Float32[np.ndarray, "U V W"]:
    """Take the fine detail of a place beside the blob: of the places tried, the one with least structure in it.

    A place is the box moved by two radii in a random direction; what would leave the foreground counts as structure.
    """
    foreground_XYZ, support = reference.foreground_XYZ, weight_XYZ[box] > 0
    reach = 2.0 * equivalent_radius(weight_XYZ) + 1.0
    best_XYZ, least = np.zeros(support.shape, dtype=np.float32), np.inf
    for direction in rng.standard_normal((_TEXTURE_PLACES_TRIED, 3)):
        step = np.rint(reach * direction / np.linalg.norm(direction)).astype(int).tolist()
        indices = np.ix_(*(_reflected(side, s, n) for side, s, n in zip(box, step, voxels_XYZ.shape, strict=True)))
        there_XYZ, counts_XYZ = voxels_XYZ[indices], foreground_XYZ[indices] & (weight_XYZ[indices] == 0)
        detail_XYZ = there_XYZ - local_mean(there_XYZ, counts_XYZ, _FINE_VOXELS)
        structure = float(np.mean(detail_XYZ[support] ** 2)) / max(float(np.mean(counts_XYZ[support])), 1e-3) ** 2
        if structure < least:
            best_XYZ, least = detail_XYZ * counts_XYZ, structure
    return best_XYZ


def _reflected(side: slice, step: int, size: int) -> np.ndarray:
    """Indices of the moved side; where it leaves the scan it is reflected back."""
    moved = np.abs(np.arange(side.start, side.stop) + step)
    return np.clip(np.where(moved >= size, 2 * (size - 1) - moved, moved), 0, size - 1)
