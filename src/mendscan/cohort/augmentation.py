"""Random changes of training slices, on batches of tensors, as a function of a generator."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from mendscan.config import AugmentationSettings

__all__ = ["augment"]

_ELASTIC_CELL = 8
"""Pixels between the control points of the elastic displacement."""
_BICUBIC_LOSS = 1.16
"""Makes up for the spread that white noise at the control points loses when it is interpolated."""
_BLUR_REACH = 2
"""Pixels to either side that a blur reaches; a wider one reaches twice its σ."""
_FAINTEST_BLUR = 0.05


def augment(
    slices_BHW: Float[Tensor, "B H W"],
    settings: AugmentationSettings,
    *,
    flip_axis: int | None,
    generator: Generator,
    alike: bool = False,
) -> Float[Tensor, "B H W"]:
    """Deform, recolour, blur and add noise, each slice by its own draw.

    Args:
        slices_BHW: Prepared slices.
        settings: Ranges.
        flip_axis: Which axis of the batch runs left to right (1 or 2); None if neither does.
        generator: The only source of chance.
        alike: Whether one draw is for all slices, which are of one scan; their noise stays their own.
    """
    draws = 1 if alike else len(slices_BHW)
    background = slices_BHW == 0 if settings.keep_zero else None
    moved, background = _deform(slices_BHW, background, settings, flip_axis, draws, generator)
    coloured = _clipped_again(_recolour(moved, settings, draws, generator), settings)
    blurred = _blur(coloured, settings, draws, generator)
    noisy = _clipped_again(_add_noise(blurred, settings, draws, generator), settings)
    return noisy if background is None else noisy.masked_fill(background, 0.0)


def _uniform(count: int, low: float, high: float, generator: Generator) -> Float[Tensor, " B"]:
    return torch.rand(count, generator=generator) * (high - low) + low


def _happens(count: int, settings: AugmentationSettings, generator: Generator) -> Float[Tensor, " B"]:
    """Return 1 for the slices that a change befalls, 0 for the others."""
    if settings.probability == 1:
        return torch.ones(count)
    return (torch.rand(count, generator=generator) < settings.probability).float()


def _clipped_again(slices_BHW: Tensor, settings: AugmentationSettings) -> Tensor:
    return slices_BHW.clamp(-settings.clip_sigma, settings.clip_sigma) if settings.clip_again else slices_BHW


def _deform(
    slices_BHW: Tensor,
    background: Tensor | None,
    settings: AugmentationSettings,
    flip_axis: int | None,
    draws: int,
    generator: Generator,
) -> tuple[Tensor, Tensor | None]:
    """Rotate, scale, mirror and deform elastically, with one interpolation."""
    batch, height, width = slices_BHW.shape
    angle = torch.deg2rad(_uniform(draws, -settings.rotation_degrees, settings.rotation_degrees, generator))
    angle = angle * _happens(draws, settings, generator)
    zoom = (1 / _uniform(draws, *settings.scale_range, generator)) ** _happens(draws, settings, generator)
    mirror = torch.where(torch.rand(draws, generator=generator) < 0.5, -1.0, 1.0)
    mirror = mirror if settings.flip and flip_axis is not None else torch.ones(draws)
    # grid_sample's coordinates are (x, y) = (W, H), each in [-1, 1]; a rotation must know the slice's aspect.
    flip_x, flip_y = (mirror, torch.ones(draws)) if flip_axis == 2 else (torch.ones(draws), mirror)
    cosine, sine, aspect = torch.cos(angle) * zoom, torch.sin(angle) * zoom, height / width
    rows = [
        torch.stack([flip_x * cosine, -flip_y * sine * aspect, torch.zeros(draws)], dim=1),
        torch.stack([flip_x * sine / aspect, flip_y * cosine, torch.zeros(draws)], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), [draws, 1, height, width], align_corners=False)
    grid = (grid + _elastic(grid, settings, generator)).to(slices_BHW).expand(batch, -1, -1, -1)
    moved = grid_sample(slices_BHW[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    if background is None:
        return moved, None
    where = grid_sample(background[:, None].to(grid), grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved, where[:, 0] > 0.5


def _elastic(
    grid: Float[Tensor, "B H W 2"], settings: AugmentationSettings, generator: Generator
) -> Float[Tensor, "B H W 2"]:
    """Return a smooth random displacement, and an affine one, in grid_sample's units."""
    batch, height, width, _ = grid.shape
    cells = (max(2, height // _ELASTIC_CELL), max(2, width // _ELASTIC_CELL))
    coarse = torch.randn(batch, 2, *cells, generator=generator)
    smooth = interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    per_pixel = torch.tensor([2 / width, 2 / height])
    moved = rearrange(smooth, "B c H W -> B H W c") * per_pixel * settings.elastic_pixels * _BICUBIC_LOSS
    if settings.elastic_affine_pixels:
        moved = moved + per_pixel * _affine(grid / per_pixel, max(1, min(height, width) // 3), settings, generator)
    return moved * _happens(batch, settings, generator)[:, None, None, None]


def _affine(
    places_BHW2: Float[Tensor, "B H W 2"], reach: int, settings: AugmentationSettings, generator: Generator
) -> Float[Tensor, "B H W 2"]:
    """Return the affine displacement that moves three corners of a square about the middle, each by its own draw.

    Args:
        places_BHW2: Where every pixel is, (x, y) in pixels from the middle.
        reach: Half of the square's side: its corners are (reach, reach), (reach, -reach) and (-reach, -reach).
        settings: How far they move.
        generator: The only source of chance.
    """
    batch, most = len(places_BHW2), settings.elastic_affine_pixels
    corners = _uniform(6 * batch, -most, most, generator).reshape(batch, 3, 1, 1, 2)
    first, second, third = corners.unbind(1)
    along_x, along_y = (second - third) / (2 * reach), (first - second) / (2 * reach)
    return (first + third) / 2 + along_x * places_BHW2[..., :1] + along_y * places_BHW2[..., 1:]


def _recolour(slices_BHW: Tensor, settings: AugmentationSettings, draws: int, generator: Generator) -> Tensor:
    """Change contrast and brightness of the intensities within ±`clip_sigma`."""
    change = _uniform(draws, -settings.contrast, settings.contrast, generator)
    shift = _uniform(draws, -settings.brightness, settings.brightness, generator)
    happens = _happens(draws, settings, generator)
    gain, shift = 1 + change * happens, (shift - settings.contrast_about * change) * happens
    inside = slices_BHW.clamp(-settings.clip_sigma, settings.clip_sigma)
    return inside * gain.to(slices_BHW)[:, None, None] + shift.to(slices_BHW)[:, None, None]


def _blur(slices_BHW: Tensor, settings: AugmentationSettings, draws: int, generator: Generator) -> Tensor:
    """Blur half of the slices by a Gaussian of random width."""
    batch = len(slices_BHW)
    most = max(settings.blur_sigma_pixels, _FAINTEST_BLUR)
    sigma = _uniform(draws, min(max(settings.blur_least_sigma_pixels, _FAINTEST_BLUR), most), most, generator)
    chosen = (torch.rand(draws, generator=generator) < 0.5).to(slices_BHW.device)
    reach = max(_BLUR_REACH, math.ceil(2 * most))
    steps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(slices_BHW).expand(batch, -1)
    padded = pad(slices_BHW[None], (reach,) * 4, mode="replicate")
    blurred = conv2d(padded, kernel[:, None, :, None], groups=batch)
    blurred = conv2d(blurred, kernel[:, None, None, :], groups=batch)[0]
    return torch.where(chosen[:, None, None], blurred, slices_BHW)


def _add_noise(slices_BHW: Tensor, settings: AugmentationSettings, draws: int, generator: Generator) -> Tensor:
    share = _uniform(draws, 0.0, 1.0, generator)
    share = share.sqrt() if settings.noise_even_in == "variance" else share
    sigma = (share * settings.noise * _happens(draws, settings, generator)).to(slices_BHW)
    noise = torch.randn(slices_BHW.shape, generator=generator).to(slices_BHW)
    return slices_BHW + sigma[:, None, None] * noise
