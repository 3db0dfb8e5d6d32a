"""Whole-scan artefacts that arise while an MRI scanner measures: in k-space, the Fourier transform of the image.

Each is a pure function with the face of `artefacts`.  Images are taken above the scan's smallest value, because a
magnitude is never negative, and magnitudes are returned, as scanners do.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Complex64
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from mendscan.cohort.anomaly_reference import Reference
from mendscan.shapes import VoxelsXYZ

__all__ = ["ghosting", "gibbs", "motion", "noise", "spikes"]

# From the faintest (severity 0) to the plainest (severity 1); chosen by eye.  They define the evaluation set.
_NOISE_SPREADS = (0.12, 0.9)
_GHOST_COUNTS = (2, 5)  # every second to every fifth line
_GHOST_SHARE = (0.15, 0.6)  # root of the energy of all ghosts, as a share of the image
_KEPT_FREQUENCIES = (0.8, 0.3)  # share of each axis
_SPIKE_COUNTS = (1, 3)
_SPIKE_SPREADS = (0.15, 1.0)  # root mean square of all stripes together
_SPIKE_FREQUENCIES = (0.08, 0.35)  # cycles per voxel
_MOTION_SEGMENTS = (4, 8)
_MOTION_DEGREES = (1.5, 10.0)
_MOTION_SHARE = (0.01, 0.05)  # shift as a share of the field of view
_STILL_SHARE = 0.08  # of k-space, in its middle, measured before the patient moves

KspaceXYZ = Complex64[np.ndarray, "X Y Z"]


def noise(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Add the noise of a magnitude image: Rician (Gudbjartsson & Patz, 1995).

    |v + σ n₁ + i σ n₂| with σ from 0.12 to 0.9 spreads, geometrically; background gets noise too, as it does in a scan.
    """
    sigma = np.float32(_between(_NOISE_SPREADS, severity) * reference.spread)
    lowest = np.float32(reference.lowest)
    real_XYZ = voxels_XYZ - lowest + sigma * rng.standard_normal(voxels_XYZ.shape, dtype=np.float32)
    return lowest + np.hypot(real_XYZ, sigma * rng.standard_normal(voxels_XYZ.shape, dtype=np.float32))


