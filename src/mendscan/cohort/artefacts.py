"""Whole-scan artefacts, for evaluation only: the entire scan is anomalous, and no voxel is labelled.

Ten pure functions with the same face::

    artefact(voxels_XYZ, *, rng, reference, severity) -> voxels_XYZ of the same shape

`severity` from 0 to 1 goes through the range in each docstring: below 1/3 is faint, below 2/3 medium, above plain.
Which artefacts there are follows TorchIO (Pérez-García et al., 2021); the definitions here are our own.  Settings are
chosen on `selection_artefacts` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from scipy import ndimage

from mendscan.cohort.anomaly_reference import Reference
from mendscan.cohort.kspace_artefacts import ghosting, gibbs, motion, noise, spikes
from mendscan.cohort.selection_artefacts import SELECTION_ARTEFACTS
from mendscan.errors import SettingsError
from mendscan.shapes import VoxelsXYZ

__all__ = [
    "ALL_ARTEFACTS",
    "ARTEFACTS",
    "Artefact",
    "apply_artefact",
    "bias",
    "check_artefacts",
    "contrast",
    "crop",
    "dropout",
    "flip",
]

# From the faintest (severity 0) to the plainest (severity 1); chosen by eye.  They define the evaluation set.
_BIAS_LOG = (0.2, 0.9)  # largest departure of the field's logarithm from its mean
_LOST_SLICES = (0.05, 0.25)  # share of the slices
_LOST_SIGNAL = (0.4, 1.0)  # share of the signal in a lost slice
_SHIFT = (0.06, 0.3)  # share of the field of view
_ZOOM = (1.08, 1.6)
_GAMMA_LOG = (0.35, 1.1)  # logarithm of the exponent of a monotone remapping
_INVERTED_FROM = 2.0 / 3.0  # severity from which the remapping is inverted
_INVERTED_CONTRAST = (0.7, 1.0)
_FEW_LEVELS = 0.005  # share of the foreground on each side that a remapping does not tell apart


class Artefact(Protocol):
    """What may happen to a whole scan: a pure function."""

    def __call__(
        self, voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float
    ) -> VoxelsXYZ:
        """Return an altered copy of the same shape."""


def bias(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Multiply by a smooth field, as a receive coil does: lowest + (v - lowest) exp(f).

    f is a sum of cosines of at most one period along each axis; over the foreground its mean is 0 and its largest
    departure 0.2 to 0.9 (Sled et al., 1998, for why the field is multiplicative and smooth).
    """
    waves = [np.cos(np.pi * np.outer(np.arange(3), np.arange(n) + 0.5) / n) for n in voxels_XYZ.shape]
    amplitudes = rng.standard_normal((3, 3, 3)) / (1.0 + np.indices((3, 3, 3)).sum(axis=0))
    field_XYZ = np.einsum("abc,ax,by,cz->xyz", amplitudes, *waves, optimize=True)
    inside = field_XYZ[reference.foreground_XYZ]
    field_XYZ = (field_XYZ - inside.mean()) / np.abs(inside - inside.mean()).max()
    # Outside the foreground the field may go on growing; air must not become tissue.
    field_XYZ = _between(_BIAS_LOG, severity) * np.clip(field_XYZ, -1.0, 1.0)
    lowest = np.float32(reference.lowest)
    return lowest + (voxels_XYZ - lowest) * np.exp(field_XYZ).astype(np.float32)


