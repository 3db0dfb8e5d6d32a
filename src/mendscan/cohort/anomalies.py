"""Labelled synthetic local anomalies, for evaluation only.

Nothing here may reach training or calibration: a detector that has seen these anomalies is no longer unsupervised.

An anomaly is an irregular blob: an ellipsoid with a smoothly perturbed surface and a soft edge, written as a weight
w in [0, 1] per voxel.  Inside it one of the `anomaly_kinds` happens, and the label is w > 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage

from mendscan.cohort.anomaly_kinds import KINDS, Reference, reference_of
from mendscan.cohort.foreground import depth_inside
from mendscan.errors import ScanError, SettingsError
from mendscan.shapes import Affine, MaskXYZ, VoxelsXYZ

__all__ = ["DEFAULT_RADIUS_MM", "NO_ROOM", "Anomaly", "add_anomaly", "blob_weight", "check_request"]

DEFAULT_RADIUS_MM = (7.0, 16.0)
"""Smallest and largest radius in a brain: 3 to 7 voxels of 2.3 mm."""
NO_ROOM = "E_NO_ROOM"
"""Code of the error when no anomaly of the wanted size fits."""

_LEAST_CHANGE = 0.12  # root mean square over the label; a place where less would change is not taken
_EDGE_SHARE = 0.35  # width of the soft edge, as a share of the radius; at least one voxel
_SURFACE_SHARE = 0.2  # standard deviation of the surface's perturbation, as a share of the radius
_DEPTH_SHARE = 0.8  # a centre lies at least this share of the radius inside the foreground
_PLACES_TRIED = 40

Triple = tuple[float, float, float]
Index = tuple[int, int, int]


@dataclass(frozen=True)
class Anomaly:
    """One anomaly that was added.

    Attributes:
        kind: A key of `KINDS`.
        centre_index: Of the blob before it was perturbed, in voxels, RAS+.
        centre_mm: The same place through the scan's affine.
        radius_mm: Of the ball that has the ellipsoid's volume.
        voxels: How many the label marks.
        strength: Root mean square change over the label, in robust spreads of the scan's foreground.
    """

    kind: str
    centre_index: Index
    centre_mm: Triple
    radius_mm: float
    voxels: int
    strength: float


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


def add_anomaly(
    voxels_XYZ: VoxelsXYZ,
    affine: Affine,
    foreground_XYZ: MaskXYZ,
    *,
    rng: np.random.Generator,
    kind: str,
    radius_mm: tuple[float, float] = DEFAULT_RADIUS_MM,
    taken_XYZ: MaskXYZ | None = None,
    donor_XYZ: Float32[np.ndarray, "U V W"] | None = None,
) -> tuple[VoxelsXYZ, MaskXYZ, Anomaly]:
    """Put one anomaly into a scan, inside the foreground and where it shows.

    Up to 40 places are tried until the change over the label is at least 0.12 robust spreads; if none is, the place
    where most changed is taken.

    Args:
        voxels_XYZ: The scan, in any unit; not altered.
        affine: Voxel index to mm.
        foreground_XYZ: From `foreground_of`.
        rng: Source of everything that is random.
        kind: A key of `KINDS`.
        radius_mm: Smallest and largest radius.
        taken_XYZ: Voxels that the anomaly may not touch, not even with its soft edge.
        donor_XYZ: Where a foreign patch comes from; the scan itself when left out.

    Returns:
        The altered scan; the label, true where the blob's weight exceeds 1/2; what was done.

    Raises:
        SettingsError: If the kind is unknown or the radii are no range.
        ScanError: If there is no room for an anomaly of this size.
        IntensityError: If the foreground is constant.
    """
    check_request((kind,), radius_mm)
    room = _room(affine, foreground_XYZ, taken_XYZ)
    patch_depth_voxels = _DEPTH_SHARE * radius_mm[0] / min(room.spacing_mm)
    reference = reference_of(voxels_XYZ, foreground_XYZ, donor_XYZ=donor_XYZ, patch_depth_voxels=patch_depth_voxels)
    best: tuple[VoxelsXYZ, MaskXYZ, Anomaly] | None = None
    for _ in range(_PLACES_TRIED):
        place = _random_place(room, float(rng.uniform(*radius_mm)), rng)
        if place is None:
            continue
        tried = _altered(voxels_XYZ, affine, place, kind, reference, rng)
        if best is None or tried[2].strength > best[2].strength:
            best = tried
        if tried[2].strength >= _LEAST_CHANGE:
            break
    if best is None:
        found = f"radius {radius_mm[0]:g} to {radius_mm[1]:g} mm"
        remedy = "ask for fewer or smaller anomalies"
        raise ScanError("no room for another anomaly", code=NO_ROOM, found=found, remedy=remedy)
    return best


def blob_weight(
    shape: Index, centre_index: Index, *, radius_mm: float, spacing_mm: Triple, rng: np.random.Generator
) -> VoxelsXYZ:
    """Draw an irregular blob: a randomly turned ellipsoid with a perturbed surface and a soft edge.

    Args:
        shape: Of the volume.
        centre_index: The ellipsoid's middle, in voxels.
        radius_mm: Of the ball that has the ellipsoid's volume.
        spacing_mm: Voxel size along each axis.
        rng: Source of randomness.

    Returns:
        1 inside, 0 outside, between them in the edge; one connected piece.
    """
    reach = np.ceil(2.5 * radius_mm / np.asarray(spacing_mm)).astype(int)
    box = tuple(slice(max(c - r, 0), min(c + r + 1, n)) for c, r, n in zip(centre_index, reach, shape, strict=True))
    distance = _ellipsoid_distance(box, centre_index, spacing_mm, rng) / radius_mm
    bumps = ndimage.gaussian_filter(rng.standard_normal(distance.shape), [0.4 * radius_mm / s for s in spacing_mm])
    surface = 1.0 + _SURFACE_SHARE * np.clip(bumps / max(bumps.std(), 1e-12), -2.0, 2.0)
    edge_mm = max(_EDGE_SHARE * radius_mm, min(spacing_mm))
    ramp = np.clip(0.5 + (surface - distance) * radius_mm / edge_mm, 0.0, 1.0)
    parts, _ = ndimage.label(ramp > 0)
    middle = tuple(c - side.start for c, side in zip(centre_index, box, strict=True))
    weight_XYZ = np.zeros(shape, dtype=np.float32)
    weight_XYZ[box] = ramp**2 * (3.0 - 2.0 * ramp) * (parts == parts[middle])
    return weight_XYZ


def check_request(kinds: Sequence[str], radius_mm: tuple[float, float]) -> None:
    """Check what is asked for, before anything is computed.

    Raises:
        SettingsError: If a kind is unknown, there is none, or the radii are no range.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        expected = ", ".join(KINDS)
        raise SettingsError("unknown kind of anomaly", where="kinds", found=unknown or "none", expected=expected)
    if not 0 < radius_mm[0] <= radius_mm[1]:
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


