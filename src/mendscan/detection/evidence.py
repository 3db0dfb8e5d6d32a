"""What speaks for an anomaly at each voxel?  Kinds of evidence, behind one face.

A kind turns what is known of a scan into channels on the model grid.  It is one-sided if only more than usual is
suspicious (an unlikely code, a large residual), two-sided if less is, too: a blurred place has less texture than a
healthy one, and its codes are *likely*.  No kind knows any label; what is usual is learnt from healthy scans, by
`voxel_calibration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import gaussian_filter

from mendscan.config import DetectionSettings

__all__ = ["KINDS", "Channels", "Evidence", "EvidenceKind", "texture_energy"]

Channels = Float32[np.ndarray, "C S H W"]
"""One kind of evidence on the model grid, before or after it is standardised."""

TEXTURE_SIGMAS = (0.0, 0.7, 1.4, 2.8)
"""Two neighbours limit a band of texture, in voxels of the model grid."""
TEXTURE_WINDOW = 1.0
"""σ of the neighbourhood whose energy is taken, in voxels of the model grid."""
TEXTURE_FLOOR = 1e-3
"""Energy, in squared prepared intensities, below which texture is none."""
TWO_SIDED_SIGMA = 1.0
"""Smoothing of the magnitude of two-sided evidence, in voxels: two neighbouring departures are one."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one scan on the model grid, of which kinds of evidence are made."""

    residual_SHW: Float32[np.ndarray, "S H W"] | None
    """Weighted residual of the restorations, in prepared intensities; None if nothing was restored."""
    nll_SHW: Float32[np.ndarray, "S H W"]
    """Code NLL, in nats."""
    slices_SHW: Float32[np.ndarray, "S H W"]
    """The prepared scan."""
    foreground_SHW: Bool[np.ndarray, "S H W"]
    """Where the scan shows something."""
    logits_SHW: Float32[np.ndarray, "S H W"] | None = None
    """What the discriminator says, higher = more like a fault; None if there is none."""


@dataclass(frozen=True)
class EvidenceKind:
    """One kind of evidence.

    Attributes:
        channels: What it makes of a scan; higher = more anomalous, or only other if it is two-sided.
        sigma: The smoothing of each channel before it is standardised, in voxels along the model grid's finest axis.
        n_channels: How many channels.
        two_sided: Whether less than usual is as suspicious as more.
        relative: Whether it says already how far a voxel is from what is usual at its place; if not, healthy scans do.
        levelled: Whether what all of a scan has in common is taken away.
    """

    channels: Callable[[Evidence], Channels]
    sigma: Callable[[DetectionSettings], float]
    n_channels: int = 1
    two_sided: bool = False
    relative: bool = False
    levelled: Callable[[DetectionSettings], bool] = lambda _: False

    def excess(
        self, standardised_CSHW: Channels, scored_SHW: Bool[np.ndarray, "S H W"], settings: DetectionSettings
    ) -> Float32[np.ndarray, "S H W"]:
        """Return how far standardised channels are from usual: higher = more anomalous.

        Args:
            standardised_CSHW: In healthy standard deviations above the healthy mean.
            scored_SHW: Where the scan is scored.
            settings: Whether it is levelled.
        """
        if self.levelled(settings) and scored_SHW.any():
            level_C = np.median(standardised_CSHW[:, scored_SHW], axis=1)
            standardised_CSHW = standardised_CSHW - level_C[:, None, None, None]
        if not self.two_sided:
            return standardised_CSHW.max(axis=0)
        magnitude_SHW = np.sqrt(np.mean(np.square(standardised_CSHW), axis=0))
        return gaussian_filter(magnitude_SHW, TWO_SIDED_SIGMA, mode="nearest")


def texture_energy(slices_SHW: Float32[np.ndarray, "S H W"]) -> Channels:
    """Return the log energy of the intensities in bands of detail, around each voxel.

    A band is the difference of two Gaussian smoothings (`TEXTURE_SIGMAS`), its energy the mean square over a Gaussian
    neighbourhood.

    Args:
        slices_SHW: Prepared intensities.

    Returns:
        One channel per band, the finest first; log squared intensities.
    """
    blurred = [gaussian_filter(slices_SHW, sigma, mode="nearest") for sigma in TEXTURE_SIGMAS]
    bands = [fine - coarse for fine, coarse in pairwise(blurred)]
    energies = [gaussian_filter(np.square(band), TEXTURE_WINDOW, mode="nearest") for band in bands]
    return np.log(np.stack(energies) + np.float32(TEXTURE_FLOOR))


def _residual(evidence: Evidence) -> Channels:
    if evidence.residual_SHW is None:
        raise ValueError("the residual is wanted as evidence, but nothing was restored")
    return evidence.residual_SHW[None]


def _logits(evidence: Evidence) -> Channels:
    if evidence.logits_SHW is None:
        raise ValueError("the discriminator is wanted as evidence, but said nothing")
    return evidence.logits_SHW[None]


KINDS: Mapping[str, EvidenceKind] = MappingProxyType(
    {
        "residual": EvidenceKind(_residual, lambda settings: settings.residual_sigma),
        "nll": EvidenceKind(
            lambda e: e.nll_SHW[None],
            lambda settings: settings.nll_sigma,
            levelled=lambda settings: settings.nll_level == "scan",
        ),
        "texture": EvidenceKind(
            lambda e: texture_energy(e.slices_SHW),
            lambda settings: settings.texture_sigma,
            n_channels=len(TEXTURE_SIGMAS) - 1,
            two_sided=True,
        ),
        "discriminator": EvidenceKind(_logits, lambda settings: settings.discriminator_sigma, relative=True),
    }
)
"""Every kind by name: the residual of the restorations, the NLL of the codes, texture, the discriminator's logit."""
