"""A second family of whole-scan artefacts, for choosing settings on validation scans; never reported.

Why two families: see `selection_kinds`.  No name and no mechanism is both here and in `artefacts`, and no name is that
of a local anomaly.  The face is the same::

    artefact(voxels_XYZ, *, rng, reference, severity) -> voxels_XYZ of the same shape

with `severity` from 0 to 1 going through the range in each docstring.  Axes are those along which the scan varies:
along another one there is nothing to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from mendscan.cohort.anomaly_reference import Box, Reference, support_box
from mendscan.shapes import VoxelsXYZ

if TYPE_CHECKING:  # `artefacts` joins both families
    from mendscan.cohort.artefacts import Artefact

__all__ = [
    "SELECTION_ARTEFACTS",
    "aliased",
    "coarse",
    "disordered",
    "interleaved",
    "quantised",
    "rotated",
    "salted",
    "slanted",
]

# From the faintest (severity 0) to the plainest (severity 1); chosen by eye, as in `artefacts`.
_BLOCK_SLICES = (2.0, 6.0)
_FOLDED_SHARE = (0.08, 0.4)  # of the foreground's length
_FOLDED_SIGNAL = (0.3, 1.0)  # share of the signal that folds, where most does
_ALTERNATION_SPREADS = (0.08, 0.6)  # root mean square
_MISPLACED_SLICES = 0.5  # standard deviation of a slice's place, at severity 0
_MISPLACED_SHARE = 0.1  # the same as a share of the foreground's length, at severity 1
_LEVEL_SPREADS = (0.4, 1.6)  # from one grey level to the next
_SALTED_SHARE = (0.002, 0.06)  # of the foreground's voxels
_SALT_SPREADS = 3.0  # from the foreground's median
_DEGREES = (8.0, 40.0)
_LONGEST_TO_SHORTEST = 2.0  # side of a plane in which a scan is rotated
_SLANT_SHARE = (0.05, 0.3)  # of the foreground's length, by which either end is displaced


def coarse(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Measure thick slices: blocks of 2 to 6 slices along one axis are averaged, and what is between is interpolated.

    2 to 6 is a mean, for blocks of one scan may differ by a slice; it is at most half of the axis.  Where tissue ends,
    background takes part in the average, as it does in a thick slice.
    """
    axis = int(rng.choice(_varying_axes(voxels_XYZ, reference)))
    size = voxels_XYZ.shape[axis]
    block = min(_between(_BLOCK_SLICES, severity), max(2.0, size / 2.0))
    starts = np.unique(np.append(0, np.arange(rng.uniform(0.0, block), size, block).astype(int)))
    counts = np.diff(starts, append=size)
    means_XYZ = np.add.reduceat(voxels_XYZ, starts, axis) / _along(counts.astype(np.float32), axis)
    # Where each slice lies among the middles of the blocks; before the first and after the last the mean goes on.
    places = np.interp(np.arange(size), starts + (counts - 1) / 2.0, np.arange(len(starts)))
    below = places.astype(int)
    above = np.minimum(below + 1, len(starts) - 1)
    share = _along((places - below).astype(np.float32), axis)
    return (1.0 - share) * np.take(means_XYZ, below, axis) + share * np.take(means_XYZ, above, axis)


