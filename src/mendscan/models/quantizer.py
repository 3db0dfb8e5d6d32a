"""The codebook: nearest-code lookup, and a codebook that does not die."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Quantised", "VectorQuantizer", "code_perplexity", "kmeans"]

_LEAST_USE = 1e-5
"""Running mean of the latents in a step that are assigned to a code; one with less has no mean to lie at."""


class Quantised(NamedTuple):
    """What the codebook makes of a grid of latents."""

    embedded_BEhw: Float[Tensor, "B E h w"]
    """e: the code's vector at each position; its gradient goes straight through to the latents."""
    codes_Bhw: Int[Tensor, "B h w"]
    """The index of the nearest code."""
    codebook_loss: Float[Tensor, ""]
    """‖sg[z_e] − e‖², mean over elements; moves the codes."""
    commitment_loss: Float[Tensor, ""]
    """‖z_e − sg[e]‖², mean over elements; moves the encoder."""


class VectorQuantizer(nn.Module):
    """K vectors of dimension E (van den Oord et al. 2017), learnt by gradient or by running means.

    Args:
        codes: K.
        dimension: E.
    """

    vectors_KE: Tensor
    use_K: Tensor
    sums_KE: Tensor

    def __init__(self, codes: int, dimension: int) -> None:
        super().__init__()
        self.vectors_KE = nn.Parameter(torch.empty(codes, dimension).uniform_(-1 / codes, 1 / codes))
        # Running statistics of the assigned latents (ema), and of use (revival).
        self.register_buffer("use_K", torch.ones(codes))
        self.register_buffer("sums_KE", self.vectors_KE.detach().clone())

    def nearest(self, latents_BEhw: Float[Tensor, "B E h w"]) -> Int[Tensor, "B h w"]:
        """Return the index of the nearest code at each position; the lowest index wins a tie."""
        flat_NE = rearrange(latents_BEhw, "B E h w -> (B h w) E").float()
        # In lower arithmetic codes that lie close together would be mistaken for each other.
        with torch.autocast(flat_NE.device.type, enabled=False):
            # |z - e|² without |z|², which is the same for every code.
            distances_NK = (self.vectors_KE**2).sum(1) - 2 * flat_NE @ self.vectors_KE.T
        batch, _, height, width = latents_BEhw.shape
        return rearrange(distances_NK.argmin(1), "(B h w) -> B h w", B=batch, h=height, w=width)

    def embed(self, codes_Bhw: Int[Tensor, "B h w"]) -> Float[Tensor, "B E h w"]:
        """Return the vector of each code."""
        return rearrange(nn.functional.embedding(codes_Bhw, self.vectors_KE), "B h w E -> B E h w")

    def forward(self, latents_BEhw: Float[Tensor, "B E h w"]) -> Quantised:
        """Quantise, with straight-through gradient and the two losses of the VQ-VAE."""
        codes_Bhw = self.nearest(latents_BEhw.detach())
        embedded = self.embed(codes_Bhw)
        codebook_loss = torch.mean((latents_BEhw.detach() - embedded) ** 2)
        commitment_loss = torch.mean((latents_BEhw - embedded.detach()) ** 2)
        straight_through = latents_BEhw + (embedded - latents_BEhw).detach()
        return Quantised(straight_through, codes_Bhw, codebook_loss, commitment_loss)

    @torch.no_grad()
    def start_from(self, latents_NE: Float[Tensor, "N E"], *, generator: torch.Generator) -> None:
        """Place the codes by k-means on latents and forget all running statistics."""
        self.vectors_KE.copy_(kmeans(latents_NE, self.vectors_KE.shape[0], generator=generator))
        self.use_K.fill_(1.0)
        self.sums_KE.copy_(self.vectors_KE)

    @torch.no_grad()
    def track(
        self,
        latents_BEhw: Float[Tensor, "B E h w"],
        codes_Bhw: Int[Tensor, "B h w"],
        *,
        decay: float,
        move: bool,
    ) -> None:
        """Follow the use of each code and, if `move`, put each at the running mean of its latents (EMA).

        Args:
            latents_BEhw: What the encoder returned.
            codes_Bhw: The codes they were assigned to.
            decay: Weight of the past.
            move: Whether the codes follow the means; otherwise only their use is followed.
        """
        flat_NE = rearrange(latents_BEhw, "B E h w -> (B h w) E").float()
        flat_N = codes_Bhw.flatten()
        count_K = torch.bincount(flat_N, minlength=self.use_K.shape[0]).to(flat_NE.dtype)
        self.use_K.lerp_(count_K, 1 - decay)
        if move:
            self.sums_KE.lerp_(torch.zeros_like(self.sums_KE).index_add_(0, flat_N, flat_NE), 1 - decay)
            # A code that nothing is assigned to any more stays where it is: a mean of nothing would lead to 0.
            known_K1 = self.use_K[:, None] > _LEAST_USE
            means_KE = self.sums_KE / self.use_K.clamp_min(_LEAST_USE)[:, None]
            self.vectors_KE.copy_(torch.where(known_K1, means_KE, self.vectors_KE))

    @torch.no_grad()
    def revive(self, latents_BEhw: Float[Tensor, "B E h w"], *, below: float, generator: torch.Generator) -> int:
        """Re-seed dead codes from current latents, together with their running statistics.

        Args:
            latents_BEhw: Latents to draw the new vectors from.
            below: A code is dead when its use is below this fraction of the mean use.
            generator: Draws the latents.

        Returns:
            How many codes were dead.
        """
        dead_K = self.use_K < below * self.use_K.mean()
        count = int(dead_K.sum())
        if count:
            flat_NE = rearrange(latents_BEhw, "B E h w -> (B h w) E").float()
            drawn = torch.randint(len(flat_NE), (count,), generator=generator).to(flat_NE.device)
            fresh_use = self.use_K.mean()
            self.vectors_KE[dead_K] = flat_NE[drawn]
            self.use_K[dead_K] = fresh_use
            self.sums_KE[dead_K] = flat_NE[drawn] * fresh_use
        return count


