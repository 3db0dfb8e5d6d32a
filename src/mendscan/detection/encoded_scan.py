"""A scan as the networks see it: codes, how likely each is, and the random numbers that decide its restorations."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from mendscan.detection.restoration import draw_uniforms
from mendscan.detection.scoring import clipped_nll_score

__all__ = ["EncodedScan", "scan_generator", "scan_uniforms"]


@dataclass(frozen=True, eq=False)
class EncodedScan:
    """A scan as the networks see it, on the CPU.

    Attributes:
        slices_SHW: The scored slices, prepared.
        position_S: Slice coordinate of each.
        codes_Shw: Their codes.
        nll_Shw: Negative log-likelihood of each code, in nats.
        foreground_SHW: Where the scan shows something.
        at: Indices of the scored slices on the model grid.
        logits_SHW: What the discriminator says of each voxel, higher = more like a fault; None if there is none.
    """

    slices_SHW: Float[Tensor, "S H W"]
    position_S: Float[Tensor, " S"]
    codes_Shw: Int[Tensor, "S h w"]
    nll_Shw: Float[Tensor, "S h w"]
    foreground_SHW: Bool[np.ndarray, "S H W"]
    at: Int[np.ndarray, " S"]
    logits_SHW: Float[np.ndarray, "S H W"] | None = None

    @cached_property
    def codes_hash(self) -> str:
        """SHA-256, in hex, of the codes: what restorations start from, so what decides their random numbers.

        Unlike a hash of voxels and affine, it is the same for a scan that was moved in space or stored in another unit
        of intensity.
        """
        digest = hashlib.sha256(np.asarray(self.codes_Shw.shape, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.codes_Shw.numpy(), dtype="<i4").data)
        return digest.hexdigest()

    def slice_scores(self, threshold_nats: float) -> Float64[np.ndarray, " S"]:
        """Return the paper's score of every slice."""
        return clipped_nll_score(self.nll_Shw, threshold_nats=threshold_nats).double().numpy()

    def score(self, threshold_nats: float) -> float:
        """Return the paper's score of the scan."""
        return float(self.slice_scores(threshold_nats).sum())


def scan_uniforms(scan: EncodedScan, restorations: int, seed: int) -> Float64[Tensor, "R S h w"]:
    """Return the number that decides each sampled code of a scan's restorations."""
    slices, height, width = scan.codes_Shw.shape
    generator = scan_generator(scan.codes_hash, seed)
    return draw_uniforms(restorations, slices, (height, width), generator=generator)


def scan_generator(content: str, seed: int) -> torch.Generator:
    """Return a stream that depends on a scan's content, such as its `codes_hash`, and the seed alone."""
    digest = hashlib.sha256(f"restoration:{seed}:{content}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