def dropout(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Let 5 to 25 % of the slices along one axis lose 40 to 100 % of their signal; at severity 1 they are missing.

    Only slices that hold foreground are taken, in one run or scattered.
    """
    axis = int(rng.integers(3))
    used = np.flatnonzero(reference.foreground_XYZ.any(axis=tuple(a for a in range(3) if a != axis)))
    count = max(1, round(_between(_LOST_SLICES, severity) * len(used)))
    if rng.random() < 0.5:
        first = int(rng.integers(len(used) - count + 1))
        lost = used[first : first + count]
    else:
        lost = rng.choice(used, count, replace=False)
    kept = np.ones(voxels_XYZ.shape[axis], dtype=np.float32)
    kept[lost] -= np.float32(_between(_LOST_SIGNAL, severity))
    lowest = np.float32(reference.lowest)
    return lowest + (voxels_XYZ - lowest) * kept.reshape([-1 if a == axis else 1 for a in range(3)])


def flip(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Mirror the whole scan along one of its three axes, as a wrong header does.

    The axis is a third of the severity: faint is the axis whose flip changes least, plain the one whose flip changes
    most.  In a brain the faint one is left-right, and hard: both halves look alike.
    """
    flipped = [np.flip(voxels_XYZ, axis) for axis in range(3)]
    changes = [float(np.mean((one - voxels_XYZ).astype(np.float64) ** 2)) for one in flipped]
    axis = int(np.argsort(changes, kind="stable")[min(int(3.0 * severity), 2)])
    return np.ascontiguousarray(flipped[axis])


def crop(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Show the wrong field of view: shifted along one axis, or enlarged about a point near the middle.

    A shift is 6 to 30 % of the axis, and what enters has the scan's smallest value or, where the scan has no
    background, at random the value of its edge; an enlargement is 1.08 to 1.6 times, read by linear interpolation.
    """
    shape = np.asarray(voxels_XYZ.shape)
    if rng.random() < 0.5:
        zoom = _between(_ZOOM, severity)
        middle = (shape - 1) / 2.0 + rng.uniform(-0.1, 0.1, 3) * shape
        return ndimage.affine_transform(
            voxels_XYZ, np.full(3, 1.0 / zoom), middle * (1.0 - 1.0 / zoom), order=1, mode="nearest"
        )
    axis = int(rng.integers(3))
    steps = max(1, round(_between(_SHIFT, severity) * shape[axis])) * int(rng.choice([-1, 1]))
    indices = np.arange(shape[axis]) + steps
    shifted_XYZ = np.take(voxels_XYZ, np.clip(indices, 0, shape[axis] - 1), axis)
    if not reference.foreground_XYZ.all() or rng.random() < 0.5:
        outside = (indices < 0) | (indices >= shape[axis])
        shifted_XYZ[tuple(outside if a == axis else slice(None) for a in range(3))] = reference.lowest
    return shifted_XYZ


def contrast(voxels_XYZ: VoxelsXYZ, *, rng: np.random.Generator, reference: Reference, severity: float) -> VoxelsXYZ:
    """Remap the intensities inside the foreground, as another sequence or modality would.

    With u from 0 to 1 over the foreground (0.5 % on each side are not told apart): u^γ with |log γ| from 0.35 up to 1.1
    below severity 2/3, and inverted, 1/2 + c (1/2 - u) with c from 0.7 to 1, above.
    """
    inside_XYZ = reference.foreground_XYZ
    low, high = np.quantile(voxels_XYZ[inside_XYZ].astype(np.float64), [_FEW_LEVELS, 1.0 - _FEW_LEVELS])
    level = np.clip((voxels_XYZ[inside_XYZ] - low) / (high - low), 0.0, 1.0)
    if severity < _INVERTED_FROM:
        log_gamma = rng.choice([-1.0, 1.0]) * _between(_GAMMA_LOG, severity / _INVERTED_FROM)
        level = level ** np.exp(log_gamma)
    else:
        part = (severity - _INVERTED_FROM) / (1.0 - _INVERTED_FROM)
        level = 0.5 + _between(_INVERTED_CONTRAST, part) * (0.5 - level)
    remapped_XYZ = voxels_XYZ.copy()
    remapped_XYZ[inside_XYZ] = low + level * (high - low)
    return remapped_XYZ


ARTEFACTS: Mapping[str, Artefact] = MappingProxyType(
    {
        "noise": noise,
        "ghosting": ghosting,
        "gibbs": gibbs,
        "spikes": spikes,
        "bias": bias,
        "motion": motion,
        "dropout": dropout,
        "flip": flip,
        "crop": crop,
        "contrast": contrast,
    }
)
"""Every whole-scan artefact that is reported, by its name in `anomalies.csv`."""

ALL_ARTEFACTS: Mapping[str, Artefact] = MappingProxyType({**ARTEFACTS, **SELECTION_ARTEFACTS})
"""Both families, the reported one first; they share no name."""


def apply_artefact(
    voxels_XYZ: VoxelsXYZ, kind: str, *, rng: np.random.Generator, reference: Reference, severity: float
) -> tuple[VoxelsXYZ, float]:
    """Let one artefact happen to a whole scan.

    Args:
        voxels_XYZ: The scan, in any unit; not altered.
        kind: A key of `ALL_ARTEFACTS`.
        rng: Source of everything that is random.
        reference: Of this scan.
        severity: 0 to 1; see `severity_of`.

    Returns:
        The altered scan, and its strength: the root mean square change over the foreground, in robust spreads.

    Raises:
        SettingsError: If the kind is unknown.
        ValueError: If the severity is not from 0 to 1.
    """
    check_artefacts((kind,))
    if not 0.0 <= severity <= 1.0:
        raise ValueError(f"severity {severity} is not from 0 to 1")
    altered_XYZ = ALL_ARTEFACTS[kind](voxels_XYZ, rng=rng, reference=reference, severity=severity)
    inside_XYZ = reference.foreground_XYZ
    change = (altered_XYZ[inside_XYZ] - voxels_XYZ[inside_XYZ]).astype(np.float64)
    return altered_XYZ, float(np.sqrt(np.mean(change**2))) / reference.spread


def check_artefacts(kinds: Sequence[str]) -> None:
    """Check which artefacts are asked for, before anything is computed.

    Raises:
        SettingsError: If a kind is unknown, or there is none.
    """
    unknown = sorted(set(kinds) - set(ALL_ARTEFACTS))
    if unknown or not kinds:
        expected = f"{', '.join(ARTEFACTS)}; for choosing settings {', '.join(SELECTION_ARTEFACTS)}"
        raise SettingsError("unknown artefact", where="artefact_kinds", found=unknown or "none", expected=expected)


def _between(ends: tuple[float, float], severity: float) -> float:
    """Go from the first end to the second evenly."""
    return ends[0] + (ends[1] - ends[0]) * severity
