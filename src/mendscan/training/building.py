"""The networks before training, and how the steps are shared out to them: functions of the settings alone."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mendscan.config import Settings
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.training.loop import generator_for

__all__ = ["StageSteps", "new_discriminator", "new_networks", "stage_steps"]


def new_networks(settings: Settings, device: torch.device) -> tuple[VQVAE, PixelSNAIL]:
    """Return untrained networks, a function of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(generator_for(settings.seed, "weights").initial_seed())
        vqvae, prior = VQVAE(settings.vqvae), PixelSNAIL(settings.prior, codes=settings.vqvae.codes)
    # Measured on a CPU (2 cores, auto plan), a step channels-last against contiguous: VQ-VAE in float32 168 and 907 ms,
    # in bfloat16 134 and 92 ms; prior in float32 192 and 143 ms, in bfloat16 142 and 114 ms.
    on_cpu, lower = device.type == "cpu", settings.training.precision == "bfloat16"
    layout = torch.contiguous_format if on_cpu and lower else torch.channels_last
    return vqvae.to(device=device, memory_format=layout), prior.to(device)  # type: ignore[call-overload]


def new_discriminator(settings: Settings, device: torch.device) -> Discriminator | None:
    """Return an untrained discriminator, a function of the seed; None if the plan has none."""
    if not settings.has_discriminator:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(generator_for(settings.seed, "discriminator weights").initial_seed())
        members = settings.discriminator_members
        return Discriminator(settings.discriminator, settings.shape_SHW, members=members).to(device)


class StageSteps(NamedTuple):
    """Steps of each network: of one VQ-VAE, of one prior, and of the discriminator, if there is one."""

    vqvae: int
    prior: int
    discriminator: int


def stage_steps(settings: Settings) -> StageSteps:
    """Return how the steps are shared out to the networks; each that there is gets at least one.

    Slice axes get the same number each; up to one step of each that does not divide is left out.
    """
    total, third = settings.training.steps or 0, settings.discriminator_steps
    plane = (total - third) // (settings.preparation.planes)
    first = max(1, round(settings.training.vqvae_share * plane))
    return StageSteps(first, max(1, plane - first), third)
