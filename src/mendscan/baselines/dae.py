"""A denoising auto-encoder trained to remove coarse noise from healthy slices, after Kascenas et al.

Kascenas, Pugeault & O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain MRI" (MIDL 2022): a
U-Net, whose skips keep fine detail, learns to remove noise as coarse as a lesion.  At test time nothing is added; what
the network takes for noise is the map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn.functional import mse_loss

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
from mendscan.models.blocks import make_norm, position_plane
from mendscan.shapes import SlicesSHW
from mendscan.training.loop import generator_for
from mendscan.training.run import StageFolder
from mendscan.training.stages import SliceData

__all__ = ["DaeBaseline", "UNet", "coarse_noise", "fit_dae"]

NOISE_SPREAD = 1.0
"""Standard deviation of the noise, in prepared intensities, which is healthy spreads.

The paper's 0.2 of the 99th percentile of the brain, at the control points, is about one spread of its intensities."""
NOISE_CELL_PIXELS = 8
"""Pixels between two control points of the noise (the paper: 16×16 points on 128×128 pixels)."""
_WIDTHS = (16, 32, 64, 64)
"""Channels at full resolution, where they cost most, and after each halving; 32 first took twice the time per step."""


class UNet(nn.Module):
    """Contracting and expanding halves with skips (Ronneberger et al. 2015), of two convolutions per level.

    The slice coordinate is an extra input channel.  Slices of any size are extended inside to a multiple of the
    down-sampling and cropped back.

    Args:
        widths: Channels at full resolution and after each halving.
    """

    def __init__(self, widths: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        pairs = list(pairwise(widths))
        self.first = _two_convolutions(2, widths[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), _two_convolutions(a, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(_two_convolutions(2 * a, a) for a, _ in reversed(pairs))
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, slices_BHW: Float[Tensor, "B H W"], position_B: Float[Tensor, " B"]) -> Float[Tensor, "B H W"]:
        """Return the slices without what does not belong."""
        x_BCHW = extended_to_multiple(slices_BHW[:, None], self.multiple)
        levels = [self.first(cat([x_BCHW, position_plane(position_B, like=x_BCHW)], dim=1))]
        for down in self.down:
            levels.append(down(levels[-1]))
        current = levels.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            current = merge(cat([up(current), levels.pop()], dim=1))
        return self.last(current)[:, 0, : slices_BHW.shape[1], : slices_BHW.shape[2]]


@dataclass(frozen=True, eq=False)
class DaeBaseline(Baseline):
    """What a denoising auto-encoder would remove from a scan to which nothing was added, |x − x̂|."""

    name: ClassVar[str] = "dae"
    network: UNet
    device: torch.device
    steps: int

    def __post_init__(self) -> None:
        self.network.eval().to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return |x − x̂|, in normalised intensity, >= 0."""
        return reconstruction_residual(self.network, prepared, self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights."""
        return self.network.state_dict()

    @classmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> DaeBaseline:
        """Rebuild it."""
        network = UNet()
        network.load_state_dict(dict(tensors))
        return cls(network, device, int(facts["steps"]))


def fit_dae(cohort: HealthyCohort, budget: Budget, where: StageFolder) -> DaeBaseline:
    """Train the auto-encoder on the training scans; see `train_network` for budget, resuming and errors."""
    training, validation = (cohort.slices(part) for part in (cohort.split.train, cohort.split.validation))
    foreground, held_out = (cohort.foregrounds(part) for part in (cohort.split.train, cohort.split.validation))
    network, steps = train_network(
        NetworkTraining(
            "dae",
            new=lambda: new_network(UNet, cohort, name="dae"),
            loss=lambda unet, _: partial(_dae_step, unet, training, foreground),
            validate=lambda unet, *_: (
                holdout_l1(unet, unet, validation) | _holdout_denoised(unet, validation, held_out)
            ),
        ),
        cohort,
        budget,
        where,
    )
    return DaeBaseline(network, cohort.device, steps)


def coarse_noise(
    batch: int,
    height: int,
    width: int,
    *,
    spread: float = NOISE_SPREAD,
    cell_pixels: int = NOISE_CELL_PIXELS,
    generator: torch.Generator,
) -> Float[Tensor, "B H W"]:
    """Draw Gaussian noise at coarse control points, placed anew for each slice, and interpolate it linearly.

    Unlike the paper, the noise is scaled so that its standard deviation is the same at every pixel: interpolation alone
    leaves half of it midway between four control points.

    Args:
        batch: Slices.
        height: Pixels of a slice.
        width: Pixels of a slice.
        spread: Standard deviation of every pixel.
        cell_pixels: Pixels between two control points.
        generator: The only source of chance.
    """
    rows_BHh, columns_BWw = (_interpolation(batch, pixels, cell_pixels, generator) for pixels in (height, width))
    coarse_Bhw = torch.randn(batch, rows_BHh.shape[2], columns_BWw.shape[2], generator=generator)
    return spread * (rows_BHh @ coarse_Bhw @ columns_BWw.mT)


def _interpolation(batch: int, pixels: int, cell_pixels: int, generator: torch.Generator) -> Float[Tensor, "B P c"]:
    """Return the weight of each control point at each pixel; the squares of a pixel's weights sum to 1."""
    offset_B = torch.rand(batch, 1, 1, generator=generator)
    place_BP = torch.arange(pixels)[None, :, None] / cell_pixels + offset_B
    points = torch.arange(math.ceil((pixels - 1) / cell_pixels) + 2)
    weights_BPc = (1 - (place_BP - points).abs()).clamp(min=0)
    return weights_BPc / weights_BPc.norm(dim=2, keepdim=True)


def _dae_step(unet: UNet, data: SliceData, foreground: SliceData, step: int) -> dict[str, Tensor]:
    """Return the mean squared error of the denoised slices.

    Unlike the paper, background counts too, so that the map means something everywhere; only foreground gets noise.
    """
    settings = data.settings
    generator = generator_for(settings.seed, "dae", step)
    indices = torch.randint(len(data), (settings.training.batch_slices,), generator=generator)
    slices_BHW, position_B, inside_BHW = _with_foreground(data, foreground, indices, generator)
    noisy_BHW = slices_BHW + inside_BHW * coarse_noise(*slices_BHW.shape, generator=generator).to(data.device)
    with arithmetic(settings, data.device):
        denoised_BHW = unet(noisy_BHW, position_B)
    return {"loss": mse_loss(denoised_BHW.float(), slices_BHW)}


def _with_foreground(
    data: SliceData, foreground: SliceData, indices: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return augmented slices, their coordinates, and their foreground under the same deformation."""
    same = torch.Generator().set_state(generator.get_state())
    slices_BHW, position_B = data.augmented(indices, generator=generator)
    inside_BHW, _ = foreground.augmented(indices, generator=same)
    return slices_BHW, position_B, (inside_BHW > 0.5).float()


@torch.inference_mode()
def _holdout_denoised(unet: UNet, data: SliceData, foreground: SliceData) -> dict[str, float]:
    """Return the mean absolute error of hold-out slices to which noise was added, the same at every step."""
    chosen = data.spread(data.settings.training.batch_slices)
    slices_BHW, position_B = data.batch(chosen)
    generator = generator_for(data.settings.seed, "dae hold-out")
    noise_BHW = coarse_noise(*slices_BHW.shape, generator=generator).to(data.device)
    unet.eval()
    denoised_BHW = unet(slices_BHW + foreground.batch(chosen)[0] * noise_BHW, position_B)
    unet.train()
    return {"holdout_denoised_l1": float((denoised_BHW - slices_BHW).abs().mean())}


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        make_norm("group", outputs),
        nn.ELU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        make_norm("group", outputs),
        nn.ELU(),
    )