def aliased(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Measure too small a field of view: one end of the foreground appears on top of the other.

    Along one axis the last 8 to 40 % of the foreground are added to the first, with 30 to 100 % of their signal: less
    and less the further in they land, as a coil receives less from what is further out.  Where there is air in front of
    the foreground, what folds goes on into it.
    """
    axis = int(rng.choice(_varying_axes(voxels_XYZ, reference)))
    side, size = _box(reference)[axis], voxels_XYZ.shape[axis]
    far_end_folds = rng.random() < 0.5
    seen_XYZ = voxels_XYZ if far_end_folds else np.flip(voxels_XYZ, axis)
    first, end = (side.start, side.stop) if far_end_folds else (size - side.stop, size - side.start)
    folded = max(1, round(_between(_FOLDED_SHARE, severity) * (end - first)))
    places = np.arange(size)
    signal = _between(_FOLDED_SIGNAL, severity) * np.clip((first + folded - places) / folded, 0.0, 1.0)
    from_there_XYZ = np.take(seen_XYZ, np.minimum(places + end - first - folded, size - 1), axis)
    lowest = np.float32(reference.lowest)
    seen_XYZ = seen_XYZ + _along(signal.astype(np.float32), axis) * (from_there_XYZ - lowest)
    return seen_XYZ if far_end_folds else np.ascontiguousarray(np.flip(seen_XYZ, axis))


def interleaved(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Make every second slice along one axis brighter and the others darker, as when they disturb each other.

    lowest + (v - lowest)(1 ± g), with g such that the root mean square change over the foreground is 0.08 to 0.6
    spreads; g stays below 1, because the spread of values above 0 is at most 1.5 times their root mean square.
    """
    axis = int(rng.choice(_varying_axes(voxels_XYZ, reference)))
    lowest = np.float32(reference.lowest)
    inside = voxels_XYZ[reference.foreground_XYZ].astype(np.float64) - reference.lowest
    gain = _between(_ALTERNATION_SPREADS, severity) * reference.spread / np.sqrt(np.mean(inside**2))
    odd = (np.arange(voxels_XYZ.shape[axis]) + rng.integers(2)) % 2
    factors = 1.0 + gain * (2.0 * odd - 1.0)
    return lowest + (voxels_XYZ - lowest) * _along(factors.astype(np.float32), axis)


def disordered(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Stack the slices along one axis in a wrong order.

    Slices that hold foreground are sorted by where they are plus a normal error, whose standard deviation is half a
    slice, so that few neighbours change places, up to 10 % of the foreground's length, so that hardly one stays.
    """
    axis = int(rng.choice(_varying_axes(voxels_XYZ, reference)))
    side = _box(reference)[axis]
    right_order = np.arange(side.start, side.stop)
    most = max(2.0 * _MISPLACED_SLICES, _MISPLACED_SHARE * len(right_order))
    error = _between((_MISPLACED_SLICES, most), severity)
    order = right_order
    while np.array_equal(order, right_order):
        order = right_order[np.argsort(right_order + error * rng.standard_normal(len(right_order)), kind="stable")]
    indices = np.arange(voxels_XYZ.shape[axis])
    indices[side] = order
    return np.take(voxels_XYZ, indices, axis)


def quantised(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Store few grey levels: values are rounded to steps of 0.4 to 1.6 spreads above the scan's smallest value."""
    lowest = np.float32(reference.lowest)
    step = np.float32(_between(_LEVEL_SPREADS, severity) * reference.spread)
    return lowest + step * np.rint((voxels_XYZ - lowest) / step)


def salted(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Let 0.2 to 6 % of the foreground's voxels, at least two, fail: half of them bright, half of them dark.

    Both are 3 spreads from the foreground's median, within the range of the scan.
    """
    inside = np.flatnonzero(reference.foreground_XYZ)
    count = max(2, round(_between(_SALTED_SHARE, severity) * len(inside)))
    failed = rng.choice(inside, count, replace=False)
    ends = reference.centre + _SALT_SPREADS * reference.spread * np.array([-1.0, 1.0])
    dark, bright = np.clip(ends, reference.lowest, reference.highest)
    salted_XYZ = voxels_XYZ.copy()
    salted_XYZ.flat[failed[: count // 2]] = dark
    salted_XYZ.flat[failed[count // 2 :]] = bright
    return salted_XYZ


def rotated(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Rotate the whole scan by 8 to 40 degrees about the middle of its foreground, in the plane of two of its axes.

    In voxels, not millimetres; planes in which the foreground is more than twice as long as wide are left out, because
    a rotation would take most of it out of the scan.  What enters is as `_seen_through` says.
    """
    lengths = [side.stop - side.start for side in _box(reference)]
    varying = set(_varying_axes(voxels_XYZ, reference))
    planes = {
        plane: max(lengths[a] for a in plane) / min(lengths[a] for a in plane)
        for plane in combinations(range(3), 2)
        if varying & set(plane)
    }
    longest = max(_LONGEST_TO_SHORTEST, min(planes.values()))
    a, b = rng.choice([plane for plane, ratio in planes.items() if ratio <= longest]).tolist()
    angle = np.radians(_between(_DEGREES, severity)) * rng.choice([-1.0, 1.0])
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return _seen_through(matrix, voxels_XYZ, reference)


def slanted(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Shear the whole scan, as an ignored tilt of the gantry does.

    Along one axis slices are displaced evenly along another, at both ends of the foreground by 5 to 30 % of its length,
    in opposite directions.  What enters is as `_seen_through` says.
    """
    lengths = [side.stop - side.start for side in _box(reference)]
    moved = int(rng.choice(_varying_axes(voxels_XYZ, reference)))
    others = [axis for axis in range(3) if axis != moved]
    along = int(rng.choice([axis for axis in others if lengths[axis] > 1] or others))
    displaced = _between(_SLANT_SHARE, severity) * lengths[moved] * rng.choice([-1.0, 1.0])
    matrix = np.eye(3)
    matrix[moved, along] = 2.0 * displaced / max(lengths[along] - 1, 1)
    return _seen_through(matrix, voxels_XYZ, reference)


SELECTION_ARTEFACTS: Mapping[str, Artefact] = MappingProxyType(
    {
        "coarse": coarse,
        "aliased": aliased,
        "interleaved": interleaved,
        "disordered": disordered,
        "quantised": quantised,
        "salted": salted,
        "rotated": rotated,
        "slanted": slanted,
    }
)
"""Every whole-scan artefact that settings may be chosen on, by its name in `anomalies.csv`."""


def _seen_through(matrix: Float64[np.ndarray, "3 3"], voxels_XYZ: VoxelsXYZ, reference: Reference) -> VoxelsXYZ:
    """Read the scan at matrix · x about the middle of its foreground, within its range.

    What enters has the scan's smallest value or, where the scan has no background, the value of its edge.
    """
    middle = np.array([(side.start + side.stop - 1) / 2.0 for side in _box(reference)])
    mode = "nearest" if reference.foreground_XYZ.all() else "constant"
    # Cubic splines, because linear interpolation would take detail away; the nearest voxel says what is background,
    # because splines ring.
    splines_XYZ, nearest_XYZ = (
        ndimage.affine_transform(
            voxels_XYZ, matrix, middle - matrix @ middle, order=order, mode=mode, cval=reference.lowest
        )
        for order in (3, 0)
    )
    lowest, highest = np.float32(reference.lowest), np.float32(reference.highest)
    return np.where(nearest_XYZ == lowest, lowest, np.clip(splines_XYZ, lowest, highest))


def _varying_axes(voxels_XYZ: VoxelsXYZ, reference: Reference) -> list[int]:
    """Find the axes along which the scan is not constant around its foreground: at least one."""
    box_XYZ = voxels_XYZ[_box(reference)]
    return [axis for axis in range(3) if np.ptp(box_XYZ, axis=axis).any()]


def _box(reference: Reference) -> Box:
    return support_box(reference.foreground_XYZ.astype(np.float32))


def _along(line: np.ndarray, axis: int) -> np.ndarray:
    return line.reshape([-1 if a == axis else 1 for a in range(3)])


def _between(ends: tuple[float, float], severity: float) -> float:
    """Go from the first end to the second geometrically."""
    return float(ends[0] * (ends[1] / ends[0]) ** severity)
