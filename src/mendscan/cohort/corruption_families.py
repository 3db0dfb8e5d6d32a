"""What can happen inside a self-made fault: twelve families, each a pure function of a patch around it.

They are chosen to cover many ways of not belonging rather than any lesion in particular: another subject's anatomy,
nobody's, other intensities, a bent geometry, a coarser resolution.  They are apart from the kinds that detection is
measured on (`anomaly_kinds`, `artefacts`) and chosen by (`selection_kinds`, `selection_artefacts`), and import
nothing from there.
The nearest neighbours across are named in docs/evidence.md.

Going part of the way to another subject is the idea of Tan et al., "Detecting outliers with foreign patch
interpolation" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import avg_pool1d, avg_pool3d, interpolate, pad

from mendscan.cohort.random_fields import coordinates, direction, integer, noise, sampled, sign, uniform
from mendscan.smoothing import gaussian_smoothed

__all__ = [
    "BENDING",
    "FAMILIES",
    "Family",
    "Patch",
    "average",
    "crumple",
    "drag",
    "exchange",
    "graft",
    "pixelate",
    "scramble",
    "shade",
    "smear",
    "solarise",
    "speckle",
    "swirl",
]


@dataclass(frozen=True, eq=False)
class Patch:
    """A box around a blob: all that a family may look at.

    Attributes:
        voxels: The scan's prepared intensities in the box.
        weight: How much each voxel takes part, in [0, 1], with a soft edge.
        donor: Another healthy scan's intensities in the same box, possibly moved by some voxels.
        elsewhere: The other scan's intensities in a box somewhere else.
        usual: The mean of healthy scans in the box.
        from_centre: Offset of each voxel from the blob's centre, in voxels.
        radius: Of the blob, in voxels.
    """

    voxels: Float[Tensor, "s h w"]
    weight: Float[Tensor, "s h w"]
    donor: Float[Tensor, "s h w"]
    elsewhere: Float[Tensor, "s h w"]
    usual: Float[Tensor, "s h w"]
    from_centre: Float[Tensor, "s h w 3"]
    radius: float


_STILL_VOXELS = 1e-3
"""A voxel that moves less stays as it is."""

Family = Callable[[Patch, Generator], Float[Tensor, "s h w"]]
"""What happens inside a blob: returns the box altered, to be blended in by the weight."""


def graft(patch: Patch, generator: Generator) -> Tensor:
    """Go 40 to 100 % of the way to another healthy scan at about the same place."""
    return patch.voxels + uniform(0.4, 1.0, generator) * (patch.donor - patch.voxels)


def exchange(patch: Patch, generator: Generator) -> Tensor:
    """Keep the scan's coarse part and take the fine part of another healthy scan, from anywhere in it."""
    width = uniform(0.3, 0.6, generator) * patch.radius
    fine = patch.elsewhere - gaussian_smoothed(patch.elsewhere, width)
    return gaussian_smoothed(patch.voxels, width) + uniform(0.8, 1.2, generator) * fine


def scramble(patch: Patch, generator: Generator) -> Tensor:
    """Give every frequency a random phase: the texture's spectrum stays, the structure is lost."""
    mean = gaussian_smoothed(patch.voxels, 0.5 * patch.radius)
    spectrum = torch.fft.rfftn(patch.voxels - mean)
    random = torch.fft.rfftn(torch.randn(patch.voxels.shape, generator=generator))
    phase = random / random.abs().clamp_min(1e-6)
    return mean + torch.fft.irfftn(spectrum.abs() * phase, s=patch.voxels.shape)


def average(patch: Patch, generator: Generator) -> Tensor:
    """Go 50 to 100 % of the way to the mean of healthy scans: anatomy without a subject."""
    return patch.voxels + uniform(0.5, 1.0, generator) * (patch.usual - patch.voxels)


def shade(patch: Patch, generator: Generator) -> Tensor:
    """Add a smooth random field, bright here and dark there, of 0.4 to 2 spreads."""
    grain = uniform(1.0, 3.0, generator) * patch.radius
    return patch.voxels + uniform(0.4, 2.0, generator) * noise(patch.voxels.shape, grain, generator)


