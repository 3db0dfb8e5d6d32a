"""From codes and restorations to scores and maps (the paper, sections 2.2 and 2.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from einops import reduce, repeat
from jaxtyping import Float
from scipy.ndimage import minimum_filter, uniform_filter
from torch import Tensor

from mendscan.shapes import MapSHW

__all__ = [
    "WeightedRestoration",
    "clipped_nll_score",
    "nll_map",
    "pooled_residual",
    "restoration_weights",
    "unclipped_residual",
    "weigh_restorations",
]


class WeightedRestoration(NamedTuple):
    """The restorations of one slice, weighed by how close they stayed to it."""

    restored_HW: Float[Tensor, "H W"]
    """Σ_j φ_j r_j."""
    residual_HW: Float[Tensor, "H W"]
    """Σ_j φ_j |y − r_j|, >= 0; higher = more anomalous."""


def clipped_nll_score(nll_Bhw: Float[Tensor, "B h w"], *, threshold_nats: float) -> Float[Tensor, " B"]:
    """Sum the negative log-likelihood of the codes that a healthy prior finds unlikely.

    The sample-wise score of Naval Marimont & Tarroni (2021): s = Σ_i ξ(z_i) with ξ(z_i) = −log p(z_i | z_<i) where
    that exceeds λ_s, else 0.  λ_s is `threshold_nats`.

    Args:
        nll_Bhw: Negative log-likelihood of each code, in nats, >= 0.
        threshold_nats: λ_s; take it from the model's `Calibration`, not from a constant.

    Returns:
        One score per slice, in nats; 0 = nothing unlikely, higher = more anomalous.

    Raises:
        ValueError: If `threshold_nats` is negative or `nll_Bhw` is not finite.

    Example:
        >>> clipped_nll_score(torch.tensor([[[1.0, 9.0]]]), threshold_nats=7.0)
        tensor([9.])
    """
    if threshold_nats < 0:
        raise ValueError(f"threshold_nats is {threshold_nats}, expected >= 0")
    if not torch.isfinite(nll_Bhw).all():
        raise ValueError("nll_Bhw is not finite everywhere")
    return reduce(torch.where(nll_Bhw > threshold_nats, nll_Bhw, 0.0), "B h w -> B", "sum")


def weigh_restorations(
    slice_HW: Float[Tensor, "H W"], restorations_RHW: Float[Tensor, "R H W"], *, temperature: float
) -> WeightedRestoration:
    """Combine the restorations of a slice: those that drifted away count less.

    Args:
        slice_HW: y.
        restorations_RHW: r_1 … r_R.
        temperature: Sharpness of the weights; 0 = plain mean (the paper: 3).

    Example:
        >>> y = torch.zeros(1, 2)
        >>> weigh_restorations(y, torch.tensor([[[0.1, 0.1]], [[5.0, 5.0]]]), temperature=3.0).residual_HW
        tensor([[0.1000, 0.1000]])
    """
    weight_R = restoration_weights(slice_HW, restorations_RHW, temperature=temperature)
    apart_RHW = (slice_HW - restorations_RHW).abs()
    return WeightedRestoration(
        torch.einsum("r,rhw->hw", weight_R, restorations_RHW), torch.einsum("r,rhw->hw", weight_R, apart_RHW)
    )


def restoration_weights(
    slice_HW: Float[Tensor, "H W"], restorations_RHW: Float[Tensor, "R H W"], *, temperature: float
) -> Float[Tensor, " R"]:
    """Return how much each restoration of a slice counts; the weights sum to 1.

    φ_j = softmax_j(temperature / mean |y − r_j|), y the slice and r_j its restorations.

    Args:
        slice_HW: y.
        restorations_RHW: r_1 … r_R.
        temperature: Sharpness of the weights; 0 = all alike (the paper: 3).
    """
    drift_R = reduce((slice_HW - restorations_RHW).abs(), "R H W -> R", "mean").clamp_min(1e-6)
    return torch.softmax(temperature / drift_R, dim=0)


def pooled_residual(residual_SHW: MapSHW, *, min_pool: int, mean_pool_SHW: tuple[int, int, int]) -> MapSHW:
    """Pool a residual as the paper does, and clip it to [0, 1]."""
    return np.clip(unclipped_residual(residual_SHW, min_pool=min_pool, mean_pool_SHW=mean_pool_SHW), 0, 1)


def unclipped_residual(residual_SHW: MapSHW, *, min_pool: int, mean_pool_SHW: tuple[int, int, int]) -> MapSHW:
    """Pool a residual as the paper does, and leave it as large as it is: above 1, voxels still differ.

    The minimum over `min_pool`³ voxels removes the thin edges of imperfect reconstruction; the mean spreads what
    is left.  Beyond the border the edge goes on.
    """
    eroded = minimum_filter(residual_SHW, size=min_pool, mode="nearest")
    return uniform_filter(eroded, size=mean_pool_SHW, mode="nearest")


def nll_map(nll_Shw: Float[np.ndarray, "S h w"], *, downsampling: int) -> MapSHW:
    """Return the code NLL at every pixel of the code's patch, in nats; higher = more anomalous."""
    return repeat(nll_Shw, "S h w -> S (h y) (w x)", y=downsampling, x=downsampling)
