"""What settings ask for, found out before anything is allocated: tensors by name, and how much work a scan is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch

from mendscan.config import Settings
from mendscan.errors import ModelError
from mendscan.models.code_networks import CodeNetworks
from mendscan.models.discriminator import FEATURES, Discriminator
from mendscan.models.folder import REMEDY

__all__ = ["check_bounds", "expected_tensors", "least_parameters", "networks_of"]

_TYPES = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64", torch.bool: "BOOL"}
_MOST_LAYERS = 5_000
_MOST_VOXELS = 2**28
"""Of the model grid: 1 GiB in float32."""
_MOST_POSITIONS = 2**14
"""Of the grid that attention sees, each from each: 128 × 128."""
_MOST = {
    "restorations": 1_000,
    "calibration_restorations": 1_000,
    "min_pool": 1_001,
    "residual_sigma": 200.0,
    "nll_sigma": 200.0,
    "texture_sigma": 200.0,
    "discriminator_sigma": 200.0,
}
"""Of the detection settings: far beyond what is of use, and far below what would stop a machine."""


def check_bounds(settings: Settings, *, weights_bytes: int, where: Path) -> None:
    """Refuse settings that ask for far more than the weights hold, or for what would exhaust a machine.

    Args:
        settings: The settings of a model.
        weights_bytes: The size of its weights' file.
        where: The file of the settings, for errors.

    Raises:
        ModelError: E_MODEL_SHAPE if the weights cannot be all, E_MODEL_TOO_LARGE for the rest.
    """
    parameters = least_parameters(settings)
    if 4 * parameters > weights_bytes:
        raise ModelError(
            "the settings ask for more parameters than the weights' file holds",
            where=where,
            code="E_MODEL_SHAPE",
            found=f"at least {_short(parameters)}",
            expected=f"at most {weights_bytes // 4:,}",
            remedy=REMEDY,
        )
    detection = settings.detection
    asked: dict[str, tuple[float | int, float | int]] = {
        name: (getattr(detection, name), most) for name, most in _MOST.items()
    }
    asked["mean_pool_SHW"] = (max(detection.mean_pool_SHW), _MOST["min_pool"])
    asked["layers"] = (_layers(settings), _MOST_LAYERS)
    asked["voxels of the model grid"] = (_product(*settings.shape_SHW), _MOST_VOXELS)
    planes = (settings, *settings.further_planes.values())
    latent = max(_product(*each.latent_shape) for each in planes) // settings.prior.attention_downsampling**2
    asked["positions that attention sees"] = (latent, _MOST_POSITIONS)
    asked["scored slices"] = (settings.preparation.scored_slices or 0, _MOST_VOXELS)
    for name, (found, most) in asked.items():
        if found > most:
            raise ModelError(
                f"too many or too large: {name}",
                where=where,
                code="E_MODEL_TOO_LARGE",
                found=_short(found),
                expected=f"at most {most:,}",
                remedy=REMEDY,
            )


def least_parameters(settings: Settings) -> int:
    """Return a number of parameters that the networks have at least, without building them."""
    vqvae, prior, widths = settings.vqvae, settings.prior, settings.vqvae.channels
    finest = vqvae.blocks_per_level if vqvae.stem_blocks is None else vqvae.stem_blocks
    blocks = [finest, *[vqvae.blocks_per_level] * (len(widths) - 1)]
    total = sum(count * width * width for count, width in zip(blocks[:-1], widths[:-1], strict=True))
    total += sum(one * other * (vqvae.down_kernel**2 + vqvae.up_kernel**2) for one, other in pairwise(widths))
    total += vqvae.stem_kernel**2 * widths[0] + vqvae.codes * widths[-1]
    total += prior.blocks * (2 * prior.layers_per_block * prior.channels**2 + prior.channels)
    total += prior.blocks * (prior.value_channels + prior.key_channels) + prior.channels * vqvae.codes
    total *= settings.preparation.planes
    if settings.has_discriminator:
        total += settings.discriminator_members * sum(width * width for width in settings.discriminator.channels)
        total += 2 * FEATURES * _product(*settings.shape_SHW)
    return total


def networks_of(settings: Settings) -> dict[str, torch.nn.Module]:
    """Build the networks, untrained, by part: ``vqvae``, ``prior`` and, if there are any, ``planes`` (`CodeNetworks` of
    each other plane) and ``discriminator``."""
    own = CodeNetworks.untrained(settings)
    parts: dict[str, torch.nn.Module] = {"vqvae": own.vqvae, "prior": own.prior}
    if settings.further_planes:
        parts["planes"] = torch.nn.ModuleDict(
            {axis: CodeNetworks.untrained(plane) for axis, plane in settings.further_planes.items()}
        )
    if settings.has_discriminator:
        members = settings.discriminator_members
        parts["discriminator"] = Discriminator(settings.discriminator, settings.shape_SHW, members=members)
    return parts


def expected_tensors(settings: Settings) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of every tensor of the networks, by name, without allocating any."""
    with torch.device("meta"):
        parts = networks_of(settings)
    return {
        f"{part}.{name}": (_TYPES[tensor.dtype], tuple(tensor.shape))
        for part, network in parts.items()
        for name, tensor in network.state_dict().items()
    }


def _layers(settings: Settings) -> int:
    vqvae = settings.vqvae
    levels = len(vqvae.channels) * (vqvae.blocks_per_level + (vqvae.stem_blocks or 0))
    members = settings.discriminator_members * len(settings.discriminator.channels) if settings.has_discriminator else 0
    of_codes = settings.preparation.planes * (levels + settings.prior.blocks * settings.prior.layers_per_block)
    return of_codes + members


def _product(*sides: int) -> int:
    total = 1
    for side in sides:
        total *= side
    return total


def _short(number: float | int) -> str:
    return f"{number:,}" if number < 1e15 else f"{number:.3g}" if number < 1e300 else "a number of 300 digits"