def kmeans(
    points_NE: Float[Tensor, "N E"], clusters: int, *, generator: torch.Generator, rounds: int = 20
) -> Float[Tensor, "K E"]:
    """Return `clusters` centres by Lloyd's algorithm; an empty cluster restarts at a random point.

    Args:
        points_NE: Points; at least one.
        clusters: K.
        generator: Draws the first centres and the restarts.
        rounds: Rounds of assignment and mean.
    """
    count = len(points_NE)
    first = torch.randperm(count, generator=generator)[:clusters]
    if count < clusters:
        first = torch.cat([first, torch.randint(count, (clusters - count,), generator=generator)])
    centres_KE = points_NE[first.to(points_NE.device)].clone()
    for _ in range(rounds):
        nearest_N = ((centres_KE**2).sum(1) - 2 * points_NE @ centres_KE.T).argmin(1)
        size_K = torch.bincount(nearest_N, minlength=clusters)
        sums_KE = torch.zeros_like(centres_KE).index_add_(0, nearest_N, points_NE)
        restart_K = torch.randint(count, (clusters,), generator=generator).to(points_NE.device)
        means_KE = sums_KE / size_K.clamp_min(1)[:, None]
        centres_KE = torch.where((size_K == 0)[:, None], points_NE[restart_K], means_KE)
    return centres_KE


def code_perplexity(use_K: Float[Tensor, " K"]) -> float:
    """Return exp(entropy) of the use of the codes: K when all are used equally, 1 when one is.

    Example:
        >>> code_perplexity(torch.tensor([5.0, 5.0, 0.0]))
        2.0
    """
    share = use_K.double() / use_K.double().sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return round(float(entropy.exp()), 6)
