"""Labelled synthetic local anomalies, for evaluation only.

Nothing here may reach training or calibration: a detector that has seen these anomalies is no longer unsupervised.

An anomaly is an irregular blob: an ellipsoid with a smoothly perturbed surface and a soft edge, written as a weight
w in [0, 1] per voxel.  Inside it one of eight things happens, and the label is w > 0.5.  Every change is relative to
the scan's own robust spread, so a scan in any unit gets the same anomaly, and every kind has one face::

    kind(voxels_XYZ, weight_XYZ, *, rng, reference) -> voxels_XYZ

What is written follows the layout of the Medical Out-of-Distribution challenge (MOOD, Zimmerer et al., 2022)::

    scans/NAME.nii.gz   labels/pixel/NAME.nii.gz   labels/sample/NAME.nii.gz.txt   anomalies.csv
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from mendscan.errors import CohortError, IntensityError, ScanError, SettingsError, WriteError
from mendscan.shapes import Affine, MaskXYZ, VoxelsXYZ
from mendscan.volumes.reading import case_name, read_volume
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import write_csv, write_map, write_text

__all__ = [
    "DEFAULT_RADIUS_MM",
    "KINDS",
    "Anomaly",
    "Reference",
    "TestCohort",
    "add_anomaly",
    "blob_weight",
    "blur",
    "brighten",
    "darken",
    "deform",
    "fill",
    "foreground_of",
    "mirror",
    "reference_of",
    "retexture",
    "transplant",
    "write_test_cohort",
]

DEFAULT_RADIUS_MM = (7.0, 16.0)
"""Smallest and largest radius in a brain: 3 to 7 voxels of 2.3 mm."""

_NO_ROOM = "E_NO_ROOM"
_PLACE_COLUMNS = ("x_mm", "y_mm", "z_mm", "x_index", "y_index", "z_index")
_COLUMNS = ("case", "kind", *_PLACE_COLUMNS, "radius_mm", "voxels", "strength")

# How strong anomalies are, in robust spreads of the foreground unless said otherwise; each is drawn from its range.
# Chosen by eye: faint to plain.  They define the evaluation set, no score depends on them.
_CONTRAST = (0.8, 2.0)  # bright and dark
_MOST_OF_THE_WAY = 0.7  # share of the way from the local mean to the smallest value that dark may go
_TEXTURE_AMPLITUDE = (0.4, 0.9)
_TEXTURE_GRAIN_VOXELS = (0.0, 1.5)  # standard deviation of the Gaussian that smooths the new texture, per axis
_BLUR_VOXELS = (1.2, 2.5)  # standard deviation of the Gaussian
_STRETCH = (0.5, 0.85)  # share of the radius by which the middle of a deformation is magnified or shrunk
_LEAST_CHANGE = 0.12  # root mean square over the label; a place where less would change is not taken

_EDGE_SHARE = 0.35  # width of the soft edge, as a share of the radius; at least one voxel
_SURFACE_SHARE = 0.2  # standard deviation of the surface's perturbation, as a share of the radius
_DEPTH_SHARE = 0.8  # a centre lies at least this share of the radius inside the foreground
_PLACES_TRIED = 40
_BACKGROUND_SHARE = 0.05  # of the voxels equal to the smallest value: then that value is background
_AIR_LEVEL_SHARE = 0.1  # of the way from the smallest value to the 99th percentile: air is below


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
    centre_index: tuple[int, int, int]
    centre_mm: tuple[float, float, float]
    radius_mm: float
    voxels: int
    strength: float


@dataclass(frozen=True)
class TestCohort:
    """A folder of scans with labels.

    Attributes:
        folder: The folder.
        scans: The written scans, in the order of their sources; labels have the same file names.
        anomalies: Case name (file name without ``.nii.gz``) to its anomalies; empty for a clean scan.
    """

    __test__: ClassVar[bool] = False  # the name begins with Test: pytest should not collect it

    folder: Path
    scans: tuple[Path, ...]
    anomalies: Mapping[str, tuple[Anomaly, ...]]


class _Kind(Protocol):
    def __call__(
        self, voxels_XYZ: VoxelsXYZ, weight_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference
    ) -> VoxelsXYZ: ...


# The eight kinds ------------------------------------------------------------------------------------------------------


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


# Where they lie -------------------------------------------------------------------------------------------------------


def foreground_of(voxels_XYZ: VoxelsXYZ) -> MaskXYZ:
    """Find where a scan is not background; the whole volume when it has none.

    Background is one exact value (a skull-stripped scan) or, when most of the volume's surface is dark, air.
    """
    lowest = voxels_XYZ.min()
    if np.mean(voxels_XYZ == lowest) >= _BACKGROUND_SHARE:
        return _largest_solid(voxels_XYZ > lowest)
    air_level = lowest + _AIR_LEVEL_SHARE * (np.quantile(voxels_XYZ, 0.99) - lowest)
    surface_XYZ = np.ones(voxels_XYZ.shape, dtype=bool)
    surface_XYZ[1:-1, 1:-1, 1:-1] = False
    if np.median(voxels_XYZ[surface_XYZ]) >= air_level:
        return np.ones(voxels_XYZ.shape, dtype=bool)
    return _largest_solid(ndimage.gaussian_filter(voxels_XYZ, 1.0) > air_level)


def _largest_solid(mask_XYZ: MaskXYZ) -> MaskXYZ:
    parts_XYZ, count = ndimage.label(mask_XYZ)
    if count == 0:
        return np.ones(mask_XYZ.shape, dtype=bool)
    largest = 1 + int(np.argmax(np.bincount(parts_XYZ.ravel())[1:]))
    return ndimage.binary_fill_holes(parts_XYZ == largest)


def blob_weight(
    shape: tuple[int, int, int],
    centre_index: tuple[int, int, int],
    *,
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
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
    axes = [
        (np.arange(side.start, side.stop) - c) * size
        for side, c, size in zip(box, centre_index, spacing_mm, strict=True)
    ]
    offsets_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    half_axes = np.exp(rng.uniform(-0.3, 0.3, 3))
    half_axes /= np.prod(half_axes) ** (1 / 3)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    distance = np.linalg.norm(offsets_mm @ turn / half_axes, axis=-1) / radius_mm
    bumps = ndimage.gaussian_filter(rng.standard_normal(distance.shape), [0.4 * radius_mm / s for s in spacing_mm])
    surface = 1.0 + _SURFACE_SHARE * np.clip(bumps / max(bumps.std(), 1e-12), -2.0, 2.0)
    edge_mm = max(_EDGE_SHARE * radius_mm, min(spacing_mm))
    ramp = np.clip(0.5 + (surface - distance) * radius_mm / edge_mm, 0.0, 1.0)
    parts, _ = ndimage.label(ramp > 0)
    middle = tuple(c - side.start for c, side in zip(centre_index, box, strict=True))
    weight_XYZ = np.zeros(shape, dtype=np.float32)
    weight_XYZ[box] = ramp**2 * (3.0 - 2.0 * ramp) * (parts == parts[middle])
    return weight_XYZ


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
    depth_XYZ = _depth(donor_foreground_XYZ, (1.0, 1.0, 1.0))
    places_XYZ = depth_XYZ >= min(patch_depth_voxels, depth_XYZ.max())
    return Reference(foreground_XYZ, spread, float(lowest), donor_XYZ, places_XYZ)


def _centre_and_spread(voxels_XYZ: VoxelsXYZ, foreground_XYZ: MaskXYZ) -> tuple[float, float]:
    inside = voxels_XYZ[foreground_XYZ].astype(np.float64)
    lower, middle, upper = np.quantile(inside, [0.25, 0.5, 0.75])
    spread = float(upper - lower) / 1.349 or float(inside.std())
    if not spread > 0:
        raise IntensityError("the foreground is constant", found=float(middle), expected="different values")
    return float(middle), spread


def _depth(mask_XYZ: MaskXYZ, spacing_mm: tuple[float, float, float]) -> Float64[np.ndarray, "X Y Z"]:
    """Distance in mm to the nearest voxel outside the mask; outside the volume is outside the mask."""
    padded = np.pad(mask_XYZ, 1)
    return ndimage.distance_transform_edt(padded, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]


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
    _check_request((kind,), radius_mm)
    spacing_mm = _spacing_of(affine)
    free_XYZ = foreground_XYZ if taken_XYZ is None else foreground_XYZ & ~taken_XYZ
    depth_mm_XYZ = _depth(free_XYZ, spacing_mm)
    patch_depth_voxels = _DEPTH_SHARE * radius_mm[0] / min(spacing_mm)
    reference = reference_of(voxels_XYZ, foreground_XYZ, donor_XYZ=donor_XYZ, patch_depth_voxels=patch_depth_voxels)
    best: tuple[VoxelsXYZ, MaskXYZ, Anomaly] | None = None
    for _ in range(_PLACES_TRIED):
        radius = float(rng.uniform(*radius_mm))
        placed = _random_blob(depth_mm_XYZ, free_XYZ, foreground_XYZ, radius, spacing_mm, rng)
        if placed is None:
            continue
        centre_index, weight_XYZ = placed
        altered_XYZ = KINDS[kind](voxels_XYZ, weight_XYZ, rng=rng, reference=reference)
        label_XYZ = weight_XYZ > 0.5
        change = (altered_XYZ[label_XYZ] - voxels_XYZ[label_XYZ]).astype(np.float64)
        strength = float(np.sqrt(np.mean(change**2))) / reference.spread
        if best is None or strength > best[2].strength:
            x, y, z = (affine @ [*centre_index, 1.0])[:3].tolist()
            best = altered_XYZ, label_XYZ, Anomaly(kind, centre_index, (x, y, z), radius, len(change), strength)
        if strength >= _LEAST_CHANGE:
            break
    if best is None:
        found = f"radius {radius_mm[0]:g} to {radius_mm[1]:g} mm"
        remedy = "ask for fewer or smaller anomalies"
        raise ScanError("no room for another anomaly", code=_NO_ROOM, found=found, remedy=remedy)
    return best


def _random_blob(
    depth_mm_XYZ: Float64[np.ndarray, "X Y Z"],
    free_XYZ: MaskXYZ,
    foreground_XYZ: MaskXYZ,
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[tuple[int, int, int], VoxelsXYZ] | None:
    """Draw a place and a blob there, or nothing if the place is too small or the blob touches what is taken."""
    places = np.flatnonzero(depth_mm_XYZ >= _DEPTH_SHARE * radius_mm)
    if len(places) == 0:
        return None
    x, y, z = np.unravel_index(places[rng.integers(len(places))], free_XYZ.shape)
    centre_index = int(x), int(y), int(z)
    weight_XYZ = blob_weight(free_XYZ.shape, centre_index, radius_mm=radius_mm, spacing_mm=spacing_mm, rng=rng)
    weight_XYZ *= foreground_XYZ
    touches = bool(np.any(weight_XYZ[~free_XYZ] > 0))
    return None if touches or not weight_XYZ.max() > 0.5 else (centre_index, weight_XYZ)


def _spacing_of(affine: Affine) -> tuple[float, float, float]:
    x, y, z = nib.affines.voxel_sizes(affine).tolist()
    return x, y, z


def _check_request(kinds: Sequence[str], radius_mm: tuple[float, float]) -> None:
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        expected = ", ".join(KINDS)
        raise SettingsError("unknown kind of anomaly", where="kinds", found=unknown or "none", expected=expected)
    if not 0 < radius_mm[0] <= radius_mm[1]:
        raise SettingsError("no range of radii", where="radius_mm", found=radius_mm, expected="0 < smallest <= largest")


# A whole cohort -------------------------------------------------------------------------------------------------------


def write_test_cohort(
    scans: Sequence[Path],
    folder: Path | str,
    *,
    seed: int,
    anomalous: int,
    per_scan: tuple[int, int] = (1, 4),
    kinds: Sequence[str] = tuple(KINDS),
    radius_mm: tuple[float, float] = DEFAULT_RADIUS_MM,
) -> TestCohort:
    """Copy healthy scans, put anomalies into some of them, and write the labels in MOOD's layout.

    Kinds are dealt in turn, so that each occurs about equally often; half of the foreign patches come from another
    scan.  Where a scan has no room for all that were dealt to it, it gets those that fit, at least one.

    Args:
        scans: Healthy scans, of any format that is read.
        folder: Gets ``scans/NAME.nii.gz`` (float32, the source's geometry), ``labels/pixel/NAME.nii.gz`` (0 or 1),
            ``labels/sample/NAME.nii.gz.txt`` (``1`` anomalous, ``0`` not) and ``anomalies.csv``.
        seed: Decides which scans, which kinds, and where; not negative.
        anomalous: How many of the scans get anomalies.
        per_scan: Fewest and most anomalies in one scan.
        kinds: Which kinds, keys of `KINDS`.
        radius_mm: Smallest and largest radius.

    Raises:
        SettingsError: If a setting is out of range.
        CohortError: If two scans would get the same file name.
        ScanError: If a scan cannot be read or has no room for a single anomaly.
        WriteError: If something cannot be written.
    """
    _check_request(kinds, radius_mm)
    if not 0 <= anomalous <= len(scans) or not 1 <= per_scan[0] <= per_scan[1] or seed < 0:
        found = f"anomalous={anomalous} of {len(scans)}, per_scan={per_scan}, seed={seed}"
        raise SettingsError("no test cohort to write", found=found, expected="0 <= anomalous <= scans, 1 <= per_scan")
    cases = [case_name(scan) for scan in scans]
    names = [f"{case}.nii.gz" for case in cases]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise CohortError("two scans would get the same name", found=", ".join(twice), remedy="rename one of them")
    folder = Path(folder)
    _make_folders(folder)
    anomalies: dict[str, tuple[Anomaly, ...]] = {}
    dealt = _deal(len(scans), anomalous, per_scan, kinds, rng=np.random.default_rng(seed))
    for k, (scan, name) in enumerate(zip(scans, names, strict=True)):
        volume = read_volume(Path(scan))
        rng = np.random.default_rng([seed, k])
        others = [Path(other) for other in scans if other != scan]
        voxels_XYZ, label_XYZ, anomalies[cases[k]] = _with_anomalies(volume, dealt[k], radius_mm, others, rng)
        write_map(folder / "scans" / name, voxels_XYZ, volume)
        write_map(folder / "labels" / "pixel" / name, label_XYZ.astype(np.float32), volume)
        write_text(folder / "labels" / "sample" / f"{name}.txt", "1" if anomalies[cases[k]] else "0")
    write_csv(folder / "anomalies.csv", _rows(anomalies), _COLUMNS)
    return TestCohort(folder, tuple(folder / "scans" / name for name in names), MappingProxyType(anomalies))


def _make_folders(folder: Path) -> None:
    for part in ("scans", "labels/pixel", "labels/sample"):
        try:
            (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError("the folder cannot be made", where=folder / part, found=error.strerror) from error


def _deal(
    scans: int, anomalous: int, per_scan: tuple[int, int], kinds: Sequence[str], *, rng: np.random.Generator
) -> list[list[str]]:
    """Deal kinds to scans: none to a clean one, each kind about equally often over all."""
    dealt: list[list[str]] = [[] for _ in range(scans)]
    deck: list[str] = []
    for k in sorted(rng.permutation(scans)[:anomalous].tolist()):
        for _ in range(int(rng.integers(per_scan[0], per_scan[1] + 1))):
            deck = deck or rng.permutation(list(kinds)).tolist()
            dealt[k].append(deck.pop())
    return dealt


def _with_anomalies(
    volume: Volume,
    kinds: Sequence[str],
    radius_mm: tuple[float, float],
    others: Sequence[Path],
    rng: np.random.Generator,
) -> tuple[VoxelsXYZ, MaskXYZ, tuple[Anomaly, ...]]:
    voxels_XYZ = volume.voxels_XYZ
    foreground_XYZ = foreground_of(voxels_XYZ)
    label_XYZ = np.zeros(voxels_XYZ.shape, dtype=bool)
    taken_XYZ = label_XYZ.copy()
    added: list[Anomaly] = []
    for kind in kinds:
        from_another = kind == "foreign" and others and rng.random() < 0.5
        donor_XYZ = read_volume(others[int(rng.integers(len(others)))]).voxels_XYZ if from_another else None
        before_XYZ = voxels_XYZ
        try:
            voxels_XYZ, new_XYZ, anomaly = add_anomaly(
                before_XYZ, volume.affine, foreground_XYZ,
                rng=rng, kind=kind, radius_mm=radius_mm, taken_XYZ=taken_XYZ, donor_XYZ=donor_XYZ,
            )  # fmt: skip
        except ScanError as error:
            if error.code != _NO_ROOM or not added:
                raise
            break
        label_XYZ = label_XYZ | new_XYZ
        taken_XYZ = taken_XYZ | new_XYZ | (voxels_XYZ != before_XYZ)
        added.append(anomaly)
    return voxels_XYZ, label_XYZ, tuple(added)


def _rows(anomalies: Mapping[str, Sequence[Anomaly]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for case, added in anomalies.items():
        for one in added:
            place = dict(
                zip(_PLACE_COLUMNS, [round(mm, 2) for mm in one.centre_mm] + list(one.centre_index), strict=True)
            )
            size = {"radius_mm": round(one.radius_mm, 2), "voxels": one.voxels, "strength": round(one.strength, 3)}
            rows.append({"case": case, "kind": one.kind, **place, **size})
    return rows
