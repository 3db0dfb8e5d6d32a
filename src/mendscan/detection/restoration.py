"""Restoration: codes that the prior finds unlikely are replaced by samples from it (the paper, section 2.3).

The random number of every (restoration, position) is drawn beforehand, so that the restored grid is a *function* of
(codes, uniforms), and every schedule that respects the order gives the same codes:

- `restore_sequentially` is the definition: position by position, each after all before it, a whole pass for each;
- `restore_by_fixed_point` re-evaluates whole grids until nothing changes: for priors known only as a function;
- `restore_incrementally` is what is used: every activation of every position once, and once for all restorations of a
  slice that share their codes so far.

The fixed point is the sequential answer: position 0 depends on nothing, so it is right after one pass; if all positions
before i are right, one more pass makes i right and later passes repeat it; and a grid that a pass does not change is
therefore right everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Float64, Int
from torch import Tensor

from mendscan.errors import SettingsError
from mendscan.models.memory import Memory
from mendscan.models.pixelsnail import PixelSNAIL

__all__ = [
    "Prior",
    "Restored",
    "Schedule",
    "draw_uniforms",
    "restore",
    "restore_by_fixed_point",
    "restore_incrementally",
    "restore_sequentially",
]

Schedule = Literal["incremental", "fixed-point", "sequential"]
"""How restored codes are computed; every schedule gives the same."""

Prior = Callable[[Int[Tensor, "B h w"], Float[Tensor, " B"]], Float[Tensor, "B K h w"]]
"""Logits of every code given those before it in raster order, and the slice coordinate."""


def draw_uniforms(
    restorations: int, slices: int, latent_shape: tuple[int, int], *, generator: torch.Generator
) -> Float64[Tensor, "R S h w"]:
    """Draw one uniform number in [0, 1) per restoration, slice and position.

    The first restorations are the same however many are drawn.
    """
    return torch.rand(restorations, slices, *latent_shape, generator=generator, dtype=torch.float64)


class Restored(NamedTuple):
    """Restored codes, and how much work they were."""

    codes_RShw: Int[Tensor, "R S h w"]
    positions: int
    """Positions evaluated, over all state rows: the number of distinct prefixes of codes."""
    rows: int
    """State rows at the end: the number of distinct grids, over all slices."""


def restore(
    prior: PixelSNAIL,
    codes_Shw: Int[Tensor, "S h w"],
    position_S: Float[Tensor, " S"],
    uniforms_RShw: Float64[Tensor, "R S h w"],
    *,
    threshold_nats: float,
    schedule: Schedule = "incremental",
    arithmetic: torch.dtype | None = None,
) -> Int[Tensor, "R S h w"]:
    """Restore every slice R times by the given schedule; `restore_incrementally` explains the arguments.

    Raises:
        SettingsError: If there is no such schedule.
    """
    given = (prior, codes_Shw, position_S)
    if schedule == "incremental":
        return restore_incrementally(
            *given, uniforms_RShw, threshold_nats=threshold_nats, arithmetic=arithmetic
        ).codes_RShw
    if schedule == "fixed-point":
        return restore_by_fixed_point(*given, uniforms_RShw, threshold_nats=threshold_nats)
    if schedule != "sequential":
        raise SettingsError("unknown schedule", found=schedule, expected=", ".join(get_args(Schedule)))
    each = [restore_sequentially(*given, uniforms, threshold_nats=threshold_nats) for uniforms in uniforms_RShw]
    return torch.stack(each)


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


@torch.no_grad()
def restore_incrementally(
    prior: PixelSNAIL,
    codes_Shw: Int[Tensor, "S h w"],
    position_S: Float[Tensor, " S"],
    uniforms_RShw: Float64[Tensor, "R S h w"],
    *,
    threshold_nats: float,
    arithmetic: torch.dtype | None = None,
) -> Restored:
    """Restore every slice R times, evaluating every distinct prefix of codes once.

    The same codes as `restore_sequentially` for the same uniforms; in float32 a code may differ where a uniform lies
    within rounding of a step of the distribution, or an NLL within rounding of λ_p.

    Each slice starts as one *state row*.  Where its restorations draw different codes, the first group of equals keeps
    the row and the others go on in copies.  A slice without an unlikely code is one row to the end.

    Args:
        prior: The autoregressive prior.
        codes_Shw: Codes of slices.
        position_S: Slice coordinate of each.
        uniforms_RShw: The number that decides each sample, on the CPU.
        threshold_nats: λ_p.
        arithmetic: bfloat16 for faster products that are no longer exact; None for the prior's own type.

    Returns:
        The restored codes, and how much work they were.
    """
    restorations, slices, height, width = uniforms_RShw.shape
    dtype = next(prior.parameters()).dtype
    memory = Memory(restorations * slices, device=codes_Shw.device, dtype=dtype, arithmetic=arithmetic)
    steps = prior.incremental(memory, height, width)
    steps.begin(position_S)
    restored_RShw = torch.empty(uniforms_RShw.shape, dtype=codes_Shw.dtype)
    original_Shw = codes_Shw.cpu()
    # Which state row each restoration of each slice is in, and which slice each state row belongs to.
    row_of_RS = torch.arange(slices).expand(restorations, slices).contiguous()
    slice_of_n = torch.arange(slices)
    evaluated = 0
    for row in range(height):
        steps.begin_row(row)
        for column in range(width):
            logits_nK = steps.step(row, column)
            evaluated += memory.rows
            codes_RS = _decide(
                logits_nK,
                original_Shw[:, row, column],
                slice_of_n,
                row_of_RS,
                uniforms_RShw[..., row, column],
                threshold_nats,
            )
            restored_RShw[..., row, column] = codes_RS
            parents_N = _split(row_of_RS, codes_RS, memory.rows)
            memory.fork(parents_N.to(memory.device))
            slice_of_n = torch.cat([slice_of_n, slice_of_n[parents_N]])
            decided_n = torch.empty(memory.rows, dtype=torch.long).index_put_(
                (row_of_RS.flatten(),), codes_RS.flatten()
            )
            steps.write(row, column, decided_n.to(memory.device))
    return Restored(restored_RShw.to(codes_Shw.device), evaluated, memory.rows)


def _decide(
    logits_nK: Float[Tensor, "n K"],
    original_S: Int[Tensor, " S"],
    slice_of_n: Int[Tensor, " n"],
    row_of_RS: Int[Tensor, "R S"],
    uniforms_RS: Float64[Tensor, "R S"],
    threshold_nats: float,
) -> Int[Tensor, "R S"]:
    """Return the code of every restoration at one position: the original, or a sample where that is unlikely."""
    log_p_nK = torch.log_softmax(logits_nK, dim=1)
    nll_n = -log_p_nK.gather(1, original_S[slice_of_n].to(log_p_nK.device)[:, None])[:, 0]
    unlikely_n = (nll_n > threshold_nats).cpu()
    codes_RS = original_S.expand_as(row_of_RS).clone()
    if unlikely_n.any():
        unlikely_RS = unlikely_n[row_of_RS]
        log_p_UK = log_p_nK[unlikely_n.to(log_p_nK.device)].cpu()
        which_n = unlikely_n.cumsum(0) - 1
        codes_RS[unlikely_RS] = _sample(log_p_UK[which_n[row_of_RS[unlikely_RS]]], uniforms_RS[unlikely_RS])
    return codes_RS


def _split(row_of_RS: Int[Tensor, "R S"], codes_RS: Int[Tensor, "R S"], rows: int) -> Int[Tensor, " N"]:
    """Give restorations that left the others of their state row a new one, in place; return the parents of these.

    New rows are counted from `rows` on.  In each row, those that agree with its first restoration stay.
    """
    restorations = len(row_of_RS)
    order = rearrange(row_of_RS, "R S -> (S R)"), rearrange(codes_RS, "R S -> (S R)")
    key = order[0] * (int(codes_RS.max()) + 1) + order[1]
    distinct, group = torch.unique(key, return_inverse=True)
    if len(distinct) == rows:
        return torch.empty(0, dtype=torch.long)
    index = torch.arange(len(key))
    first_of_group = torch.full((len(distinct),), len(key)).scatter_reduce(0, group, index, "amin")
    row_of_group = order[0][first_of_group]
    first_of_row = torch.full((rows,), len(key)).scatter_reduce(0, row_of_group, first_of_group, "amin")
    leaves = first_of_group != first_of_row[row_of_group]
    new_row = torch.where(leaves, rows + leaves.cumsum(0) - 1, row_of_group)
    row_of_RS.copy_(rearrange(new_row[group], "(S R) -> R S", R=restorations))
    return row_of_group[leaves]


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
    drawn_N = _sample(log_p_NK, uniforms_Bhw[unlikely_Bhw.cpu()])
    return codes_Bhw.masked_scatter(unlikely_Bhw, drawn_N.to(codes_Bhw.device))


def _sample(log_p_NK: Float[Tensor, "N K"], uniforms_N: Float64[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Draw one code per distribution, by inverse CDF in float64."""
    cdf_NK = log_p_NK.double().exp().cumsum(dim=1)
    aim_N = uniforms_N * cdf_NK[:, -1]
    return torch.searchsorted(cdf_NK, aim_N[:, None], right=True)[:, 0].clamp_max(cdf_NK.shape[1] - 1)