def solarise(patch: Patch, generator: Generator) -> Tensor:
    """Fold intensities back at a level that occurs in the blob: what was above it (or below) is reflected."""
    level = torch.quantile(patch.voxels[patch.weight >= patch.weight.max() / 2], uniform(0.1, 0.9, generator))
    return level + sign(generator) * uniform(0.5, 1.5, generator) * (patch.voxels - level).abs()


def speckle(patch: Patch, generator: Generator) -> Tensor:
    """Multiply by noise, as coherent imaging does: stronger where it is brighter."""
    grain = uniform(1.0, 3.0, generator)
    height = (patch.voxels - patch.voxels.min()) / (2 * patch.voxels.std() + 1e-3)
    return patch.voxels + uniform(0.15, 0.8, generator) * noise(patch.voxels.shape, grain, generator) * height


def swirl(patch: Patch, generator: Generator) -> Tensor:
    """Turn about a random axis through the centre, by 0.4 to 1.4 radians there and less outwards."""
    axis = direction(generator)
    angle = (sign(generator) * uniform(0.4, 1.4, generator) * gaussian_smoothed(patch.weight, 1.0))[..., None]
    across = torch.linalg.cross(axis.expand_as(patch.from_centre), patch.from_centre)
    along = (patch.from_centre @ axis)[..., None] * axis
    turned = patch.from_centre * angle.cos() + across * angle.sin() + along * (1 - angle.cos())
    return _displaced(patch, turned - patch.from_centre)


def drag(patch: Patch, generator: Generator) -> Tensor:
    """Shift the middle by 25 to 70 % of the radius, and less outwards."""
    shift = direction(generator) * uniform(0.25, 0.7, generator) * patch.radius
    return _displaced(patch, -shift * gaussian_smoothed(patch.weight, max(1.0, 0.3 * patch.radius))[..., None])


def crumple(patch: Patch, generator: Generator) -> Tensor:
    """Displace by a smooth random field of 12 to 35 % of the radius."""
    grain = max(2.0, 0.9 * patch.radius)
    field = torch.stack([noise(patch.voxels.shape, grain, generator) for _ in range(3)], dim=-1)
    amplitude = uniform(0.12, 0.35, generator) * patch.radius
    return _displaced(patch, field * amplitude * gaussian_smoothed(patch.weight, 1.0)[..., None])


def pixelate(patch: Patch, generator: Generator) -> Tensor:
    """Average over blocks of 2 or 3 voxels and interpolate back, or leave the blocks."""
    size = 2 + integer(2, generator)
    extra = [n for side in reversed(patch.voxels.shape) for n in (0, -side % size)]
    padded = pad(patch.voxels[None, None], extra, mode="replicate")
    mode = "nearest" if uniform(0.0, 1.0, generator) < 0.3 else "trilinear"
    coarse = interpolate(avg_pool3d(padded, size), size=padded.shape[2:], mode=mode)
    s, h, w = patch.voxels.shape
    return coarse[0, 0, :s, :h, :w]


def smear(patch: Patch, generator: Generator) -> Tensor:
    """Average along one axis over 3, 5 or 7 voxels, as if it had moved."""
    axis, length = integer(3, generator), 3 + 2 * integer(3, generator)
    lines = patch.voxels.movedim(axis, -1)
    padded = pad(lines.reshape(1, -1, lines.shape[-1]), (length // 2, length // 2), mode="replicate")
    return avg_pool1d(padded, length, 1).reshape(lines.shape).movedim(-1, axis)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "graft": graft,
        "exchange": exchange,
        "scramble": scramble,
        "average": average,
        "shade": shade,
        "solarise": solarise,
        "speckle": speckle,
        "swirl": swirl,
        "drag": drag,
        "crumple": crumple,
        "pixelate": pixelate,
        "smear": smear,
    }
)
"""Every family by name."""

BENDING = frozenset({"swirl", "drag", "crumple"})
"""These have their soft edge in the displacement; blending them in would show everything twice."""


def _displaced(patch: Patch, displacement: Float[Tensor, "s h w 3"]) -> Tensor:
    moved = displacement.square().sum(-1) > _STILL_VOXELS**2
    bent = patch.voxels.clone()
    bent[moved] = sampled(patch.voxels, (coordinates(patch.voxels.shape) + displacement)[moved])
    return bent