def ghosting(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Measure every g-th line of k-space along one phase axis too strong or too weak, as breathing and pulsation do.

    K(k) ← K(k) (1 ± s) where k mod g = 0 and k ≠ 0, g from 2 to 5: ghosts of amplitude a = s/g lie N/g voxels apart
    (Axel et al., 1986, explain ghosts by such modulation).  a √(g-1), the root of the energy of all ghosts, is 15 to
    60 % of the image.  The line k = 0 is spared, else the whole scan would only become brighter or darker.  An axis
    too short to have such a line gives way to the longest.
    """
    axis = int(rng.integers(3))
    every = int(rng.integers(_GHOST_COUNTS[0], _GHOST_COUNTS[1] + 1))
    if voxels_XYZ.shape[axis] // 2 < every:
        axis = int(np.argmax(voxels_XYZ.shape))
    amplitude = _between(_GHOST_SHARE, severity) / np.sqrt(every - 1)
    # With their signs: of a line and its mirror image both change, or neither, or the ghosts would be imaginary.
    frequencies = np.rint(fft.fftfreq(voxels_XYZ.shape[axis]) * voxels_XYZ.shape[axis]).astype(int)
    lines = np.ones(voxels_XYZ.shape[axis], dtype=np.float32)
    ghosted = (frequencies % every == 0) & (frequencies != 0)
    lines[ghosted] += np.float32(rng.choice([-1.0, 1.0]) * amplitude * every)
    return _image(_kspace(voxels_XYZ, reference) * _along(lines, axis), reference)


def gibbs(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Measure too little of k-space: edges ring and detail is lost.

    Along two or three axes only the middle 80 to 30 % of the frequencies are kept (Archibald & Gelb, 2002).
    """
    kept = _between(_KEPT_FREQUENCIES, severity)
    kspace_XYZ = _kspace(voxels_XYZ, reference)
    for axis in rng.permutation(3)[: int(rng.integers(2, 4))].tolist():
        frequencies = np.abs(fft.fftfreq(voxels_XYZ.shape[axis]))
        kspace_XYZ = kspace_XYZ * _along((frequencies <= 0.5 * kept).astype(np.float32), axis)
    return _image(kspace_XYZ, reference)


def spikes(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Let 1 to 3 points of k-space be far too strong: stripes cover the whole scan.

    A spike at frequency k is the plane wave a cos(2π k·x + φ) of the image (Foo et al., 1994); all together have a root
    mean square of 0.15 to 1 spreads.
    """
    count = int(rng.integers(_SPIKE_COUNTS[0], _SPIKE_COUNTS[1] + 1))
    stripes_XYZ = np.zeros(voxels_XYZ.shape)
    grid = np.ogrid[tuple(slice(size) for size in voxels_XYZ.shape)]
    for _ in range(count):
        direction = rng.standard_normal(3)
        wanted = direction / np.linalg.norm(direction) * rng.uniform(*_SPIKE_FREQUENCIES)
        whole = np.rint(wanted * voxels_XYZ.shape) / voxels_XYZ.shape  # k-space has whole cycles only
        angle_XYZ = sum(2.0 * np.pi * k * x for k, x in zip(whole, grid, strict=True))
        stripes_XYZ += np.cos(angle_XYZ + rng.uniform(0.0, 2.0 * np.pi))
    wanted_rms = _between(_SPIKE_SPREADS, severity) * reference.spread
    stripes_XYZ *= wanted_rms / max(float(np.sqrt(np.mean(stripes_XYZ**2))), 1e-12)
    lowest = np.float32(reference.lowest)
    return lowest + np.abs(voxels_XYZ - lowest + stripes_XYZ.astype(np.float32))


def motion(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Measure stretches of k-space while the patient lies elsewhere (after Shaw et al., 2019).

    Along one phase axis k-space is cut into 4 to 8 stretches; each comes from a copy turned by up to 1.5 to 10 degrees
    and shifted by up to 1 to 5 % of the field of view.  The middle 8 % come from the scan as it is, else all of it
    would only lie elsewhere.
    """
    axis = int(rng.integers(3))
    size = voxels_XYZ.shape[axis]
    frequencies = np.abs(fft.fftfreq(size))
    order = fft.ifftshift(np.arange(size))  # position of each line of k-space in the order of measuring
    cuts = np.linspace(0, size, int(rng.integers(_MOTION_SEGMENTS[0], _MOTION_SEGMENTS[1] + 1)) + 1).round()
    still = frequencies <= 0.5 * _STILL_SHARE
    kspace_XYZ = _kspace(voxels_XYZ, reference) * _along(still.astype(np.float32), axis)
    # Splines, because linear interpolation would take detail away, which moving does not.
    splines_XYZ = ndimage.spline_filter(voxels_XYZ, order=3, output=np.float32, mode="nearest")
    for first, end in pairwise(cuts):
        lines = (order >= first) & (order < end) & ~still
        kspace_XYZ += _kspace(_moved(splines_XYZ, severity, rng), reference) * _along(lines.astype(np.float32), axis)
    return _image(kspace_XYZ, reference)


def _moved(splines_XYZ: VoxelsXYZ, severity: float, rng: np.random.Generator) -> VoxelsXYZ:
    """Turn about a random axis and shift, by at least half of the largest movement."""
    share = rng.uniform(0.5, 1.0)
    degrees = share * _between(_MOTION_DEGREES, severity)
    axis, direction = rng.standard_normal((2, 3))
    matrix = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    shape = np.asarray(splines_XYZ.shape)
    shift = share * _between(_MOTION_SHARE, severity) * shape * direction / np.linalg.norm(direction)
    middle = (shape - 1) / 2.0
    offset = middle - matrix @ middle + shift
    return ndimage.affine_transform(splines_XYZ, matrix, offset, order=3, mode="nearest", prefilter=False)


def _kspace(voxels_XYZ: VoxelsXYZ, reference: Reference) -> KspaceXYZ:
    return fft.fftn((voxels_XYZ - np.float32(reference.lowest)).astype(np.float32))


def _image(kspace_XYZ: KspaceXYZ, reference: Reference) -> VoxelsXYZ:
    return np.abs(fft.ifftn(kspace_XYZ)).astype(np.float32) + np.float32(reference.lowest)


def _along(line: np.ndarray, axis: int) -> np.ndarray:
    return line.reshape([-1 if a == axis else 1 for a in range(3)])


def _between(ends: tuple[float, float], severity: float) -> float:
    """Go from the first end to the second geometrically."""
    return float(ends[0] * (ends[1] / ends[0]) ** severity)