def _altered(
    voxels_XYZ: VoxelsXYZ, affine: Affine, place: _Place, kind: str, reference: Reference, rng: np.random.Generator
) -> tuple[VoxelsXYZ, MaskXYZ, Anomaly]:
    """Let the kind happen at the place, and measure how much it changed."""
    altered_XYZ = KINDS[kind](voxels_XYZ, place.weight_XYZ, rng=rng, reference=reference)
    label_XYZ = place.weight_XYZ > 0.5
    change = (altered_XYZ[label_XYZ] - voxels_XYZ[label_XYZ]).astype(np.float64)
    strength = float(np.sqrt(np.mean(change**2))) / reference.spread
    x, y, z = (affine @ [*place.centre_index, 1.0])[:3].tolist()
    anomaly = Anomaly(kind, place.centre_index, (x, y, z), place.radius_mm, len(change), strength)
    return altered_XYZ, label_XYZ, anomaly


def _ellipsoid_distance(
    box: tuple[slice, ...], centre_index: Index, spacing_mm: Triple, rng: np.random.Generator
) -> Float64[np.ndarray, "U V W"]:
    """Distance in mm from the centre, in the metric of a randomly turned ellipsoid of the unit ball's volume."""
    axes = [
        (np.arange(side.start, side.stop) - c) * size
        for side, c, size in zip(box, centre_index, spacing_mm, strict=True)
    ]
    offsets_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    half_axes = np.exp(rng.uniform(-0.3, 0.3, 3))
    half_axes /= np.prod(half_axes) ** (1 / 3)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.linalg.norm(offsets_mm @ turn / half_axes, axis=-1)
