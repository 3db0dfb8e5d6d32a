"""A second family of local anomalies, for choosing settings on validation scans; never reported.

Why two families: a detector has settings (a grid, a smoothing, a weighting), and someone must choose them.  Chosen on
the kinds that are reported afterwards, they would be tuned to the test, and the reported figures would promise what new
kinds do not keep.  So settings are chosen on these kinds, put into validation scans, and reported are the kinds of
`anomaly_kinds`, put into test scans.  No name and no mechanism is in both.

The face is the same: ``kind(voxels_XYZ, weight_XYZ, *, rng, reference) -> voxels_XYZ``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, permutations, product
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from mendscan.cohort.anomaly_reference import (
    Kind,
    Reference,
    blend_in,
    centre_of,
    equivalent_radius,
    local_mean,
    support_box,
)
from mendscan.shapes import VoxelsXYZ

__all__ = ["SELECTION_KINDS", "SELECTION_STRUCTURE_KINDS", "encircle", "fade", "invert", "shuffle", "stripe", "turn"]

# In robust spreads of the foreground unless said otherwise; chosen by eye, as in `anomaly_kinds`.
_RIM_CONTRAST = (0.5, 2.0)
_CORE_SHARE = -0.4  # the core changes the other way, by this share of the rim
_MEAN_SHARE_OF_RADIUS = (0.3, 0.6)  # standard deviation of the Gaussian of a local mean
_STRIPE_AMPLITUDE = (0.4, 1.2)
_STRIPE_PERIOD_VOXELS = (3.0, 8.0)
_FADED_SHARE = (0.5, 0.9)  # of the local contrast that is taken away
_BLOCKS_PER_DIAMETER = 3
_REACH_VOXELS = 12


def encircle(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Add a bright or dark shell around a core that changes less, the other way; not below the scan's smallest value.

    With q the depth below the label's surface as a share of the largest, v + s w (0.3 + 0.7 cos πq²): the whole step s
    at the surface, -0.4 s in the middle.
    """
    step = rng.choice([-1.0, 1.0]) * rng.uniform(*_RIM_CONTRAST) * reference.spread
    box = support_box(weight_XYZ, margin=1)
    depth_XYZ = ndimage.distance_transform_edt(weight_XYZ[box] > 0.5)
    middle = (1.0 + _CORE_SHARE) / 2.0
    profile_XYZ = middle + (1.0 - middle) * np.cos(np.pi * (depth_XYZ / depth_XYZ.max()) ** 2)
    changed_XYZ = voxels_XYZ.copy()
    changed_XYZ[box] += weight_XYZ[box] * (step * profile_XYZ).astype(np.float32)
    return np.maximum(changed_XYZ, np.float32(reference.lowest))


