"""Labelled synthetic local anomalies, for evaluation only.

Nothing here may reach training or calibration: a detector that has seen these anomalies is no longer unsupervised.

An anomaly is an irregular blob: an ellipsoid with a smoothly perturbed surface and a soft edge, written as a weight
w in [0, 1] per voxel.  Inside it one of the `anomaly_kinds` happens (or of the `selection_kinds`, when settings are
chosen), and the label is w > 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import nibabel as nib
import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from mendscan.cohort.anomaly_blobs import Index, Triple, blob_weight
from mendscan.cohort.anomaly_kinds import KINDS, STRUCTURE_KINDS
from mendscan.cohort.anomaly_reference import Kind, Reference, support_box
from mendscan.cohort.anomaly_strata import Contrast, Size, contrast_of, size_of, third_of
from mendscan.cohort.foreground import depth_inside, smallest_extent_mm
from mendscan.cohort.selection_kinds import SELECTION_KINDS, SELECTION_STRUCTURE_KINDS
from mendscan.errors import ScanError, SettingsError
from mendscan.shapes import Affine, MaskXYZ, VoxelsXYZ

__all__ = [
    "LARGEST_RADII_MM",
    "LOCAL_KINDS",
    "NO_ROOM",
    "RADIUS_SHARES",
    "Anomaly",
    "add_anomaly",
    "check_request",
    "radius_range_mm",
]

LOCAL_KINDS: Mapping[str, Kind] = MappingProxyType({**KINDS, **SELECTION_KINDS})
"""Both families, the reported one first; they share no name."""
RADIUS_SHARES = (0.085, 0.2)
"""Smallest and largest radius as shares of the foreground's shortest side, where none are given."""
LARGEST_RADII_MM = (7.0, 16.0)
"""What these shares are limited to, reached where the shortest side is 82 mm: what a lesion in a head measures."""
NO_ROOM = "E_NO_ROOM"
"""Code of the error when no anomaly of the wanted size fits."""

_LEAST_CHANGE = 0.12  # root mean square over the label; a place where less would change is not taken
_LEAST_STRUCTURE_CHANGE = 0.25  # the same for kinds that change structure, without what is finer than
_NOISE_VOXELS = 1.0  # a Gaussian of this standard deviation
_DEPTH_SHARE = 0.8  # a centre lies at least this share of the radius inside the foreground
_PLACES_TRIED = 40


@dataclass(frozen=True)
class Anomaly:
    """One anomaly that was added: local, or of a whole scan, which has no place and no size.

    Attributes:
        kind: A key of `LOCAL_KINDS`, or of `ALL_ARTEFACTS` for a whole scan.
        strength: Root mean square change over the label (a whole scan: over its foreground), in robust spreads of the
            scan's foreground.
        contrast: Of a local anomaly, by its strength; of a whole scan, the third of the severity it was drawn from.
        centre_index: Of the blob before it was perturbed, in voxels, RAS+.
        centre_mm: The same place through the scan's affine.
        radius_mm: Of the ball that has the ellipsoid's volume.
        voxels: How many the label marks.
        size: Third of the range of radii.
    """

    kind: str
    strength: float
    contrast: Contrast
    centre_index: Index | None = None
    centre_mm: Triple | None = None
    radius_mm: float | None = None
    voxels: int | None = None
    size: Size | None = None

    @property
    def scope(self) -> Literal["local", "scan"]:
        """Whether it is local or alters the whole scan."""
        return "scan" if self.centre_index is None else "local"


@dataclass(frozen=True, eq=False)
class _Place:
    """A blob that fits: where, how large, and how much each voxel takes part."""

    centre_index: Index
    radius_mm: float
    weight_XYZ: VoxelsXYZ


@dataclass(frozen=True, eq=False)
class _Room:
    """Where blobs may lie."""

    foreground_XYZ: MaskXYZ
    free_XYZ: MaskXYZ
    depth_mm_XYZ: Float64[np.ndarray, "X Y Z"]
    spacing_mm: Triple


@dataclass(frozen=True, eq=False)
class _Attempt:
    """What a kind did at a place, and how much of it shows, in robust spreads."""

    altered_XYZ: VoxelsXYZ
    place: _Place
    strength: float
    shown: float


def add_anomaly(
    voxels_XYZ: VoxelsXYZ,
    affine: Affine,
    *,
    reference: Reference,
    rng: np.random.Generator,
    kind: str,
    radius_mm: tuple[float, float],
    size: Size | None = None,
    taken_XYZ: MaskXYZ | None = None,
) -> tuple[VoxelsXYZ, MaskXYZ, Anomaly]:
    """Put one anomaly into a scan, inside the foreground and where it shows.

    Up to 40 places are tried until enough changes over the label: 0.12 robust spreads or, for kinds that change
    structure, 0.25 of the change smoothed by a Gaussian of one voxel, for redrawn noise is no anomaly.  If no place is
    good enough, the one where most changed is taken.

    Args:
        voxels_XYZ: The scan, in any unit; not altered.
        affine: Voxel index to mm.
        reference: From `reference_of` this scan.
        rng: Source of everything that is random.
        kind: A key of `LOCAL_KINDS`.
        radius_mm: Smallest and largest radius.
        size: The third of the radii to draw from; None = all of them.
        taken_XYZ: Voxels that the anomaly may not touch, not even with its soft edge.

    Returns:
        The altered scan; the label, true where the blob's weight exceeds 1/2; what was done.

    Raises:
        SettingsError: If the kind is unknown or the radii are no range.
        ScanError: If there is no room for an anomaly of this size.
    """
    check_request((kind,), radius_mm)
    room = _room(affine, reference.foreground_XYZ, taken_XYZ)
    drawn_from = radius_mm if size is None else third_of(size, radius_mm)
    best: _Attempt | None = None
    for _ in range(_PLACES_TRIED):
        place = _random_place(room, float(rng.uniform(*drawn_from)), rng)
        if place is None:
            continue
        attempt = _attempt(voxels_XYZ, place, kind, reference, rng)
        best = attempt if best is None or attempt.shown > best.shown else best
        if attempt.shown >= _least_shown(kind):
            break
    if best is None or best.shown == 0:  # a kind may change nothing in a scan of a few thick slices
        found = f"radius {drawn_from[0]:g} to {drawn_from[1]:g} mm"
        remedy = "ask for fewer or smaller anomalies"
        raise ScanError("no room for another anomaly", code=NO_ROOM, found=found, remedy=remedy)
    return best.altered_XYZ, best.place.weight_XYZ > 0.5, _described(best, affine, kind, radius_mm)


