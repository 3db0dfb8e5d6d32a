"""Restoration: codes that the prior finds unlikely are replaced by samples from it (the paper, section 2.3).

The random number of every (restoration, position) is drawn beforehand, so that the restored grid is a *function* of
(codes, uniforms), and every schedule that respects the order gives the same codes:

- `restore_sequentially` is the definition: position by position, each after all before it;
- `restore_by_fixed_point` re-evaluates whole grids until nothing changes, in a few passes instead of one per position.

The fixed point is the sequential answer: position 0 depends on nothing, so it is right after one pass; if all positions
before i are right, one more pass makes i right and later passes repeat it; and a grid that a pass does not change is
therefore right everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Float64, Int
from torch import Tensor

__all__ = ["Prior", "draw_uniforms", "restore_by_fixed_point", "restore_sequentially"]

Prior = Callable[[Int[Tensor, "B h w"], Float[Tensor, " B"]], Float[Tensor, "B K h w"]]
"""Logits of every code given those before it in raster order, and the slice coordinate."""


def draw_uniforms(
    restorations: int, slices: int, latent_shape: tuple[int, int], *, generator: torch.Generator
) -> Float64[Tensor, "R S h w"]:
    """Draw one uniform number in [0, 1) per restoration, slice and position.

    The first restorations are the same however many are drawn.
    """
    return torch.rand(restorations, slices, *latent_shape, generator=generator, dtype=torch.float64)


@torch.no_grad()
def restore_sequentially(
    prior: Prior,
    codes_Bhw: Int[Tensor, "B h w"],
    position_B: Float[Tensor, " B"],
    uniforms_Bhw: Float64[Tensor, "B h w"],
    *,
    threshold_nats: float,
) -> Int[Tensor, "B h w"]:
    """Restore by the definition: visit positions in raster order and replace each unlikely code by a sample.

    A code is unlikely when −log p(z_i | restored before i) exceeds λ_p, `threshold_nats`.  One prior pass per position:
    for tests and for reading.

    Args:
        prior: The autoregressive prior.
        codes_Bhw: Codes of slices, one row per restoration.
        position_B: Slice coordinate of each.
        uniforms_Bhw: The number that decides each sample.
        threshold_nats: λ_p.

    Returns:
        The restored codes.
    """
    restored = codes_Bhw.clone()
    _, height, width = codes_Bhw.shape
    for row in range(height):
        for column in range(width):
            here = (slice(None), slice(row, row + 1), slice(column, column + 1))
            logits = prior(restored, position_B)[:, :, row : row + 1, column : column + 1]
            restored[here] = _replace_unlikely(logits, codes_Bhw[here], uniforms_Bhw[here], threshold_nats)
    return restored


@torch.no_grad()
def restore_by_fixed_point(
    prior: Prior,
    codes_Shw: Int[Tensor, "S h w"],
    position_S: Float[Tensor, " S"],
    uniforms_RShw: Float64[Tensor, "R S h w"],
    *,
    threshold_nats: float,
    grids_per_pass: int = 64,
) -> Int[Tensor, "R S h w"]:
    """Restore every slice R times: evaluate whole grids again and again until they stop changing.

    The same codes as `restore_sequentially` for the same uniforms.  The first pass is shared by the restorations of a
    slice; a restoration that a pass did not change is finished and leaves.

    Args:
        prior: The autoregressive prior.
        codes_Shw: Codes of the scan's slices.
        position_S: Slice coordinate of each.
        uniforms_RShw: The number that decides each sample, on the CPU.
        threshold_nats: λ_p.
        grids_per_pass: Grids evaluated at once; bounds memory.

    Returns:
        The restored codes.
    """
    restorations = len(uniforms_RShw)
    codes = repeat(codes_Shw, "S h w -> (R S) h w", R=restorations)
    position = repeat(position_S, "S -> (R S)", R=restorations)
    uniforms = rearrange(uniforms_RShw, "R S h w -> (R S) h w")
    restored = _first_pass(prior, codes_Shw, position_S, uniforms_RShw, threshold_nats, grids_per_pass)
    changing = (restored != codes).flatten(1).any(1).nonzero().flatten()
    # Each pass settles at least one more position; the bound only guards against rounding that never settles.
    for _ in range(codes_Shw[0].numel()):
        if not len(changing):
            break
        still = []
        for chunk in changing.split(grids_per_pass):
            logits = prior(restored[chunk], position[chunk])
            proposal = _replace_unlikely(logits, codes[chunk], uniforms[chunk.cpu()], threshold_nats)
            still.append(chunk[(proposal != restored[chunk]).flatten(1).any(1)])
            restored[chunk] = proposal
        changing = torch.cat(still)
    return rearrange(restored, "(R S) h w -> R S h w", R=restorations)


def _first_pass(
    prior: Prior,
    codes_Shw: Int[Tensor, "S h w"],
    position_S: Float[Tensor, " S"],
    uniforms_RShw: Float64[Tensor, "R S h w"],
    threshold_nats: float,
    grids_per_pass: int,
) -> Int[Tensor, "B h w"]:
    """Evaluate each slice once and let every restoration draw from the result."""
    restored_RShw = torch.empty(uniforms_RShw.shape, dtype=codes_Shw.dtype, device=codes_Shw.device)
    for chunk in torch.arange(len(codes_Shw), device=codes_Shw.device).split(grids_per_pass):
        logits = prior(codes_Shw[chunk], position_S[chunk])
        for restored_Shw, uniforms_Shw in zip(restored_RShw, uniforms_RShw, strict=True):
            restored_Shw[chunk] = _replace_unlikely(logits, codes_Shw[chunk], uniforms_Shw[chunk.cpu()], threshold_nats)
    return rearrange(restored_RShw, "R S h w -> (R S) h w")


def _replace_unlikely(
    logits_BKhw: Float[Tensor, "B K h w"],
    codes_Bhw: Int[Tensor, "B h w"],
    uniforms_Bhw: Float64[Tensor, "B h w"],
    threshold_nats: float,
) -> Int[Tensor, "B h w"]:
    """Return the codes with each one above the threshold replaced by its sample, by inverse CDF in float64."""
    log_p_BKhw = torch.log_softmax(logits_BKhw, dim=1)
    nll_Bhw = -log_p_BKhw.gather(1, codes_Bhw[:, None])[:, 0]
    unlikely_Bhw = nll_Bhw > threshold_nats
    # On the CPU in float64 on every device, so that the same uniforms draw the same codes.
    log_p_NK = rearrange(log_p_BKhw, "B K h w -> B h w K")[unlikely_Bhw].cpu()
    cdf_NK = log_p_NK.double().exp().cumsum(dim=1)
    aim_N = uniforms_Bhw[unlikely_Bhw.cpu()] * cdf_NK[:, -1]
    drawn_N = torch.searchsorted(cdf_NK, aim_N[:, None], right=True)[:, 0].clamp_max(cdf_NK.shape[1] - 1)
    return codes_Bhw.masked_scatter(unlikely_Bhw, drawn_N.to(codes_Bhw.device))