def invert(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Turn local contrast into its negative: 2 m - v about the local mean m, within the range of the scan."""
    box = support_box(weight_XYZ, margin=_REACH_VOXELS)
    sigma_voxels = _mean_width(weight_XYZ, rng)
    negative_XYZ = 2.0 * local_mean(voxels_XYZ[box], reference.foreground_XYZ[box], sigma_voxels) - voxels_XYZ[box]
    return blend_in(voxels_XYZ, weight_XYZ, box, np.clip(negative_XYZ, reference.lowest, reference.highest))


def stripe(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Lay a plane wave over the content; the mean over the blob does not change.

    v + w (a cos(2π n·x / p + φ) - mean), with a random direction n, period p of 3 to 8 voxels and amplitude a.
    """
    amplitude, period = rng.uniform(*_STRIPE_AMPLITUDE) * reference.spread, rng.uniform(*_STRIPE_PERIOD_VOXELS)
    direction = rng.standard_normal(3)
    direction *= 2.0 * np.pi / period / np.linalg.norm(direction)
    box = support_box(weight_XYZ)
    x, y, z = np.ogrid[box]
    angle_XYZ = direction[0] * x + direction[1] * y + direction[2] * z + rng.uniform(0.0, 2.0 * np.pi)
    wave_XYZ = amplitude * np.cos(angle_XYZ)
    wave_XYZ -= np.average(wave_XYZ, weights=weight_XYZ[box])
    return blend_in(voxels_XYZ, weight_XYZ, box, voxels_XYZ[box] + wave_XYZ.astype(np.float32))


def shuffle(
    voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
) -> VoxelsXYZ:
    """Permute the blocks that the blob consists of, three to a diameter, cross-faded over a voxel where they meet.

    Blocks of the box that lie mostly outside the blob stay: what is around it does not come in.
    """
    box = support_box(weight_XYZ)
    patch_XYZ, weight = voxels_XYZ[box], weight_XYZ[box]
    edges = [_block_edges(side.stop - side.start) for side in box]
    corners = np.stack(np.meshgrid(*[side[:-1] for side in edges], indexing="ij"), axis=-1).reshape(-1, 3)
    windows = [wx[:, None, None] * wy[:, None] * wz for wx, wy, wz in product(*map(_block_windows, edges))]
    moved = [k for k, window in enumerate(windows) if np.sum(window * weight) >= 0.5 * np.sum(window) > 0]
    sources = corners.copy()
    sources[moved] = corners[moved][_derangement(len(moved), rng)]
    content_XYZ = np.zeros_like(patch_XYZ)
    for window, shift in zip(windows, sources - corners, strict=True):
        indices = [np.clip(np.arange(size) + step, 0, size - 1) for size, step in zip(weight.shape, shift, strict=True)]
        content_XYZ += window * patch_XYZ[np.ix_(*indices)]
    return blend_in(voxels_XYZ, weight_XYZ, box, content_XYZ)


def turn(voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference) -> VoxelsXYZ:
    """Rotate the content about the blob's centre by 90, 120 or 180 degrees, voxel for voxel.

    One of the 23 rotations that map the voxel grid onto itself: nothing is interpolated, so detail stays as fine as it
    was.  In voxels, not millimetres: where voxels are not cubes the content is stretched as well.
    """
    rotations = _grid_rotations()
    rotation = rotations[rng.integers(len(rotations))]
    box = support_box(weight_XYZ)
    x, y, z = np.ogrid[box]
    centre = np.rint(centre_of(weight_XYZ)).astype(int)
    offsets = np.stack(np.broadcast_arrays(x - centre[0], y - centre[1], z - centre[2]))
    indices = np.einsum("ij,jxyz->ixyz", rotation, offsets) + centre[:, None, None, None]
    last = np.asarray(voxels_XYZ.shape)[:, None, None, None] - 1
    content_XYZ = voxels_XYZ[tuple(np.clip(indices, 0, last))]
    return blend_in(voxels_XYZ, weight_XYZ, box, content_XYZ)


def fade(voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference) -> VoxelsXYZ:
    """Take 50 to 90 % of the contrast away, structures as well as detail: v + w s (m - v), m the local mean."""
    share = np.float32(rng.uniform(*_FADED_SHARE))
    box = support_box(weight_XYZ, margin=_REACH_VOXELS)
    patch_XYZ = voxels_XYZ[box]
    mean_XYZ = local_mean(patch_XYZ, reference.foreground_XYZ[box], _mean_width(weight_XYZ, rng))
    return blend_in(voxels_XYZ, weight_XYZ, box, patch_XYZ + share * (mean_XYZ - patch_XYZ))


SELECTION_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "rim": encircle,
        "inverted": invert,
        "stripes": stripe,
        "shuffled": shuffle,
        "turned": turn,
        "faded": fade,
    }
)
"""Every kind that settings may be chosen on, by its name in `anomalies.csv`."""

SELECTION_STRUCTURE_KINDS = frozenset({"inverted", "shuffled", "turned"})
"""Those that change what is where, as `STRUCTURE_KINDS`."""


def _mean_width(weight_XYZ: VoxelsXYZ, rng: np.random.Generator) -> float:
    return max(2.0, rng.uniform(*_MEAN_SHARE_OF_RADIUS) * equivalent_radius(weight_XYZ))


def _block_edges(length: int) -> np.ndarray:
    return np.linspace(0, length, _BLOCKS_PER_DIAMETER + 1).round().astype(int)


def _block_windows(edges: np.ndarray) -> list[Float32[np.ndarray, " N"]]:
    """One window per block along one axis; smoothed over three voxels, and 1 in sum at every voxel."""
    places = np.arange(edges[-1])
    return [
        ndimage.uniform_filter1d(((places >= first) & (places < end)).astype(np.float32), 3, mode="nearest")
        for first, end in pairwise(edges)
    ]


def _derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation that leaves nothing in its place: one random cycle."""
    order = rng.permutation(count)
    moved = np.empty(count, dtype=int)
    moved[order] = np.roll(order, 1)
    return moved


def _grid_rotations() -> list[np.ndarray]:
    """Every rotation of the voxel grid onto itself but the one that does nothing: 23."""
    matrices = [np.diag(signs)[list(axes)] for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
    return [m for m in matrices if round(np.linalg.det(m)) == 1 and not np.array_equal(m, np.eye(3))]