def radius_range_mm(foreground_XYZ: MaskXYZ, *, spacing_mm: Triple) -> tuple[float, float]:
    """Choose the radii for a scan: 8.5 to 20 % of its foreground's shortest side, at most 7 and 16 mm.

    Example:
        >>> small, large = radius_range_mm(np.ones((35, 50, 36), dtype=bool), spacing_mm=(1.0, 1.0, 1.0))
        >>> round(small, 1), round(large, 1)
        (3.0, 7.0)
    """
    side_mm = smallest_extent_mm(foreground_XYZ, spacing_mm=spacing_mm)
    smallest, largest = (
        min(share * side_mm, most) for share, most in zip(RADIUS_SHARES, LARGEST_RADII_MM, strict=True)
    )
    return smallest, largest


def check_request(kinds: Sequence[str], radius_mm: tuple[float, float] | None) -> None:
    """Check what is asked for, before anything is computed.

    Raises:
        SettingsError: If a kind is unknown, there is none, or the radii are no range.
    """
    unknown = sorted(set(kinds) - set(LOCAL_KINDS))
    if unknown or not kinds:
        expected = f"{', '.join(KINDS)}; for choosing settings {', '.join(SELECTION_KINDS)}"
        raise SettingsError("unknown kind of anomaly", where="kinds", found=unknown or "none", expected=expected)
    if radius_mm is not None and not 0 < radius_mm[0] <= radius_mm[1] < math.inf:
        raise SettingsError("no range of radii", where="radius_mm", found=radius_mm, expected="0 < smallest <= largest")


def _room(affine: Affine, foreground_XYZ: MaskXYZ, taken_XYZ: MaskXYZ | None) -> _Room:
    x, y, z = nib.affines.voxel_sizes(affine).tolist()
    free_XYZ = foreground_XYZ if taken_XYZ is None else foreground_XYZ & ~taken_XYZ
    return _Room(foreground_XYZ, free_XYZ, depth_inside(free_XYZ, spacing_mm=(x, y, z)), (x, y, z))


def _random_place(room: _Room, radius_mm: float, rng: np.random.Generator) -> _Place | None:
    """Draw a place and a blob there, or nothing if the place is too small or the blob touches what is taken."""
    deep_enough = np.flatnonzero(room.depth_mm_XYZ >= _DEPTH_SHARE * radius_mm)
    if len(deep_enough) == 0:
        return None
    shape = room.free_XYZ.shape
    x, y, z = np.unravel_index(deep_enough[rng.integers(len(deep_enough))], shape)
    centre_index = int(x), int(y), int(z)
    weight_XYZ = blob_weight(shape, centre_index, radius_mm=radius_mm, spacing_mm=room.spacing_mm, rng=rng)
    weight_XYZ *= room.foreground_XYZ
    touches = bool(np.any(weight_XYZ[~room.free_XYZ] > 0))
    return None if touches or not weight_XYZ.max() > 0.5 else _Place(centre_index, radius_mm, weight_XYZ)


def _attempt(
    voxels_XYZ: VoxelsXYZ, place: _Place, kind: str, reference: Reference, rng: np.random.Generator
) -> _Attempt:
    """Let the kind happen at the place, and measure how much it changed."""
    altered_XYZ = LOCAL_KINDS[kind](voxels_XYZ, place.weight_XYZ, rng=rng, reference=reference)
    box = support_box(place.weight_XYZ)
    label_XYZ = place.weight_XYZ[box] > 0.5
    change_XYZ = (altered_XYZ[box] - voxels_XYZ[box]).astype(np.float64) / reference.spread
    strength = shown = float(np.sqrt(np.mean(change_XYZ[label_XYZ] ** 2)))
    if kind in _ALL_STRUCTURE_KINDS:
        coarse_XYZ = ndimage.gaussian_filter(change_XYZ, _NOISE_VOXELS)
        shown = float(np.sqrt(np.mean(coarse_XYZ[label_XYZ] ** 2)))
    return _Attempt(altered_XYZ, place, strength, shown)


_ALL_STRUCTURE_KINDS = STRUCTURE_KINDS | SELECTION_STRUCTURE_KINDS


def _least_shown(kind: str) -> float:
    return _LEAST_STRUCTURE_CHANGE if kind in _ALL_STRUCTURE_KINDS else _LEAST_CHANGE


def _described(attempt: _Attempt, affine: Affine, kind: str, radius_mm: tuple[float, float]) -> Anomaly:
    place, strength = attempt.place, attempt.strength
    x, y, z = (affine @ [*place.centre_index, 1.0])[:3].tolist()
    return Anomaly(
        kind,
        strength,
        contrast_of(strength),
        place.centre_index,
        (x, y, z),
        place.radius_mm,
        int(np.count_nonzero(place.weight_XYZ > 0.5)),
        size_of(place.radius_mm, radius_mm),
    )
