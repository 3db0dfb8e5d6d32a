"""The paper's own baseline: a variational auto-encoder of slices with a dense bottleneck.

Naval Marimont & Tarroni (ISBI 2021) compare with it; Baur et al., "Autoencoders for unsupervised anomaly segmentation
in brain MR images: a comparative study" (Medical Image Analysis 2021), describe the bottleneck of 128 latents on a
grid of about 8×8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn.functional import l1_loss

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.healthy import HealthyCohort
from mendscan.baselines.training import (
    Budget,
    NetworkTraining,
    arithmetic,
    extended_to_multiple,
    holdout_l1,
    new_network,
    reconstruction_residual,
    train_network,
)
from mendscan.cohort.preparing import Prepared
from mendscan.config import Settings
from mendscan.models.blocks import GatedResidualBlock, make_norm, position_plane
from mendscan.shapes import SlicesSHW
from mendscan.training.loop import generator_for
from mendscan.training.run import StageFolder
from mendscan.training.stages import SliceData

__all__ = ["VAE", "Posterior", "VaeBaseline", "fit_vae", "kl_to_standard_normal"]

LATENTS = 128
"""Dimensions of the bottleneck (Baur et al.)."""
BETA = 1.0
"""Weight of the KL divergence against a Laplace likelihood of scale 1: of one healthy spread."""
_GRID = 8
"""The dense layers see a grid of at most this many positions along each axis (Baur et al.)."""
_FIRST, _WIDTH = 32, 64
"""Channels at half resolution, and below: about the width of the plan's own networks."""
_LOG_VARIANCE = 10.0
"""Bound of a latent's log variance, so that one absurd slice cannot overflow."""


class Posterior(NamedTuple):
    """q(z | x), a Gaussian with independent dimensions."""

    mean_BL: Float[Tensor, "B L"]
    log_variance_BL: Float[Tensor, "B L"]


