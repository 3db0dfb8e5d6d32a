"""Self-made faults in healthy scans, from which the discriminator learns what does not belong.  No label is involved.

A healthy scan on the model grid gets some blobs in which something happens: `corruption_families` says what.
Neither families nor shapes are those that detection is measured on or chosen by, and nothing here may import from
there: otherwise a figure would only say that the discriminator recognises its own teacher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from mendscan.cohort.corruption_families import BENDING, FAMILIES, Family, Patch
from mendscan.cohort.random_fields import coordinates, integer, noise, rotation, sampled, uniform
from mendscan.smoothing import gaussian_smoothed

__all__ = ["MOST_BLOBS", "RADIUS_SHARES", "Corrupted", "corrupt", "deformed"]

Voxels = Float[Tensor, "S H W"]
Triple = tuple[float, float, float]
_Box = tuple[slice, slice, slice]

RADIUS_SHARES = (0.08, 0.22)
"""Smallest and largest radius of a blob, as shares of the model grid's shortest side."""
MOST_BLOBS = 8
"""Blobs in one scan at most; the number is drawn evenly from none to all."""

_TRIES = 4
"""A blob in which too little changes is drawn again this often, then left out."""
_LEAST_CHANGE = 0.2
"""Root mean square change over a blob, in prepared intensities: less is no fault that anyone could see."""
_FAINT_CHANGE, _FAINT_WEIGHT, _SEEN_VOXELS = 0.1, 0.3, 1.2
"""Voxels of a blob about which (a Gaussian of 1.2 voxels) less than 0.1 changes count 0.3: no one could tell there."""
_FEWEST_VOXELS = 8
_MARGIN_VOXELS = 4
"""A patch reaches this far beyond its blob, for families that look around."""


class Corrupted(NamedTuple):
    """A healthy scan with self-made faults."""

    scan_SHW: Voxels
    label_SHW: Bool[Tensor, "S H W"]
    """Where something was altered."""
    weight_SHW: Voxels
    """How much each voxel counts in training, in (0, 1]."""


def corrupt(
    scan_SHW: Voxels,
    *,
    donor_SHW: Voxels,
    usual_SHW: Voxels,
    foreground_SHW: Bool[Tensor, "S H W"],
    aspect: Triple = (1.0, 1.0, 1.0),
    families: Mapping[str, Family] | None = None,
    generator: Generator,
) -> Corrupted:
    """Put faults into a healthy scan.

    Args:
        scan_SHW: Prepared intensities of a healthy scan.
        donor_SHW: Those of another one.
        usual_SHW: Mean of healthy scans.
        foreground_SHW: Where blobs may lie.
        aspect: Size of a voxel along each axis, the finest 1: blobs are as long in mm along all of them.
        families: What may happen, each as often; None = `FAMILIES`.
        generator: The only source of chance.

    Returns:
        The altered scan, where it was altered, and how much each voxel counts in training.
    """
    chosen = tuple((FAMILIES if families is None else families).items())
    places = torch.nonzero(foreground_SHW)
    altered_SHW, label_SHW = scan_SHW.clone(), torch.zeros_like(scan_SHW, dtype=torch.bool)
    weight_SHW = torch.ones_like(scan_SHW)
    for _ in range(integer(MOST_BLOBS + 1, generator) if len(places) else 0):
        for _ in range(_TRIES):
            name, family = chosen[integer(len(chosen), generator)]
            box, patch = _random_patch(altered_SHW, donor_SHW, usual_SHW, foreground_SHW, places, aspect, generator)
            content = family(patch, generator)
            blended = content if name in BENDING else patch.voxels + patch.weight * (content - patch.voxels)
            change = (blended - patch.voxels).square()
            inside = patch.weight > 0.5
            if inside.sum() < _FEWEST_VOXELS or change[inside].mean() < _LEAST_CHANGE**2:
                continue
            faint = inside & (gaussian_smoothed(change, _SEEN_VOXELS) < _FAINT_CHANGE**2)
            weight_SHW[box][faint] = _FAINT_WEIGHT
            altered_SHW[box] = blended
            label_SHW[box] |= inside
            break
    return Corrupted(altered_SHW, label_SHW, weight_SHW)


def deformed(scan_SHW: Voxels, *, generator: Generator) -> Voxels:
    """Return a scan turned, stretched, shifted and bent a little, as another healthy subject would lie and be."""
    from_middle = coordinates(scan_SHW.shape) - torch.tensor([(n - 1) / 2 for n in scan_SHW.shape])
    linear = 0.06 * torch.randn(3, 3, generator=generator)
    bent = torch.stack([noise(scan_SHW.shape, 10.0, generator) for _ in range(3)], dim=-1)
    shift = 0.5 * torch.randn(3, generator=generator)
    return sampled(scan_SHW, coordinates(scan_SHW.shape) + from_middle @ linear + 0.5 * bent + shift)


# --- blobs and fields ------------------------------------------------------------------------------------------------


def _random_patch(
    scan_SHW: Tensor,
    donor_SHW: Tensor,
    usual_SHW: Tensor,
    foreground_SHW: Tensor,
    places: Tensor,
    aspect: Triple,
    generator: Generator,
) -> tuple[_Box, Patch]:
    """Draw a blob inside the foreground: a turned superellipsoid with an uneven surface and a soft edge."""
    centre = places[integer(len(places), generator)].tolist()
    shortest = min(n * size for n, size in zip(scan_SHW.shape, aspect, strict=True))
    smallest, largest = map(math.log, RADIUS_SHARES)
    radius = shortest * math.exp(uniform(smallest, largest, generator))
    stretch = torch.exp(0.3 * torch.randn(3, generator=generator)).clamp(0.5, 1.8)
    reach = [math.ceil(radius * float(stretch.max()) * 1.4 / size) + _MARGIN_VOXELS for size in aspect]
    # Clipped to the grid; a slice is plain data, so that all four volumes are cut alike.
    s, h, w = (slice(max(0, c - r), min(n, c + r + 1)) for c, r, n in zip(centre, reach, scan_SHW.shape, strict=True))
    box = (s, h, w)
    shape = scan_SHW[box].shape
    corner = torch.tensor([part.start - c for part, c in zip(box, centre, strict=True)])
    from_centre = coordinates(shape) + corner
    turned = (from_centre * torch.tensor(aspect)) @ rotation(generator) / (radius * stretch)
    power = uniform(1.5, 4.0, generator)
    distance = turned.abs().pow(power).sum(-1).pow(1 / power)
    distance = distance * (1 + 0.12 * noise(shape, max(2.0, radius), generator)).clamp(0.7, 1.3)
    edge = max(uniform(0.8, 2.0, generator) / radius, 0.1)
    weight = ((1 - distance) / edge + 0.5).clamp(0, 1) * foreground_SHW[box]
    # By whole voxels: nothing is interpolated, and no graft is known by blur.
    offset = (0.25 * radius * torch.randn(3, generator=generator)).round().long().tolist()
    slices, rows, columns = (
        torch.arange(part.start + step, part.stop + step).clamp(0, n - 1)
        for part, step, n in zip(box, offset, scan_SHW.shape, strict=True)
    )
    donor = donor_SHW[slices[:, None, None], rows[:, None], columns]
    corners = [integer(n - size + 1, generator) for n, size in zip(scan_SHW.shape, shape, strict=True)]
    elsewhere = donor_SHW[tuple(slice(corner, corner + size) for corner, size in zip(corners, shape, strict=True))]
    return box, Patch(scan_SHW[box], weight, donor, elsewhere, usual_SHW[box], from_centre, radius)
