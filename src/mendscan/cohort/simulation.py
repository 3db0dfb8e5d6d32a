"""A healthy cohort simulated from the MNI152 template: for the demonstration and the tests, not for research.

One scan is ``scale · mask · Rician(bias · contrast(template ∘ φ))``:

- φ = exp(v) ∘ A⁻¹: an affine jitter A (rotation, size, shift) and a smooth diffeomorphic warp exp(v);
- contrast: the means of grey matter, white matter and the rest move, their texture stays;
- bias: a smooth multiplicative field, as a receive coil leaves;
- mask: the template is skull-stripped, hence so is every scan, and its background is exactly 0;
- scale: 1 to 1000, because real scans rarely agree on a unit.

`simulate_brain` is the pure core; `simulate_cohort` writes files whose spacings, orientations and data types differ.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Float64
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mendscan.cohort.held_folder import held_folder
from mendscan.errors import SettingsError
from mendscan.parallel import all_in_processes
from mendscan.progress import Progress, Silent
from mendscan.shapes import Affine, VoxelsXYZ
from mendscan.volumes.writing import write_bytes

__all__ = ["DEFAULT_SPACINGS_MM", "Template", "load_template", "random_warp", "simulate_brain", "simulate_cohort"]

SpacingMm = tuple[float, float, float]

DEFAULT_SPACINGS_MM: tuple[SpacingMm, ...] = ((2.5, 2.5, 2.5), (2.0, 2.0, 3.0), (2.5, 2.5, 2.0), (3.0, 2.5, 2.5))
"""Voxel sizes along right, anterior, superior; scan k takes entry k modulo 4."""

_TEMPLATE_FILE = "datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
_STORAGE = ("float32", "int16", "uint8")

# How much healthy scans differ.  Plausible for adults, chosen by eye; nothing is scored by them.
_ROTATION_DEGREES = 5.0  # largest, about each axis
_SIZE_SHARE = 0.06  # largest, along each axis
_SHIFT_MM = 8.0  # largest, along each axis
_WARP_MM = (4.0, 8.0)  # largest velocity
_WARP_SMOOTHNESS_MM = 14.0  # standard deviation of the Gaussian that smooths the velocity
_WARP_GRID_MM = 6.0
_TISSUE_MEAN_SHARE = 0.05  # standard deviation, as a share of white matter's mean
_MOTTLE_SHARE = 0.03  # subject-specific texture: the template is an average and has lost it
_MOTTLE_MM = 1.5
_BIAS_SHARE = 0.15  # largest departure from 1
_BIAS_SMOOTHNESS_SHARE = 0.25  # of the field of view
_NOISE_SHARE = (0.01, 0.035)  # of white matter's mean
_MARGIN_MM = (4.0, 14.0)  # of background around the head
_SCALE_DECADES = (0.0, 3.0)
_FEW = 8
"""So many brains are simulated sooner than processes start."""
_OBLIQUE_PROBABILITY = 0.3
_OBLIQUE_DEGREES = (5.0, 20.0)


@dataclass(frozen=True)
class Template:
    """The average brain and its tissues on one grid, in RAS+.

    Attributes:
        t1_XYZ: T1-weighted intensities; 1 = mean of white matter, 0 = background.
        grey_XYZ: Probability of grey matter, 0 to 1.
        white_XYZ: Probability of white matter, 0 to 1.
        head_XYZ: Share of the voxel that lies inside the template's mask, 0 to 1.
        affine: Voxel index to millimetres.
    """

    t1_XYZ: VoxelsXYZ
    grey_XYZ: VoxelsXYZ
    white_XYZ: VoxelsXYZ
    head_XYZ: VoxelsXYZ
    affine: Affine


@lru_cache(maxsize=2)
def load_template(spacing_mm: float = 2.0) -> Template:
    """Read the MNI152 (2009a, symmetric) template from nilearn's wheel and reduce it to `spacing_mm`.

    Read once per process; the arrays are read-only.

    Args:
        spacing_mm: Edge of a voxel of the returned template, in mm; at least the file's 1 mm.

    Raises:
        SettingsError: If nilearn is not installed or `spacing_mm` is below 1 mm.
    """
    if not spacing_mm >= 1.0:
        raise SettingsError("the template is no finer than 1 mm", where="spacing_mm", found=spacing_mm, expected=">= 1")
    t1_XYZ, affine = _read_template("t1")
    grey_XYZ, white_XYZ = _read_template("gm")[0], _read_template("wm")[0]
    head_XYZ = ndimage.binary_fill_holes(t1_XYZ > 0).astype(np.float32)
    t1_XYZ = t1_XYZ / np.float32(np.average(t1_XYZ, weights=white_XYZ))
    t1_XYZ, grey_XYZ, white_XYZ, head_XYZ = (
        _reduce(one, spacing_mm) for one in (t1_XYZ, grey_XYZ, white_XYZ, head_XYZ)
    )
    return Template(t1_XYZ, grey_XYZ, white_XYZ, head_XYZ, affine @ np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0]))


def _read_template(name: str) -> tuple[VoxelsXYZ, Affine]:
    image = nib.Nifti1Image.from_filename(_nilearn_folder() / _TEMPLATE_FILE.format(name=name))
    return np.asarray(image.dataobj, dtype=np.float32) / np.float32(255.0), np.asarray(image.affine)


def _nilearn_folder() -> Path:
    # Found without importing: nilearn's own import takes seconds and needs none of what is read here.
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            "simulating brains needs the MNI152 template, which comes with nilearn",
            where="nilearn",
            found="not installed",
            remedy='pip install "mendscan[demo]"',
        )
    return Path(spec.submodule_search_locations[0])


def _reduce(volume_UVW: Float32[np.ndarray, "U V W"], factor: float) -> VoxelsXYZ:
    smooth_UVW = ndimage.gaussian_filter(volume_UVW, 0.35 * (factor - 1.0)) if factor > 1.0 else volume_UVW
    shape = tuple(int((size - 1) // factor) + 1 for size in volume_UVW.shape)
    reduced_XYZ = ndimage.affine_transform(smooth_UVW, np.full(3, factor), output_shape=shape, order=1)
    reduced_XYZ.setflags(write=False)
    return reduced_XYZ


def simulate_brain(template: Template, *, rng: np.random.Generator, spacing_mm: SpacingMm) -> tuple[VoxelsXYZ, Affine]:
    """Simulate one healthy, skull-stripped, T1-weighted brain.

    Args:
        template: From `load_template`.
        rng: Source of everything that is random.
        spacing_mm: Voxel size along right, anterior and superior, in mm.

    Returns:
        The voxels in RAS+ (>= 0, background exactly 0, in a unit that differs from scan to scan by up to 1000)
        and the affine, voxel index to mm.

    Raises:
        SettingsError: If a voxel size is not a positive number.

    Example:
        >>> template = load_template()
        >>> voxels, affine = simulate_brain(template, rng=np.random.default_rng(0), spacing_mm=(4.0, 4.0, 4.0))
        >>> voxels.dtype, float(voxels.min())
        (dtype('float32'), 0.0)
    """
    if not all(np.isfinite(size) and size > 0 for size in spacing_mm):
        raise SettingsError("not a voxel size", where="spacing_mm", found=spacing_mm, expected="positive numbers")
    jitter = _random_jitter(template, rng)
    shape, affine = _field_of_view(template, jitter, rng, spacing_mm)
    voxel_to_template = np.linalg.inv(template.affine) @ np.linalg.inv(jitter) @ affine
    where_3XYZ = _warped(_grid_coordinates(shape, voxel_to_template), template, rng)
    t1_XYZ, grey_XYZ, white_XYZ, head_XYZ = (
        ndimage.map_coordinates(volume_XYZ, where_3XYZ, order=1)
        for volume_XYZ in (template.t1_XYZ, template.grey_XYZ, template.white_XYZ, template.head_XYZ)
    )
    brain_XYZ = _recoloured(t1_XYZ, grey_XYZ, white_XYZ, rng) + _mottle(shape, spacing_mm, rng)
    brain_XYZ = _with_rician_noise(np.maximum(brain_XYZ, 0) * _bias_field(shape, rng), rng)
    scale = 10.0 ** rng.uniform(*_SCALE_DECADES)
    return (scale * brain_XYZ * (head_XYZ > 0.5)).astype(np.float32), affine


def _random_jitter(template: Template, rng: np.random.Generator) -> Affine:
    """Draw A: template mm to subject mm, about the middle of the head."""
    middle_mm = _head_points_mm(template).mean(axis=0)
    angles_degrees = rng.uniform(-_ROTATION_DEGREES, _ROTATION_DEGREES, 3)
    size = 1.0 + rng.uniform(-_SIZE_SHARE, _SIZE_SHARE, 3)
    jitter = np.eye(4)
    jitter[:3, :3] = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix() @ np.diag(size)
    jitter[:3, 3] = middle_mm + rng.uniform(-_SHIFT_MM, _SHIFT_MM, 3) - jitter[:3, :3] @ middle_mm
    return jitter


def _head_points_mm(template: Template) -> Float64[np.ndarray, "N 3"]:
    points = np.argwhere(template.head_XYZ[::3, ::3, ::3] > 0.5) * 3.0
    return points @ template.affine[:3, :3].T + template.affine[:3, 3]


def _field_of_view(
    template: Template, jitter: Affine, rng: np.random.Generator, spacing_mm: SpacingMm
) -> tuple[tuple[int, int, int], Affine]:
    points_mm = _head_points_mm(template) @ jitter[:3, :3].T + jitter[:3, 3]
    first_mm = points_mm.min(axis=0) - rng.uniform(*_MARGIN_MM, 3)
    last_mm = points_mm.max(axis=0) + rng.uniform(*_MARGIN_MM, 3)
    sizes = np.ceil((last_mm - first_mm) / np.asarray(spacing_mm)).astype(int)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = first_mm
    return (int(sizes[0]), int(sizes[1]), int(sizes[2])), affine


def _grid_coordinates(shape: tuple[int, int, int], matrix: Affine) -> Float32[np.ndarray, "3 X Y Z"]:
    x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]
    rows = [matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] * z + matrix[i, 3] for i in range(3)]
    return np.stack(rows).astype(np.float32)


def _warped(
    where_3XYZ: Float32[np.ndarray, "3 X Y Z"], template: Template, rng: np.random.Generator
) -> Float32[np.ndarray, "3 X Y Z"]:
    """Move template coordinates (in voxels) by a random warp, made on a coarse grid that covers the template."""
    template_mm = float(template.affine[0, 0])
    coarse = _WARP_GRID_MM / template_mm
    x, y, z = (int(size / coarse) + 2 for size in template.t1_XYZ.shape)
    warp_mm_3XYZ = random_warp((x, y, z), rng=rng, spacing_mm=_WARP_GRID_MM)
    steps = [ndimage.map_coordinates(step, where_3XYZ / coarse, order=1, mode="nearest") for step in warp_mm_3XYZ]
    return where_3XYZ + np.stack(steps) / np.float32(template_mm)


def random_warp(
    shape: tuple[int, int, int], *, rng: np.random.Generator, spacing_mm: float
) -> Float32[np.ndarray, "3 X Y Z"]:
    """Draw a smooth diffeomorphism φ and return its displacement, φ(x) - x.

    φ = exp(v) for a stationary velocity v (smoothed white noise), by scaling and squaring (Arsigny et al., 2006):
    u₀ = v / 2ⁿ, then n times u ← u + u ∘ (id + u).

    Args:
        shape: Of the grid.
        rng: Source of randomness.
        spacing_mm: Edge of the grid's voxels, in mm.

    Returns:
        Displacement along each axis, in mm; nowhere longer than the drawn largest velocity (at most 8 mm), and the
        Jacobian determinant of φ is positive.
    """
    noise_3XYZ = rng.standard_normal((3, *shape), dtype=np.float32)
    smoothness = _WARP_SMOOTHNESS_MM / spacing_mm
    velocity_3XYZ = ndimage.gaussian_filter(noise_3XYZ, (0, smoothness, smoothness, smoothness), mode="reflect")
    largest = np.sqrt((velocity_3XYZ**2).sum(axis=0)).max()
    velocity_3XYZ *= np.float32(rng.uniform(*_WARP_MM) / largest / spacing_mm)
    halvings = 6
    displacement_3XYZ = velocity_3XYZ / np.float32(2**halvings)
    index_3XYZ = np.indices(shape, dtype=np.float32)
    for _ in range(halvings):
        there_3XYZ = index_3XYZ + displacement_3XYZ
        further = [ndimage.map_coordinates(step, there_3XYZ, order=1, mode="nearest") for step in displacement_3XYZ]
        displacement_3XYZ = displacement_3XYZ + np.stack(further)
    return displacement_3XYZ * np.float32(spacing_mm)


def _recoloured(t1_XYZ: VoxelsXYZ, grey_XYZ: VoxelsXYZ, white_XYZ: VoxelsXYZ, rng: np.random.Generator) -> VoxelsXYZ:
    """Move each tissue's mean, in units of white matter's; what varies within a tissue stays."""
    grey, white, other = rng.normal(0.0, _TISSUE_MEAN_SHARE, 3).astype(np.float32)
    other_XYZ = np.clip(1.0 - grey_XYZ - white_XYZ, 0.0, 1.0)
    return t1_XYZ + grey * grey_XYZ + white * white_XYZ + other * other_XYZ


def _mottle(shape: tuple[int, int, int], spacing_mm: SpacingMm, rng: np.random.Generator) -> VoxelsXYZ:
    noise_XYZ = rng.standard_normal(shape, dtype=np.float32)
    mottle_XYZ = ndimage.gaussian_filter(noise_XYZ, [_MOTTLE_MM / size for size in spacing_mm])
    return np.float32(_MOTTLE_SHARE / mottle_XYZ.std()) * mottle_XYZ


def _bias_field(shape: tuple[int, int, int], rng: np.random.Generator) -> VoxelsXYZ:
    # Drawn on a 16³ grid: a field this smooth needs no more.
    coarse_XYZ = ndimage.gaussian_filter(rng.standard_normal((16, 16, 16)), 16 * _BIAS_SMOOTHNESS_SHARE, mode="reflect")
    coarse_XYZ -= coarse_XYZ.mean()
    coarse_XYZ *= rng.uniform(0.2, 1.0) * np.log1p(_BIAS_SHARE) / np.abs(coarse_XYZ).max()
    step = np.diag([15.0 / max(size - 1, 1) for size in shape] + [1.0])
    field_XYZ = ndimage.map_coordinates(coarse_XYZ, _grid_coordinates(shape, step), order=1, mode="nearest")
    return np.exp(field_XYZ).astype(np.float32)


def _with_rician_noise(brain_XYZ: VoxelsXYZ, rng: np.random.Generator) -> VoxelsXYZ:
    """The magnitude of a complex signal with Gaussian noise in both parts (Gudbjartsson & Patz, 1995)."""
    sigma = np.float32(rng.uniform(*_NOISE_SHARE))
    real_XYZ = brain_XYZ + sigma * rng.standard_normal(brain_XYZ.shape, dtype=np.float32)
    return np.hypot(real_XYZ, sigma * rng.standard_normal(brain_XYZ.shape, dtype=np.float32))


def simulate_cohort(
    folder: Path | str,
    *,
    n: int,
    seed: int,
    spacings_mm: Sequence[SpacingMm] = DEFAULT_SPACINGS_MM,
    prefix: str = "healthy",
    progress: Progress | None = None,
) -> list[Path]:
    """Write `n` simulated healthy brains, as mixed in spacing, orientation and data type as collected scans are.

    Scan k depends on `seed`, k and `spacings_mm` alone: a larger cohort begins with the smaller one, byte for byte.

    Args:
        folder: Made when it is missing; files of the same names are replaced.
        n: How many.
        seed: Not negative.
        spacings_mm: Voxel sizes along right, anterior, superior; scan k takes entry k modulo their number.
        prefix: File names are ``PREFIX_000.nii.gz`` and so on.
        progress: Told of every scan.

    Returns:
        The files, in order.

    Raises:
        SettingsError: If `n` or `seed` is out of range, or nilearn is not installed.
        WriteError: If a file cannot be written, or another run is at work in the folder (E_LOCKED).
    """
    if n < 1 or seed < 0 or not spacings_mm:
        found = f"n={n}, seed={seed}, {len(spacings_mm)} spacings"
        raise SettingsError("no cohort to simulate", found=found, expected="n >= 1, seed >= 0, at least 1 spacing")
    load_template()  # what is missing is said before any process is started
    told, paths = progress or Silent(), [Path(folder) / f"{prefix}_{k:03d}.nii.gz" for k in range(n)]
    with held_folder(Path(folder), "simulation"):
        told.begin("simulate", n)
        jobs = [(path, seed, k, spacings_mm[k % len(spacings_mm)]) for k, path in enumerate(paths)]
        all_in_processes(_write_brain, jobs, after_each=told.advance, workers=None if n > _FEW else 0)
    return paths


def _write_brain(path: Path, seed: int, k: int, spacing_mm: SpacingMm) -> None:
    rng = np.random.default_rng([seed, k])
    voxels_XYZ, affine = simulate_brain(load_template(), rng=rng, spacing_mm=spacing_mm)
    image = _as_collected(voxels_XYZ, affine, storage=_STORAGE[k % len(_STORAGE)], rng=rng)
    write_bytes(path, gzip.compress(image.to_bytes(), mtime=0))


def _as_collected(voxels_XYZ: VoxelsXYZ, affine: Affine, *, storage: str, rng: np.random.Generator) -> nib.Nifti1Image:
    """Store a scan in one of the 48 axis orders and directions, at times oblique, as `storage`."""
    axes = rng.permutation(3)
    directions = rng.choice([-1, 1], 3)
    orientation = np.stack([axes, directions], axis=1)
    stored_affine = affine @ nib.orientations.inv_ornt_aff(orientation, voxels_XYZ.shape)
    if rng.random() < _OBLIQUE_PROBABILITY:
        stored_affine = _random_tilt(rng) @ stored_affine
    stored = nib.orientations.apply_orientation(voxels_XYZ, orientation)
    slope = _storage_slope(float(stored.max()), storage)
    if storage != "float32":
        stored = np.rint(stored / slope)
    image = nib.Nifti1Image(stored.astype(storage), stored_affine)
    image.header.set_slope_inter(slope, 0.0)
    image.header.set_xyzt_units("mm")
    return image


def _random_tilt(rng: np.random.Generator) -> Affine:
    axis = rng.standard_normal(3)
    angle_radians = np.radians(rng.uniform(*_OBLIQUE_DEGREES))
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_rotvec(angle_radians * axis / np.linalg.norm(axis)).as_matrix()
    return tilt


def _storage_slope(largest: float, storage: str) -> float:
    """Units per stored integer: 1 where the type holds the scan as it is, as scanners do."""
    if storage == "float32":
        return 1.0
    limit = np.iinfo(storage).max
    fits = 200 <= largest <= limit
    return 1.0 if fits else largest / limit