class VAE(nn.Module):
    """Encoder, dense bottleneck and decoder, of the same blocks as the model's VQ-VAE.

    The slice coordinate is an extra input channel of the encoder, and an extra latent of the decoder.

    Args:
        slice_shape: (H, W), any; slices are extended inside to a multiple of the down-sampling and cropped back.
        latents: L, dimensions of the bottleneck.
    """

    def __init__(self, slice_shape: tuple[int, int], *, latents: int = LATENTS) -> None:
        super().__init__()
        halvings = max(1, math.ceil(math.log2(max(slice_shape) / _GRID)))
        self.multiple = 2**halvings
        widths = [_FIRST] + [_WIDTH] * (halvings - 1)
        grid = [-(-pixels // self.multiple) for pixels in slice_shape]
        features = widths[-1] * grid[0] * grid[1]
        self.encoder = nn.Sequential(*_encoder_layers(widths))
        self.posterior = nn.Linear(features, 2 * latents)
        self.widen = nn.Sequential(nn.Linear(latents + 1, features), nn.Unflatten(1, (widths[-1], *grid)))
        self.decoder = nn.Sequential(*_decoder_layers(widths))

    def encode(self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"]) -> Posterior:
        """Return q(z | x) of slices."""
        x_BCHW = extended_to_multiple(slices_BHW[:, None], self.multiple)
        features_BF = self.encoder(cat([x_BCHW, position_plane(position_B, like=x_BCHW)], dim=1)).flatten(1)
        mean_BL, log_variance_BL = self.posterior(features_BF).float().chunk(2, dim=1)
        return Posterior(mean_BL, log_variance_BL.clamp(-_LOG_VARIANCE, _LOG_VARIANCE))

    def decode(
        self, latents_BL: Float[Tensor, "B L"], position_B: Float[Tensor, " B"], *, slice_shape: tuple[int, int]
    ) -> Float[Tensor, "B H W"]:
        """Return the slices of latents, in the size asked for."""
        height, width = slice_shape
        decoded_BHW = self.decoder(self.widen(cat([latents_BL, position_B[:, None]], dim=1)))[:, 0]
        return decoded_BHW[:, :height, :width]

    def forward(
        self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"], *, noise_BL: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B H W"], Posterior]:
        """Encode, draw z = μ + σ ε with the noise ε given, and decode."""
        mean_BL, log_variance_BL = posterior = self.encode(slices_BHW, position_B)
        drawn_BL = mean_BL + torch.exp(0.5 * log_variance_BL) * noise_BL
        return self.decode(drawn_BL, position_B, slice_shape=_shape(slices_BHW)), posterior

    def reconstruct(
        self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"]
    ) -> Float[Tensor, "B H W"]:
        """Return x̂, decoded from the posterior's mean: nothing is left to chance."""
        mean_BL = self.encode(slices_BHW, position_B).mean_BL
        return self.decode(mean_BL, position_B, slice_shape=_shape(slices_BHW))


@dataclass(frozen=True, eq=False)
class VaeBaseline(Baseline):
    """Reconstruction error of a variational auto-encoder, |x − x̂|, x̂ decoded from the posterior's mean."""

    name: ClassVar[str] = "vae"
    network: VAE
    device: torch.device
    steps: int

    def __post_init__(self) -> None:
        self.network.eval().to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return |x − x̂|, in normalised intensity, >= 0."""
        return reconstruction_residual(self.network.reconstruct, prepared, self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights."""
        return self.network.state_dict()

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> VaeBaseline:
        """Rebuild it."""
        network = VAE(settings.slice_shape)
        network.load_state_dict(dict(tensors))
        return cls(network, device, int(facts["steps"]))


def fit_vae(cohort: HealthyCohort, budget: Budget, where: StageFolder) -> VaeBaseline:
    """Train the auto-encoder on the training scans; see `train_network` for budget, resuming and errors."""
    training, validation = (cohort.slices(part) for part in (cohort.split.train, cohort.split.validation))
    network, steps = train_network(
        NetworkTraining(
            "vae",
            new=lambda: new_network(lambda: VAE(cohort.settings.slice_shape), cohort, name="vae"),
            loss=lambda vae, _: partial(_vae_step, vae, training),
            validate=lambda vae, *_: holdout_l1(vae, vae.reconstruct, validation),
        ),
        cohort,
        budget,
        where,
    )
    return VaeBaseline(network, cohort.device, steps)


def kl_to_standard_normal(posterior: Posterior) -> Float[Tensor, " B"]:
    """Return KL(q(z | x) ‖ N(0, 1)) in nats, >= 0: ½ Σ (μ² + σ² − 1 − log σ²).

    Example:
        >>> kl_to_standard_normal(Posterior(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)))
        tensor([0.5000])
    """
    mean_BL, log_variance_BL = posterior
    return 0.5 * (mean_BL**2 + log_variance_BL.exp() - 1 - log_variance_BL).sum(dim=1)


def _vae_step(vae: VAE, data: SliceData, step: int) -> dict[str, Tensor]:
    """Return the negative evidence lower bound per pixel: mean |x − x̂| + β KL / pixels."""
    settings = data.settings
    generator = generator_for(settings.seed, "vae", step)
    indices = torch.randint(len(data), (settings.training.batch_slices,), generator=generator)
    slices_BHW, position_B = data.augmented(indices, generator=generator)
    noise_BL = torch.randn(len(indices), LATENTS, generator=generator).to(data.device)
    with arithmetic(settings, data.device):
        decoded_BHW, posterior = vae(slices_BHW, position_B, noise_BL=noise_BL)
    reconstruction = l1_loss(decoded_BHW.float(), slices_BHW)
    divergence = kl_to_standard_normal(posterior).mean() / slices_BHW[0].numel()
    return {"loss": reconstruction + BETA * divergence, "reconstruction": reconstruction, "divergence": divergence}


def _encoder_layers(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in zip([2, *widths], widths, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), make_norm("group", outputs), _block(outputs)]
    return [*layers, nn.ELU()]


def _decoder_layers(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = [_block(widths[-1])]
    for inputs, outputs in zip(widths[::-1], widths[-2::-1], strict=False):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), make_norm("group", outputs)]
        layers += [_block(outputs)]
    return [*layers, nn.ELU(), nn.ConvTranspose2d(widths[0], 1, 4, stride=2, padding=1)]


def _block(channels: int) -> GatedResidualBlock:
    return GatedResidualBlock(channels, norm=partial(make_norm, "group"))


def _shape(slices_BHW: Float[Tensor, "B H W"]) -> tuple[int, int]:
    return slices_BHW.shape[1], slices_BHW.shape[2]
